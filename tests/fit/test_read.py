"""`fit` over data that is read on the host: resume, faults, interrupts, and what is refused."""

import os
import random
import signal
import threading

import numpy as np
import optax
import pytest

import odyssey_jax as ody
from tests import examples
from tests.examples import assert_same
from tests.sources import Read

VALID = {"batch_size": 5, "examples": 22, "seed": 1}


def fit(directory, train, epochs=4, **kwargs):
    how = {"learning_rate": 0.05, "writers": [], "valid": Read(**VALID), **kwargs}
    if getattr(train, "steps_per_pass", 0) is None:
        how["steps_per_epoch"] = 5
    task = examples.linear_task()
    return ody.fit(task, optax.adam, train, epochs=epochs, directory=directory, **how)


@pytest.fixture(scope="module")
def whole():
    return fit(None, Read())


@pytest.mark.parametrize("resumes", ["by step", "by state", "by skipping"])
def test_a_run_that_is_left_anywhere_goes_on_to_the_bit(resumes, whole, tmp_path, capsys):
    chance = random.Random(resumes)
    stops = sorted(chance.sample(range(1, 20), 4))
    for steps in stops:

        def leave(view, steps=steps):
            if view.step == steps:
                raise KeyError("left here")

        with pytest.raises(KeyError, match="left here"):
            fit(tmp_path, Read(resumes=resumes), hooks=[ody.hook(leave, ody.every(steps=1))])
        assert latest(tmp_path) == steps
    result = fit(tmp_path, Read(resumes=resumes))
    assert_same(result.state, whole.state)
    assert_same(dict(result.history), dict(whole.history))
    said = capsys.readouterr().err
    assert f"resumed from step {stops[-1]} of" in said
    skipped = f"{stops[-1] % 5} batch" in said and "to read and drop first" in said
    assert skipped == (resumes == "by skipping")


def latest(directory):
    if not (directory / "checkpoints").exists():
        return 0
    return ody.store.Reader(directory / "checkpoints").latest() or 0


@pytest.mark.parametrize("resumes", ["by step", "by state"])
def test_what_reading_raises_comes_when_the_run_so_far_is_saved(resumes, whole, tmp_path):
    with pytest.raises(OSError, match="no such disk") as raised:
        fit(tmp_path, Read(resumes=resumes, faults={13: OSError(5, "no such disk")}))
    assert latest(tmp_path) == 13
    assert raised.value.result.steps == 13
    assert "while reading the batch of step 13" in raised.value.__notes__[0]
    assert_same(fit(tmp_path, Read(resumes=resumes)).state, whole.state)
    with pytest.raises(OSError, match="no valid disk"):
        fit(None, Read(), valid=Read(**VALID, faults={2: OSError(5, "no valid disk")}))


@pytest.mark.parametrize("where", ["train", "valid"])
def test_ctrl_c_while_a_read_dawdles(where, whole, tmp_path):
    asleep, trained, go_on = threading.Event(), threading.Event(), threading.Event()

    def dawdle(batch):
        asleep.set()
        go_on.wait(60)
        return batch

    slow = {"faults": {13 if where == "train" else 2: dawdle}}
    train = Read(**slow) if where == "train" else Read()
    valid = Read(**VALID, **(slow if where == "valid" else {}))
    if where == "valid":
        trained.set()

    def press():
        asleep.wait(60)
        trained.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    look = ody.hook(lambda view: trained.set() if view.step == 13 else None, ody.every(steps=1))
    with pytest.raises(KeyboardInterrupt, match="saved in"):
        fit(tmp_path, train, valid=valid, hooks=[look])
    assert not go_on.is_set()
    go_on.set()
    assert latest(tmp_path) == (13 if where == "train" else 5)
    result = fit(tmp_path, Read())
    assert_same(result.state, whole.state)
    assert_same(dict(result.history), dict(whole.history))


