"""What is trained, and by what: parameters, losses and optimizers of every kind, or a refusal."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.train import Step, make_optimizer, train_step

X = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
Y = X[:, :3]
DATA = ody.ArrayDataset({"x": X, "y": Y}, 8)
BATCH = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}
PARAMS = {"w": jnp.zeros((4, 3))}


def mse(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def fit(task, optimizer, data=DATA, valid=None, **kwargs):
    return ody.fit(task, optimizer, data, valid, **{"epochs": 1, "writers": [], **kwargs})


def step(task, optimizer, batch=BATCH, **options):
    """One train step: the state before, the state after, and the outputs."""
    optimizer = make_optimizer(optimizer, **options)
    params, model_state = task.init(jax.random.key(0))
    before = ody.TrainState(params, model_state, optimizer.init(params))
    at = Step(jax.random.key(1), loss=task.loss)
    after, outputs = train_step(before, batch, at, optimizer)
    return before, after, outputs


# Frozen parameters.

FROZEN = {"frozen": jnp.full(2, 5.0), "w": jnp.zeros(())}


def steep(params, batch):
    return 1000 * params["frozen"].sum() + 0.5 * params["w"] + 0 * batch.mean()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda made: made,
        lambda made: optax.chain(optax.identity(), made),
        lambda made: optax.chain(made, optax.add_decayed_weights(-0.1)),
    ],
    ids=["alone", "in a chain", "before a decay"],
)
def test_what_is_frozen_does_not_count(wrap):
    optimizer = wrap(ody.freeze(optax.sgd(1.0), ["frozen"]))
    task = ody.pure_task(FROZEN, steep)
    before, after, outputs = step(task, optimizer, jnp.ones(4), clip_norm=1.0)
    np.testing.assert_array_equal(after.params["frozen"], before.params["frozen"])
    assert float(after.params["w"]) == -0.5, "a frozen gradient counts in the clipping"
    assert float(outputs["grad_norm"]) == 0.5
    assert float(outputs["param_norm"]) == 0


def test_what_is_frozen_stays_in_an_average_to_the_bit():
    params = {"frozen": jnp.array([0.1, -jnp.inf]), "w": jnp.zeros(())}
    task = ody.pure_task(params, lambda p, b: p["w"] * b.mean())
    result = fit(
        task, ody.freeze(optax.sgd(0.1), ["frozen"]), ody.ArrayDataset(jnp.ones(4), 2), epochs=3,
        average=ody.exponential_average(0.9),
    )  # fmt: skip
    np.testing.assert_array_equal(result.model["frozen"], params["frozen"])
    assert float(result.model["w"]) < 0


def test_integers_among_the_parameters_are_frozen_or_refused():
    params = {"q": jnp.ones((4, 3), jnp.int8), "w": jnp.zeros((4, 3))}
    task = ody.pure_task(params, lambda p, b: mse({"w": p["w"] + p["q"].astype(jnp.float32)}, b))
    _, after, _ = step(task, ody.freeze(optax.adam(0.1), ["^q$"]))
    assert after.params["q"].dtype == jnp.int8
    assert bool((after.params["w"] != 0).any())
    with pytest.raises(ValueError, match="parameter 'q' is int8.*ody.freeze"):
        step(task, optax.sgd(0.1))


# Nothing to train.


@pytest.mark.parametrize("params", [{}, (), {"a": None}])
def test_no_parameter_is_refused(params):
    own = ody.pure_task(PARAMS, mse)._replace(init=lambda key: (params, None))
    for task in (ody.pure_task(params, mse), own):
        with pytest.raises(ValueError, match="no parameters: there is nothing to train"):
            fit(task, optax.sgd(0.1))


# Accumulation.

TOKENS = np.array([[1, 1, 1, 1], [9, 0, 0, 0], [3, 5, 0, 0], [2, 2, 2, 0]], np.float32)
KEPT = (TOKENS > 0).astype(np.float32)


def masked(stated, params, batch):
    kept = batch["w"]
    loss = (((params - batch["x"]) ** 2) * kept).sum() / kept.sum()
    how = {"mask": {"mask": kept > 0}, "weight": {"weight": kept.sum()}, "nothing": {}}
    return loss, how[stated]


@pytest.mark.parametrize("stated", ["mask", "weight"])
@pytest.mark.parametrize("scale", [None, ody.loss_scale(8.0)], ids=["plain", "loss scale"])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1)], ids=["sgd", "adam"])
def test_accumulated_microbatches_are_the_large_batch(stated, scale, optimizer):
    task = ody.pure_task(jnp.zeros(()), functools.partial(masked, stated))
    found = [
        fit(
            task, optimizer, ody.ArrayDataset({"x": TOKENS, "w": KEPT}, size), epochs=2,
            accumulate_steps=count, loss_scale=scale,
        ).model
        for size, count in ((4, 1), (1, 4))
    ]  # fmt: skip
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_a_smaller_last_batch_weighs_less():
    task = ody.pure_task(jnp.zeros(()), lambda p, b: ((p - b) ** 2).mean())
    x = jnp.array([1.0, 2.0, 6.0])
    found = [
        fit(task, optax.sgd(0.1), ody.ArrayDataset(x, size), accumulate_steps=count).model
        for size, count in ((3, 1), (2, 2))
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_without_a_stated_weight_it_is_the_plain_mean():
    task = ody.pure_task(jnp.zeros(()), functools.partial(masked, "nothing"))
    data = ody.ArrayDataset({"x": TOKENS[:2], "w": KEPT[:2]}, 1)
    result = fit(task, optax.sgd(0.1), data, accumulate_steps=2)
    assert float(result.model) == pytest.approx(0.1 * (2 * 1 + 2 * 9) / 2)


def test_a_microbatch_of_padding_only_is_left_out():
    accumulated = ody.transforms.accumulate(optax.sgd(1.0), 2)
    state = accumulated.init(jnp.zeros(()))
    for gradient, weight in ((jnp.nan, 0.0), (3.0, 2.0)):
        update, state = accumulated.update(jnp.float32(gradient), state, weight=weight)
    assert float(update) == -3.0


# Optimizers.


def with_updates(change):
    def update(updates, state, params=None):
        return change(updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u: {"w": u["w"].sum()}, r"shape \(\) for the parameter 'w' of shape \(4, 3\)"),
        (lambda u: {"w": u["w"][:1]}, r"shape \(1, 3\) for the parameter 'w'"),
        (lambda u: {}, "no update of the parameter 'w'"),
        (lambda u: {**u, "v": u["w"]}, r"updates of \['v'\]"),
    ],
)
def test_updates_of_another_form_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        step(ody.pure_task(PARAMS, mse), with_updates(change))


SAM = optax.contrib.sam(
    optax.sgd(1e-2), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.polyak_sgd(),
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
        SAM,
        ody.skip_spikes(SAM),
    ],
    ids=["lbfgs", "polyak_sgd", "backtracking", "sam", "sam in another"],
)  # fmt: skip
def test_optimizers_that_ask_for_more_are_given_it(optimizer):
    _, after, outputs = step(ody.pure_task(PARAMS, mse), optimizer)
    assert float(mse(after.params, BATCH)) < float(outputs["loss"])


@pytest.mark.parametrize(
    ("optimizer", "remedy"),
    [
        (
            ody.transforms.by_part({"w": optax.lookahead(optax.sgd(0.1), 5, 0.5)}),
            "which is to be the outermost",
        ),
        (lambda rate: 3, "must make an optax.GradientTransformation"),
    ],
    ids=["lookahead within others", "none"],
)
def test_optimizers_that_do_not_fit_are_refused_by_name(optimizer, remedy):
    with pytest.raises((TypeError, ValueError), match=remedy):
        step(ody.pure_task(PARAMS, mse), optimizer)


def test_only_what_an_update_does_not_name_is_left_out():
    """Not what another function within it does not: its author would not know."""
    helper = lambda updates: updates

    def update(updates, state, params=None, **extra):
        return helper(updates, **extra), state

    wrong = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    for optimizer in (optax.chain(wrong, SAM), optax.chain(optax.identity(), SAM)):
        with pytest.raises(TypeError, match=r"unexpected keyword argument.*put a chain into one"):
            step(ody.pure_task(PARAMS, mse), optimizer)


def test_a_line_search_over_microbatches_is_refused():
    with pytest.raises(TypeError, match="accumulate_steps above 1"):
        step(ody.pure_task(PARAMS, mse), optax.lbfgs(), accumulate_steps=2)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "frozen, clipped, accumulated"])
def test_schedule_free_is_validated_and_returned_where_it_is_evaluated(wrapped):
    made = optax.contrib.schedule_free_adamw(0.1, warmup_steps=2)
    task = ody.pure_task({**PARAMS, "b": jnp.ones(3)}, mse)
    more = {"clip_norm": 1.0, "accumulate_steps": 2} if wrapped else {}
    result = fit(
        task, ody.freeze(made, ["^b$"]) if wrapped else made, DATA, DATA, epochs=4,
        callbacks=ody.track_best("valid/loss"), **more,
    )  # fmt: skip
    is_free = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)
    raw = result.carry.state
    leaves = jax.tree.leaves(raw.opt_state, is_leaf=is_free)
    (free,) = filter(is_free, leaves)
    want = (raw.params["w"] - (1 - free.b1) * free.z["w"]) / free.b1
    np.testing.assert_allclose(result.model["w"], want, rtol=1e-6)
    loss = float(mse(result.model, BATCH))
    assert float(result.metrics["valid/loss"]) == pytest.approx(loss, rel=1e-5)
    again = result.state.for_evaluation.params["w"]
    np.testing.assert_allclose(again, result.model["w"], rtol=1e-6)


def test_schedule_free_goes_with_no_other_average():
    with pytest.raises(ValueError, match="evaluated at parameters of its own, as schedule-free"):
        fit(
            ody.pure_task(PARAMS, mse), optax.contrib.schedule_free_sgd(0.1),
            average=ody.exponential_average(0.9),
        )  # fmt: skip


def test_a_python_if_in_a_rate_is_named():
    rate = lambda step: 0.1 if step < 10 else 0.01
    for optimizer, learning_rate in ((optax.sgd, rate), (optax.sgd(rate), None)):
        with pytest.raises(ValueError, match="can't be traced.*jnp.where"):
            fit(ody.pure_task(PARAMS, mse), optimizer, learning_rate=learning_rate)


# Losses.


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "got None; is a `return` missing"),
        ((None, {}), "got a tuple of NoneType, dict"),
        ({"loss": 1.0}, "got a dict"),
        ("loss", "got a str"),
        ((jnp.ones(()), {}, {}), "got a tuple of"),
        (jnp.ones(3), r"must be a scalar.*shape \(3,\)"),
        (jnp.ones((), jnp.int32), "floating-point scalar, got int32"),
        ((jnp.ones(()), [1]), "outputs of type list"),
    ],
)
def test_what_a_loss_returns_is_checked(returned, message):
    with pytest.raises((TypeError, ValueError), match=message):
        step(ody.pure_task(PARAMS, lambda params, batch: returned), optax.sgd(0.1))


def test_an_error_of_the_loss_tells_its_batch():
    def loss(params, batch):
        raise KeyError("z")

    with pytest.raises(KeyError) as caught:
        fit(ody.pure_task(PARAMS, loss), optax.sgd(0.1))
    note = "while tracing your loss_fn with a batch of {x: float32[8, 4], y: float32[8, 3]}"
    assert note in caught.value.__notes__


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match="loss_fn must be a function, got a float"):
        ody.pure_task(PARAMS, 3.0)


@dataclasses.dataclass
class WithLists:
    """A loss that can't be hashed."""

    sizes: list

    def __call__(self, params, batch):
        return mse(params, batch) * self.sizes[0]


