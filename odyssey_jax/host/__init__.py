"""The host: `fit`, what it writes and shows, and how it goes on from a checkpoint."""

from odyssey_jax.host._fit import fit as fit
from odyssey_jax.host._params import export_params as export_params
from odyssey_jax.host._params import load_params as load_params
from odyssey_jax.host._pictures import plot_history as plot_history
from odyssey_jax.host._pictures import save_confusion as save_confusion
from odyssey_jax.host._pictures import save_curves as save_curves
from odyssey_jax.host._plot import plot as plot
from odyssey_jax.host._plot_runs import plot_runs as plot_runs
from odyssey_jax.host._plot_text import plot_text as plot_text
from odyssey_jax.host._rate_range import RateRange as RateRange
from odyssey_jax.host._rate_range import rate_range_test as rate_range_test
from odyssey_jax.host._result import FitResult as FitResult
from odyssey_jax.host._runs import Run as Run
from odyssey_jax.host._runs import find_runs as find_runs
from odyssey_jax.host._runs import known_mode as known_mode
from odyssey_jax.host._table import Table as Table
from odyssey_jax.host.writers import CsvFile as CsvFile
from odyssey_jax.host.writers import JsonLines as JsonLines
from odyssey_jax.host.writers import Live as Live
from odyssey_jax.host.writers import MLflow as MLflow
from odyssey_jax.host.writers import ProgressLine as ProgressLine
from odyssey_jax.host.writers import RunInfo as RunInfo
from odyssey_jax.host.writers import TensorBoard as TensorBoard
from odyssey_jax.host.writers import WeightsAndBiases as WeightsAndBiases
from odyssey_jax.host.writers import Writer as Writer
