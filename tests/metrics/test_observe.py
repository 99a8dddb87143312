"""empty, observe, compute: ours and other libraries' metrics, four ways and in a scan."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odyssey_jax import metrics as om

METRICS = {
    "loss": om.Mean("loss"),
    "error": om.Mean("error"),
    "accuracy": om.Accuracy(),
    "confusion": om.ConfusionMatrix(3),
}


def batches(n, size=8, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    return {
        "loss": rng.random(n, np.float32),
        "weight": np.full(n, size, np.int32),
        "error": rng.random((n, size), np.float32),
        "logits": rng.normal(size=(n, size, classes)).astype(np.float32),
        "labels": rng.integers(0, classes, (n, size), np.int32),
        "mask": rng.random((n, size)) < 0.8,
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StrictAverage:
    """In the manner of metrax: class methods, a strict signature, counts in its own dtype."""

    total: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls):
        return cls(jnp.array(0, jnp.float32), jnp.array(0, jnp.int32))

    @classmethod
    def from_model_output(cls, labels, sample_weights=None):
        values = labels.astype(jnp.float32)
        weights = jnp.ones_like(values) if sample_weights is None else sample_weights
        return cls((values * weights).sum(), weights.sum())

    def merge(self, other):
        return type(self)(self.total + other.total, self.count + other.count)

    def compute(self):
        return self.total / self.count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByThreshold:
    """In the manner of metrax.AUCPR: empty is a scalar, and a batch gives an array."""

    hits: jax.Array

    @classmethod
    def empty(cls):
        return cls(0)

    @classmethod
    def from_model_output(cls, error, **_):
        return cls(jnp.sum(error > jnp.linspace(0, 1, 5)[:, None], axis=-1))

    def merge(self, other):
        return type(self)(self.hits + other.hits)

    def compute(self):
        return self.hits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Growing(ByThreshold):
    @classmethod
    def empty(cls):
        return cls(jnp.zeros(0))

    @classmethod
    def from_model_output(cls, error, **_):
        return cls(error)

    def merge(self, other):
        return type(self)(jnp.concatenate([self.hits, other.hits]))


def at(index, tree):
    return jax.tree.map(lambda x: x[index], tree)


def form(tree):
    leaves = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
    return jax.tree.structure(tree), leaves


def assert_same(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol), a, b)


def all_metrics():
    metrics = METRICS | {"strict": StrictAverage, "thresholds": ByThreshold}
    return [pytest.param(m, id=name) for name, m in metrics.items()]


@pytest.mark.parametrize("metric", all_metrics())
def test_state_keeps_its_form(metric):
    outputs = jax.tree.map(jnp.asarray, at(0, batches(1)))
    for given in (outputs, jax.eval_shape(lambda: outputs)):
        state = om.empty(metric, given)
        after = jax.eval_shape(lambda s: om.observe(metric, s, outputs), state)
        assert form(after) == form(state)
        assert not any(x.weak_type for x in jax.tree.leaves(state))


@pytest.mark.parametrize("metric", all_metrics())
def test_four_ways_and_donated_scan(metric):
    members, steps = 2, 3
    data = jax.tree.map(lambda *x: np.stack(x), *(batches(steps, seed=s) for s in range(members)))
    first = at((0, 0), data)

    def run(data):
        def body(state, outputs):
            return om.observe(metric, state, outputs), None

        return jax.lax.scan(body, om.empty(metric, first), data)[0]

    def by_hand(data):
        state = om.empty(metric, first)
        for t in range(steps):
            state = om.observe(metric, state, at(t, data))
        return state

    alone = [by_hand(at(i, data)) for i in range(members)]
    expected = jax.tree.map(lambda *x: np.stack(x), *alone)
    assert_same(jax.jit(run)(at(0, data)), alone[0])
    assert_same(jax.vmap(run)(data), expected)
    population = jax.jit(jax.vmap(run))(data)
    assert_same(population, expected)
    value = jax.vmap(om.compute)(population)
    assert_same(value, jax.jit(jax.vmap(om.compute))(population))
    assert_same(at(0, value), jax.jit(om.compute)(alone[0]))
    # A population's state computes without vmap, too.
    assert_same(om.compute(population), value)

    step = jax.jit(lambda s, o: om.observe(metric, s, o), donate_argnums=0)
    state = om.empty(metric, first)
    for t in range(steps):
        state = step(state, at((0, t), data))
    assert_same(state, alone[0])
    assert step._cache_size() == 1


def test_confusion_scores_of_a_population():
    labels, predictions = np.random.default_rng(0).integers(0, 3, (2, 4, 20), np.int32)
    each = jax.vmap(lambda t, p: om.ConfusionMatrix(3).from_model_output(labels=t, predictions=p))(
        labels, predictions
    )

    def read(m):
        return m.normalized("all"), m.f1("weighted")

    expected = jax.jit(jax.vmap(read))(each)
    assert_same(jax.jit(read)(each), expected)
    assert_same(read(each), expected)


def test_mapping_of_metrics():
    data = batches(4)
    state = om.empty(METRICS)
    for t in range(4):
        state = om.observe(METRICS, state, {k: v[t] for k, v in data.items()})
    value = om.compute(state)
    assert list(value) == list(METRICS)
    np.testing.assert_allclose(value["loss"], data["loss"].mean(), rtol=1e-6)
    np.testing.assert_allclose(value["error"], data["error"][data["mask"]].mean(), rtol=1e-6)
    assert int(value["confusion"].sum()) == data["mask"].sum()
    assert om.empty({}) == om.observe({}, {}, {}) == om.compute({}) == {}


def test_strict_dtype_promotion():
    outputs = at(0, batches(1))

    def program(outputs):
        state = om.observe(METRICS, om.empty(METRICS, outputs), outputs)
        matrix = state["confusion"]
        return om.compute(state), matrix.f1("weighted"), matrix.normalized("true")

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(program, outputs)


def test_metric_of_own_empty_that_changes_form_says_how_to_start():
    outputs = {"labels": jnp.array([1, 2])}
    state = om.empty(StrictAverage)
    with pytest.raises(ValueError, match=r"int32\[\]\] to .*Start from empty\(metric, outputs\)"):
        om.observe(StrictAverage, state, outputs)
    state = om.observe(StrictAverage, om.empty(StrictAverage, outputs), outputs)
    assert float(om.compute(state)) == 1.5


def test_clu_metrics_drop_in():
    clu = importlib.import_module("clu.metrics")
    metrics = {
        "accuracy": clu.Accuracy,
        "loss": clu.Average.from_output("loss"),
        "both": clu.Collection.create(mean=clu.Average.from_output("loss"), acc=clu.Accuracy),
        "ours": om.Accuracy(),
    }
    data = batches(6)
    del data["mask"]
    first = {k: v[0] for k, v in data.items()}
    start = om.empty(metrics, first)

    def body(state, outputs):
        return om.observe(metrics, state, outputs), None

    state = jax.jit(lambda s, d: jax.lax.scan(body, s, d)[0], donate_argnums=0)(start, data)
    value = om.compute(state)
    np.testing.assert_allclose(value["loss"], data["loss"].mean(), rtol=1e-6)
    assert value["both"]["mean"] == value["loss"]
    assert float(value["accuracy"]) == float(value["both"]["acc"]) == float(value["ours"])


def test_clu_from_output_names_the_missing_output():
    clu = importlib.import_module("clu.metrics")
    with pytest.raises(ValueError, match=r"metric 'l' .* needs the output 'los', but .*'loss'"):
        om.empty({"l": clu.Average.from_output("los")}, {"loss": jnp.float32(0)})


def test_clu_collecting_metric_is_refused():
    clu = importlib.import_module("clu.metrics")
    with pytest.raises(ValueError, match=r"metric 'all' .* grows with every batch"):
        om.empty({"all": clu.CollectingMetric.from_outputs(("a",))}, {"a": jnp.ones(3)})


class Raises(om.Mean):
    def from_model_output(self, **_):
        raise RuntimeError("the metric's own error")


OUTPUTS = {"loss": jnp.float32(0.5), "error": jnp.ones(4)}


@pytest.mark.parametrize(
    ("metric", "kind", "message"),
    [
        (Growing, ValueError, "metric 'm' .Growing. grows with every batch"),
        (StrictAverage, ValueError, "needs the output 'labels', but .* 'error', 'loss'"),
        (om.Accuracy(), ValueError, "Accuracy needs the output 'labels'"),
        (om.Accuracy, TypeError, r"Pass Accuracy\(...\) instead of Accuracy"),
        (len, TypeError, "is not a metric: it has no empty, merge, compute, from_model_output"),
    ],
)
def test_refuses(metric, kind, message):
    with pytest.raises(kind, match=message):
        om.empty({"m": metric}, OUTPUTS)


def test_an_error_of_the_metric_itself_names_the_metric():
    with pytest.raises(RuntimeError, match="own error") as caught:
        om.observe({"m": Raises()}, {"m": om.Mean()}, OUTPUTS)
    assert caught.value.__notes__ == [
        "while metric 'm' (Raises) observed the outputs ['error', 'loss']"
    ]


def test_state_of_other_metrics_is_refused():
    with pytest.raises(ValueError, match=r"the metrics are \['a'\], but the state is of \['b'\]"):
        om.observe({"a": om.Mean()}, {"b": om.Mean()}, OUTPUTS)
