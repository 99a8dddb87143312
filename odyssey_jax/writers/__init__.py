"""Where a run is written to: one small protocol, and what implements it."""

from odyssey_jax.writers._files import CsvFile as CsvFile
from odyssey_jax.writers._files import JsonLines as JsonLines
from odyssey_jax.writers._progress import ProgressLine as ProgressLine
from odyssey_jax.writers._tensorboard import TensorBoard as TensorBoard
from odyssey_jax.writers._trackers import MLflow as MLflow
from odyssey_jax.writers._trackers import WeightsAndBiases as WeightsAndBiases
from odyssey_jax.writers._writer import Live as Live
from odyssey_jax.writers._writer import Row as Row
from odyssey_jax.writers._writer import RunInfo as RunInfo
from odyssey_jax.writers._writer import Writer as Writer
