"""odyssey_jax: schedules, callbacks, the compiled training loop and checkpoints, for JAX.

What most programs use is here; the rest is in the rooms, such as `ody.schedules` and
`ody.callbacks`.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from odyssey_jax import callbacks as callbacks
from odyssey_jax import compat as compat
from odyssey_jax import data as data
from odyssey_jax import errors as errors
from odyssey_jax import metrics as metrics
from odyssey_jax import parallel as parallel
from odyssey_jax import plots as plots
from odyssey_jax import runs as runs
from odyssey_jax import schedules as schedules
from odyssey_jax import store as store
from odyssey_jax import testing as testing
from odyssey_jax import train as train
from odyssey_jax import transforms as transforms
from odyssey_jax import writers as writers
from odyssey_jax._compilation_cache import enable_compilation_cache as enable_compilation_cache
from odyssey_jax._types import Callback as Callback
from odyssey_jax._types import Clock as Clock
from odyssey_jax._types import Event as Event
from odyssey_jax._types import Point as Point
from odyssey_jax._types import Signal as Signal
from odyssey_jax._types import StopReason as StopReason
from odyssey_jax._types import Task as Task
from odyssey_jax._types import TrainState as TrainState
from odyssey_jax.callbacks import adapt_rate as adapt_rate
from odyssey_jax.callbacks import after as after
from odyssey_jax.callbacks import all_of as all_of
from odyssey_jax.callbacks import any_of as any_of
from odyssey_jax.callbacks import callback as callback
from odyssey_jax.callbacks import chain as chain
from odyssey_jax.callbacks import checkpoint as checkpoint
from odyssey_jax.callbacks import early_stopping as early_stopping
from odyssey_jax.callbacks import every as every
from odyssey_jax.callbacks import max_steps as max_steps
from odyssey_jax.callbacks import roll_back as roll_back
from odyssey_jax.callbacks import terminate_on_nan as terminate_on_nan
from odyssey_jax.callbacks import track_best as track_best
from odyssey_jax.callbacks import until as until
from odyssey_jax.data import ArrayDataset as ArrayDataset
from odyssey_jax.data import HostDataset as HostDataset
from odyssey_jax.data import pad_to as pad_to
from odyssey_jax.data import stream as stream
from odyssey_jax.eqx import eqx_task as eqx_task
from odyssey_jax.feed import evaluate as evaluate
from odyssey_jax.feed import predict as predict
from odyssey_jax.fit import FitResult as FitResult
from odyssey_jax.fit import Run as Run
from odyssey_jax.fit import collect as collect
from odyssey_jax.fit import describe_run as describe_run
from odyssey_jax.fit import export_params as export_params
from odyssey_jax.fit import fit as fit
from odyssey_jax.fit import hook as hook
from odyssey_jax.fit import load_params as load_params
from odyssey_jax.fit import profile as profile
from odyssey_jax.fit import rate_range_test as rate_range_test
from odyssey_jax.metrics import Accuracy as Accuracy
from odyssey_jax.metrics import ConfusionMatrix as ConfusionMatrix
from odyssey_jax.metrics import Mean as Mean
from odyssey_jax.parallel import data_parallel as data_parallel
from odyssey_jax.parallel import fully_sharded as fully_sharded
from odyssey_jax.parallel import sharded as sharded
from odyssey_jax.plots import plot as plot
from odyssey_jax.plots import plot_history as plot_history
from odyssey_jax.schedules import Schedule as Schedule
from odyssey_jax.schedules import constant as constant
from odyssey_jax.schedules import cosine_decay as cosine_decay
from odyssey_jax.schedules import exponential_decay as exponential_decay
from odyssey_jax.schedules import join as join
from odyssey_jax.schedules import linear as linear
from odyssey_jax.schedules import linear_warmup as linear_warmup
from odyssey_jax.schedules import one_cycle as one_cycle
from odyssey_jax.schedules import reduce_on_plateau as reduce_on_plateau
from odyssey_jax.schedules import step_decay as step_decay
from odyssey_jax.schedules import warmup_cosine as warmup_cosine
from odyssey_jax.schedules import warmup_stable_decay as warmup_stable_decay
from odyssey_jax.store import Store as Store
from odyssey_jax.store import Transfer as Transfer
from odyssey_jax.train import Evaluation as Evaluation
from odyssey_jax.train import StepOptions as StepOptions
from odyssey_jax.train import equal_average as equal_average
from odyssey_jax.train import exponential_average as exponential_average
from odyssey_jax.train import mixed_precision as mixed_precision
from odyssey_jax.train import pure_task as pure_task
from odyssey_jax.transforms import freeze as freeze
from odyssey_jax.transforms import loss_scale as loss_scale
from odyssey_jax.transforms import scale_by_callback as scale_by_callback
from odyssey_jax.transforms import skip_spikes as skip_spikes
from odyssey_jax.writers import CsvFile as CsvFile
from odyssey_jax.writers import JsonLines as JsonLines
from odyssey_jax.writers import MLflow as MLflow
from odyssey_jax.writers import ProgressLine as ProgressLine
from odyssey_jax.writers import TensorBoard as TensorBoard
from odyssey_jax.writers import WeightsAndBiases as WeightsAndBiases

if _TYPE_CHECKING:
    from odyssey_jax.flax import linen_task as linen_task
    from odyssey_jax.flax import nnx_task as nnx_task
    from odyssey_jax.flax import update_model as update_model

__version__ = _version("odyssey-jax")

__all__ = [
    "Accuracy",
    "ArrayDataset",
    "Callback",
    "Clock",
    "ConfusionMatrix",
    "CsvFile",
    "Evaluation",
    "Event",
    "FitResult",
    "HostDataset",
    "JsonLines",
    "MLflow",
    "Mean",
    "Point",
    "ProgressLine",
    "Run",
    "Schedule",
    "Signal",
    "StepOptions",
    "StopReason",
    "Store",
    "Task",
    "TensorBoard",
    "TrainState",
    "Transfer",
    "WeightsAndBiases",
    "__version__",
    "adapt_rate",
    "after",
    "all_of",
    "any_of",
    "callback",
    "callbacks",
    "chain",
    "checkpoint",
    "collect",
    "compat",
    "constant",
    "cosine_decay",
    "data",
    "data_parallel",
    "describe_run",
    "early_stopping",
    "enable_compilation_cache",
    "equal_average",
    "eqx_task",
    "errors",
    "evaluate",
    "every",
    "exponential_average",
    "exponential_decay",
    "export_params",
    "fit",
    "freeze",
    "fully_sharded",
    "hook",
    "join",
    "linear",
    "linear_warmup",
    "linen_task",
    "load_params",
    "loss_scale",
    "max_steps",
    "metrics",
    "mixed_precision",
    "nnx_task",
    "one_cycle",
    "pad_to",
    "parallel",
    "plot",
    "plot_history",
    "plots",
    "predict",
    "profile",
    "pure_task",
    "rate_range_test",
    "reduce_on_plateau",
    "roll_back",
    "runs",
    "scale_by_callback",
    "schedules",
    "sharded",
    "skip_spikes",
    "step_decay",
    "store",
    "stream",
    "terminate_on_nan",
    "testing",
    "track_best",
    "train",
    "transforms",
    "until",
    "update_model",
    "warmup_cosine",
    "warmup_stable_decay",
    "writers",
]


# Of `odyssey_jax.flax`, imported when first asked for: Flax takes some 0.4 s.
_OF_FLAX = ("linen_task", "nnx_task", "update_model")


def _show_as_public(value: object) -> None:
    """Let users read `odyssey_jax.TrainState` in a repr, a pickle and an error."""
    if getattr(value, "__module__", "").startswith("odyssey_jax."):
        value.__module__ = "odyssey_jax"


for _name in __all__:
    if _name not in _OF_FLAX:
        _show_as_public(globals()[_name])

_ROOMS = ("schedules", "callbacks", "train", "data", "metrics", "transforms", "errors", "store")
_ROOMS += ("writers", "plots", "runs", "parallel")


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    """Import what is of Flax; say where a name is that lives in a room."""
    if name in _OF_FLAX:
        value = getattr(_import_module("odyssey_jax.flax"), name)
        _show_as_public(value)
        globals()[name] = value
        return value
    for room in _ROOMS:
        if not name.startswith("_") and hasattr(globals()[room], name):
            raise AttributeError(f"odyssey_jax has no {name!r} at its top: it is ody.{room}.{name}")
    raise AttributeError(f"module 'odyssey_jax' has no attribute {name!r}")
