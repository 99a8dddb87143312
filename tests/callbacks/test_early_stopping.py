"""Early stopping: the cases of its peers, a Python oracle, and each way of calling it."""

import collections
import dataclasses
import functools
import math
import operator
import pickle
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from jax import lax

import odyssey_jax as ody
from odyssey_jax.transforms import with_scale
from tests.examples import assert_same

NAN, INF = math.nan, math.inf
REASON = ody.StopReason
REASONS = (REASON.NO_IMPROVEMENT, REASON.THRESHOLD, REASON.DIVERGED, REASON.NOT_FINITE)
NO_STOP = np.int32(REASON.NONE)
LENGTH = 12


def event(value, epoch=0, state=None, point=ody.Point.EPOCH_END, scale=1.0):
    opt_state = with_scale(ody.scale_by_callback().init(None), jnp.float32(scale))
    params = jnp.full(2, epoch, jnp.float32)
    state = ody.TrainState(params, None, opt_state) if state is None else state
    return ody.Event({"loss": value}, ody.Clock(epoch * 10, epoch), state, point)


def run(callback, values, scales=None):
    """A Python loop over the values: the epoch at which it stops or None, the reason, the best."""
    state, scales = callback.init(event(0.0)), [1.0] * len(values) if scales is None else scales
    for epoch, (value, scale) in enumerate(zip(values, scales, strict=True)):
        at = event(jnp.float32(value), jnp.int32(epoch), scale=scale)
        state, signal = callback.update(state, at)
        if signal.stop:
            return epoch, REASON(int(signal.stop)), best_of(state)
    return None, REASON.NONE, best_of(state)


def best_of(state):
    return int(state.best.epoch) if state.best.seen else None


# As Lightning and Keras test theirs.
CASES = [
    ([6, 5, 5, 5, 5, 5], 3, 4),
    ([6, 5, 4, 4, 3, 3], 1, 3),
    ([6, 5, 6, 5, 5, 5], 3, 4),
    ([8, 4, 2, 3, 4, 5, 8, 10], 3, 5),
    *[([10, 9, 8, 9, 8.9, 8.8, 8.7, 8.6, 8.5], p, max(p, 1) + 2) for p in range(6)],
    ([1, 1, 1], 2, 2),  # a flat metric is no improvement
    ([NAN, 2, 1, 0.5], 2, None),  # a first NaN poisons nothing
    ([NAN, NAN], 2, 1),
    ([INF, 5, 4], 1, None),
    ([-INF, -INF], 1, 1),
    ([2e9, 1e9, 5e8], 1, None),
    ([3, 2, 1], 0, None),
]


@pytest.mark.parametrize(("values", "patience", "expected"), CASES)
def test_stops_where_its_peers_do(values, patience, expected):
    assert run(ody.early_stopping("loss", patience), values)[0] == expected
    up = ody.early_stopping("loss", patience, mode="max")
    assert run(up, [-v for v in values])[0] == expected


LIGHTNING, KERAS = [9, 8, 7, 6, 5, 6, 4, 3, 2, 1], [0.9, 0.8, 0.7, 0.71, 0.72, 0.73]

