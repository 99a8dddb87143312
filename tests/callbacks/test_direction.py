"""Whether less or more of a metric is better: as it is told, as the metric has it, or its name."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax._direction import direction
from odyssey_jax.runs import known_mode

LESS = "valid/loss val_loss valLoss nll neg_accuracy negative_log_likelihood error_rate loss/total"
MORE = "valid/accuracy acc top5_accuracy recall@5 f1_macro f1_score neg_mse log_likelihood mIoU"
NEITHER = (
    "grad_norm learning_rate loss_scale 1-accuracy one_minus_accuracy entropy valid/foo valid/"
)


@pytest.mark.parametrize("name", LESS.split())
def test_names_of_which_less_is_better(name):
    assert direction(name) == known_mode([], name) == "min"


@pytest.mark.parametrize("name", MORE.split())
def test_names_of_which_more_is_better(name):
    assert direction(name) == known_mode([], name) == "max"


@pytest.mark.parametrize("name", NEITHER.split())
def test_names_that_do_not_say(name):
    assert direction(name) is None


def best_of(name, values, modes=(), **options):
    callback = ody.track_best(name, **options)
    at = lambda epoch: ody.Event(
        {name: jnp.float32(values[epoch])}, ody.Clock(epoch, epoch), modes=modes
    )
    state = callback.init(at(0))
    for epoch in range(len(values)):
        state, _ = callback.update(state, at(epoch))
    return int(state.epoch)


def test_the_best_is_by_what_was_said_then_the_metric_then_the_name():
    assert best_of("valid/accuracy", [1, 3, 0]) == 1
    assert best_of("valid/loss", [1, 3, 0]) == 2
    assert best_of("valid/foo", [1, 3, 0], modes=(("valid/foo", "max"),)) == 1
    assert best_of("valid/loss", [1, 3, 0], modes=(("valid/loss", "max"),)) == 1
    assert best_of("valid/accuracy", [1, 3, 0], mode="min") == 2


UNKNOWN = r"whether less or more of 'foo' is better is not known: give mode='min' or mode='max'"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ody.early_stopping("foo", 3),
        lambda: ody.track_best("foo"),
        lambda: ody.checkpoint(keep_best=1, monitor="foo"),
        lambda: ody.roll_back("foo", divergence_factor=2, factor=1),
        lambda: ody.adapt_rate("foo", ody.reduce_on_plateau()),
    ],
)
def test_what_is_not_known_must_be_told(make):
    with pytest.raises(ValueError, match=UNKNOWN):
        make().init(ody.Event({"foo": jnp.float32(0)}))


def test_a_store_keeps_the_best_by_the_name(tmp_path):
    with ody.Store(tmp_path, keep_best=1, monitor="accuracy") as store:
        for step, value in enumerate([0.1, 0.9, 0.2]):
            store.save(step, {"w": np.zeros(1)}, {"metrics": {"accuracy": value}})
    assert ody.store.Reader(tmp_path, monitor="accuracy").best() == 1
    with pytest.raises(ValueError, match=UNKNOWN):
        ody.Store(tmp_path / "other", keep_best=1, monitor="foo")


def test_fit_takes_the_direction_of_a_metric_under_any_name(tmp_path):
    x = np.eye(4, dtype=np.float32)
    data = ody.ArrayDataset({"x": x, "y": np.arange(4)}, 4)

    def loss(w, batch):
        logits = batch["x"] @ w
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
        return value, {"logits": logits, "labels": batch["y"]}

    result = ody.fit(
        ody.pure_task(jnp.zeros((4, 4)), loss),
        optax.sgd(1.0),
        data,
        data,
        epochs=4,
        metrics={"right": ody.Accuracy()},
        callbacks=ody.chain(
            ody.early_stopping("valid/right", 2, restore_best=True),
            ody.checkpoint(keep_best=1, monitor="valid/right"),
        ),
        directory=tmp_path,
        writers=[],
    )
    right = result.history["valid/right"]
    assert right[result.best_epoch] == right.max()
    assert ody.runs.find_runs(tmp_path)[0].monitor == ("valid/right", "max")
