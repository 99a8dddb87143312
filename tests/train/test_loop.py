"""The compiled core: what it computes, and that it does not matter where it is cut."""

import chex
import clu.metrics
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.data import Calendar
from odyssey_jax.train import Keys, _step, finish_compiled, fresh_copy
from tests import examples
from tests.examples import assert_same


def make(name="pure", optimizer=None, train=None, **kwargs):
    """A loop with everything in it, its inputs, and a function that makes a fresh carry."""
    task = examples.TASKS[name]()
    callbacks = ody.chain(
        ody.callbacks.log(16),
        ody.early_stopping("valid/loss", kwargs.pop("patience", 99)),
        ody.track_best("valid/loss"),
    )
    kwargs.setdefault("callbacks", callbacks)
    loop = examples.make_loop(
        task, optimizer or optax.adamw, metrics={"accuracy": ody.Accuracy()}, **kwargs
    )
    rate = ody.warmup_cosine(0.05, 10, 60) if optimizer is None else None
    inputs = ody.train.Inputs(train or examples.train_data(), examples.valid_data(), rate)

    def fresh(seed=0):
        root = jax.random.key(seed)
        return fresh_copy(jax.jit(loop.init)(root, *task.init(Keys.of(root).init), inputs))

    return loop, inputs, fresh


def history(carry, name):
    return np.asarray(carry.callbacks[0].metrics[name][: int(carry.callbacks[0].length)])


@pytest.mark.parametrize(("name", "remainder"), [("nnx", True), ("linen", False)])
def test_the_result_does_not_depend_on_where_the_run_is_cut(name, remainder):
    train = examples.train_data(12 if remainder else 4, drop_remainder=not remainder)
    loop, inputs, fresh = make(name, train=train)
    blocks = Calendar.of(train)
    total = 6 * blocks.epoch
    whole = ody.train.run_compiled(loop, fresh(), inputs, total)
    for cuts in (range(1, total), [7, 8, 23], np.random.default_rng(0).integers(0, total, 9)):
        carry = fresh()
        for limit in sorted(cuts):
            carry = ody.train.run_compiled(loop, carry, inputs, limit)
            assert limit <= int(carry.clock.step) < limit + blocks.block
            # Through the host and back, as a checkpoint would.
            carry = fresh_copy(jax.tree.map(jnp.asarray, carry))
        assert_same(whole, ody.train.run_compiled(loop, carry, inputs, total))


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_keys_are_children_of_the_root(kind):
    root = jax.random.key(3, impl=kind)
    keys = [*Keys.of(root), Keys.init_of(root)]
    for key, use in zip(keys, (0, 1, 2, 2), strict=True):
        child = jax.random.fold_in(root, use)
        assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(child))