def test_a_loss_or_optimizer_that_cannot_be_hashed_is_itself():
    task = ody.pure_task(PARAMS, WithLists([1.0]))
    optimizer = WithLists([1])
    optimizer.__class__ = type("Made", (WithLists,), {"__call__": lambda self, lr: optax.sgd(lr)})
    make = lambda task: ody.train.make_loop(task, optimizer)
    assert make(task) == make(task), "the same task is compiled anew"
    assert hash(make(task)) == hash(make(task))
    assert make(task) != make(ody.pure_task(PARAMS, WithLists([1.0])))
    assert np.isfinite(fit(task, optimizer, learning_rate=0.1).metrics["train/loss"])


def test_state_of_another_form_is_an_error_in_words():
    def grows(params, model_state, batch, key):
        return mse(params, batch), ({"n": jnp.zeros(2), "new": jnp.ones(())}, {})

    task = ody.pure_task(PARAMS, mse)._replace(
        init=lambda key: (PARAMS, {"n": jnp.zeros(())}), loss=grows
    )
    for given in (task, ody.mixed_precision(task)):
        with pytest.raises(ValueError, match=r"adds new.*makes n float32\[2\] of float32\[\]"):
            step(given, optax.sgd(0.1))


def test_each_validation_batch_has_its_own_key_the_same_in_every_epoch():
    def evaluate(params, model_state, batch, key):
        return {
            "loss": mse(params, batch),
            "drawn": jax.random.uniform(key, (batch["x"].shape[0],)),
        }

    task = ody.pure_task(PARAMS, mse)._replace(evaluate=evaluate)
    metrics = {"d": ody.Mean("drawn")}
    of = lambda seed, data: ody.evaluate(task, ody.TrainState(PARAMS), data, metrics, seed=seed)
    both, first = of(3, DATA)["d"], of(3, ody.ArrayDataset({"x": X[:8], "y": Y[:8]}, 8))["d"]
    assert float(both) != float(first), "each batch draws the same"
    assert float(of(4, DATA)["d"]) != float(both), "each run draws the same"
    result = fit(task, optax.sgd(0.0), DATA, DATA, epochs=2, metrics=metrics, seed=3)
    assert result.history["valid/d"].tolist() == [float(both)] * 2


