"""Data that is read on the host: read ahead in a thread, and trained on chunk by chunk."""

from odyssey_jax.feed._driven import PREFETCH_BYTES as PREFETCH_BYTES
from odyssey_jax.feed._driven import Driven as Driven
from odyssey_jax.feed._evaluate import evaluate as evaluate
from odyssey_jax.feed._make_program import make_program as make_program
from odyssey_jax.feed._predict import predict as predict
from odyssey_jax.feed._predict import predict_outputs as predict_outputs