def by_hand(loss_fn, params, inputs, seed, epochs, optimizer):
    """The same run as a plain Python loop: what the loop is measured by."""
    keys = Keys.of(jax.random.key(seed))
    opt_state, train, valid = optimizer.init(params), inputs.train, inputs.valid
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    rows = []
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(keys.shuffle, epoch), 40))
        losses = []
        for start in range(0, 40, train.batch_size):
            index = order[start : start + train.batch_size]
            batch = {name: x[index] for name, x in train.data.items()}
            (loss, _), grads = gradient(params, batch)
            losses.append((float(loss), len(batch["y"])))
            updates, opt_state = jax.jit(optimizer.update)(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
        values, sizes = np.array(losses).T
        logits = valid.data["x"] @ params["w"] + params["b"]
        rows.append((np.average(values, weights=sizes), loss_fn(params, valid.data)[0]))
        accuracy = (logits.argmax(1) == valid.data["y"]).mean()
    return params, np.array(rows, np.float32), float(accuracy)


@pytest.mark.parametrize("batch_size", [8, 12])
def test_agrees_with_a_loop_written_by_hand(batch_size):
    train = examples.train_data(batch_size, drop_remainder=False)
    schedule = ody.warmup_cosine(0.05, 10, 60)
    loop, inputs, fresh = make(train=train)
    steps = 4 * train.steps_per_pass
    carry = ody.train.run_compiled(loop, fresh(3), inputs, steps)
    start = examples.linear_task().init(None)[0]
    params, rows, accuracy = by_hand(
        examples.linear_loss, start, inputs, 3, 4, optax.adamw(schedule)
    )
    chex.assert_trees_all_close(carry.state.params, params, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(history(carry, "train/loss"), rows[:, 0], rtol=1e-5)
    np.testing.assert_allclose(history(carry, "valid/loss"), rows[:, 1], rtol=1e-5)
    np.testing.assert_allclose(carry.latest["valid/accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_array_equal(
        history(carry, "learning_rate"),
        [schedule((e + 1) * train.steps_per_pass - 1) for e in range(4)],
    )


def test_one_program_for_any_limit_and_any_rate():
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return examples.linear_loss(params, batch)

    task = ody.pure_task(examples.linear_task().init(None)[0], loss_fn)
    train = examples.train_data()
    counts = []
    for peak in (0.1, 0.2, 0.3):
        # All made anew, as a second call of a user's function would.
        loop = examples.make_loop(
            task,
            optax.adamw,
            metrics={"c": ody.ConfusionMatrix(3)},
            callbacks=ody.early_stopping("train/loss", 50),
        )
        inputs = ody.train.Inputs(train, None, ody.warmup_cosine(peak, 3, 30))
        before = len(traces)
        carry = fresh_copy(loop.init(jax.random.key(0), *task.init(None), inputs))
        for limit in (5, 17, 40):
            carry = ody.train.run_compiled(loop, carry, inputs, limit)
        counts.append(len(traces) - before)
    assert counts[0] == 1  # for the shapes of the outputs and for the program
    assert counts[1:] == [0, 0]


def test_an_epoch_may_be_any_number_of_steps():
    """Data order follows from the step alone; an epoch only says when to validate."""
    results = []
    for steps in (5, 3, 15):
        loop, inputs, fresh = make(steps_per_epoch=steps, callbacks=ody.chain())
        carry = ody.train.run_compiled(loop, fresh(), inputs, 15)
        assert int(carry.clock.epoch) == 15 // steps
        results.append(carry.state.params)
    chex.assert_trees_all_close(results[0], results[1], rtol=1e-6)
    chex.assert_trees_all_close(results[0], results[2], rtol=1e-6)
    remainder = examples.train_data(12, drop_remainder=False)  # 4 steps, the last of 4 examples
    loop, inputs, fresh = make(train=remainder, steps_per_epoch=3, callbacks=ody.chain())
    by_three = ody.train.run_compiled(loop, fresh(), inputs, 12)
    loop, inputs, fresh = make(train=remainder, callbacks=ody.chain())
    chex.assert_trees_all_close(
        by_three.state.params,
        ody.train.run_compiled(loop, fresh(), inputs, 12).state.params,
        rtol=1e-6,
    )


def test_stops_by_itself_and_restores_the_best():
    stopping = ody.early_stopping("valid/loss", 2, restore_best=True)
    loop, inputs, fresh = make(callbacks=ody.chain(ody.callbacks.log(64), stopping))
    carry = ody.train.run_compiled(loop, fresh(), inputs, 64 * 5)
    losses = history(carry, "valid/loss")
    best = int(losses.argmin())
    assert int(carry.signal.stop) == ody.StopReason.NO_IMPROVEMENT
    assert len(losses) == best + 3
    finished = finish_compiled(loop, carry)
    task = examples.linear_task()
    value = ody.evaluate(task, finished.state, inputs.valid)["loss"]
    np.testing.assert_allclose(value, losses[best], rtol=1e-6)
    # What is saved is the run as it was, and a stopped run stays stopped.
    again = ody.train.run_compiled(loop, fresh_copy(carry), inputs, 64 * 5)
    assert_same(again, carry)


def test_a_save_is_asked_for_at_the_end_of_the_epoch_and_only_once():
    loop, inputs, fresh = make(callbacks=ody.checkpoint(every_epochs=2))
    carry, stops = fresh(), []
    while int(carry.clock.step) < 25:
        carry = ody.train.run_compiled(loop, carry, inputs, 25)
        stops.append((int(carry.clock.step), int(carry.clock.epoch), bool(carry.signal.save)))
    assert stops == [(10, 2, True), (20, 4, True), (25, 5, False)]


def test_accumulation_is_one_update_of_the_mean_gradient():
    def plain(batch_size, **kwargs):
        kwargs["callbacks"] = ody.chain()
        train = ody.ArrayDataset(examples.arrays(), batch_size)
        loop, inputs, fresh = make(optimizer=optax.sgd(0.1), train=train, **kwargs)
        return ody.train.run_compiled(loop, fresh(), inputs, 2 * train.steps_per_pass)

    whole, parts = plain(20), plain(5, accumulate_steps=4)
    chex.assert_trees_all_close(whole.state.params, parts.state.params, rtol=1e-5, atol=1e-7)
    loop, inputs, fresh = make(accumulate_steps=5, callbacks=ody.callbacks.log(16))
    carry = ody.train.run_compiled(loop, fresh(), inputs, 20)
    rates = [inputs.learning_rate(i) for i in range(4)]  # one update an epoch
    np.testing.assert_array_equal(history(carry, "learning_rate"), rates)


def test_clips_the_global_norm():
    step = lambda clip: make(
        optimizer=optax.sgd(1.0),
        clip_norm=clip,
        train=examples.train_data(40),
        callbacks=ody.chain(),
    )
    moved = []
    for clip in (None, 0.01):
        loop, inputs, fresh = step(clip)
        carry = fresh()
        before = jax.tree.map(np.asarray, carry.state.params)
        after = ody.train.run_compiled(loop, carry, inputs, 1).state.params
        moved.append(float(optax.tree.norm(jax.tree.map(jnp.subtract, after, before))))
    assert moved[0] > 0.1
    np.testing.assert_allclose(moved[1], 0.01, rtol=1e-4)


def test_the_rate_of_an_injected_optimizer_is_logged():
    schedule = ody.cosine_decay(0.1, 50)
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    loop, inputs, fresh = make(optimizer=injected)
    carry = ody.train.run_compiled(loop, fresh(), inputs, 10)
    np.testing.assert_allclose(history(carry, "learning_rate"), [schedule(4), schedule(9)])
    loop, inputs, fresh = make(optimizer=optax.sgd(0.1))
    assert "learning_rate" not in fresh().latest


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes_are_kept(dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), examples.linear_task().init(None)[0])

    def loss_fn(params, batch):
        logits = batch["x"].astype(dtype) @ params["w"] + params["b"]
        return examples.cross_entropy(logits.astype(jnp.float32), batch["y"])

    task = ody.pure_task(params, loss_fn)
    loop = examples.make_loop(task, optax.adamw)
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data(), ody.constant(0.01))
    carry = fresh_copy(loop.init(jax.random.key(0), *task.init(None), inputs))
    forms = lambda carry: [x.aval for x in jax.tree.leaves(carry)]
    before = forms(carry)
    after = ody.train.run_compiled(loop, carry, inputs, 10)
    assert forms(after) == before
    assert after.state.params["w"].dtype == dtype


def test_batch_statistics_and_dropout_are_the_models_own():
    """Statistics move in training and not in validation; dropout differs by step."""
    for name in ("nnx", "linen"):
        loop, inputs, fresh = make(name, callbacks=ody.chain())
        carry = fresh()
        start = jax.tree.map(np.array, carry.state.model_state)
        after = ody.train.run_compiled(loop, carry, inputs, 5)
        moved = jax.tree.map(
            lambda a, b: bool((a != np.asarray(b)).any()), start, after.state.model_state
        )
        assert all(jax.tree.leaves(moved))
    task = examples.nnx_task()
    params, state = task.init(None)
    batch = examples.valid_data().data
    loss, evaluate = jax.jit(task.loss), jax.jit(task.evaluate)
    losses = {float(loss(params, state, batch, jax.random.key(i))[0]) for i in (0, 1, 0)}
    assert len(losses) == 2
    assert len({float(evaluate(params, state, batch)["loss"]) for _ in range(2)}) == 1


def test_lifecycle_points_come_in_order():
    calls = []

    def record(state, event):
        jax.debug.callback(
            lambda e: calls.append((event.point.name, int(e))), event.clock.epoch, ordered=True
        )
        return state, ody.Signal.none()

    others = (ody.Point.LOSS_NOT_FINITE, ody.Point.TRAIN_END)
    points = [p for p in ody.Point if p not in others]
    recorder = ody.callback(lambda event: None, record, list(ody.Point))
    loop, inputs, fresh = make(callbacks=recorder)
    carry = fresh()
    for limit in (7, 10):
        carry = ody.train.run_compiled(loop, carry, inputs, limit)
    jax.block_until_ready(finish_compiled(loop, carry))
    jax.effects_barrier()
    each = lambda e: [(p.name, e) for p in points[1:]]
    assert calls == [("TRAIN_BEGIN", 0), *each(0), *each(1), ("TRAIN_END", 2)]


def test_a_stop_when_an_epoch_begins_trains_no_further():
    def stop_at_two(state, event):
        stop = jnp.where(event.clock.epoch == 2, ody.StopReason.COMPLETED, ody.StopReason.NONE)
        return state, ody.Signal.none()._replace(stop=stop.astype(jnp.int32))

    stopper = ody.callback(lambda event: None, stop_at_two, [ody.Point.EPOCH_BEGIN])
    loop, inputs, fresh = make(callbacks=stopper)
    carry = ody.train.run_compiled(loop, fresh(), inputs, 50)
    assert (int(carry.clock.step), int(carry.signal.stop)) == (10, ody.StopReason.COMPLETED)


def test_the_door_to_the_train_state():
    """A callback may swap parameters for validation and put them back."""

    def zero(state, event):
        zeros = jax.tree.map(jnp.zeros_like, event.state.params)
        if event.point is ody.Point.VALIDATION_BEGIN:
            return event.state.params, ody.Signal.none()._replace(
                state=event.state._replace(params=zeros)
            )
        return state, ody.Signal.none()._replace(state=event.state._replace(params=state))

    swap = ody.callback(
        lambda event: jax.tree.map(jnp.zeros_like, event.state.params),
        zero,
        [ody.Point.VALIDATION_BEGIN, ody.Point.VALIDATION_END],
    )
    loop, inputs, fresh = make(callbacks=ody.chain(ody.callbacks.log(8), swap))
    carry = ody.train.run_compiled(loop, fresh(), inputs, 10)
    np.testing.assert_allclose(history(carry, "valid/loss"), np.log(3), rtol=1e-6)
    loop, inputs, fresh = make(callbacks=ody.callbacks.log(8))
    other = ody.train.run_compiled(loop, fresh(), inputs, 10)
    chex.assert_trees_all_close(carry.state.params, other.state.params, rtol=1e-6)


def test_metrics_of_clu_drop_in_and_arrays_are_kept_for_the_last_epoch():
    task = examples.linear_task()
    loop = examples.make_loop(
        task,
        optax.sgd(0.1),
        metrics={
            "clu": clu.metrics.Accuracy,
            "own": ody.Accuracy(),
            "table": ody.ConfusionMatrix(3),
        },
        train_metrics={"accuracy": clu.metrics.Accuracy},
        callbacks=ody.callbacks.log(4),
    )
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data())
    carry = fresh_copy(jax.jit(loop.init)(jax.random.key(0), *task.init(None), inputs))
    carry = ody.train.run_compiled(loop, carry, inputs, 10)
    assert float(carry.latest["valid/clu"]) == pytest.approx(float(carry.latest["valid/own"]))
    table = np.asarray(carry.latest["valid/table"])
    assert table.sum() == 22
    assert np.trace(table) / 22 == pytest.approx(float(carry.latest["valid/own"]))
    assert set(carry.callbacks[0].metrics) == {
        "train/loss", "train/accuracy", "valid/loss", "valid/clu", "valid/own",
    }  # fmt: skip


