"""Averages of the parameters: their formulas, and that they are what is validated and kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples


def train(average, epochs=6, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.sgd, examples.train_data(), epochs=epochs,
        learning_rate=0.3, average=average,
        **{"writers": [], **kwargs},
    )  # fmt: skip


@pytest.fixture(scope="module")
def trajectory():
    """The parameters after each of 30 updates, without an average."""
    task, data = examples.linear_task(), examples.train_data()
    keys = ody.train.Keys.of(jax.random.key(0))
    params, _ = task.init(keys.init)
    gradient = jax.jit(jax.grad(lambda *args: task.loss(*args)[0]))
    found = []
    for step in range(30):
        batch = data.batch(data.order(keys.shuffle, step // 5), step % 5)
        grads = gradient(params, None, batch, jax.random.fold_in(keys.step, step))
        params = jax.tree.map(lambda w, g: w - 0.3 * g, params, grads)
        found.append(np.asarray(params["w"], np.float64))
    return found


def exponential(decay, warmup):
    def average(params, first):
        for t, new in enumerate(params):
            d = min(decay, (1 + t) / (10 + t)) if warmup else decay
            first = first + (1 - d) * (new - first)
        return first

    return average


def equal(start, every):
    def average(params, first):
        taken = [x for t, x in enumerate(params, 1) if t > start and (t - start) % every == 0]
        return np.mean(taken, axis=0) if taken else params[-1]

    return average


CASES = {
    "exponential": (ody.exponential_average(0.9), exponential(0.9, True)),
    "exponential, no warm-up": (
        ody.exponential_average(0.5, warmup=False),
        exponential(0.5, False),
    ),
    "equal": (ody.equal_average(0), equal(0, 1)),
    "equal, later and at times": (ody.equal_average(7, 4), equal(7, 4)),
    "equal, never": (ody.equal_average(100), equal(100, 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_average_is_its_formula(name, trajectory):
    averaging, oracle = CASES[name]
    result = train(averaging)
    expected = oracle(trajectory, np.zeros_like(trajectory[0]))
    np.testing.assert_allclose(result.model["w"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.carry.state.params["w"], trajectory[-1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["nnx", "linen"])
def test_what_is_validated_is_the_average_and_so_is_the_best(name):
    task = examples.TASKS[name]()
    result = ody.fit(
        task, optax.adamw, examples.train_data(), examples.valid_data(), epochs=5,
        learning_rate=0.05, average=ody.exponential_average(0.9), writers=[],
        callbacks=ody.early_stopping("valid/loss", 5, restore_best=True),
    )  # fmt: skip
    validate = lambda state: float(ody.evaluate(task, state, examples.valid_data())["loss"])
    carried = result.carry.state
    last = result.history["valid/loss"][-1]
    assert validate(carried.for_evaluation) == pytest.approx(last, rel=1e-6)
    carried = carried._replace(average=None)
    assert validate(carried) != pytest.approx(last, rel=1e-3), "the average is what was trained"
    best = np.min(result.history["valid/loss"])
    assert validate(result.state) == pytest.approx(best, rel=1e-6), "not restored to the best"


def test_an_interrupted_run_averages_as_a_whole_one(tmp_path):
    average = ody.exponential_average(0.9)
    whole = train(average, directory=tmp_path / "whole")
    train(average, epochs=2, directory=tmp_path / "cut")
    examples.assert_same(train(average, directory=tmp_path / "cut").carry, whole.carry)
    params = ody.load_params(tmp_path / "whole", subtree="state/average/params")
    np.testing.assert_array_equal(params["w"], whole.model["w"])


@pytest.mark.parametrize("average", [ody.exponential_average(0.999), ody.equal_average(0)])
def test_half_precision_is_averaged_in_float32(average):
    """In bfloat16 a thousandth of the way to the next number would be none of it."""
    task = ody.pure_task({"w": jnp.ones(3, jnp.bfloat16)}, lambda p, x: (p["w"] * x).mean(0).sum())
    data = ody.ArrayDataset(jnp.ones((8, 3), jnp.bfloat16), batch_size=2)
    result = ody.fit(task, optax.sgd(2.0**-6), data, epochs=10, average=average, writers=[])
    trained = [1 - (t + 1) / 64 for t in range(40)]  # exact in bfloat16
    mean = result.carry.state.average.params["w"]
    expected = exponential(0.999, True)(trained, 1.0) if average.decay else np.mean(trained)
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert result.model["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.model["w"], mean.astype(jnp.bfloat16))


def test_an_accumulated_update_counts_once():
    result = train(ody.equal_average(0), accumulate_steps=5, epochs=4)
    assert int(result.carry.state.average.updates) == 4


def test_members_of_a_population_have_their_own():
    task, data = examples.linear_task(), examples.train_data()
    loop = examples.make_loop(task, optax.sgd, average=ody.equal_average(0))
    both = ody.train.population(loop, task)
    inputs = ody.train.Inputs(data, None, jax.vmap(ody.constant)(jnp.array([0.3, 0.01])))
    carry = both.init(jax.random.split(jax.random.key(0), 2), inputs)
    carry = jax.jit(both.run)(carry, inputs, 10)
    first, second = np.asarray(carry.state.average.params["w"])
    assert carry.state.average.updates.tolist() == [10, 10]
    assert np.linalg.norm(first) > 5 * np.linalg.norm(second) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ody.exponential_average(1.0), "decay must be in the range"),
        (lambda: ody.exponential_average("0.9"), "decay must be in the range .*, got '0.9'"),
        (lambda: ody.equal_average(-1), "start must be an integer of at least 0, got -1"),
        (lambda: ody.equal_average(0, 0), "every must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def slow(opt_state, params):
    """Return half of the parameters and half of Adam's first moment, found by its name."""
    return jax.tree.map(lambda p, m: (p + m) / 2, params, optax.tree.get(opt_state, "mu"))