# What is asked for, the values, and where and why it stops; in mode "max" the same with the signs
# turned, for all but the ratios.
OPTIONS = [
    ({"min_delta": 0.5}, [5, 4.6, 4.2], (1, REASON.NO_IMPROVEMENT)),
    ({"min_delta": 0.5}, [5, 4.4, 3.8], (None, REASON.NONE)),
    ({"min_delta": 0.5}, [5, 4.5], (1, REASON.NO_IMPROVEMENT)),  # by more than that
    ({"rtol": 0.01}, [1.0, 0.995], (1, REASON.NO_IMPROVEMENT)),
    ({"rtol": 0.01}, [1.0, 0.98, 0.96], (None, REASON.NONE)),
    # Below 0 the margin is on the same side: a flat metric is no improvement there either.
    ({"rtol": 0.01}, [-1.0, -1.0], (1, REASON.NO_IMPROVEMENT)),
    ({"rtol": 0.01}, [-1.0, -1.005], (1, REASON.NO_IMPROVEMENT)),
    ({"rtol": 0.01}, [-1.0, -1.02, -1.05], (None, REASON.NONE)),
    ({"rtol": 0.25, "min_delta": 0.5}, [4, 2.5], (1, REASON.NO_IMPROVEMENT)),
    ({"rtol": 0.25, "min_delta": 0.5}, [4, 2.25], (None, REASON.NONE)),
    ({"rtol": 0.5}, [INF, 8, 3], (None, REASON.NONE)),
    ({"patience": 9, "stopping_threshold": 2.9}, LIGHTNING, (8, REASON.THRESHOLD)),
    ({"patience": 9, "stopping_threshold": 2}, [3, 2, 2], (None, REASON.NONE)),
    ({"patience": 9, "divergence_threshold": 15.9}, [9, 4, 2, 16, 32, 64], (3, REASON.DIVERGED)),
    ({"patience": 9, "divergence_threshold": 16}, [9, 16, 16], (None, REASON.NONE)),
    ({"patience": 9, "divergence_threshold": 16}, [9, INF], (1, REASON.DIVERGED)),
    ({"patience": 9, "divergence_threshold": 16}, [9, NAN], (None, REASON.NONE)),
    ({"patience": 9, "divergence_factor": 3}, [4, 2, 6, 6.5], (3, REASON.DIVERGED)),
    ({"patience": 9, "divergence_factor": 3}, [-2, 1.5, 2.5], (2, REASON.DIVERGED)),
    ({"patience": 9, "divergence_factor": 3}, [NAN, 2, 6], (None, REASON.NONE)),
    ({"patience": 9, "nan": "stop"}, [3, 2, NAN], (2, REASON.NOT_FINITE)),
    ({"patience": 9, "nan": "stop"}, [3, 2, INF], (2, REASON.NOT_FINITE)),
    ({"patience": 9, "nan": "stop"}, [3, 2, -INF], (2, REASON.NOT_FINITE)),
    ({"patience": 2, "nan": "bad"}, [3, NAN, NAN], (2, REASON.NO_IMPROVEMENT)),
    ({"patience": 2, "nan": "ignore"}, [3, NAN, NAN, 3, NAN, 3], (5, REASON.NO_IMPROVEMENT)),
    ({"patience": 2, "nan": "ignore"}, [NAN, NAN, NAN], (None, REASON.NONE)),
    ({"patience": 5, "baseline": 0.5}, KERAS, (4, REASON.NO_IMPROVEMENT)),
    ({"patience": 3, "baseline": 0.5}, [0.9, 0.8, 0.4, 0.5, 0.5, 0.3], (None, REASON.NONE)),
    ({"patience": 2, "baseline": 0.5}, [0.4, 0.45, 0.45], (2, REASON.NO_IMPROVEMENT)),
    ({"patience": 2, "start_from_epoch": 1}, [0, 5, 4, 4, 4], (4, REASON.NO_IMPROVEMENT)),
    ({"patience": 1, "start_from_epoch": 3}, [1, 1, 1, 1, 1], (4, REASON.NO_IMPROVEMENT)),
    ({"nan": "stop", "start_from_epoch": 2}, [NAN, INF, 1], (None, REASON.NONE)),
    ({"min_epochs": 4}, [1, 1, 1, 1, 1, 1], (3, REASON.NO_IMPROVEMENT)),
    ({"min_epochs": 4}, [1, 1, 1, 0.5, 0.25], (None, REASON.NONE)),
    ({"min_epochs": 3, "stopping_threshold": 2}, [1, 1, 1], (2, REASON.THRESHOLD)),
    # 4, 3, 3.5, 2.75, 3.375: what is judged; the metric itself is best at once.
    ({"patience": 2, "smoothing": 0.5}, [4, 2, 4, 2, 4], (None, REASON.NONE)),
    ({"patience": 2, "smoothing": 0.0}, [4, 2, 4, 2, 4], (3, REASON.NO_IMPROVEMENT)),
    ({"patience": 2, "smoothing": 0.5}, [4, NAN, 3, INF, 5], (4, REASON.NO_IMPROVEMENT)),
]  # fmt: skip


@pytest.mark.parametrize(("options", "values", "expected"), OPTIONS)
def test_each_option(options, values, expected):
    options = {"patience": 1, **options}
    assert run(ody.early_stopping("loss", **options), values)[:2] == expected
    turned = ("baseline", "stopping_threshold", "divergence_threshold")
    up = {name: -x if name in turned else x for name, x in options.items()}
    assert run(ody.early_stopping("loss", **up, mode="max"), [-v for v in values])[:2] == expected