@pytest.mark.parametrize("callbacks", [{}, {"callbacks": ody.chain()}])
def test_without_validation_or_callbacks(callbacks):
    task = examples.linear_task()
    loop = examples.make_loop(task, optax.sgd(0.1), **callbacks)
    inputs = ody.train.Inputs(examples.train_data())
    carry = fresh_copy(loop.init(jax.random.key(0), *task.init(None), inputs))
    carry = ody.train.run_compiled(loop, carry, inputs, 10)
    assert list(carry.latest) == ["train/loss"]


def test_a_monitor_that_does_not_exist_is_named_when_the_loop_is_made():
    _, _, fresh = make(callbacks=ody.early_stopping("valid/los", 3))
    with pytest.raises(ValueError, match="no metric 'valid/los'; the scalar metrics are: learning"):
        fresh()


def broken(state, event):
    raise RuntimeError("boom")


def test_a_callback_that_raises_while_tracing_names_itself():
    loop, inputs, fresh = make(callbacks=ody.callback(lambda event: None, broken))
    with pytest.raises(RuntimeError, match="boom") as caught:
        ody.train.run_compiled(loop, fresh(), inputs, 5)
    assert any("broken" in note and "epoch_end" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm must be a number greater than 0 or None, got 0.0"),
        ({"accumulate_steps": 0}, "accumulate_steps must be an integer of at least 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):

    def run():
        loop, inputs, fresh = make(**kwargs)
        return jax.eval_shape(loop.run, fresh(), inputs, 1)

    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda x: x, ValueError, r"the loss must be a scalar.*got shape \(8,\)"),
        (lambda x: (x.mean(), [x]), TypeError, "got outputs of type list"),
    ],
)
def test_a_loss_of_another_form_is_refused(returned, error, message):
    task = ody.pure_task({"w": jnp.zeros(4)}, lambda p, batch: returned(batch["x"] @ p["w"]))
    loop = examples.make_loop(task, optax.sgd(0.1))
    with pytest.raises(error, match=message):
        loop.init(jax.random.key(0), *task.init(None), ody.train.Inputs(examples.train_data()))


