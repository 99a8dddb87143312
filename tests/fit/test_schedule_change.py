"""Resuming with another learning rate: what is told, what is refused, what goes on in silence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.fit import _schedule_change
from odyssey_jax.fit._schedule_change import check_schedule, schedule_form, schedule_record
from tests import examples
from tests.examples import assert_same

LAST = 40  # updates of the runs below: 8 epochs of 5


def run(directory, learning_rate, epochs=8, optimizer=optax.sgd, **kwargs):
    return ody.fit(
        examples.linear_task(), optimizer, examples.train_data(), epochs=epochs,
        learning_rate=learning_rate, directory=directory, writers=[], **kwargs,
    )  # fmt: skip


def stairs(first, second, at=20):
    return ody.join([ody.constant(first), ody.constant(second)], [at])


def check(then, now, change="refuse", done=20, last=LAST):
    """As `fit` does it, through the JSON of a checkpoint's metadata."""
    saved = json.loads(json.dumps(schedule_record(then, last)))
    check_schedule(saved, now, change, "runs/a", done, last)


def test_a_changed_future_is_told_and_extended(tmp_path):
    run(tmp_path, stairs(0.1, 0.05), epochs=4)
    with pytest.raises(ValueError, match="was begun with another learning rate") as error:
        run(tmp_path, stairs(0.1, 0.2))
    assert str(error.value) == (
        f"the run in {tmp_path} was begun with another learning rate: "
        "learning_rate.schedules[1].value was 0.05, here it is 0.2; they first differ at update "
        "20, 0.05 then and 0.2 now. The run stands at update 20, so only what is to come differs. "
        "Use the one of then, or accept the new one with schedule_change='extend' or 'replace'."
    )
    extended = run(tmp_path, stairs(0.1, 0.2), schedule_change="extend")
    whole = run(tmp_path / "whole", stairs(0.1, 0.2))
    assert_same(extended.carry, whole.carry)
    assert_same(run(tmp_path, stairs(0.1, 0.2)).carry, whole.carry)  # the new one is recorded


def test_a_changed_past_is_refused_and_replaced(tmp_path):
    run(tmp_path, ody.cosine_decay(0.1, LAST), epochs=4)
    longer = ody.cosine_decay(0.1, 2 * LAST)
    message = (
        r"learning_rate.decay_steps was 40, here it is 80; they first differ at update 1, "
        r"0\.0998\d* then and 0\.0999\d* now, and the most at update 40, 0 then and 0\.05 now\. "
        r".*its past differs too\..*'extend' needs the past to agree\..*schedule_change='replace'"
    )
    with pytest.raises(ValueError, match=message):
        run(tmp_path, longer, epochs=16, schedule_change="extend")
    replaced = run(tmp_path, longer, epochs=16, schedule_change="replace")
    np.testing.assert_allclose(
        replaced.history["learning_rate"][4:], longer(np.arange(24, 80, 5)), rtol=1e-6
    )


def test_what_is_refused_loses_nothing(tmp_path):
    first = run(tmp_path, 0.1, epochs=4)
    with pytest.raises(ValueError, match=r"learning_rate\.value was 0\.1, here it is 0\.2; they"):
        run(tmp_path, 0.2)
    assert_same(run(tmp_path, 0.1, epochs=4).carry, first.carry)


def test_the_schedule_of_a_made_optimizer_is_its_own(tmp_path):
    """Nothing is known of it but that the optimizer is another; a rate that is given is."""
    injected = optax.inject_hyperparams(optax.sgd)
    made = lambda rate: injected(optax.linear_schedule(rate, 0.0, LAST))
    run(tmp_path, None, epochs=4, optimizer=made(0.1))
    with pytest.raises(ValueError, match="begun with another optimizer. Use the same"):
        run(tmp_path, None, epochs=5, optimizer=made(0.2))
    run(tmp_path, None, epochs=5, optimizer=made(0.2), run_change="accept")
    message = r"keeps its own to itself, constant\(value=0\.1\) is given.*compare is not known"
    for change in ("refuse", "extend"):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, 0.1, schedule_change=change)
    run(
        tmp_path,
        0.1,
        6,
        lambda rate: injected(rate),
        schedule_change="replace",
        run_change="accept",
    )
    with pytest.raises(ValueError, match="keeps its own to itself"):
        run(tmp_path, None, optimizer=made(0.1))


