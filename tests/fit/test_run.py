"""The shell for a loop of one's own: signals, time, history, writers, and resumes to the bit."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import train_state

import odyssey_jax as ody
from odyssey_jax.errors import CheckpointError
from odyssey_jax.fit import _run
from odyssey_jax.fit._interrupt import Interrupt
from tests import examples

STEPS = 6
EVERY_2 = ody.checkpoint(ody.every(steps=2), keep_last=None)


@jax.jit
def train_step(state, step):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), step))
    loss = (state["w"] - 1) ** 2
    return {"w": state["w"] - 0.1 * (state["w"] - 1) + 0.01 * noise, "count": step + 1}, loss


donating = jax.jit(train_step, donate_argnums=0)


def train(directory, at=lambda step: None, step_of=train_step, steps=STEPS, **options):
    """The rows and the last state; `at` is called in each step."""
    options = {"checkpoint": None if directory is None else EVERY_2, **options}
    with ody.Run(directory, **options) as run:
        state = run.restore({"w": jnp.zeros(()), "count": jnp.zeros((), jnp.int32)})
        for step in run.steps(steps):
            state, loss = step_of(state, step)
            run.log(step, {"train/loss": loss})
            run.save_if_due(state)
            at(step)
    return run, state


@pytest.fixture(scope="module")
def whole():
    run, state = train(None)
    return run.rows, state


def assert_goes_on(whole, directory):
    run, state = train(directory)
    assert run.rows == whole[0]
    examples.assert_same(state, whole[1])
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.rows


def with_base(directory, last, constant):
    with ody.Run(directory, checkpoint=EVERY_2, constant=constant) as run:
        state = run.restore({"w": jnp.zeros(()), "base": jnp.arange(300_000.0)})
        for _ in run.steps(last):
            state = {**state, "w": state["w"] + 1}
            run.save_if_due(state)


def test_what_no_step_changes_is_saved_once(tmp_path):
    with_base(tmp_path, 4, "base")
    with_base(tmp_path, 6, ["base"])
    for name in ("2", "4", "6"):
        files = [x.stat() for x in (tmp_path / "checkpoints" / name).rglob("*") if x.is_file()]
        assert max(x.st_nlink for x in files if x.st_size > 10_000) == 3
    loaded = ody.load_params(tmp_path, subtree="state")
    examples.assert_same(loaded, {"w": np.float32(6), "base": np.arange(300_000, dtype=np.float32)})
    with pytest.raises(ValueError, match="'base'.* needs a directory"):
        ody.Run(constant="base")
    with pytest.raises(ValueError, match="no subtree 'state/other'"):
        with_base(tmp_path, 8, ["other"])


def steps_of(directory):
    with ody.Store(directory / "checkpoints") as store:
        return store.steps()


def test_it_saves_when_it_is_due_and_at_the_end(whole, tmp_path):
    run, _ = train(tmp_path, steps=5)
    assert (run.step, run.stop_reason.name, steps_of(tmp_path)) == (5, "NONE", (2, 4, 5))
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4, 5]
    assert_goes_on(whole, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_running_step(whole, tmp_path, number):
    ends = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(ends):
        train(tmp_path, lambda step: signal.raise_signal(number) if step == 2 else None)
    assert steps_of(tmp_path) == (2, 3)
    assert_goes_on(whole, tmp_path)


def test_time_ends_it(whole, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(_run, "Interrupt", lambda seconds: Interrupt(seconds, lambda: clock[0]))
    late = lambda step: clock.append(clock.pop() + 20)
    run, _ = train(tmp_path, late, max_time=50)
    assert (run.step, run.stop_reason.name) == (3, "TIME_BUDGET")
    monkeypatch.undo()
    assert_goes_on(whole, tmp_path)


def fails(step):
    if step == 2:
        raise KeyError("mine")


def test_an_exception_saves_what_is_there(whole, tmp_path):
    with pytest.raises(KeyError, match="mine"):
        train(tmp_path, fails)
    assert steps_of(tmp_path) == (2, 3)
    assert_goes_on(whole, tmp_path)


def test_a_state_that_a_step_took_along_is_not_saved(whole, tmp_path):
    def step_of(state, step):
        found = donating(state, step)
        if step == 3:
            raise KeyError("mine")
        return found

    with pytest.raises(KeyError, match="mine"):
        train(tmp_path, step_of=step_of)
    assert steps_of(tmp_path) == (2,)
    assert_goes_on(whole, tmp_path)


def test_it_begins_again(whole, tmp_path):
    train(tmp_path, steps=4)
    run, _ = train(tmp_path, resume=False)
    assert run.rows == whole[0]
    assert steps_of(tmp_path) == (2, 4, 6)


def test_rows_may_be_made_in_parts_and_be_of_some_steps():
    with ody.Run() as run:
        for step in run.steps(4):
            if step % 2:
                run.log(step, {"a": step})
                run.log(step, {"b": jnp.float16(0.5)})
    assert run.rows == [
        {"epoch": 0, "step": 2, "a": 1, "b": 0.5},
        {"epoch": 1, "step": 4, "a": 3, "b": 0.5},
    ]


def test_what_it_refuses(tmp_path):
    with pytest.raises(ValueError, match="needs a directory"):
        ody.Run(checkpoint=EVERY_2)
    with pytest.raises(ValueError, match="counts steps and seconds, and no epochs"):
        ody.Run(tmp_path, checkpoint=ody.checkpoint(every_epochs=2))
    with pytest.raises(ValueError, match="resume must be 'latest' or False, got 'best'"):
        ody.Run(tmp_path, resume="best")
    with pytest.raises(RuntimeError, match="is a context"):
        next(ody.Run().steps(3))
    with ody.Run() as run:
        for step in run.steps(1):
            with pytest.raises(ValueError, match="takes the running step, 0, got step=1"):
                run.log(step + 1, {})
            with pytest.raises(ValueError, match="must be real scalars, got loss="):
                run.log(step, {"loss": jnp.ones(2)})
            with pytest.raises(RuntimeError, match="comes before the steps"):
                run.restore(0)


def test_a_run_of_fit_is_not_its_own(tmp_path):
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.ones(8), batch_size=4)
    ody.fit(task, optax.sgd(0.1), data, epochs=1, writers=[], directory=tmp_path)
    with pytest.raises(CheckpointError), ody.Run(tmp_path) as run:
        run.restore(jnp.zeros(()))


def test_what_would_pass_in_silence_is_refused(tmp_path):
    train(tmp_path, steps=4)
    with ody.Run(tmp_path) as run, pytest.raises(RuntimeError, match="holds a run, at step 4"):
        next(run.steps(6))
    with ody.Run() as run:
        with pytest.raises(RuntimeError, match="save_if_due is for the steps"):
            run.save_if_due(0)
        with pytest.raises(RuntimeError, match="log is for the steps"):
            run.log(0, {})


def test_a_writer_is_told_of_what_ended_the_run(tmp_path):
    class Told:
        heard = ()

        def open(self, run):
            self.heard += (run.step,)

        def write(self, rows, live):
            self.heard += tuple(row["step"] for row in rows)

        def fail(self, error):
            self.heard += (repr(error),)

        def close(self):
            self.heard += ("closed",)

    writer = Told()
    with pytest.raises(KeyError):
        train(tmp_path, fails, writers=[writer])
    assert writer.heard == (0, 1, 2, "KeyError('mine')", "closed")


def test_a_python_number_stands_for_the_array_that_is_made_of_it(tmp_path):
    """Flax's `TrainState.create` begins its `step` as one."""

    def train(steps, **more):
        with ody.Run(tmp_path, checkpoint=EVERY_2) as run:
            new = train_state.TrainState.create(
                apply_fn=None, params={"w": jnp.zeros(())}, tx=optax.sgd(0.1), **more
            )
            state = run.restore(new)
            for _ in run.steps(steps):
                state = state.apply_gradients(grads={"w": jnp.ones(())})
                state = state.replace(step=jnp.asarray(state.step))
                run.save_if_due(state)
        return state

    train(3)
    state = train(5)
    assert (int(state.step), float(state.params["w"])) == (5, pytest.approx(-0.5))
    # What is of another kind is no such number.
    for other, named in ((np.zeros(()), "float64"), (0.0, "float"), (True, "bool")):
        with pytest.raises(CheckpointError, match=f"target {named}"), ody.Run(tmp_path) as run:
            run.restore(state.replace(step=other))
