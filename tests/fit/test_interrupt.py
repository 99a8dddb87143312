"""Interrupted on purpose: saved, ended with its own reason, and gone on with to the bit."""

import faulthandler
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import numpy as np
import optax
import pytest
from rich.console import Console

import odyssey_jax as ody
from odyssey_jax import StopReason
from odyssey_jax.fit import _fit, _shell
from odyssey_jax.fit._interrupt import Interrupt
from odyssey_jax.parallel import _agree
from tests import examples
from tests.examples import assert_same

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EPOCHS, STEPS = 8, 7  # 5 batches to a pass, so blocks are of one step


def run(directory, *writers, **kwargs):
    """The whole of it, made anew at each call as a user's script would."""
    callbacks = ody.chain(
        ody.early_stopping("valid/loss", 500, restore_best=True),
        ody.checkpoint(every_epochs=4),
    )
    lines = [] if directory is None else [ody.JsonLines()]
    return ody.fit(
        examples.linear_task(), optax.adamw, examples.train_data(), examples.valid_data(),
        **{
            "epochs": EPOCHS,
            "learning_rate": ody.warmup_cosine(0.05, 10, 40),
            "callbacks": callbacks if directory else callbacks.callbacks[0],
            "steps_per_epoch": STEPS,
            "directory": directory,
            "on_interrupt": "return",
            "writers": [*lines, *writers],
            **kwargs,
        },
    )  # fmt: skip


class AtFirst:
    """A writer that does something when the first epoch is written."""

    def __init__(self, do):
        self.do = do

    def open(self, run):
        self.handlers = handlers()

    def write(self, rows, steps_per_second):
        self.during, do, self.do = handlers(), self.do, lambda: None
        do()

    def close(self):
        pass


def sends(*numbers):
    return AtFirst(lambda: [signal.raise_signal(number) for number in numbers])


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture(autouse=True)
def same_handlers_after():
    before = handlers()
    yield
    assert handlers() == before


