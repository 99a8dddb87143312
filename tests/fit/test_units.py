"""A schedule in epochs or fractions of the run is resolved by `fit`, from what it is given."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody

DATA = ody.ArrayDataset(jnp.ones(40), batch_size=4)  # 10 steps to an epoch


def rates(schedule, epochs=6, **how):
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    result = ody.fit(
        task, optax.sgd, DATA, epochs=epochs, learning_rate=schedule, writers=[], **how
    )
    return np.asarray(result.history["learning_rate"])


@pytest.mark.parametrize(
    ("how", "updates"),
    [({}, 10), ({"accumulate_steps": 2}, 5), ({"steps_per_epoch": 20}, 20)],
)
def test_fit_resolves_it(how, updates):
    written = ody.warmup_cosine(0.1, ody.schedules.epochs(2), ody.schedules.fraction(1))
    steps = ody.warmup_cosine(0.1, 2 * updates, 6 * updates)
    got = rates(written, **how)
    np.testing.assert_array_equal(got, rates(steps, **how))
    assert got.max() > 0.09


def test_tokens_are_not_known_to_fit():
    schedule = ody.linear_warmup(0.1, ody.schedules.tokens(1e6) + ody.schedules.epochs(1))
    with pytest.raises(ValueError, match=r"written in tokens.*resolve\(tokens_per_step=\.\.\.\)"):
        rates(schedule)
    got = rates(schedule.resolve(tokens_per_step=1e5), 2)
    np.testing.assert_allclose(got[0], 0.1 * 9 / 20, rtol=1e-6)