def test_parameters_that_are_no_arrays_are_refused_at_once():
    with pytest.raises(TypeError, match=r"params\['w'\] must be an array, got <built-in function"):
        ody.pure_task({"w": print}, examples.linear_loss)


def test_the_users_arrays_outlive_the_run():
    shared = jnp.zeros((4, 3))
    params = {"w": shared, "b": jnp.zeros(3), "same": shared}
    task = ody.pure_task(params, examples.linear_loss)
    loop = examples.make_loop(task, optax.sgd(0.1), callbacks=ody.track_best("train/loss"))
    inputs = ody.train.Inputs(examples.train_data())
    key = jax.random.key(0)
    for init in (loop.init, jax.jit(loop.init)):
        carry = init(key, *task.init(key), inputs)
        ody.train.run_compiled(loop, carry, inputs, 10)
        assert not any(x.is_deleted() for x in (*params.values(), key))


def test_what_cannot_be_hashed_is_named():
    with pytest.raises(ValueError, match=r"clip_norm must be a number .*, got Array\(1\."):
        examples.make_loop(examples.linear_task(), optax.sgd(0.1), clip_norm=jnp.float32(1.0))
    kept = ody.callbacks.Retention(keep_best=1, monitor=["valid/loss"])
    with pytest.raises(TypeError, match="keep_best must be hashable"):
        examples.make_loop(examples.linear_task(), optax.sgd(0.1), keep_best=kept)


