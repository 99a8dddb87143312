"""Train steps sampled in the carry: what is kept, and that no resume loses or doubles any."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples

EVERY = 3
OUTPUTS = ("loss", "learning_rate", "grad_norm", "update_norm", "param_norm", "update_ratio")


def run(directory=None, epochs=6, every=EVERY, outputs=OUTPUTS, **kwargs):
    return ody.fit(
        examples.linear_task(), optax.sgd, examples.train_data(), examples.valid_data(),
        epochs=epochs, learning_rate=ody.warmup_cosine(0.05, 10, 40), directory=directory,
        log_every_n_steps=every, log_outputs=None if every is None else outputs,
        **{"writers": [ody.JsonLines(), ody.CsvFile()] if directory else [], **kwargs},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


def test_samples_are_what_a_plain_loop_sees(whole):
    task, data = examples.linear_task(), examples.train_data()
    root = jax.random.key(0)
    keys = ody.train.Keys.of(root)
    params, _ = task.init(keys.init)
    schedule = ody.warmup_cosine(0.05, 10, 40)
    expected = {name: [] for name in OUTPUTS}
    gradient = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    norm = lambda tree: np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
    for step in range(30):
        order = data.order(keys.shuffle, step // 5)
        batch = data.batch(order, step % 5)
        (loss, _), grads = gradient(params, None, batch, jax.random.fold_in(keys.step, step))
        rate = schedule(step)
        updates = jax.tree.map(lambda g, rate=rate: -rate * g, grads)
        if step % EVERY == EVERY - 1:
            values = (loss, rate, norm(grads), norm(updates), norm(params))
            for name, value in zip(OUTPUTS, (*values, values[3] / values[4]), strict=True):
                expected[name].append(value)
        params = optax.apply_updates(params, updates)
    samples = whole[1].samples
    np.testing.assert_array_equal(samples["step"], np.arange(EVERY, 31, EVERY))
    for name in OUTPUTS:
        np.testing.assert_allclose(samples[name], expected[name], rtol=2e-5, err_msg=name)


def test_an_interrupted_run_samples_each_step_once(whole, tmp_path):
    run(tmp_path, epochs=2)
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("99,1")  # as a process leaves it that dies while it writes
    result = run(tmp_path)
    for name, column in whole[1].samples.items():
        np.testing.assert_array_equal(result.samples[name], column)
    for name in ("steps.jsonl", "steps.csv"):
        text = (tmp_path / name).read_bytes()
        assert text == (whole[0] / name).read_bytes()
        assert len(text.splitlines()) == 30 // EVERY + (name == "steps.csv")


def test_a_run_that_is_made_longer_has_room(tmp_path):
    short = run(tmp_path, epochs=2, every=1, outputs=["loss"])
    long = run(tmp_path, epochs=30, every=1, outputs=["loss"])
    assert long.carry.samples["loss"].shape == (256,)
    np.testing.assert_array_equal(long.samples["loss"][:10], short.samples["loss"])
    np.testing.assert_array_equal(long.samples["step"], np.arange(1, 151))


def test_sampling_changes_nothing_else(whole):
    plain = run(every=None)
    assert plain.samples == {}
    assert plain.carry.samples is None
    # Another program, whose sums XLA may arrange in another way.
    np.testing.assert_allclose(plain.history["valid/loss"], whole[1].history["valid/loss"], 1e-5)


def test_another_sampling_is_refused_on_resume(whole):
    for arguments in ({"every": 4}, {"every": None}, {"outputs": ["loss"]}):
        with pytest.raises(ValueError, match="was begun with log_every_n_steps=3"):
            run(whole[0], **arguments)


def test_bad_arguments_are_named(tmp_path):
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match="log_every_n_steps must be an integer of at least 1"):
            run(every=every)
    with pytest.raises(ValueError, match=r"log_outputs=\['loss'\] .* pass log_every_n_steps="):
        ody.fit(
            examples.linear_task(), optax.sgd(0.1), examples.train_data(), epochs=1,
            log_outputs=["loss"],
        )  # fmt: skip
    with pytest.raises(ValueError, match="outputs must be different names"):
        run(outputs="loss")
    with pytest.raises(ValueError, match=r"'logits' can't be sampled; .* are: grad_norm, .*loss"):
        run(outputs=["logits"])


def test_norms_are_averaged_as_metrics():
    metrics = {"norm": ody.Mean("grad_norm")}
    result = run(every=1, outputs=None, epochs=1, train_metrics=metrics)
    assert result.samples.keys() >= {"loss", "grad_norm"}, "what is sampled if nothing is said"
    expected = jnp.mean(result.samples["grad_norm"])
    np.testing.assert_allclose(result.history["train/norm"], [expected], rtol=1e-6)