# Numbers.


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_numpy_integers_are_counts(kind):
    options = ody.StepOptions(accumulate_steps=kind(2), log_every_n_steps=kind(1))
    assert type(options.accumulate_steps) is int
    assert type(options.log_every_n_steps) is int
    assert ody.equal_average(kind(2), kind(3)) == ody.equal_average(2, 3)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "2", None])
def test_what_is_no_integer_is_no_count(value):
    with pytest.raises(ValueError, match="accumulate_steps must be an integer of at least 1"):
        ody.StepOptions(accumulate_steps=value)


def test_keys_and_integers_in_an_averaged_state_are_the_latest():
    state = {"key": jax.random.key(3), "n": jnp.int32(0), "x": jnp.zeros(())}

    def loss(params, model_state, batch, key):
        new = {"key": key, "n": model_state["n"] + 1, "x": model_state["x"] + 1}
        return mse(params, batch), (new, {})

    task = ody.pure_task(PARAMS, mse)._replace(init=lambda key: (PARAMS, state), loss=loss)
    result = fit(task, optax.sgd(0.1), average=ody.exponential_average(0.5, warmup=False))
    raw, averaged = result.carry.state.model_state, result.state.model_state
    assert jax.random.key_data(raw["key"]).tolist() == jax.random.key_data(averaged["key"]).tolist()
    assert int(averaged["n"]) == 2
    assert float(averaged["x"]) == 1.25
