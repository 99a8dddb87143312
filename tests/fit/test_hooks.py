"""Host code at exact marks, however long a call of the program may be."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import odyssey_jax as ody
from odyssey_jax.fit._hooks import as_number
from odyssey_jax.fit._shown import as_shown
from tests import examples
from tests.examples import assert_same
from tests.sources import Read


def run(directory=None, *hooks, epochs=12, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.sgd(0.1), examples.train_data(), examples.valid_data(),
        epochs=epochs, directory=directory, writers=[], hooks=hooks, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        (None, range(5, 61, 5)),
        (ody.every(epochs=5), [25, 50]),
        (ody.every(epochs=4) | ody.callbacks.at(epochs=[3]), [15, 20, 40, 60]),
        (ody.every(steps=10), range(10, 61, 10)),
        (ody.callbacks.at(epochs=[12]), [60]),
    ],
)
def test_called_at_each_mark_and_nowhere_else(when, steps):
    seen = []
    result = run(None, ody.hook(lambda view: seen.append((view.step, view.epoch, view.row)), when))
    assert [step for step, _, _ in seen] == list(steps)
    for step, epoch, row in seen:
        assert epoch == step // 5
        assert row["step"] == step
        assert row["valid/loss"] == pytest.approx(float(result.history["valid/loss"][epoch - 1]))


def test_it_sees_the_model_as_it_was_measured_and_changes_nothing():
    seen = []

    def look(view):
        task = examples.linear_task()
        found = ody.evaluate(task, view.state, examples.valid_data())["loss"]
        seen.append((float(found), view.row["valid/loss"], np.array(view.model["w"])))

    hooked = run(None, ody.hook(look, ody.every(epochs=3)), average=ody.exponential_average(0.9))
    for found, row, _ in seen:
        assert found == pytest.approx(row, rel=1e-6)
    assert len({weights.tobytes() for *_, weights in seen}) == 4
    assert_same(hooked.state, run(average=ody.exponential_average(0.9)).state)


def test_a_resume_calls_it_at_what_is_left(tmp_path):
    seen = []
    see = ody.hook(lambda view: seen.append(view.epoch), ody.every(epochs=2))
    run(tmp_path, see, epochs=5)
    run(tmp_path, see)
    assert seen == [2, 4, 6, 8, 10, 12]


def test_what_is_no_hook():
    with pytest.raises(TypeError, match="hooks must be a list of what hook"):
        run(None, lambda view: None)
    with pytest.raises(TypeError, match=r"when must be a condition such as .*, got 5"):
        ody.hook(print, 5)
    with pytest.raises(TypeError, match="function must be callable with a view of the run, got 3"):
        ody.hook(3)


# Columns.

THIRD = ody.every(epochs=3)


def scaled_adam(rate):
    return optax.chain(optax.adam(rate), ody.scale_by_callback())


def norm(view):
    return {"norm": np.linalg.norm(view.model["w"]), "drawn": jax.random.uniform(view.key)}


def measured(directory=None, function=norm, *hooks, kind="here", **kwargs):
    data = (examples.train_data(), examples.valid_data())
    data = data if kind == "here" else (Read(), Read(batch_size=8, examples=22, seed=1))
    columns = ody.hook(function, THIRD, columns=("norm", "drawn"))
    return ody.fit(
        examples.linear_task(), scaled_adam, *data, learning_rate=0.05, directory=directory,
        writers=[], hooks=[*hooks, columns], **{"epochs": 9, **kwargs},
    )  # fmt: skip


def leave_at(step):
    def leave(view):
        if view.step >= step:
            raise KeyError("left here")

    return ody.hook(leave, ody.every(steps=1))


@pytest.mark.parametrize("kind", ["here", "read"])
def test_columns_are_metrics_and_a_run_that_is_left_goes_on_to_the_bit(kind, tmp_path):
    calls = []

    def leaves(view):
        calls.append(view.epoch)
        if calls.count(view.epoch) == 1:
            raise KeyError("left here")
        return norm(view)

    how = {
        "kind": kind,
        "callbacks": ody.chain(
            ody.early_stopping("norm", patience=2, mode="min", restore_best=True),
            ody.adapt_rate("norm", ody.reduce_on_plateau(patience=0, mode="min")),
            ody.checkpoint(every_epochs=1, keep_best=1, monitor="drawn", mode="max"),
        ),
        "epochs": 12,
    }
    whole = measured(tmp_path / "whole", **how)
    assert (whole.epochs, whole.reason) == (9, "no improvement for 2 evaluations")  # norms grow
    assert np.flatnonzero(~np.isnan(whole.history["norm"])).tolist() == [2, 5, 8]
    assert whole.best_epoch == 2
    assert whole.metrics["norm"] == pytest.approx(np.linalg.norm(whole.model["w"]))
    drawn = whole.history["drawn"]
    assert len(set(drawn[[2, 5, 8]])) == 3
    assert (
        5 * (1 + int(np.nanargmax(drawn)))
        in ody.store.Reader(tmp_path / "whole" / "checkpoints").steps()
    )
    at_columns = (leaves,)
    for function, *hooks in [
        (norm, leave_at(8)), at_columns, at_columns, (norm, leave_at(38)), at_columns
    ]:  # fmt: skip
        with pytest.raises(KeyError, match="left here"):
            measured(tmp_path / "cut", function, *hooks, **how)
    assert calls == [3, 3, 6, 9]
    cut = measured(tmp_path / "cut", **how)
    assert_same(cut.carry, whole.carry)
    assert_same(dict(cut.history), dict(whole.history))


def test_columns_change_nothing_of_the_training_and_see_what_is_validated():
    seen = []

    def look(view):
        found = ody.evaluate(examples.linear_task(), view.state, examples.valid_data())["loss"]
        seen.append((view.step, view.epoch, view.row, view.metrics.get("step"), float(found)))
        return norm(view)

    result = measured(None, look, average=ody.exponential_average(0.9))
    plain = measured(None, norm, kind="here", average=ody.exponential_average(0.9))
    assert_same(result.state, plain.state)
    assert [x[:4] for x in seen] == [(15, 3, {}, 10), (30, 6, {}, 25), (45, 9, {}, 40)]
    for _, epoch, *_, loss in seen:
        assert loss == pytest.approx(float(result.history["valid/loss"][epoch - 1]), rel=1e-6)


def test_the_view_within_an_epoch_and_at_its_end():
    seen = []

    def look(view):
        seen.append((view.step, view.row.get("step"), view.metrics.get("step")))
        seen.append(float(jax.random.uniform(view.key)))

    for _ in range(2):
        run(None, ody.hook(look, ody.every(steps=5)), epochs=2, steps_per_epoch=10)
    assert seen[::2] == [(5, None, None), (10, 10, 10), (15, None, 10), (20, 20, 20)] * 2
    assert seen[1:8:2] == seen[9::2]
    assert len(set(seen[1::2])) == 4


def test_a_hook_may_be_taken_out_where_its_epoch_had_not_ended(tmp_path):
    def fails(view):
        raise KeyError("a mistake")

    for epochs in (3, 6):  # in its last epoch, and on the way
        with pytest.raises(KeyError, match="a mistake"):
            measured(tmp_path / str(epochs), fails, epochs=epochs)
        other = ody.hook(lambda view: {"norm": 1}, ody.every(epochs=2), columns=["norm"])
        with pytest.raises(ValueError, match="begun with another cadence of 'norm'"):
            run_again(tmp_path / str(epochs), other)
        result = run_again(tmp_path / str(epochs), epochs=epochs)
        assert result.history["epoch"].tolist() == list(range(epochs))
        assert result.steps == 5 * epochs


def run_again(directory, *hooks, epochs=6):
    return ody.fit(
        examples.linear_task(), scaled_adam, examples.train_data(), examples.valid_data(),
        learning_rate=0.05, directory=directory, writers=[], hooks=hooks, epochs=epochs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, r"must return a mapping with a number for each of its columns, \['a'\], got None"),
        ({}, r"got those of \[\]"),
        ({"a": 1, "b": 2}, r"got those of \['a', 'b'\]"),
        ({"a": np.ones(1)}, r"a real number for the column 'a', finite or NaN .* got array"),
        ({"a": float("inf")}, "got inf"),
        ({"a": 1e39}, r"got 1e\+39"),
        ({"a": True}, "got True"),
        ({"a": "0.5"}, "got '0.5'"),
        ({"a": 1j}, "got 1j"),
    ],
)
def test_what_is_no_value_of_a_column(found, message):
    with pytest.raises(ValueError, match=message):
        ody.hook(lambda view: found, THIRD, ["a"]).measure(None)


def test_what_are_numbers():
    for x in (2, np.int64(2), np.float16(2), jnp.bfloat16(2), jnp.ones(()) * 2, np.array(2.0)):
        assert as_number(x) == 2.0
    assert np.isnan(as_number(np.nan))


def test_a_nan_that_was_measured_is_one():
    result = measured(None, lambda view: {"norm": np.nan, "drawn": 0}, epochs=12,
                      callbacks=ody.early_stopping("norm", patience=2, mode="min"))  # fmt: skip
    assert (result.epochs, result.reason) == (6, "no improvement for 2 evaluations")


ONE = {"columns": ["a"], "function": lambda view: {"a": 1.0}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [ody.hook(print, ody.every(seconds=5), ["a"])], "where seconds don't count: use"),
        (lambda: [ody.hook(print, columns=["step"])], "must not have the name 'step'"),
        (lambda: [ody.hook(print, columns=[""])], r"must be names such as \('bleu',\), got"),
        (lambda: [ody.hook(print, columns=3)], "must be names such as .* got 3"),
        (lambda: [ody.hook(print, columns=["a", "a"])], "each must have a name of its own"),
        (lambda: [ody.hook(**ONE), ody.hook(**ONE)], "two have a column 'a'"),
        (lambda: [ody.hook(print, columns=["valid/loss"])], r"'valid/loss' has the name of other"),
        (lambda: [ody.hook(print, columns=["train"])], r"other metrics, \['train/loss'\]"),
    ],
)
def test_columns_that_can_not_be(make, message):
    with pytest.raises(ValueError, match=message):
        run(None, *make())


def test_a_column_that_is_monitored_and_never_measured_is_refused():
    late = ody.hook(norm, ody.every(epochs=20), columns="norm")
    stop = ody.early_stopping("norm", 3, mode="min")
    with pytest.raises(ValueError, match="'norm' is monitored, .* since its hook is every"):
        run(None, late, callbacks=stop)
    with pytest.raises(ValueError, match="whether less or more of 'norm' is better is not known"):
        measured(callbacks=ody.early_stopping("norm", 3))


def test_a_loop_that_is_one_call_has_no_columns():
    loop = examples.make_loop(examples.linear_task(), optax.sgd(0.1), columns={"a": THIRD})
    inputs = ody.train.Inputs(examples.train_data())
    carry = loop.init(jax.random.key(0), *examples.linear_task().init(None), inputs)
    assert "a" in carry.latest
    with pytest.raises(ValueError, match=r"\['a'\] are measured by the host"):
        loop.run(carry, inputs, 5)


# What writers show.


class Shows:
    def __init__(self):
        self.told = []

    def open(self, run):
        pass

    def write(self, rows, live):
        self.told += [("row", row["step"]) for row in rows]

    def show(self, step, name, value):
        self.told.append((name, step))

    def close(self):
        pass


def picture(view):
    return {
        "reply": f"<{view.step}>", "size": jnp.float32(view.step), "grey": np.ones((4, 5)),
        "colour": np.zeros((4, 5, 3), np.uint8), "clear": jnp.zeros((4, 5, 4)),
    }  # fmt: skip


def test_what_a_hook_returns_goes_to_the_writers_that_show_it(tmp_path, capsys):
    shows = Shows()
    writers = [ody.TensorBoard(), ody.JsonLines(), ody.CsvFile(), shows]
    each = ody.hook(picture, ody.every(epochs=2))
    for epochs in (3, 6):
        ody.fit(
            examples.linear_task(), optax.sgd(0.1), examples.train_data(), epochs=epochs,
            directory=tmp_path, writers=writers, hooks=[each],
        )  # fmt: skip
    assert [x for x in shows.told if x[0] in ("row", "grey")] == [
        ("row", 5), ("row", 10), ("grey", 10), ("row", 15),
        ("row", 20), ("grey", 20), ("row", 25), ("row", 30), ("grey", 30),
    ]  # fmt: skip
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(x.step, x.value) for x in events.Scalars("size")] == [(10, 10), (20, 20), (30, 30)]
    assert {x.height for name in ("grey", "colour", "clear") for x in events.Images(name)} == {4}
    replies = events.Tensors("reply/text_summary")
    assert [x.tensor_proto.string_val[0] for x in replies] == [b"<10>", b"<20>", b"<30>"]
    lines = [json.loads(line) for line in (tmp_path / "shown.jsonl").read_text().splitlines()]
    assert [(x["step"], x["value"]) for x in lines if x["name"] == "reply"] == [
        (10, "<10>"), (20, "<20>"), (30, "<30>"),
    ]  # fmt: skip
    assert capsys.readouterr().err.count("are not written to shown.jsonl") == 1


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3.0, r"must return None or a mapping of names .* got 3.0. What it measures goes to"),
        ({"a": [1]}, r"for 'a', a str, a real number, or a picture .* got \[1\]"),
        ({"a": np.ones((2, 2, 2))}, r"got an array of float64 \[2, 2, 2\]"),
        ({"a": 2 * np.ones((2, 2))}, r"got an array of float64 \[2, 2\]"),
        ({"a": np.ones((2, 2), int)}, r"got an array of int64 \[2, 2\]"),
        ({"train/loss": 1.0}, r"\['train/loss'\], which are columns of the history"),
        ({"step": 1.0}, "must not have the name 'step'"),
    ],
)
def test_what_can_not_be_shown(found, message):
    with pytest.raises(ValueError, match=message):
        as_shown(print, found, ["train/loss"])
    assert as_shown(print, None, []) == {}


# Collected outputs, and traces.


def with_scores():
    def loss(params, batch):
        value, outputs = examples.linear_loss(params, batch)
        return value, {**outputs, "value": value}

    init = {"w": jnp.zeros((4, examples.CLASSES)), "b": jnp.zeros(examples.CLASSES)}
    return ody.pure_task(init, loss)


def top1(targets, scores):
    assert isinstance(scores, np.ndarray)
    assert len(targets) == len(scores)
    return np.mean(targets == scores.argmax(-1))


def collected(valid, *hooks, epochs=4, **kwargs):
    return ody.fit(
        with_scores(), optax.sgd(0.1), examples.train_data(), valid, epochs=epochs, writers=[],
        hooks=hooks, metrics={"top1": ody.Accuracy()}, **kwargs,
    )  # fmt: skip


def test_a_metric_of_a_whole_evaluation_is_that_of_its_batches():
    twice, names = ody.every(epochs=2), ("labels", "logits")
    read = Read(batch_size=8, examples=22, seed=1)
    sets = {
        "here": examples.valid_data(), "read": read,
        "part": ody.Evaluation(examples.valid_data(), batches=1),
    }  # fmt: skip
    hooks = [ody.collect(names, top1, twice, name=f"{x}_top1", valid=x) for x in sets]
    history = collected(sets, *hooks).history
    for name in sets:
        found = history[f"{name}_top1"]
        assert np.flatnonzero(~np.isnan(found)).tolist() == [1, 3]
        np.testing.assert_allclose(found[1::2], history[f"valid/{name}/top1"][1::2], rtol=1e-6)
    alone = collected(examples.valid_data(), ody.collect(names, top1))
    np.testing.assert_allclose(alone.history["top1"], alone.history["valid/top1"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["here", "read"])
def test_it_is_collected_over_several_devices(kind):
    valid = examples.valid_data() if kind == "here" else Read(batch_size=8, examples=24, seed=1)
    hook = ody.collect(("labels", "logits"), top1)
    history = collected(valid, hook, epochs=2, placement=ody.data_parallel()).history
    np.testing.assert_allclose(history["top1"], history["valid/top1"], rtol=1e-6)
    alone = collected(valid, hook, epochs=2, placement=ody.parallel.one_device()).history
    np.testing.assert_allclose(history["top1"], alone["top1"], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ody.collect("nothing", top1), r"no outputs \['nothing'\]; it has \['"),
        (lambda: ody.collect("value", top1), r"\['value'\] are one number for a batch"),
        (lambda: ody.collect("logits", top1, valid="b"), r"valid='b'\) must be one of .*\['valid'"),
        (lambda: ody.collect((), top1), r"outputs must be names such as .* got \(\)"),
        (lambda: ody.collect("logits", lambda x: 0), "name must be given for the column of"),
        (lambda: ody.profile((5, 10)), "needs a directory: give it one, or fit"),
        (lambda: ody.profile((5, 25), "x"), "ends after the 20 train steps of the run"),
        (lambda: ody.profile((6, 10), "x"), "within a block of 5 train steps, .* multiples of 5"),
        (lambda: ody.profile((10, 5)), r"must end after they begin, got \(10, 5\)"),
        (lambda: ody.profile(range(5, 15, 5)), r"range\(first, last\) or .* got range\(5, 15, 5"),
        (lambda: ody.profile((0, 5)), "each of steps must be an integer of at least 1"),
    ],
)
def test_what_can_not_be_collected_or_traced(make, message):
    with pytest.raises(ValueError, match=message):
        collected(examples.valid_data(), make())


def test_a_trace_is_written_and_changes_nothing(tmp_path):
    traced = run(tmp_path, ody.profile(range(10, 20)), epochs=6)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    assert_same(traced.carry, run(epochs=6).carry)
    with pytest.raises(KeyError, match="left here"):  # a run that fails ends the trace
        run(tmp_path / "left", ody.profile((5, 25)), leave_at(15), epochs=6)
    assert len(list((tmp_path / "left" / "profile").rglob("*.xplane.pb"))) == 1