def test_updates_are_counted_and_not_steps(tmp_path):
    run(tmp_path, stairs(0.1, 0.05, at=4), epochs=4, accumulate_steps=5)
    changed = stairs(0.1, 0.2, at=4)
    with pytest.raises(ValueError, match=r"differ at update 4, .*stands at update 4, so only"):
        run(tmp_path, changed, accumulate_steps=5)
    run(tmp_path, changed, accumulate_steps=5, schedule_change="extend")


SAME = {
    "itself": (ody.cosine_decay(0.1, 40), ody.cosine_decay(0.1, 40)),
    "a piece of one": (ody.cosine_decay(0.1, 40), ody.join([ody.cosine_decay(0.1, 40)], [])),
    "a line": (ody.linear_warmup(0.1, 40), ody.schedules.polynomial_warmup(0.1, 40, power=1.0)),
    "numbers": (ody.constant(0.5), ody.constant(np.float32(0.5))),
    "after the end": (ody.constant(0.1), stairs(0.1, 0.2, at=LAST)),
    "to a function": (ody.linear_warmup(0.1, 40), optax.linear_schedule(0.0, 0.1, 40)),
    "from a function": (optax.linear_schedule(0.0, 0.1, 40), ody.linear_warmup(0.1, 40)),
    "a function": (optax.cosine_decay_schedule(0.1, 40), optax.cosine_decay_schedule(0.1, 40)),
    "another function": (optax.constant_schedule(0.1), optax.linear_schedule(0.1, 0.1, 5)),
    "a function in a join": (
        ody.join([ody.linear_warmup(0.1, 10), optax.linear_schedule(0.1, 0.0, 30)], [10]),
        ody.join([ody.linear_warmup(0.1, 10), optax.linear_schedule(0.1, 0.0, 30)], [10]),
    ),
    "not a number": (lambda step: step * np.nan, lambda step: np.nan),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("change", ["refuse", "extend"])
def test_equal_values_are_accepted_in_silence(name, change):
    check(*SAME[name], change)


OTHER = {
    "a function": (
        optax.cosine_decay_schedule(0.1, 40),
        optax.cosine_decay_schedule(0.1, 80),
        r"learning_rate was .*cosine_decay_schedule.*they first differ at update 1, 0\.0998",
    ),
    "a function in a join": (
        ody.join([ody.linear_warmup(0.1, 10), optax.constant_schedule(0.1)], [10]),
        ody.join([ody.linear_warmup(0.1, 10), optax.constant_schedule(0.2)], [10]),
        r"they first differ at update 10, 0\.1 then and 0\.2 now\. .*so its past differs too",
    ),
    "to a function": (
        ody.constant(0.1),
        optax.constant_schedule(0.3),
        r"was constant\(value=0\.1\), here it is .*they first differ at update 0, 0\.1 then",
    ),
    "many places": (
        ody.join([ody.constant(i / 10) for i in range(6)], [1, 2, 3, 4, 5]),
        ody.join([ody.constant(i / 20) for i in range(6)], [1, 2, 3, 4, 5]),
        r"schedules\[1\]\.value was .*; and 2 more; they first differ at update 1",
    ),
    "not a number": (
        ody.constant(0.1),
        lambda step: np.nan,
        r"first differ at update 0, 0\.1 then and nan now",
    ),
    "from zero": (
        ody.constant(0.0),
        ody.constant(1e-30),
        r"first differ at update 0, 0 then and 1e-30 now",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_values_are_refused_and_replaced(name):
    then, now, message = OTHER[name]
    for change in ("refuse", "extend"):
        with pytest.raises(ValueError, match=message):
            check(then, now, change)
    check(then, now, "replace")


def test_a_future_beyond_the_record_is_refused_and_extended():
    function = optax.constant_schedule(0.1)
    then = ody.join([function, ody.constant(0.1)], [30])
    now = ody.join([function, ody.constant(0.2)], [50])
    check(then, now, last=30, done=30)
    saved = schedule_record(then, 30)
    message = r"was 30, here it is 50.* agree up to update 30, .* not recorded\. .*'extend' or"
    with pytest.raises(ValueError, match=message):
        check_schedule(saved, now, "refuse", "runs/a", 30, 60)
    check_schedule(saved, now, "extend", "runs/a", 30, 60)
    check_schedule(saved, then, "refuse", "runs/a", 30, 60)


def one(step):
    return 0.1


class HasNoName:
    def __call__(self, step):
        return 0.1


def of_the_host(step):
    """Neither arrays nor a vmap."""
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda t: np.float32(0.1 if int(t) < 30 else 0.2), shape, step)


def test_a_function_that_takes_one_step_at_a_time():
    check(of_the_host, stairs(0.1, 0.2, at=30))
    check(stairs(0.1, 0.2, at=30), of_the_host)
    with pytest.raises(ValueError, match=r"first differ at update 31, 0\.2 then and 0\.3 now"):
        check(stairs(0.1, 0.2, at=30), lambda step: of_the_host(step) + 0.1 * (step > 30))


def test_records_of_functions_without_values_are_compared_by_name():
    saved = {"schedule": f"partial({__name__}.one)"}
    from jax.tree_util import Partial

    assert schedule_form(Partial(one)) == saved["schedule"]
    assert schedule_form(Partial(one, 3, x=0.5)) == f"partial({__name__}.one, 3, x=0.5)"
    assert schedule_form(HasNoName()) == f"<{__name__}.HasNoName object>"
    check_schedule(saved, Partial(one), "refuse", "runs/a", 20, LAST)
    with pytest.raises(ValueError, match="learning_rate was .*how they compare is not known"):
        check_schedule(saved, ody.constant(0.1), "extend", "runs/a", 20, LAST)


def test_the_record_of_a_schedule_of_ours_is_its_form_alone():
    schedule = ody.warmup_cosine(0.1, 10, 40)
    assert schedule_record(schedule, LAST) == {"schedule": json.loads(schedule.to_json())}
    record = schedule_record(optax.constant_schedule(0.1), 10**9)
    assert len(record["schedule_values"]["updates"]) <= 65 + 30
    assert record["schedule_values"]["updates"][-1] == 10**9 - 1


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(0, 50), min_size=3, max_size=3).map(sorted),
    st.sampled_from([1, 7, 64]),
)
def test_the_first_difference_is_the_first(ours, theirs, chunk):
    then, now = (
        ody.join([ody.constant(v) for v in (0.1, 0.2, 0.4, 0.8)], boundaries)
        for boundaries in (ours, theirs)
    )
    steps = np.arange(LAST)
    apart = np.flatnonzero(np.asarray(then(steps)) != np.asarray(now(steps)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_schedule_change, "_CHUNK", chunk)
        if apart.size == 0:
            check(then, now)
        else:
            with pytest.raises(ValueError, match=f"first differ at update {apart[0]}, "):
                check(then, now)
            if apart[0] >= 20:
                check(then, now, "extend")
            else:
                with pytest.raises(ValueError, match="its past differs too"):
                    check(then, now, "extend")


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be one of 'refuse', 'extend', 'replace', got 'yes'"):
        run(tmp_path, 0.1, schedule_change="yes")
    with pytest.raises(ValueError, match="schedule_change='extend' needs a directory"):
        run(None, 0.1, schedule_change="extend")


def twice(state, batch, step, optimizer):
    """Two updates of each batch."""
    for _ in range(2):
        state, outputs = ody.train.train_step(state, batch, step, optimizer)
    return state, outputs


def test_a_step_of_ones_own_is_compared_at_the_updates_that_it_makes(tmp_path):
    def go(directory, rate, epochs, **how):
        task = examples.linear_task()._replace(update=twice)
        return ody.fit(
            task, optax.sgd, examples.train_data(), epochs=epochs, learning_rate=rate,
            directory=directory, writers=[], **how,
        )  # fmt: skip

    go(tmp_path, stairs(0.1, 0.05, at=60), 4)  # 20 steps, 40 updates
    with pytest.raises(ValueError, match="stands at update 40, so its past differs too. sch.*past"):
        go(tmp_path, stairs(0.1, 0.05, at=30), 8, schedule_change="extend")
    with pytest.raises(
        ValueError, match="first differ at update 50.* stands at update 40, so only"
    ):
        go(tmp_path, stairs(0.1, 0.05, at=50), 8)
    extended = go(tmp_path, stairs(0.1, 0.05, at=50), 8, schedule_change="extend")
    whole = go(None, stairs(0.1, 0.05, at=50), 8)
    assert_same(extended.carry, whole.carry)
    rates = whole.history["learning_rate"]
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.05] * 3, rtol=1e-6)


def test_a_plain_function_is_not_extended_past_what_is_recorded_of_it():
    saved = json.loads(json.dumps(schedule_record(optax.linear_schedule(0.1, 0.1, 9), 10)))
    with pytest.raises(ValueError, match="they agree up to update 10, and how they compare after"):
        check_schedule(saved, ody.constant(0.1), "extend", "runs/a", done=20, last=40)
