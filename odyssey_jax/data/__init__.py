"""Where batches come from, and the calendar that they give a run."""

from odyssey_jax.data._arrays import ArrayDataset as ArrayDataset
from odyssey_jax.data._calendar import Calendar as Calendar
from odyssey_jax.data._source import IndexedSource as IndexedSource
from odyssey_jax.data._source import Source as Source
