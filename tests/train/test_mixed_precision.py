"""Half precision: what is cast and what is not, and gradients that would vanish."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

HALF = ["bfloat16", "float16"]


def gradient(task):
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))


@pytest.mark.parametrize("name", ["nnx", "linen"])
@pytest.mark.parametrize("dtype", HALF)
def test_the_model_sees_half_and_the_optimizer_float32(name, dtype):
    task = examples.TASKS[name]()
    half = ody.mixed_precision(task, dtype)
    params, model_state = task.init(jax.random.key(0))
    batch = {k: jnp.asarray(v[:8]) for k, v in examples.arrays().items()}
    arguments = params, model_state, batch, jax.random.key(1)
    (loss, (state, outputs)), grads = gradient(half)(*arguments)
    (plain, _), full = gradient(task)(*arguments)
    form = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert form(grads) == form(params)
    assert form(state) == form(model_state), "batch statistics keep their precision"
    assert (loss.dtype, outputs["logits"].dtype) == (jnp.float32, jnp.float32)
    assert outputs["labels"].dtype == batch["y"].dtype
    assert loss != plain, "it was computed in float32"
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(loss, plain, rtol=8 * eps)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, grads, full)) / optax.tree.norm(full)
    assert error < 16 * eps
    evaluated = jax.jit(half.evaluate)(params, model_state, batch)
    assert {x.dtype for x in (evaluated["loss"], evaluated["logits"])} == {jnp.dtype("float32")}
    assert ody.mixed_precision(task, dtype) == half, "equal tasks share a program"


@pytest.mark.parametrize("dtype", ["int8", "bf16", None, 3])
def test_other_dtypes_are_refused(dtype):
    message = f"must be one of bfloat16, float16, float32, got {dtype!r}"
    with pytest.raises(ValueError, match=message):
        ody.mixed_precision(examples.linear_task(), dtype)


def tiny_loss(w, batch):
    """Its gradient, about 1e-9, is nothing in float16; it may still be scaled into its range."""
    return 1e-3 * ((1e-3 * (w - batch)) ** 2).mean().astype(jnp.float32)


def train(loss_scale, directory=None, epochs=4, optimizer=None):
    task = ody.mixed_precision(ody.pure_task(jnp.zeros(3), tiny_loss), "float16")
    data = ody.ArrayDataset(jnp.ones((16, 3)), batch_size=4)
    return ody.fit(
        task, optimizer or optax.sgd(1e8), data, epochs=epochs, directory=directory, writers=[],
        loss_scale=loss_scale, log_every_n_steps=1,
        log_outputs=["loss", "grad_norm"] + ["loss_scale"] * (loss_scale is not None),
    )  # fmt: skip


def test_gradients_vanish_without_a_scale_and_not_with_one():
    assert np.all(train(None).samples["grad_norm"] == 0)
    result = train(ody.loss_scale(2.0**13))
    norms = result.samples["grad_norm"]
    # Each is 2 / 3 * 1e-9 * (w - 1), at w = 0, after some eight operations in float16.
    eps = float(jnp.finfo("float16").eps)
    np.testing.assert_allclose(norms[0], 2e-9 / 3 * np.sqrt(3), rtol=8 * eps)
    assert result.samples["loss"][-1] < 0.9 * result.samples["loss"][0]


def test_a_scale_too_large_is_found_and_the_updates_are_skipped():
    result = train(ody.loss_scale(2.0**40, growth_interval=None))
    np.testing.assert_array_equal(result.model, 0.0)
    assert int(result.state.opt_state.skipped) == result.steps
    result = train(ody.loss_scale(2.0**40), epochs=12)
    scales = result.samples["loss_scale"]
    np.testing.assert_array_equal(scales[:5], 2.0 ** (40 - np.arange(5)))
    assert int(result.state.opt_state.skipped) == np.sum(scales[1:] < scales[:-1])
    assert result.history["skipped_updates"][-1] == int(result.state.opt_state.skipped)
    assert np.all(result.model > 0)


def test_a_scale_does_not_grow_to_infinity_from_which_there_is_no_way_back():
    optimizer = ody.loss_scale(2.0**126, growth_interval=1).wrap(optax.sgd(1.0))
    state = optimizer.init(jnp.zeros(()))
    for scale in (2.0**127, 2.0**127, 2.0**127):
        update, state = optimizer.update(1e-30 * state.scale, state, jnp.zeros(()))
        assert float(state.scale) == scale
        np.testing.assert_allclose(update, -1e-30, rtol=1e-6)
    assert int(state.skipped) == 0


def test_gradients_in_half_are_divided_by_what_half_has_no_number_for():
    optimizer = ody.loss_scale(2.0**16).wrap(optax.sgd(1.0))
    params = jnp.zeros((), jnp.float16)
    update, _ = optimizer.update(jnp.float16(2.0**15), optimizer.init(params), params)
    assert (float(update), update.dtype) == (-0.5, jnp.float16)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_logged_rate_is_the_one_in_force_when_updates_were_skipped(accumulate):
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    make = lambda rate: optax.inject_hyperparams(optax.sgd)(rate)
    loop = examples.make_loop(
        task, make, loss_scale=ody.loss_scale(2.0**126), accumulate_steps=accumulate
    )
    data = ody.ArrayDataset(jnp.full(32, 100.0), batch_size=4)
    inputs = ody.train.Inputs(data, None, ody.linear_warmup(1.0, 64))
    carry = ody.train.run_compiled(
        loop, loop.init(jax.random.key(0), jnp.zeros(()), None, inputs), inputs, 16
    )
    scaling = carry.state.opt_state
    assert int(scaling.skipped) > 2
    own = scaling.inner if accumulate == 1 else scaling.inner.inner_opt_state
    assert float(carry.latest["learning_rate"]) == float(own.hyperparams["learning_rate"]) > 0


def test_a_resumed_run_goes_on_with_its_scale(tmp_path):
    scale = ody.loss_scale(2.0**13, growth_interval=5)
    whole = train(scale, tmp_path / "whole", epochs=4)
    train(scale, tmp_path / "cut", epochs=2)
    examples.assert_same(train(scale, tmp_path / "cut", epochs=4).carry, whole.carry)


def test_clipping_sees_the_gradient_itself():
    task = ody.pure_task(jnp.zeros(2), lambda w, batch: (3.0 * w[0] + 4.0 * w[1]) * batch.mean())
    loop = examples.make_loop(
        task, optax.sgd(1.0), clip_norm=1.0, loss_scale=ody.loss_scale(1024.0)
    )
    inputs = ody.train.Inputs(ody.ArrayDataset(jnp.ones(4), batch_size=4))
    carry = loop.init(jax.random.key(0), *task.init(None), inputs)
    np.testing.assert_allclose(loop.run(carry, inputs, 1).state.params, [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": 0.0}, "init must be finite and above 0; got init = 0.0"),
        ({"init": np.inf}, "init must be finite and above 0; got init = inf"),
        ({"init": 1e39}, "init must be finite and above 0; got init = 1e\\+39"),
        ({"init": "high"}, "init must be finite and above 0; got init = 'high'"),
        ({"growth_interval": 0}, "growth_interval must be an integer of at least 1 or None"),
        ({"factor": 1.0}, "factor must be finite and above 1; got factor = 1.0"),
        ({"factor": np.inf}, "factor must be finite and above 1; got factor = inf"),
    ],
)
def test_bad_scales_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ody.loss_scale(**arguments)