@pytest.fixture
def handled():
    """A SIGTERM handler of the user's own."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody interrupts."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def assert_goes_on_to(whole, directory):
    expected, resumed = whole[1], run(directory)
    assert (resumed.stop_reason, resumed.exit_code) == (StopReason.COMPLETED, 0)
    for name in ("carry", "state", "best"):
        assert_same(getattr(expected, name), getattr(resumed, name))
    assert_same(dict(expected.history), dict(resumed.history))
    lines = [(d / "metrics.jsonl").read_bytes() for d in (whole[0], directory)]
    assert lines[0] == lines[1]


def latest(directory):
    with ody.Store(directory / "checkpoints") as store:
        return store.metadata(store.latest())


def test_ctrl_c_saves_and_comes_back_with_what_there_is(whole, tmp_path):
    writer = sends(signal.SIGINT)
    result = run(tmp_path, writer)
    assert (result.stop_reason, result.reason, result.exit_code) == (
        StopReason.INTERRUPTED, "interrupted by a signal", 130
    )  # fmt: skip
    assert 1 <= result.epochs < EPOCHS
    assert set(result.model) == {"w", "b"}
    assert len(result.history["valid/loss"]) == result.epochs
    saved = latest(tmp_path)
    assert (saved["step"], saved["stop_reason"]) == (result.steps, "INTERRUPTED")
    assert saved["reason"] == result.reason
    assert not set(writer.handlers) & set(handlers())  # while the writers open, too
    assert not set(writer.during) & set(handlers())
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize("calls", [3, 9])
def test_in_the_middle_of_an_epoch(whole, tmp_path, monkeypatch, calls):
    class CallLength(_shell.CallLength):
        def took(self, steps, seconds):
            nonlocal calls
            calls -= 1
            if not calls:
                signal.raise_signal(signal.SIGINT)

    expected = calls
    with monkeypatch.context() as patched:
        patched.setattr(_shell, "CallLength", CallLength)
        result = run(tmp_path)
    assert result.steps == expected
    assert result.steps % STEPS != 0
    assert_goes_on_to(whole, tmp_path)


class AtEpoch(AtFirst):
    """A writer that does something when so many epochs are done."""

    def __init__(self, epoch, do):
        super().__init__(do)
        self.epoch = epoch

    def write(self, rows, steps_per_second):
        if rows[-1]["epoch"] + 1 >= self.epoch:
            super().write(rows, steps_per_second)


@pytest.mark.parametrize("interrupted", ["by a signal", "by the time"])
def test_a_save_that_is_due_where_the_run_ends_says_why(whole, tmp_path, monkeypatch, interrupted):
    clock = [0.0]
    monkeypatch.setattr(_fit, "Interrupt", lambda max_time: Interrupt(max_time, lambda: clock[0]))
    acts = {
        "by a signal": lambda: signal.raise_signal(signal.SIGINT),
        "by the time": lambda: clock.append(clock.pop() + 60.0),
    }
    result = run(tmp_path, AtEpoch(4, acts[interrupted]), max_time=30.0)
    assert result.epochs == 4, "at which a save is due"
    saved = latest(tmp_path)
    assert (saved["step"], saved["stop_reason"]) == (4 * STEPS, result.stop_reason.name)
    assert saved["reason"] == result.reason != "still running"
    assert_goes_on_to(whole, tmp_path)


def test_a_best_that_waited_was_not_where_the_run_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(ody.Store, "save_seconds", None)  # as if one were in flight
    best = ody.checkpoint(
        ody.callbacks.at(epochs=6), keep_best=1, monitor="learning_rate", mode="max"
    )
    run(tmp_path, AtEpoch(6, lambda: signal.raise_signal(signal.SIGINT)), callbacks=best)
    reader = ody.store.Reader(tmp_path / "checkpoints")
    reasons = {step: reader.metadata(step)["stop_reason"] for step in reader.steps()}
    assert reasons == {2 * STEPS: "NONE", 6 * STEPS: "INTERRUPTED"}


def test_sigterm_saves_and_ends_the_program(whole, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, sends(signal.SIGTERM))
    assert ended.value.code == 143
    assert latest(tmp_path)["stop_reason"] == "INTERRUPTED"
    assert_goes_on_to(whole, tmp_path)


def test_a_handler_of_ones_own_is_called_when_the_run_is_saved(tmp_path, handled):
    steps = []
    signal.signal(signal.SIGTERM, lambda *_: steps.append(latest(tmp_path)["step"]))
    result = run(tmp_path, sends(signal.SIGTERM))
    assert steps == [result.steps]
    assert (result.stop_reason, result.exit_code) == (StopReason.INTERRUPTED, 143)


def test_a_second_signal_does_at_once_what_it_does_without_fit(whole, tmp_path, handled):
    run(tmp_path, sends(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, sends(signal.SIGINT, signal.SIGINT))
    committed = latest(tmp_path)
    assert committed["step"] > 0
    writer = AtFirst(lambda: [signal.raise_signal(n) for n in SIGNALS] + [handled.append("next")])
    run(tmp_path, writer)
    assert handled == [signal.SIGTERM, "next"]
    assert_goes_on_to(whole, tmp_path)


TWICE = """
import signal
from odyssey_jax.fit._interrupt import Signals
with Signals():
    signal.raise_signal(signal.SIGTERM)
    print("noted", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("not reached", flush=True)
"""


@pytest.mark.slow
def test_a_second_sigterm_kills():
    done = subprocess.run([sys.executable, "-c", TWICE], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"noted\n")


SLOW_STEPS = """
import sys, time, jax, jax.numpy as jnp, optax, odyssey_jax as ody

def work(n, x):
    return jax.lax.fori_loop(0, n, lambda i, x: jnp.tanh(x @ x), x)

x, timed = jnp.ones((500, 500)), jax.jit(work, static_argnums=0)
timed(100, x).block_until_ready()
begun = time.perf_counter()
timed(100, x).block_until_ready()
n = int(0.4 / ((time.perf_counter() - begun) / 100))  # a step of 0.4 s, and a call of ten

def loss_fn(w, batch):
    busy = work(n, jnp.full((500, 500), jax.lax.stop_gradient(w)))
    return ((w - batch) ** 2).mean() + 0.0 * busy.sum()

class Print:
    def open(self, run): pass
    def write(self, rows, live): print("epoch", flush=True)
    def close(self): pass

data = ody.ArrayDataset(jnp.ones(400), batch_size=4)
try:
    ody.fit(ody.pure_task(jnp.zeros(()), loss_fn), optax.sgd(0.1), data, epochs=9,
            steps_per_epoch=10, directory=sys.argv[1], writers=[Print()],
            callbacks=ody.checkpoint(every_epochs=1))
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_acts_while_the_program_runs(tmp_path, number):
    command = [sys.executable, "-c", SLOW_STEPS, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "epoch\n"
        # The next call is under way, and beside it the first epoch is being saved.
        reader = ody.store.Reader(tmp_path / "checkpoints")
        while reader.steps() != (10,):
            time.sleep(0.02)
            assert process.poll() is None
        for _ in range(2):
            process.send_signal(number)
            sent = time.monotonic()
            time.sleep(0.1)
        rest = process.stdout.readline()
        assert time.monotonic() - sent < 1.5, "the call takes four seconds"
        assert rest == ("interrupted\n" if number == signal.SIGINT else "")
        assert process.wait() == -number
    assert reader.steps() == (10,)
    assert reader.verify(10) > 0


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run(tmp_path, sends(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason is StopReason.COMPLETED


def test_a_handler_that_python_does_not_know_is_set_again(tmp_path):
    """As jax.distributed's: set in C, after Python started."""
    with (tmp_path / "trace").open("w+") as file:
        faulthandler.register(signal.SIGTERM, file=file)
        try:
            run(tmp_path / "run")
            assert file.read() == ""
            signal.raise_signal(signal.SIGTERM)
            file.seek(0)
            assert "most recent call first" in file.read()
        finally:
            faulthandler.unregister(signal.SIGTERM)


def test_another_thread_leaves_the_handlers_alone(tmp_path):
    writer = AtFirst(lambda: None)
    thread = threading.Thread(target=run, args=(tmp_path, writer))
    thread.start()
    thread.join()
    assert writer.during == handlers()
    assert latest(tmp_path)["stop_reason"] == "COMPLETED"


def test_without_a_directory_ctrl_c_returns_what_there_is(whole):
    result = run(None, sends(signal.SIGINT))
    assert result.stop_reason is StopReason.INTERRUPTED
    losses = whole[1].history["valid/loss"]
    np.testing.assert_array_equal(result.history["valid/loss"], losses[: result.epochs])


def test_a_writer_that_fails_costs_nothing_that_was_saved(whole, tmp_path):
    def fail():
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run(tmp_path, AtEpoch(5, fail))
    assert latest(tmp_path)["epoch"] >= 5  # the run so far, and not only what was due before
    assert_goes_on_to(whole, tmp_path)


def test_the_time_is_over_before_it_begins(whole, tmp_path):
    result = run(tmp_path, max_time=1e-9)
    assert (result.stop_reason, result.reason, result.exit_code) == (
        StopReason.TIME_BUDGET, "the time budget is spent", 124
    )  # fmt: skip
    assert result.steps == 0
    assert not list((tmp_path / "checkpoints").iterdir())
    assert_goes_on_to(whole, tmp_path)


def test_the_time_is_over_on_the_way(whole, tmp_path):
    long = timedelta(seconds=0.5)
    result = run(tmp_path, AtFirst(lambda: time.sleep(0.5)), max_time=long)
    assert result.stop_reason is StopReason.TIME_BUDGET
    assert result.epochs < EPOCHS
    assert_goes_on_to(whole, tmp_path)


def test_there_is_time_enough(tmp_path):
    assert run(tmp_path, max_time=timedelta(hours=12)).stop_reason is StopReason.COMPLETED


def test_the_clock_counts_from_the_beginning():
    now = 100.0
    interrupt = Interrupt(2.5, clock=lambda: now)
    for now, expected in ((100.0, 0), (102.4, 0), (102.5, StopReason.TIME_BUDGET)):  # noqa: B007
        assert interrupt.agree(7) == 7
        assert interrupt.reason == expected


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), True, "12:00:00", timedelta(0)])
def test_no_time_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="max_time must be seconds greater than 0 or a datetime"):
        run(tmp_path, max_time=value)


