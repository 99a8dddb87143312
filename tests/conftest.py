"""Settings of the whole suite: several devices, strict promotion, deterministic properties."""

import errno
import gc
import os
import resource
import signal

# Before JAX starts: sharding and populations are tested on simulated devices. LLVM, at work for
# most of the suite's time, may do little; the contract of schedules asks for optimized programs.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true",
)

import hypothesis
import jax
import pytest

# What a shell starts in the background ignores Ctrl-C, and so would the suite and its runs.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "odyssey", deadline=None, derandomize=True, print_blob=True, max_examples=50
)
hypothesis.settings.load_profile("odyssey")


# Of files that take most of the time, the longest first: the workers then end together.
LONGEST = [
    "fit/test_fit.py",
    "schedules/test_contract.py",
    "train/test_loop.py",
    "callbacks/test_guards_within_epochs.py",
    "fit/test_saving.py",
    "callbacks/test_adapt_rate.py",
    "test_cli.py",
    "test_documents.py",
    "train/test_population.py",
    "compat/test_curves.py",
    "testing/test_check_callback.py",
    "schedules/test_metric.py",
]

# The rooms that call no other library's arithmetic: Optax's Adam mixes a float and an int32, and
# so do metrics of clu's.
STRICT = {"schedules", "callbacks", "metrics", "data", "testing"}
FOREIGN = {"test_observe.py", "test_check_task.py"}


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """No silent mixing of dtypes in our own code."""
    own = request.path.parent.name in STRICT and request.path.name not in FOREIGN
    mode = "strict" if own else "standard"
    with jax.numpy_dtype_promotion(mode):
        yield


class Memory:
    """Peak memory (KiB) at which a worker drops its compiled programs, of some 2 MiB and more each.

    Without that it comes to 3.4 GiB. What is dropped is used again before the peak grows, and
    after every test or file, what tests share would be compiled again.
    """

    allowed = 900 * 1024
    step = 50 * 1024

    def bound(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak > self.allowed:
            jax.clear_caches()
            gc.collect()
            self.allowed = peak + self.step


MEMORY = Memory()


@pytest.fixture(autouse=True)
def bounded_memory():
    yield
    MEMORY.bound()


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