def test_the_best_is_kept_whatever_counts():
    assert run(ody.early_stopping("loss", 5, baseline=0.5), KERAS)[2] == 2
    assert run(ody.early_stopping("loss", 9, start_from_epoch=3), KERAS)[2] == 3
    assert run(ody.early_stopping("loss", 9, stopping_threshold=0.75), KERAS)[2] == 2
    assert run(ody.early_stopping("loss", 1, min_epochs=3), [1.0, 2.0, 0.5])[2] == 2


def test_a_reason_has_its_number():
    def sentence(values, **options):
        callback = ody.early_stopping("loss", **{"patience": 2, **options})
        state = callback.init(event(0.0))
        for epoch, value in enumerate(values):
            state, signal = callback.update(state, event(jnp.float32(value), jnp.int32(epoch)))
        return REASON(int(signal.stop)).sentence(int(signal.detail))

    assert sentence([1, 1, 1, 1], min_epochs=4) == "no improvement for 3 epochs"
    assert sentence([1], stopping_threshold=2) == "reached the stopping threshold after 1 epoch"
    assert sentence([1, 1, 5], divergence_threshold=2) == "diverged at step 20"
    finite = "a metric or a parameter is not finite at step 10"
    assert sentence([1, NAN], nan="stop") == finite


# One cut, in force from epoch 2 on, and no improvement from epoch 1 on.
@pytest.mark.parametrize(
    ("cooldown", "patience", "expected"), [(0, 3, 3), (1, 3, 5), (2, 3, 6), (2, 1, 1), (9, 3, None)]
)
def test_a_cut_of_the_rate_begins_a_cooldown(cooldown, patience, expected):
    callback = ody.early_stopping("loss", patience, cooldown=cooldown)
    assert run(callback, [1.0] * 9, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])[0] == expected
    # A rate that is raised is none, and each cut is one.
    raised = ody.early_stopping("loss", 3, cooldown=2)
    assert run(raised, [1.0] * 9, [1, 1, 2, 2, 2, 2, 2, 2, 2])[0] == 3
    assert run(raised, [1.0] * 9, [1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4])[0] is None


def test_a_cooldown_needs_a_scale():
    callback = ody.early_stopping("loss", 3, cooldown=2)
    with pytest.raises(
        ValueError, match=r"cooldown=2 counts from a cut.*put scale_by_callback\(\)"
    ):
        callback.init(event(0.0, state=ody.TrainState(jnp.zeros(2))))


@dataclasses.dataclass
class Oracle:
    """The same in plain Python."""

    patience: int = 1
    min_delta: float = 0.0
    rtol: float = 0.0
    mode: str = "min"
    baseline: float | None = None
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None
    divergence_factor: float | None = None
    nan: str = "bad"
    smoothing: float = 0.0
    cooldown: int = 0
    start_from_epoch: int = 0
    min_epochs: int = 0
    restore_best: bool = False

    def beats(self, a, b, rtol=0.0, delta=0.0, sign=1):
        sign = sign if self.mode == "min" else -sign
        return sign * a < sign * b - ((0 if math.isinf(b) else rtol * abs(b)) + delta)

    def run(self, values, scales):
        best, best_epoch, wait, average, scale, free = None, None, 0, None, 1.0, 0
        for epoch, value in enumerate(values):
            if epoch < self.start_from_epoch or (self.nan == "ignore" and math.isnan(value)):
                continue
            if math.isfinite(value):
                first = average is None
                average = value if first else average + (1 - self.smoothing) * (value - average)
                value = average
            scale, free = scales[epoch], self.cooldown if scales[epoch] < scale else free
            margin = {"rtol": self.rtol, "delta": self.min_delta}
            better = not math.isnan(value) and (best is None or self.beats(value, best, **margin))
            good = self.baseline is None or self.beats(value, self.baseline, **margin)
            wait, free = 0 if free or (better and good) else wait + 1, max(free - 1, 0)
            stop = self.reason(value, best, wait)
            if better:
                best, best_epoch = value, epoch
            if stop and epoch + 1 >= self.min_epochs:
                return epoch, stop, best_epoch
        return None, REASON.NONE, best_epoch

    def reason(self, value, best, wait):
        worse = lambda bound, rtol=0.0: self.beats(value, bound, rtol, sign=-1)
        if self.nan == "stop" and not math.isfinite(value):
            return REASON.NOT_FINITE
        if self.stopping_threshold is not None and self.beats(value, self.stopping_threshold):
            return REASON.THRESHOLD
        if self.divergence_threshold is not None and worse(self.divergence_threshold):
            return REASON.DIVERGED
        factor = self.divergence_factor
        if factor is not None and best is not None and worse(best, factor - 1):
            return REASON.DIVERGED
        return REASON.NO_IMPROVEMENT if wait >= max(self.patience, 1) else REASON.NONE