@pytest.mark.parametrize("more", [{}, {"clip_norm": 1.0, "accumulate_steps": 2}])
def test_eval_params_are_validated_tracked_returned_and_saved(more, tmp_path):
    def run(directory=None, **how):
        return ody.fit(
            examples.linear_task(), optax.adam(0.05), examples.train_data(), examples.valid_data(),
            epochs=4, callbacks=ody.early_stopping("valid/loss", 9, restore_best=True), writers=[],
            eval_params=slow, directory=directory, **more, **how,
        )  # fmt: skip

    def leave(view):
        if view.step >= 8:
            raise KeyError("left here")

    whole = run()
    raw = whole.carry.state
    if not more:  # accumulation leaves the last of 20 steps as it is
        examples.assert_same(raw.average.params, slow(raw.opt_state, raw.params))
    assert whole.best_epoch == int(np.argmin(whole.history["valid/loss"]))
    outputs = examples.linear_loss(whole.model, examples.arrays(22, seed=1))
    assert float(outputs[0]) == pytest.approx(min(whole.history["valid/loss"]), rel=1e-5)
    with pytest.raises(KeyError):
        run(tmp_path, hooks=[ody.hook(leave, ody.every(steps=1))])
    cut = run(tmp_path)
    examples.assert_same(cut.carry, whole.carry)
    examples.assert_same(ody.load_params(tmp_path, whole.model), whole.model)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"eval_params": 3}, TypeError, "eval_params must be a function, got"),
        (
            {"eval_params": slow, "average": ody.equal_average(1)},
            ValueError,
            "average= and eval_params= both say at which parameters",
        ),
        ({"eval_params": lambda s, p: p["w"]}, ValueError, "what it returns .* removes b"),
        (
            {"eval_params": lambda s, p: {**p, "b": jnp.zeros(1)}},
            ValueError,
            r"makes b float32\[1\] of float32\[3\]",
        ),
    ],
)
def test_eval_params_that_can_not_be(how, error, message):
    with pytest.raises(error, match=message):
        ody.fit(
            examples.linear_task(), optax.adam(0.05), examples.train_data(), epochs=1,
            writers=[], **how,
        )  # fmt: skip
