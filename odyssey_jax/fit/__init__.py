"""`fit`: plan, resume, run, result, and what a run leaves behind."""

from odyssey_jax.fit._collect import collect as collect
from odyssey_jax.fit._describe_run import describe_run as describe_run
from odyssey_jax.fit._fit import fit as fit
from odyssey_jax.fit._hooks import Hook as Hook
from odyssey_jax.fit._hooks import View as View
from odyssey_jax.fit._hooks import hook as hook
from odyssey_jax.fit._params import export_params as export_params
from odyssey_jax.fit._params import load_params as load_params
from odyssey_jax.fit._profile import profile as profile
from odyssey_jax.fit._rate_range import RateRange as RateRange
from odyssey_jax.fit._rate_range import rate_range_test as rate_range_test
from odyssey_jax.fit._result import FitResult as FitResult
from odyssey_jax.fit._run import Run as Run
from odyssey_jax.fit._table import Table as Table
