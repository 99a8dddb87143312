"""Metrics of `flax.nnx`: as NNX has them, and within `fit`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import odyssey_jax as ody
from odyssey_jax import metrics as om
from tests import examples

MULTI = nnx.metrics.MultiMetric(accuracy=nnx.metrics.Accuracy(), error=nnx.metrics.Average("error"))
METRICS = {
    "accuracy": nnx.metrics.Accuracy(),
    "error": nnx.metrics.Average("error"),
    "spread": nnx.metrics.Welford("error"),
    "several": MULTI,
}


def batches(masked=False):
    rng = np.random.default_rng(0)
    for size in (8, 8, 3):
        found = {
            "logits": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32),
            "labels": jnp.asarray(rng.integers(0, 3, size), jnp.int32),
            "error": jnp.asarray(rng.random(size), jnp.float32),
        }
        yield {**found, "mask": jnp.asarray(rng.random(size) < 0.7)} if masked else found


def as_nnx(metric, masked=False):
    metric.reset()
    for batch in batches(masked):
        metric.update(**batch)
    value = metric.compute()
    metric.reset()
    return value


@pytest.mark.parametrize("name", METRICS)
def test_it_computes_what_nnx_does_and_stays_as_it_is(name):
    metric = METRICS[name]
    state = om.empty(metric, next(batches()))
    observe = jax.jit(lambda state, batch: om.observe(metric, state, batch))
    for batch in batches():
        state = observe(state, batch)
    found, want = om.compute(state), as_nnx(METRICS[name])
    want = vars(want) if name == "spread" else want
    assert jax.tree.structure(found) == jax.tree.structure(
        dict(want) if name != "accuracy" and name != "error" else want
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    empty = om.compute(om.empty(metric, next(batches())))
    assert all(bool(jnp.isnan(x)) or x == 0 for x in jax.tree.leaves(empty))


def test_a_mask_counts_or_is_refused():
    for name in ("accuracy", "error", "several"):
        state = om.empty(METRICS[name], next(batches(masked=True)))
        for batch in batches(masked=True):
            state = om.observe(METRICS[name], state, batch)
        want = as_nnx(METRICS[name], masked=True)
        for a, b in zip(jax.tree.leaves(om.compute(state)), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    both = nnx.metrics.MultiMetric(a=nnx.metrics.Accuracy(), b=nnx.metrics.Welford("error"))
    for metric in (METRICS["spread"], both):
        with pytest.raises(ValueError, match="Welford takes no mask, and the outputs have one"):
            om.empty(metric, next(batches(masked=True)))


def test_what_is_no_instance_or_lacks_an_output_is_named():
    with pytest.raises(TypeError, match=r"a class of flax.nnx: pass an instance, Accuracy\(\)"):
        om.empty(nnx.metrics.Accuracy)
    for metric, lacks in ((nnx.metrics.Average(), "values"), (nnx.metrics.Accuracy(), "logits")):
        with pytest.raises(ValueError, match=rf"outputs \['error'\]: .*'{lacks}'"):
            om.empty(metric, {"error": jnp.ones(3)})


def test_fit_takes_them_beside_ours_and_resumes_to_the_bit(tmp_path):
    def run(directory, epochs=4):
        both = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy())
        metrics = {"mine": ody.Accuracy(), "theirs": nnx.metrics.Accuracy(), "both": both}
        return ody.fit(
            examples.linear_task(), optax.adam(0.05), examples.train_data(), examples.valid_data(),
            epochs=epochs, metrics=metrics, train_metrics={"theirs": nnx.metrics.Accuracy()},
            callbacks=ody.track_best("valid/theirs"), directory=directory, writers=[],
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    history = whole.history
    examples.assert_same(history["valid/theirs"], history["valid/mine"])
    examples.assert_same(history["valid/both/accuracy"], history["valid/mine"])
    assert history["train/theirs"][-1] > 0.3
    assert whole.best_epoch == int(np.argmax(history["valid/theirs"]))  # more of it is better
    run(tmp_path / "cut", epochs=2)
    examples.assert_same(run(tmp_path / "cut").carry, whole.carry)