# Eighths: so that averages and margins have all their digits, and ties are met.
EIGHTHS = st.integers(-32, 32).map(lambda x: x / 8)
VALUES = st.lists(EIGHTHS | st.sampled_from([NAN, INF, -INF]), min_size=LENGTH, max_size=LENGTH)
SCALES = st.lists(st.sampled_from([1.0, 0.5, 0.25]), min_size=LENGTH, max_size=LENGTH)
ARGUMENTS = {
    "min_delta": st.sampled_from([0.0, 0.5]),
    "rtol": st.sampled_from([0.0, 0.25]),
    "mode": st.sampled_from(["min", "max"]),
    "baseline": st.sampled_from([-1.0, 0.0, 1.0]),
    "stopping_threshold": st.sampled_from([-3.5, 3.5]),
    "divergence_threshold": st.sampled_from([-3.5, 3.5]),
    "divergence_factor": st.sampled_from([2.0, 8.0]),
    "nan": st.sampled_from(["stop", "bad", "ignore"]),
    "smoothing": st.sampled_from([0.0, 0.5]),
    "cooldown": st.integers(0, 2),
    "start_from_epoch": st.integers(0, 2),
    "min_epochs": st.integers(0, 4),
    "restore_best": st.booleans(),
}


@given(VALUES, SCALES, st.fixed_dictionaries({"patience": st.integers(0, 4)}, optional=ARGUMENTS))
@settings(max_examples=100)
def test_agrees_with_a_python_oracle_whatever_the_options(values, scales, options):
    try:
        callback = ody.early_stopping("loss", **{"mode": "min", **options})
    except ValueError:  # thresholds that leave no value to train at
        reject()
    assert run(callback, values, scales) == Oracle(**options).run(values, scales)


# The options of a compiled program are fixed, so a program has its set of them and is shown many
# runs. Each value below is in some of the sets; it is for mode "min", and turned for "max".
SETS, RUNS = 20, 192
CHOICES = {
    "patience": [0, 1, 2, 3, 9],
    "min_delta": [0.0, 0.0, 0.5],
    "rtol": [0.0, 0.0, 0.25],
    "mode": ["min", "max"],
    "baseline": [None, None, -1.0, 0.0],
    "stopping_threshold": [None, None, -3.5],
    "divergence_threshold": [None, None, None, 3.5],
    "divergence_factor": [None, None, None, 2.0, 8.0],
    "nan": ["bad", "ignore", "stop"],
    "smoothing": [0.0, 0.0, 0.5],
    "cooldown": [0, 0, 1, 2],
    "start_from_epoch": [0, 0, 1, 2],
    "min_epochs": [0, 0, 4],
    "restore_best": [False, True],
}


def option_sets():
    draw = random.Random(0)
    columns = [draw.sample((values * SETS)[:SETS], SETS) for values in CHOICES.values()]
    for row in zip(*columns, strict=True):
        options = dict(zip(CHOICES, row, strict=True))
        if options["mode"] == "max":
            turned = ("baseline", "stopping_threshold", "divergence_threshold")
            options |= {name: options[name] and -options[name] for name in turned}
        yield options


OPTION_SETS = list(option_sets())


def random_runs(seed):
    """Metrics in eighths, a sixth of them not finite and a fifth as the one before; and scales."""
    rng = np.random.default_rng(seed)
    shape = (RUNS, LENGTH)
    values = rng.integers(-32, 33, shape) / 8
    values = np.where(rng.random(shape) < 1 / 6, rng.choice([NAN, INF, -INF], shape), values)
    values[:, 1:] = np.where(rng.random(shape) < 1 / 5, np.roll(values, 1, 1), values)[:, 1:]
    return np.float32(values), np.float32(rng.choice([1, 1, 0.5, 0.25], shape))


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def go_on(callback, epoch, state, values, scales):
    """The user's own `lax.while_loop`: the number of epochs done, the state and the reason."""

    def body(carry):
        epoch, state, _ = carry
        state, signal = callback.update(state, event(values[epoch], epoch, scale=scales[epoch]))
        return epoch + 1, state, signal.stop

    return lax.while_loop(lambda c: (c[0] < LENGTH) & (c[2] == 0), body, (epoch, state, NO_STOP))


