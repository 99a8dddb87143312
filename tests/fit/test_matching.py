"""Metrics and callbacks can be added to a run under way, and taken out."""

import jax
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same

STOP, TRACK = ody.early_stopping("valid/loss", 99), ody.track_best("train/loss")
NAN = ody.terminate_on_nan()


def run(directory, *callbacks, epochs=4, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.adam(0.05), examples.train_data(), examples.valid_data(),
        epochs=epochs, directory=directory, writers=[], callbacks=ody.chain(*callbacks), **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([], [STOP], "EarlyStopping begins anew"),
        ([STOP], [], "EarlyStopping is dropped"),
        ([STOP, TRACK], [TRACK, STOP], None),
        ([STOP, TRACK, NAN], [TRACK], "EarlyStopping is dropped; TerminateOnNan is dropped"),
        ([TRACK], [STOP, NAN, TRACK], "EarlyStopping begins anew; TerminateOnNan begins anew"),
        ([STOP], [ody.early_stopping("valid/loss", 50)], None),
    ],
)
def test_callbacks_are_told_apart_by_what_they_are(tmp_path, capfd, before, after, said):
    whole = run(tmp_path / "whole", *after)
    run(tmp_path / "cut", *before, epochs=2)
    capfd.readouterr()
    resumed = run(tmp_path / "cut", *after)
    line = capfd.readouterr().err.strip()
    assert line.partition("ago; ")[2] == (said or "")
    assert_same(resumed.state, whole.state)
    for callback, state, other in zip(
        after, resumed.carry.callbacks, whole.carry.callbacks, strict=True
    ):
        if callback in before or callback is not STOP:
            assert_same(state, other)


def test_one_that_begins_anew_knows_only_what_it_saw(tmp_path):
    run(tmp_path, epochs=2)
    result = run(tmp_path, TRACK)
    assert result.best_epoch >= 2


def test_a_metric_may_be_added_and_taken_out(tmp_path, capfd):
    whole = run(tmp_path / "whole", STOP)
    run(tmp_path / "cut", STOP, epochs=2)
    capfd.readouterr()
    more = {
        "metrics": {"accuracy": ody.Accuracy()},
        "train_metrics": {"norm": ody.Mean("grad_norm")},
    }
    added = run(tmp_path / "cut", STOP, epochs=3, **more)
    said = capfd.readouterr().err
    assert "train/norm begins anew; valid/accuracy begins anew" in said
    for name in ("valid/accuracy", "train/norm"):
        assert np.isnan(added.history[name]).tolist() == [True, True, False]
    gone = run(tmp_path / "cut", STOP)
    assert "valid/accuracy is dropped" in capfd.readouterr().err
    assert_same(dict(gone.history), dict(whole.history))
    assert_same(gone.carry, whole.carry)


def test_another_model_is_refused_as_strictly_as_before(tmp_path):
    run(tmp_path, STOP, epochs=2)
    task = examples.linear_task()._replace(init=lambda key: ({"w": jax.numpy.zeros((4, 3))}, None))
    with pytest.raises(ody.errors.CheckpointMismatchError, match="1 extra|extra in"):
        ody.fit(
            task._replace(loss=without_bias, evaluate=evaluate), optax.adam(0.05),
            examples.train_data(), examples.valid_data(), epochs=4, directory=tmp_path,
            writers=[], callbacks=STOP,
        )  # fmt: skip


def without_bias(params, model_state, batch, key):
    loss, outputs = examples.cross_entropy(batch["x"] @ params["w"], batch["y"])
    return loss, (model_state, outputs)


def evaluate(params, model_state, batch):
    loss, outputs = examples.cross_entropy(batch["x"] @ params["w"], batch["y"])
    return {**outputs, "loss": loss}
