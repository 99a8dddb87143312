"""Settings of the whole suite: several devices, strict promotion, deterministic properties."""

import ctypes
import errno
import gc
import os
import resource
import shutil
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

# Before JAX starts: sharding and populations are tested on simulated devices. LLVM, at work for
# most of the suite's time, may do little; the contract of schedules asks for optimized programs.
# Where XLA has two ways to emit a fusion, the newer costs a third of the time to compile. To
# split a program among more cores than a worker has costs a sixth.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * version("jaxlib").startswith("0.10."),
)

# Compiling takes most of the suite's time, and tests compile the same programs again: they are
# kept on the disk, a worker's and its children's apart. A child that is killed while it writes a
# program spoils it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="odyssey-programs-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"]
jax.config.update("jax_compilation_cache_dir", f"{CACHE}/own")

# Tests train on one device unless they say so, and so do the programs that they start.
os.environ["JAX_DEFAULT_DEVICE"] = jax.default_backend()
jax.config.update("jax_default_device", jax.devices()[0])

# What a shell starts in the background ignores Ctrl-C, and what nohup does, a closed terminal: so
# would the suite and its runs.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

hypothesis.settings.register_profile(
    "odyssey", deadline=None, derandomize=True, print_blob=True, max_examples=50
)
hypothesis.settings.load_profile("odyssey")


# Of files that take most of the time, the longest first: the workers then end together.
LONGEST = [
    "store/test_s3.py",
    "schedules/test_contract.py",
    "test_documents.py",
    "test_examples.py",
    "fit/test_interrupt.py",
    "fit/test_kill.py",
    "test_site.py",
    "fit/test_elastic.py",
    "fit/test_processes.py",
    "fit/test_placement.py",
    "parallel/test_start.py",
    "fit/test_endurance.py",
    "train/test_loop.py",
    "schedules/test_describe.py",
    "data/test_torch.py",
    "fit/test_hooks.py",
    "test_cli.py",
    "fit/test_fit.py",
]

# The rooms that call no other library's arithmetic: Optax's Adam mixes a float and an int32, and
# so do metrics of clu's.
STRICT = {"schedules", "callbacks", "metrics", "data", "testing"}
FOREIGN = {"test_observe.py", "test_nnx.py", "test_check_task.py"}


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No silent mixing of dtypes in our own code."""
    own = request.path.parent.name in STRICT and request.path.name not in FOREIGN
    mode = "strict" if own else "standard"
    with jax.numpy_dtype_promotion(mode):
        yield


# Fewer collections of garbage are a twelfth less of a worker's time, a third of it the collector's
# own. `Memory` asks for one where there is need.
gc.set_threshold(100_000, 50, 50)


class Memory:
    """Resident memory (bytes) at which a worker gives some of it back.

    Most is what LLVM has freed and malloc keeps: half a worker's 1.9 GB. Only where that is not
    enough are the compiled programs dropped, of some 2 MiB and more each, which tests share.
    """

    least = 1200 * 2**20
    step = 150 * 2**20  # to grow by, so that it is not every test that gives back
    allowed = least

    def bound(self):
        if resident() > self.allowed:
            trim()
            if resident() > self.allowed - self.step:
                drop_programs()
                trim()
            self.allowed = max(self.least, resident() + self.step)


def drop_programs():
    jax.clear_caches()
    gc.collect()


def resident():
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # not on Linux
        return 0


def trim():
    """Give back what malloc has free, where it is glibc's."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


MEMORY = Memory()


SETTINGS = [
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
]
OWN = [getattr(jax.config, name) for name in SETTINGS]


@pytest.fixture(autouse=True)
def own_cache():
    """Put back the suite's own cache where a test, fixture or docstring's example sets another."""
    yield
    if [getattr(jax.config, name) for name in SETTINGS] != OWN:
        for name, value in zip(SETTINGS, OWN, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def bounded_memory():
    yield
    MEMORY.bound()


def pytest_unconfigure():
    shutil.rmtree(CACHE)


def pytest_collection_modifyitems(items):
    rank = {name: i for i, name in enumerate(LONGEST)}
    place = lambda item: item.nodeid.partition("::")[0].removeprefix("tests/")
    items.sort(key=lambda item: rank.get(place(item), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file is run by one worker, since its tests share compiled programs, in the order above."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def failing(monkeypatch):
    """Steps whose saves fail, as on a full disk."""
    from odyssey_jax.store import _orbax  # a second, which few tests need

    steps, write = set(), _orbax.Writer.write

    def write_or_fail(self, step, *args):
        if step in steps:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, *args)

    monkeypatch.setattr(_orbax.Writer, "write", write_or_fail)
    return steps