@functools.partial(jax.jit, static_argnums=0)
def step(callback, state, value, epoch, scale):
    return callback.update(state, event(value, epoch, scale=scale))


def steps(callback, values, scales):
    """One step at a time: the states before and after each epoch, and the reasons."""
    states, reasons = [callback.init(event(0.0))], []
    for epoch, (value, scale) in enumerate(zip(values, scales, strict=True)):
        state, signal = step(callback, states[-1], value, np.int32(epoch), scale)
        states, reasons = [*states, state], [*reasons, int(signal.stop)]
    return jax.device_get(states), reasons


def results(epochs, states, reasons):
    """What the oracle says of a run, of each of many."""
    best, reasons = states.best, [REASON(reason) for reason in reasons.tolist()]
    stopped = [int(n) - 1 if reason else None for n, reason in zip(epochs, reasons, strict=True)]
    kept = [int(at) if seen else None for at, seen in zip(best.epoch, best.seen, strict=True)]
    if best.snapshot is not None:
        np.testing.assert_array_equal(best.snapshot[0][:, 0], best.epoch)
    return list(zip(stopped, reasons, kept, strict=True))


@pytest.mark.parametrize("seed", range(SETS))
def test_agrees_with_it_jitted_vmapped_in_a_while_loop_and_restored_at_every_position(seed):
    callback, oracle = ody.early_stopping("loss", **OPTION_SETS[seed]), Oracle(**OPTION_SETS[seed])
    values, scales = random_runs(seed)
    pairs = list(zip(values, scales, strict=True))
    expected = [oracle.run(v.tolist(), s.tolist()) for v, s in pairs]

    first = jax.device_get(callback.init(event(0.0)))
    begin = np.zeros(RUNS, np.int32), stack([first] * RUNS)
    assert results(*jax.device_get(go_on(callback, *begin, values, scales))) == expected

    # The steps go on after a stop, as where a run is told to: so what is saved anywhere counts.
    few = pairs[: RUNS // LENGTH]
    stepped = [steps(callback, *pair) for pair in few]
    stop_after = lambda reasons, at: next((i for i in range(at, LENGTH) if reasons[i]), LENGTH - 1)
    places = [(run, at) for run in range(len(few)) for at in range(LENGTH)]
    saved = pickle.dumps([stepped[run][0][at] for run, at in places])  # dtypes, shapes and bytes
    epochs, states, reasons = jax.device_get(
        go_on(
            ody.early_stopping("loss", **OPTION_SETS[seed]),
            np.int32([at for _, at in places]),
            stack(pickle.loads(saved)),
            *(np.stack([few[run][i] for run, _ in places]) for i in range(2)),
        )
    )
    ends = [stop_after(stepped[run][1], at) for run, at in places]
    assert epochs.tolist() == [end + 1 for end in ends]
    last = list(zip(places, ends, strict=True))
    assert reasons.tolist() == [stepped[run][1][end] for (run, _), end in last]
    assert_same(states, stack([stepped[run][0][end + 1] for (run, _), end in last]))

    from_the_first = slice(None, None, LENGTH)
    alone = jax.tree.map(operator.itemgetter(from_the_first), (epochs, states, reasons))
    assert results(*alone) == expected[: len(few)]


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_the_sets_have_every_value_of_every_option_and_meet_every_reason():
    bare = lambda value: abs(value) if isinstance(value, float) else value
    for name, values in CHOICES.items():
        assert {bare(options[name]) for options in OPTION_SETS} == set(map(bare, values)), name
    assert {field.name for field in dataclasses.fields(Oracle)} == set(CHOICES)
    ended = collections.Counter()
    for seed, options in enumerate(OPTION_SETS):
        runs = zip(*(x.tolist() for x in random_runs(seed)), strict=True)
        ended.update(Oracle(**options).run(*run)[1] for run in runs)
    assert set(ended) == {REASON.NONE, *REASONS}
    assert min(ended.values()) > 100, ended


def test_restored_from_a_store_at_every_position_it_goes_on_as_if_nothing_had_been(tmp_path):
    options = {"patience": 3, "smoothing": 0.5, "cooldown": 2, "baseline": 2.0, "min_epochs": 3}
    callback = ody.early_stopping("loss", **options, restore_best=True)
    values, scales = [5, 4, NAN, 4, 3, 3.5, 3.25], np.float32([1, 1, 1, 1, 0.5, 0.5, 0.5])
    at = lambda epoch: (np.float32(values[epoch]), np.int32(epoch), scales[epoch])
    states, signals = [callback.init(event(0.0))], []
    with ody.Store(tmp_path, keep_last=None) as store:
        for epoch in range(len(values)):
            store.save(epoch, states[-1], {})
            state, signal = step(callback, states[-1], *at(epoch))
            states, signals = [*states, state], [*signals, signal]
        store.wait()
        for position in range(len(values)):
            state = store.restore(callback.init(event(0.0)), position).tree
            for epoch in range(position, len(values)):
                state, signal = step(callback, state, *at(epoch))
                assert_same((state, signal), (states[epoch + 1], signals[epoch]))


def test_new_patience_applies_to_an_old_state():
    state = ody.early_stopping("loss", 9).init(event(0.0))
    for epoch in range(3):
        state, _ = ody.early_stopping("loss", 9).update(state, event(1.0, epoch))
    _, signal = ody.early_stopping("loss", 3).update(state, event(1.0, 3))
    assert int(signal.stop) == ody.StopReason.NO_IMPROVEMENT


def test_restores_the_best_at_the_end():
    callback = ody.early_stopping("loss", 5, restore_best=True)
    states = [ody.TrainState(jnp.full(2, float(i)), {"bn": jnp.float32(i)}) for i in range(4)]
    own = callback.init(event(0.0, state=states[0]))
    end = event(0.0, 0, states[3], ody.Point.TRAIN_END)
    untouched = callback.update(own, end)[1].state
    np.testing.assert_array_equal(untouched.params, states[3].params)  # nothing was seen yet
    for epoch, (value, state) in enumerate(zip([3, 1, NAN, 2], states, strict=True)):
        own, _ = callback.update(own, event(jnp.float32(value), epoch, state))
    _, signal = callback.update(own, end)
    np.testing.assert_array_equal(signal.state.params, states[1].params)
    np.testing.assert_array_equal(signal.state.model_state["bn"], 1.0)
    assert ody.early_stopping("loss", 5).points == (ody.Point.EPOCH_END,)


def test_a_missing_metric_is_named_with_those_that_exist():
    callback = ody.early_stopping("valid/los", 1)
    metrics = {"valid/loss": 0.0, "train/loss": 0.0, "valid/confusion": jnp.zeros((2, 2))}
    expected = "no metric 'valid/los'; the scalar metrics are: train/loss, valid/loss"
    with pytest.raises(ValueError, match=expected):
        callback.init(ody.Event(metrics))
    shaped = ody.early_stopping("valid/confusion", 1)
    with pytest.raises(ValueError, match=r"'valid/confusion' of shape \(2, 2\) can't be monitored"):
        shaped.init(ody.Event(metrics))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patience": -1}, "patience must be an integer of at least 0, got -1"),
        ({"patience": 1.5}, "patience must be an integer of at least 0, got 1.5"),
        ({"mode": "maximum"}, "mode must be 'min' or 'max', got 'maximum'"),
        ({"min_delta": -0.1}, "min_delta must be finite and at least 0, got -0.1"),
        ({"min_delta": NAN}, "min_delta must be finite"),
        ({"monitor": ""}, "monitor must be a metric's name"),
        ({"rtol": INF}, "rtol must be finite and at least 0, got inf"),
        ({"cooldown": -1}, "cooldown must be an integer of at least 0, got -1"),
        ({"start_from_epoch": 1.0}, "start_from_epoch must be an integer of at least 0, got 1.0"),
        ({"min_epochs": True}, "min_epochs must be an integer of at least 0, got True"),
        ({"baseline": NAN}, "baseline must be a finite number or None, got nan"),
        ({"stopping_threshold": "low"}, "stopping_threshold must be a finite number or None"),
        ({"divergence_threshold": INF}, "divergence_threshold must be a finite number or None"),
        ({"divergence_factor": 1}, "divergence_factor must be finite and greater than 1, or None"),
        ({"nan": "skip"}, "nan must be one of 'stop', 'bad', 'ignore', got 'skip'"),
        ({"smoothing": 1}, r"smoothing must be in the range \[0, 1\), got 1"),
        ({"restore_best": 1}, "restore_best must be True or False, got 1"),
        (
            {"stopping_threshold": 3, "divergence_threshold": 2, "mode": "min"},
            "stopping_threshold must be less than divergence_threshold in mode 'min'.*=3.*=2",
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ody.early_stopping(**{"monitor": "loss", "patience": 3, **kwargs})
