"""Programs whose batches are read on the host: what comes out, and when they come up."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odyssey_jax as ody
from odyssey_jax.feed import make_program
from odyssey_jax.feed._feed import Feed
from tests import examples
from tests.examples import assert_same
from tests.sources import Read

PREFETCH = (2**28, 1, 5 * 8 * 20 * 3)  # bytes, of which a chunk has 256, 2 or 3 batches


def program(train, valid=None, task=None, **options):
    how = {"steps_per_epoch": 6 if train.steps_per_pass is None else None, **options}
    return make_program(
        task or examples.linear_task(),
        optax.adam,
        train,
        valid,
        ody.warmup_cosine(0.05, 10, 60),
        metrics={"accuracy": ody.Accuracy()} if valid is not None else None,
        capacity=16,
        **how,
    )


def run_to(program, *limits):
    """The carry at the end, however often the program comes up on the way."""
    carry = program.init(jax.random.key(3))
    for limit in limits:
        carry = run_on(program, carry, limit)
    return carry


def run_on(program, carry, limit):
    while True:
        carry, progress = program.run(carry, limit)
        progress = progress.fetch()
        if progress.stop or (progress.step >= limit and not progress.reading.validating):
            return carry


@pytest.mark.parametrize(
    "source", [{}, {"batch_size": 12}, {"endless": True, "batch_size": 12}], ids=str
)
def test_however_it_is_cut_and_chunked_the_run_is_the_same(source):
    valid = Read(batch_size=5, examples=22, seed=1)
    whole = run_to(program(Read(**source), valid), 24)
    history = program(Read(**source), valid).look(whole).fetch().history()
    assert history["epoch"].tolist() == list(
        range(24 // (6 if "endless" in source else 4 + (not source)))
    )
    for prefetch in PREFETCH:
        cut = program(Read(**source), valid, prefetch_bytes=prefetch)
        assert_same(run_to(cut, 0, 1, 2, 6, 7, 13, 24), whole)


def test_it_computes_what_the_resident_program_does():
    """Over the same batches, in their own order."""
    data, order = examples.arrays(), np.random.default_rng((0, 0)).permutation(40)
    del order
    fed = Plain(data, 8)
    resident = ody.ArrayDataset(data, 8)
    valid = ody.ArrayDataset(examples.arrays(22, seed=1), 5)
    ends = []
    for train, validated in (
        (fed, valid),
        (resident, valid),
        (resident, Plain(valid.data, 5)),
        (fed, Plain(valid.data, 5)),
    ):
        kind = program(train, validated)
        ends.append(kind.look(run_to(kind, 20)).fetch())
    for other in ends[1:]:
        for name, column in ends[0].history().items():
            np.testing.assert_allclose(column, other.history()[name], rtol=1e-5)


class Plain(Read):
    """The batches in their own order."""

    def __init__(self, data, batch_size):
        super().__init__(batch_size)
        self.data = data

    def reader(self, seed, step, state=None):
        reader, data, size = super().reader(seed, step, state), self.data, self.batch_size
        steps = self.steps_per_pass

        def read():
            if reader.step and reader.step % steps == 0 and not reader.ended:
                reader.ended = True
                return None
            at, reader.ended, reader.step = reader.step % steps, False, reader.step + 1
            return {name: x[at * size : (at + 1) * size] for name, x in data.items()}

        reader.read = read
        return reader


def test_a_save_and_a_stop_are_seen_though_the_host_runs_ahead():
    stopping = ody.max_steps(7)
    driven = program(Read(), callbacks=stopping, prefetch_bytes=1)
    carry = driven.init(jax.random.key(3))
    carry, progress = driven.run(carry, 40)
    progress = progress.fetch()
    assert (progress.step, progress.stop) == (10, ody.StopReason.MAX_STEPS)  # an epoch's end
    kept = ody.callbacks.Retention(keep_best=1, monitor="train/loss")
    driven = program(Read(), keep_best=kept, prefetch_bytes=1)
    carry, progress = driven.run(driven.init(jax.random.key(3)), 40)
    progress = progress.fetch()
    assert (progress.step, progress.epoch, progress.save) == (5, 1, True)
    assert_same(
        run_on(driven, carry, 20)._replace(ranking=None, signal=None),
        run_to(program(Read()), 20)._replace(ranking=None, signal=None),
    )


@pytest.mark.parametrize("valid", ["read", "here"])
def test_a_stop_at_the_last_step_of_an_epoch_ends_that_epoch(valid):
    nan = lambda batch: batch | {"x": batch["x"] * np.nan}
    valid = Read(batch_size=5, examples=22, seed=1) if valid == "read" else examples.valid_data()
    driven = program(Read(faults={4: nan}), valid, callbacks=ody.terminate_on_nan())
    progress = driven.look(run_on(driven, driven.init(jax.random.key(3)), 20)).fetch()
    assert (progress.step, progress.epoch, progress.stop) == (5, 1, ody.StopReason.NOT_FINITE)
    assert "valid/loss" in progress.metrics()


def test_chunks_are_dropped_within_a_call(monkeypatch):
    held, chunk = [], Feed.chunk

    def counted(feed, *args):
        found = chunk(feed, *args)
        held.append(len(feed._held))
        return found

    monkeypatch.setattr(Feed, "chunk", counted)
    driven = program(Read(), prefetch_bytes=1)
    carry, progress = driven.run(driven.init(jax.random.key(3)), 40)
    assert progress.fetch().step == 40
    # Of 24: two that the device works through, and the one that it is given next.
    assert max(held) <= 3
    assert_same(carry, run_to(program(Read()), 40))


def test_a_carry_of_before_what_was_read_is_read_anew():
    """The batches of its steps are dropped; a reader that went on would come to the fault."""
    driven = program(Read(batch_size=12, faults={30: ValueError("too far")}), prefetch_bytes=1)
    assert_same(run_to(driven, 9), run_to(driven, 9))
    driven.close()


def test_what_reading_raises_is_raised_when_all_before_it_is_trained_on():
    driven = program(Read(faults={7: OSError(5, "no such disk")}))
    carry, progress = driven.run(driven.init(jax.random.key(3)), 20)
    assert progress.fetch().step == 7
    with pytest.raises(OSError, match="no such disk") as raised:
        driven.run(carry, 20)
    assert "reading the batch of step 7" in raised.value.__notes__[0]
    assert_same(carry, run_to(program(Read()), 7))  # not donated


def dawdling():
    """A fault that waits to be let go on."""
    go_on = threading.Event()

    def wait(batch):
        assert go_on.wait(60)
        return batch

    return go_on, wait


def test_a_slow_read_does_not_keep_the_program_down():
    go_on, wait = dawdling()
    driven = program(Read(faults={7: wait}))
    carry = run_on(driven, driven.init(jax.random.key(3)), 7)
    carry, progress = driven.run(carry, 20)
    progress = progress.fetch()
    assert progress.step == 7
    assert progress.reading.waited > 0.2  # it has had patience
    go_on.set()
    assert_same(run_on(driven, carry, 20), run_to(program(Read()), 20))


def test_a_slow_validation_is_gone_on_with():
    go_on, wait = dawdling()
    valid = Read(batch_size=5, examples=22, seed=1, faults={2: wait})
    driven = program(Read(), valid)
    carry, seen = driven.init(jax.random.key(3)), []
    while not seen or not seen[-1][1]:
        carry, progress = driven.run(carry, 5)
        progress = progress.fetch()
        seen.append((progress.step, progress.epoch, progress.reading.validating))
        if seen[-1][2]:
            go_on.set()
    assert (5, 0, True) in seen
    assert seen[-1] == (5, 1, False)
    assert len(valid.readers) == 1


WRONG = {
    "ragged": ({3: lambda b: {k: x[:5] for k, x in b.items()}}, "step 3 has fewer examples than"),
    "empty": ({3: lambda b: {k: x[:0] for k, x in b.items()}}, r"is float32\[0, 4\], and that"),
    "longer": ({3: lambda b: {k: np.repeat(x, 2, 0) for k, x in b.items()}}, r"\[16, 4\]"),
    "wider": ({3: lambda b: b | {"x": b["x"][:, :3]}}, r"batch\['x'\] is float32\[8, 3\]"),
    "dtype": ({3: lambda b: b | {"x": b["x"].astype(np.int32)}}, r"batch\['x'\] is int32\[8, 4\]"),
    "keys": ({3: lambda b: b | {"z": b["x"]}}, "step 3 is not like the first one"),
    "short pass": ({3: lambda b: None}, "ended after 3 batches, at step 3, and was to have 5"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_batch_unlike_the_first_is_an_error_that_names_it(case):
    faults, message = WRONG[case]
    driven = program(Read(faults=faults))
    with pytest.raises(ValueError, match=message):
        run_to(driven, 20)


def test_a_transform_that_fails_or_forgets_is_named():
    for transform, error, message in (
        (lambda batch, key: None, TypeError, "transform must return a batch, got None"),
        (lambda batch, key: batch["z"], KeyError, "z"),
    ):
        train = Read()
        train.transform = transform
        with pytest.raises(error, match=message) as raised:
            program(train).init(jax.random.key(3))
        if error is KeyError:
            assert "while tracing your transform with a batch of" in raised.value.__notes__[0]


def test_a_loop_of_ones_own_names_what_it_runs_over():
    task = examples.linear_task()
    loop = examples.make_loop(task, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"a loop runs over must be what ArrayDataset\(arrays"):
        loop.init(jax.random.key(0), *task.init(None), ody.train.Inputs(Read()))


def test_sixty_four_bits_that_do_not_fit():
    wide = lambda b: b | {"y": b["y"].astype(np.int64) + 2**40}
    with pytest.raises(ValueError, match="a batch holds 10995116277"):
        run_to(program(Read(faults={3: wide})), 20)


def test_several_sets_have_metrics_by_name_wherever_they_lie():
    one, other = examples.valid_data(), Read(batch_size=5, examples=22, seed=1)
    driven = program(Read(), {"here": one, "read": other})
    row = driven.look(run_to(driven, 5)).fetch().metrics()
    assert row["valid/here/loss"] == pytest.approx(row["valid/read/loss"], rel=1e-5)
    assert {"valid/here/accuracy", "valid/read/accuracy"} <= row.keys()
    resident = program(examples.train_data(), {"a": one, "b": one})
    row = resident.look(run_to(resident, 5)).fetch().metrics()
    assert row["valid/a/loss"] == row["valid/b/loss"]


@pytest.mark.parametrize("kind", ["read", "here"])
def test_a_transform_is_part_of_the_step_with_a_key_of_its_own(kind):
    def noisy(batch, key):
        if key is None:
            return batch | {"x": batch["x"] * 0}
        return batch | {"x": batch["x"] + 1e3 * jax.random.uniform(key)}

    def loss_fn(params, batch):
        loss, outputs = examples.linear_loss(params, batch)
        return loss * 0 + batch["x"].mean(), outputs

    task = ody.pure_task({"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}, loss_fn)
    if kind == "read":
        train, valid = Read(), Read(batch_size=5, examples=22, seed=1)
    else:
        train, valid = examples.train_data(), examples.valid_data()
    for source in (train, valid):
        object.__setattr__(source, "transform", noisy)
    run = program(train, valid, task)
    rows = run.look(run_to(run, 10)).fetch().history()
    assert (rows["valid/loss"] == 0).all()
    assert (rows["train/loss"] > 10).all()
    assert rows["train/loss"][0] != rows["train/loss"][1]
