"""Where batches come from, and the calendar that they give a run."""

from odyssey_jax.data._adapters import as_source as as_source
from odyssey_jax.data._adapters import is_unbatched as is_unbatched
from odyssey_jax.data._adapters import stream as stream
from odyssey_jax.data._arrays import ArrayDataset as ArrayDataset
from odyssey_jax.data._calendar import Calendar as Calendar
from odyssey_jax.data._contents import checksum as checksum
from odyssey_jax.data._hosted import HostDataset as HostDataset
from odyssey_jax.data._leaves import is_array as is_array
from odyssey_jax.data._leaves import on_device_dtype as on_device_dtype
from odyssey_jax.data._padding import pad_to as pad_to
from odyssey_jax.data._source import HostSource as HostSource
from odyssey_jax.data._source import IndexedSource as IndexedSource
from odyssey_jax.data._source import Reader as Reader
from odyssey_jax.data._source import Source as Source
from odyssey_jax.data._source import transform_of as transform_of
