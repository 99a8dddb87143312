"""Callbacks: `init`/`update` pairs over pytree state, as optax's are for an optimizer."""

from odyssey_jax.callbacks._adapt_rate import AdaptRate as AdaptRate
from odyssey_jax.callbacks._adapt_rate import adapt_rate as adapt_rate
from odyssey_jax.callbacks._any_all import AllOf as AllOf
from odyssey_jax.callbacks._any_all import all_of as all_of
from odyssey_jax.callbacks._any_all import any_of as any_of
from odyssey_jax.callbacks._chain import Chain as Chain
from odyssey_jax.callbacks._chain import chain as chain
from odyssey_jax.callbacks._checkpoint import Checkpoint as Checkpoint
from odyssey_jax.callbacks._checkpoint import Retention as Retention
from odyssey_jax.callbacks._checkpoint import checkpoint as checkpoint
from odyssey_jax.callbacks._early_stopping import EarlyStopping as EarlyStopping
from odyssey_jax.callbacks._early_stopping import EarlyStoppingState as EarlyStoppingState
from odyssey_jax.callbacks._early_stopping import early_stopping as early_stopping
from odyssey_jax.callbacks._function import FunctionCallback as FunctionCallback
from odyssey_jax.callbacks._function import callback as callback
from odyssey_jax.callbacks._log import History as History
from odyssey_jax.callbacks._log import Log as Log
from odyssey_jax.callbacks._log import log as log
from odyssey_jax.callbacks._monitor import Best as Best
from odyssey_jax.callbacks._track_best import TrackBest as TrackBest
from odyssey_jax.callbacks._track_best import track_best as track_best