def test_ctrl_c_while_what_is_measured_at_the_start_is_read(tmp_path):
    asleep, go_on = threading.Event(), threading.Event()

    def dawdle(batch):
        asleep.set()
        go_on.wait(60)
        return batch

    def press():
        asleep.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    def at_start(**how):
        return ody.Evaluation(Read(**VALID, **how), at_start=True)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="not saved, at step 0") as raised:
        fit(tmp_path, Read(), valid=at_start(faults={2: dawdle}))
    assert not go_on.is_set()
    go_on.set()
    assert (raised.value.result.steps, raised.value.result.metrics_at_start) == (0, {})
    again = fit(tmp_path, Read(), valid=at_start(), epochs=1)
    assert again.metrics_at_start.keys() == {"valid/loss"}


def test_readers_are_closed(tmp_path):
    train, before = Read(), threading.enumerate()
    fit(tmp_path, train, epochs=1)
    for thread in threading.enumerate():
        if thread.name == "odyssey_jax feed" and thread not in before:
            thread.join(10)
    assert all(reader.closed for reader in train.readers)


def test_a_run_that_cannot_be_gone_on_with_says_why(tmp_path):
    train = Read(resumes="never")
    train.refusal = "it is read only once"
    fit(tmp_path, train, epochs=1)
    with pytest.raises(ValueError, match="can't go on at step 5, since .* it is read only once"):
        fit(tmp_path, train)
    with pytest.raises(ValueError, match=r"has no state of .* from step 5 on"):
        fit(tmp_path, Read(resumes="by state"))


def test_other_contents_are_refused_by_name(tmp_path):
    fit(tmp_path, Read(), epochs=1)
    other = Read()
    other.signature = lambda: {**Read().signature(), "fingerprint": "other"}
    with pytest.raises(ValueError, match="begun with another training data"):
        fit(tmp_path, other)
    with pytest.raises(ValueError, match="begun with another validation data"):
        fit(tmp_path, Read(), valid=Read(5, examples=23, seed=1))


def test_another_kind_of_source_is_refused(tmp_path):
    """The same arrays in another order: by key on the device, by seed on the host."""
    kinds = [ody.HostDataset, ody.ArrayDataset]
    for then, now in (kinds, kinds[::-1]):
        directory, data = tmp_path / then.__name__, examples.arrays()
        fit(directory, then(data, 8, shuffle=True), epochs=1)
        with pytest.raises(ValueError, match="would not see the batches .* kind: .*HostDataset"):
            fit(directory, now(data, 8, shuffle=True))


def test_other_arrays_on_the_host_are_refused_unless_accepted(tmp_path):
    def run(epochs, train=0, valid=0, **how):
        of = lambda add: {**examples.arrays(), "x": examples.arrays()["x"] + add}
        sets = {"train": ody.HostDataset(of(train), 8), "valid": ody.HostDataset(of(valid), 8)}
        return fit(tmp_path, epochs=epochs, **sets, **how)

    run(1)
    with pytest.raises(ValueError, match="begun with another training data"):
        run(2, train=1)
    with pytest.raises(ValueError, match="begun with another validation data"):
        run(2, valid=1)
    assert run(2, train=1, run_change="accept").epochs == 2