def test_a_metric_of_several_values_becomes_several_metrics():
    both = clu.metrics.Collection.create(accuracy=clu.metrics.Accuracy)
    task = examples.linear_task()
    loop = examples.make_loop(
        task, optax.sgd(0.1), metrics={"clu": both}, callbacks=ody.callbacks.log(4)
    )
    inputs = ody.train.Inputs(examples.train_data(), examples.valid_data())
    carry = loop.init(jax.random.key(0), *task.init(None), inputs)
    assert "valid/clu/accuracy" in ody.train.run_compiled(loop, carry, inputs, 5).latest


def test_blocks_divide_what_they_must():
    data = lambda n, size, **how: ody.ArrayDataset(np.zeros(n), size, **how)
    assert Calendar.of(data(84, 2)).block == 7  # of 42
    assert Calendar.of(data(84, 2), 4).block == 2  # of 42 and 4
    assert Calendar.of(data(85, 2)) == (43, 43, 42, 7, 2, 1, None)
    assert Calendar.of(data(85, 2, drop_remainder=True)).epoch == 42
    assert Calendar.of(data(85, 2), 4).block == 1
    assert Calendar.of(data(13, 1)).block == 1


def test_loops_compare_by_value():
    one, two = (make()[0] for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != make(clip_norm=1.0)[0]


@pytest.mark.parametrize(
    ("read", "options"),
    [
        (False, {}),
        (False, {"log_every_n_steps": 1, "log_outputs": ("loss",)}),
        (True, {"log_every_n_steps": 1}),
        (True, {"train_metrics": {"norm": ody.Mean("update_norm")}}),
    ],
)
def test_norms_that_nothing_reads_are_not_traced(monkeypatch, read, options):
    traced, norms = [], _step.norms
    monkeypatch.setattr(_step, "norms", lambda *args: traced.append(args) or norms(*args))
    task = ody.pure_task({"w": jnp.ones(3)}, lambda p, batch: ((p["w"] - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.zeros((8, 3)), batch_size=4)
    result = ody.fit(task, optax.sgd(0.3), data, epochs=1, writers=[], **options)
    assert bool(traced) == read
    # Gradients of 2 w / 3, w from 1 to 0.8.
    if "train_metrics" in options:
        norm = 0.3 * np.sqrt(3) * 2 / 3 * (1 + 0.8) / 2
        np.testing.assert_allclose(result.history["train/norm"], norm, rtol=1e-6)
    elif read:
        norms = np.sqrt(3) * 2 / 3 * np.array([1, 0.8])
        np.testing.assert_allclose(result.samples["grad_norm"], norms, rtol=1e-6)
