"""Settings of the whole suite: several devices, strict promotion, deterministic properties."""

import errno
import os
import signal

# Before JAX starts: sharding and populations are tested on simulated devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import hypothesis
import jax
import pytest

# What a shell starts in the background ignores Ctrl-C, and so would the suite and its runs.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile(
    "odyssey", deadline=None, derandomize=True, print_blob=True, max_examples=50
)
hypothesis.settings.load_profile("odyssey")


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What shares compiled programs and fixtures is run by one of several processes.

    That is a file, and in the contract of the schedules, which is a third of the suite, a schedule.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByProgram(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            whole = not file.endswith("schedules/test_contract.py")
            return file if whole else test.partition("[")[2].partition("-")[0].rstrip("]")

    config.option.loadscopereorder = False  # the doctests, which are short, come last
    return ByProgram(config, log)


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
