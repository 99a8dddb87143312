"""Several processes that are started by us: whoever is no more is named, and ends all."""

import signal
import subprocess
import sys
import time

import pytest

from odyssey_jax.parallel import initialize
from odyssey_jax.parallel._start import Seen
from tests.processes import ROOT, address_here, environment_of

TRAIN = """
import sys
import optax
import odyssey_jax as ody
from tests import examples

class Says:
    reads_state = False
    open = close = lambda self, *_: None
    def write(self, rows, samples):
        print("epoch", flush=True)

ody.fit(
    examples.linear_task(), optax.sgd, examples.train_data(), epochs=int(sys.argv[1]),
    learning_rate=0.1, directory=sys.argv[2], writers=[Says()],
)
print("done")
"""


def said(count):
    return {"1": {"count": count, "host": "here", "pid": 7}}


def test_a_process_is_gone_when_it_says_nothing_new():
    seen = Seen(0.0)
    assert seen.gone(said(1), 1.0, 10.0) == {}
    assert seen.gone(said(2), 5.0, 10.0) == {}
    assert seen.gone(said(2), 9.0, 10.0) == {}
    assert seen.gone(said(2), 14.0, 10.0) == {}
    assert seen.gone(said(2), 16.0, 10.0) == said(2)
    assert seen.gone(said(3), 17.0, 10.0) == {}


def test_whoever_slept_itself_blames_nobody():
    seen = Seen(0.0)
    assert seen.gone(said(1), 1.0, 10.0) == {}
    assert seen.gone(said(1), 60.0, 10.0) == {}  # suspended, or starved
    assert seen.gone(said(1), 64.0, 10.0) == {}
    assert seen.gone({}, 68.0, 10.0) == {}  # it has left


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="timeout must be at least 1 second, got 0.5"):
        initialize(timeout=0.5)


def start(tmp_path, epochs, timeout=4):
    program = tmp_path / "train.py"
    program.write_text(TRAIN)
    address = address_here()
    command = [sys.executable, "-m", "odyssey_jax.cli", "run", "--coordinator", address]
    command += ["--processes", "2", "--timeout", str(timeout), "--process"]
    return [
        subprocess.Popen(
            [*command, str(i), str(program), str(epochs), str(tmp_path / "run")],
            env=environment_of(devices=2), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number"),
    [(1, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)],
    ids=["killed", "stopped", "the first stopped"],
)
def test_a_process_that_dies_is_named_and_ends_all_and_the_command_goes_on(
    tmp_path, victim, number
):
    running = start(tmp_path, 10_000_000)
    first, hit, other = running[0], running[victim], running[1 - victim]
    try:
        while "epoch" not in first.stdout.readline():
            assert first.poll() is None, first.stderr.read()
        hit.send_signal(number)
        begun = time.monotonic()
        _, errors = other.communicate(timeout=60)
    finally:
        for process in running:
            process.kill()
        hit.communicate()
    if number is signal.SIGSTOP or other.returncode != -signal.SIGABRT:
        assert other.returncode == 75, errors
        assert f"process {victim} (pid {hit.pid} on " in errors
        assert f"was not heard of for 4 s; process {1 - victim} ends" in errors
    else:  # Gloo, in the middle of adding up, sees the connection end and aborts
        assert "gloo" in errors
    assert time.monotonic() - begun < 30  # JAX's own notice takes 100
    if number is signal.SIGKILL:
        ended = [process.communicate(timeout=120) for process in start(tmp_path, 20)]
        assert [out.split()[-1] for out, _ in ended] == ["done", "done"], ended