def test_a_batch_size_is_for_what_has_none():
    data, batches = examples.arrays(), [examples.arrays(examples=8)]
    run = lambda train, valid: fit(None, train, epochs=1, valid=valid, batch_size=8)
    steps = -(-len(data["y"]) // 8)
    for valid in (batches, ody.HostDataset(data, 4), {"a": batches, "b": data}):
        assert run(data, valid).steps == steps
    assert run(Read(), data).steps == Read().steps_per_pass
    with pytest.raises(ValueError, match="batch_size= is for arrays, and train is a Read"):
        run(Read(), Read(**VALID))
    with pytest.raises(ValueError, match="valid: batch_size must be an integer from 1 to .*, 4;"):
        run(data, examples.arrays(examples=4))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"valid": {}}, "valid is an empty mapping: leave it out"),
        ({"train": Read(endless=True), "steps_per_epoch": None}, "steps_per_epoch must be given"),
        ({"valid": Read(endless=True)}, "valid_steps must be given: how many batches valid=<"),
        ({"valid": {"a": Read(endless=True)}}, r"how many batches valid\['a'\]=<"),
        ({"valid": Read(**VALID), "valid_steps": 6}, "valid_steps=6 is more than the 5 batches"),
        ({"valid": examples.valid_data(), "valid_steps": 2}, "valid_steps=2 has no effect"),
        ({"valid": {"a/b": Read(**VALID)}}, "valid has a set named 'a/b'"),
        ({"prefetch_bytes": 0}, "prefetch_bytes must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_refused_before_anything_is_read(kwargs, message):
    how = {"train": Read(), "epochs": 1, "learning_rate": 0.1, "writers": [], **kwargs}
    with pytest.raises(ValueError, match=message):
        ody.fit(examples.linear_task(), optax.adam, **how)


def test_a_loader_is_known_by_its_first_batch(tmp_path):
    def loader(shift):
        return lambda step: {k: np.roll(x, shift, 0)[:8] for k, x in examples.arrays().items()}

    def run(shift, **how):
        task = examples.linear_task()
        return ody.fit(task, optax.sgd(0.1), loader(shift), steps_per_epoch=5, writers=[],
                       directory=tmp_path, **how)  # fmt: skip

    run(0, epochs=1)
    run(0, epochs=2)
    with pytest.raises(ValueError, match="another training data. Of a loader the first batch is"):
        run(1, epochs=3)
    assert run(1, epochs=3, run_change="accept").epochs == 3


def test_validation_of_a_part(whole):
    part = fit(None, Read(), epochs=1, valid_steps=2)
    data = {name: x[:10] for name, x in batches_of(Read(**VALID)).items()}
    same = fit(None, Read(), epochs=1, valid=ody.ArrayDataset(data, 5))
    np.testing.assert_allclose(part.history["valid/loss"], same.history["valid/loss"], rtol=1e-6)
    assert part.history["valid/loss"][0] != whole.history["valid/loss"][0]


def batches_of(source):
    reader = source.reader(0, 0)
    batches = [reader.read() for _ in range(source.steps_per_pass)]
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


@pytest.mark.parametrize("steps", [None, 2])
def test_evaluate_over_what_is_read(whole, steps):
    data = batches_of(Read(**VALID))
    data = data if steps is None else {name: x[: 5 * steps] for name, x in data.items()}
    accuracy = {"accuracy": ody.Accuracy()}
    task = examples.linear_task()
    found = ody.evaluate(task, whole.state, Read(**VALID), accuracy, steps=steps)
    here = ody.evaluate(task, whole.state, data, accuracy, batch_size=5)
    assert float(found["loss"]) == pytest.approx(float(here["loss"]), rel=1e-6)
    assert float(found["accuracy"]) == float(here["accuracy"])
    with pytest.raises(ValueError, match="steps must be given: how many batches"):
        ody.evaluate(task, whole.state, Read(endless=True))
    with pytest.raises(ValueError, match="steps=2 has no effect"):
        ody.evaluate(task, whole.state, data, batch_size=5, steps=2)


def test_another_number_of_batches_to_validate_with_is_refused(tmp_path):
    arrays = examples.arrays()
    run = lambda valid_steps, epochs, **options: ody.fit(
        examples.linear_task(), optax.sgd(0.1), ody.HostDataset(arrays, 8),
        ody.HostDataset(arrays, 8), valid_steps=valid_steps, epochs=epochs, steps_per_epoch=2,
        directory=tmp_path, writers=[], **options,
    )  # fmt: skip
    run(2, 1)
    with pytest.raises(ValueError, match="another number of batches to validate with"):
        run(1, 2)
    assert run(1, 2, run_change="accept").epochs == 2
