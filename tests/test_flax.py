"""Tasks from Flax models: what they may hold, draw, sow and be made of, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import odyssey_jax as ody
from tests import examples

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
DATA = ody.ArrayDataset({"x": X, "y": X[:, :3]}, 8)
# Flax warns of sow outside of nnx.capture, and does it.
SOWS = pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")


def mse(model, batch):
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def fit(task, **kwargs):
    given = {"epochs": 1, "learning_rate": 1e-3, "writers": [], **kwargs}
    return ody.fit(task, optax.adam, DATA, DATA, **given)


class Model(nnx.Module):
    def __init__(self, *, rngs):
        self.layer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Config:
    __hash__ = None  # pyright: ignore[reportAssignmentType]


UNHASHABLE = {
    "list": [4, 3],
    "dict": {"a": 1},
    "set": {1},
    "object": Config(),
    "array": np.ones(2, np.float32),
}


@pytest.mark.parametrize("kind", UNHASHABLE)
def test_nnx_attributes_need_no_hash(kind):
    class With(Model):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            self.extra = UNHASHABLE[kind]

    task = ody.nnx_task(With(rngs=nnx.Rngs(0)), mse)
    make = lambda: ody.train.make_loop(task, optax.adam)
    assert make() == make()
    assert hash(make()) == hash(make())
    fit(task)


def test_linen_attributes_need_no_hash():
    class With(linen.Module):
        sizes: list
        scale: np.ndarray

        @linen.compact
        def __call__(self, x):
            return linen.Dense(self.sizes[0])(x) * self.scale

    module = With([3], np.ones(3, np.float32))
    fit(ody.linen_task(module, lambda apply, batch, train: mse(apply, batch), X))


@SOWS
@pytest.mark.parametrize("called", [False, True])
def test_an_nnx_model_may_sow_and_be_called_before(called):
    class Sows(Model):
        def __call__(self, x):
            h = self.layer(x)
            self.sow(nnx.Intermediate, "h", h)
            return h

    model = Sows(rngs=nnx.Rngs(0))
    if called:
        model(jnp.asarray(X))
    result = fit(ody.nnx_task(model, mse))
    assert not jax.tree.leaves(nnx.state(result.model, nnx.Intermediate))


def test_a_variable_made_in_the_loss_is_an_error_in_words():
    def loss(model, batch):
        model.late = nnx.BatchStat(jnp.zeros(2))
        return mse(model, batch)

    with pytest.raises(ValueError, match=r"adds late \(float32\[2\]\)"):
        fit(ody.nnx_task(Model(rngs=nnx.Rngs(0)), loss))


@pytest.mark.parametrize("average", [None, ody.exponential_average(0.9)])
def test_a_key_may_be_among_the_state(average):
    class Keyed(Model):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            self.key = nnx.Variable(jax.random.key(3))

    result = fit(ody.nnx_task(Keyed(rngs=nnx.Rngs(0)), mse), average=average)
    key = result.model.key[...]
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


@pytest.mark.parametrize("assign", ["index", "set"])
def test_an_assignment_to_a_parameter_is_named(assign):
    def loss(model, batch):
        kernel = model.layer.kernel
        if assign == "index":
            kernel[...] = 0.9 * kernel[...]
        else:
            kernel.set_value(0.9 * kernel[...])
        return mse(model, batch)

    with pytest.raises(ValueError, match=r"assigns to the parameters \['layer/kernel'\]"):
        fit(ody.nnx_task(Model(rngs=nnx.Rngs(0)), loss))


def test_weights_may_be_normalised():
    class Normed(nnx.Module):
        def __init__(self, *, rngs):
            self.layer = nnx.WeightNorm(nnx.Linear(4, 3, rngs=rngs), use_scale=False, rngs=rngs)

        def __call__(self, x):
            return self.layer(x)

    fit(ody.nnx_task(Normed, mse))


def test_a_linen_loss_may_not_assign_to_parameters():
    class Assigns(linen.Module):
        @linen.compact
        def __call__(self, x):
            kernel = self.variable("params", "kernel", jnp.ones, (4, 3))
            kernel.value = kernel.value * 0.9
            return x @ kernel.value

    loss = lambda apply, batch, train: mse(lambda x: apply(x, mutable=["params"])[0], batch)
    with pytest.raises(ValueError, match=r"assigns to the parameters \['kernel'\]"):
        fit(ody.linen_task(Assigns(), loss, X))


def test_a_model_without_a_parameter_is_refused():
    class Frozen(nnx.Module):
        def __init__(self, *, rngs):
            self.w = nnx.BatchStat(jnp.zeros((4, 3)))

    with pytest.raises(ValueError, match="Frozen has no nnx.Param.*it has BatchStat"):
        ody.nnx_task(Frozen, mse)

    class Bare(linen.Module):
        def __call__(self, x):
            return x[:, :3]

    task = ody.linen_task(Bare(), lambda apply, batch, train: mse(apply, batch), X)
    with pytest.raises(ValueError, match="Bare has no 'params', so there is nothing to train"):
        fit(task)


@pytest.mark.parametrize(
    "model",
    [
        Model,
        functools.partial(Model),
        lambda rngs: Model(rngs=rngs),
        lambda r: Model(rngs=r),
        examples.NnxModel,
    ],
    ids=["class", "partial", "by name", "by place", "class by place"],
)
def test_rngs_are_given_as_they_are_taken(model):
    params, _ = ody.nnx_task(model, mse).init(jax.random.key(0))
    assert jax.tree.leaves(params)


# Linen models that draw, and that sow.


class Draws(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(x + jax.random.normal(self.make_rng("z"), x.shape))


class Sows(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(3)(x))
        self.sow("losses", "aux", x.mean())
        return x


def test_a_linen_model_may_draw_in_validation():
    loss = lambda apply, batch, train: mse(apply, batch)
    result = fit(ody.linen_task(Draws(), loss, X, rngs=("z",)), epochs=2, learning_rate=0.0)
    first, second = result.history["valid/loss"]
    assert first == second, "the noise differs between the epochs"


def test_a_linen_loss_may_give_streams_of_its_own():
    own = lambda train: {} if train else {"rngs": {"z": jax.random.key(0)}}
    loss = lambda apply, batch, train: mse(lambda x: apply(x, **own(train)), batch)
    fit(ody.linen_task(Draws(), loss, X, rngs=("z",)))


def test_a_linen_loss_may_call_another_method():
    class Two(linen.Module):
        def setup(self):
            self.dense = linen.Dense(3)

        def __call__(self, x):
            return self.encode(x)

        def encode(self, x):
            return self.dense(x)

    for method in ("encode", Two.encode):
        loss = lambda apply, batch, method=method: mse(lambda x: apply(x, method=method), batch)
        fit(ody.linen_task(Two(), functools.partial(loss), X))


def test_what_a_linen_model_sows_is_of_one_call():
    def loss(apply, batch, train):
        y, sown = apply(batch["x"], train, mutable=["losses"])
        assert set(sown) == {"losses"}
        assert len(sown["losses"]["aux"]) == 1
        return jnp.mean((y - batch["y"]) ** 2) + sown["losses"]["aux"][0]

    for given in (loss, lambda apply, batch, train: mse(lambda x: apply(x, train), batch)):
        result = fit(ody.linen_task(Sows(), given, X, False))
        assert set(result.model) == {"params", "batch_stats"}
        assert bool(jnp.any(result.model["batch_stats"]["BatchNorm_0"]["mean"] != 0))


def test_a_tuple_that_is_carried_is_not_sown():
    class Carries(linen.Module):
        @linen.compact
        def __call__(self, x):
            pair = self.variable("memory", "pair", lambda: (jnp.zeros(()), jnp.zeros(())))
            pair.value = (pair.value[0] + 1, pair.value[1])
            return linen.Dense(3)(x)

    task = ody.linen_task(Carries(), lambda apply, batch, train: mse(apply, batch), X)
    _, model_state = task.init(jax.random.key(0))
    assert "memory" in model_state


# What is no model of the kind.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ody.nnx_task(linen.Dense(3), mse), "Linen module: linen_task"),
        (lambda: ody.nnx_task(linen.Dense, mse), "Linen module: linen_task"),
        (lambda: ody.nnx_task(lambda rngs: linen.Dense(3), mse), "it made Dense.*linen_task"),
        (lambda: ody.nnx_task({"w": 1.0}, mse), "must be an nnx.Module.*got dict"),
        (lambda: ody.nnx_task(Model, None), "loss_fn must be a function, got None"),
        (lambda: ody.linen_task(Model(rngs=nnx.Rngs(0)), mse, X), "NNX module: nnx_task"),
        (lambda: ody.linen_task(linen.Dense, mse, X), "the class Dense: make one of it"),
        (lambda: ody.pure_task(Model(rngs=nnx.Rngs(0)), mse), "NNX module: nnx_task"),
        (lambda: ody.pure_task(linen.Dense(3), mse), "Linen module: linen_task"),
    ],
)
def test_another_librarys_model_is_refused_with_the_remedy(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_an_equinox_module_is_told_its_task():
    base = type("Module", (), {"__module__": "equinox._module"})
    model = type("Mlp", (base,), {"__call__": lambda self, x: x})()
    for make in (lambda: ody.nnx_task(model, mse), lambda: ody.pure_task(model, mse)):
        with pytest.raises(TypeError, match=r"Equinox module: eqx_task\(model, loss_fn\)"):
            make()