def test_all_processes_end_alike(monkeypatch):
    others = [[3, 0, 0], [9, int(signal.SIGTERM), 1]]
    decide = lambda own, choose, what: choose([own, *others])
    monkeypatch.setattr(_agree, "decide", decide)
    interrupt = Interrupt()
    assert interrupt.agree(5) == 9
    assert (interrupt.reason, interrupt.exit_code) == (StopReason.INTERRUPTED, 143)
    with pytest.raises(SystemExit):
        interrupt.pass_on()


def test_ctrl_c_is_raised_by_default_when_the_run_is_saved(whole, tmp_path):
    """So that a sweep, a loop over `fit`, does not go on to its next run."""
    do = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=rf"run is saved in {tmp_path}, at step") as caught:
        run(tmp_path, AtFirst(do), on_interrupt="raise")
    result = caught.value.result
    assert result.stop_reason is ody.StopReason.INTERRUPTED
    assert latest(tmp_path)["step"] == result.steps
    assert_goes_on_to(whole, tmp_path)
    with pytest.raises(KeyboardInterrupt, match="the run is not saved, at step"):
        run(None, AtFirst(do), on_interrupt="raise")


def test_a_terminal_that_closes_is_as_sigterm(whole, tmp_path):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, AtFirst(lambda: signal.raise_signal(signal.SIGHUP)))
    assert caught.value.code == 129
    assert_goes_on_to(whole, tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_anything_is_trained_it_ends_as_later(tmp_path, monkeypatch, capfd, number, code):
    begin = _fit.start

    def start(*args):
        signal.raise_signal(number)
        return begin(*args)

    monkeypatch.setattr(_fit, "start", start)
    kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(kind) as caught:
        run(tmp_path, on_interrupt="raise")
    if kind is SystemExit:
        assert caught.value.code == code
    else:
        assert caught.value.result.exit_code == code
        assert str(caught.value) == "the run is not saved, at step 0"
    assert f"{number.name}: the run ends when the loop comes up" in capfd.readouterr().err
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
    monkeypatch.setattr(_fit, "start", begin)
    assert run(tmp_path).epochs == EPOCHS


BUSY = """
import ctypes
from odyssey_jax.fit._interrupt import Signals

lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
with Signals():
    lock(mutex)
    print("busy", flush=True)
    lock(mutex)  # as XLA: without Python, and no signal ends it
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_while_no_python_runs_the_first_is_acknowledged_and_the_second_ends_it(number, code):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", BUSY], **pipes) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        assert process.stderr.readline().startswith(f"{number.name}: the run ends when")
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == code


def test_a_closed_pipe_ends_no_run(monkeypatch, tmp_path):
    class Closed:
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

        flush = lambda self: self.write("")
        isatty = lambda self: False

    monkeypatch.setattr(sys, "stderr", Closed())
    theirs = ody.ProgressLine(Console(file=Closed()))
    assert run(tmp_path, ody.ProgressLine(), theirs).epochs == EPOCHS
    assert run(tmp_path, epochs=EPOCHS + 1).epochs == EPOCHS + 1  # which says where it resumes
