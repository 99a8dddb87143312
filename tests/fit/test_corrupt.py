"""fit goes on from the newest checkpoint that is good, and loses none that is."""

import jax.numpy as jnp
import optax
import pytest

import odyssey_jax as ody
from tests.examples import assert_same


def run(directory, epochs=6, **kwargs):
    task = ody.pure_task(jnp.zeros(()), lambda w, batch: ((w - batch) ** 2).mean())
    data = ody.ArrayDataset(jnp.linspace(0.0, 1.0, 8), batch_size=4, shuffle=True)
    callbacks = ody.checkpoint(every_epochs=1, keep_last=3, keep_best=1, monitor="valid/loss")
    return ody.fit(
        task, optax.adam(0.1), data, data, epochs=epochs, directory=directory, writers=[],
        callbacks=callbacks, **kwargs,
    )  # fmt: skip


def damage(directory, step, file):
    path = directory / "checkpoints" / str(step) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return run(directory).carry, ody.store.Reader(directory / "checkpoints").steps()


@pytest.mark.parametrize("file", ["state/packed.float32/0", "metadata/metadata"])
def test_the_run_goes_back_and_gets_there_again(tmp_path, whole, file):
    run(tmp_path, epochs=4)
    reader = ody.store.Reader(tmp_path / "checkpoints")
    *_, good, newer, newest = reader.steps()
    damage(tmp_path, newest, file)
    damage(tmp_path, newer, file)
    with pytest.warns(
        ody.errors.CheckpointSkippedWarning, match=f"step {good} is taken, and not the"
    ):
        result = run(tmp_path)
    assert_same(result.carry, whole[0])
    assert reader.steps() == whole[1]
    for step in reader.steps():
        assert reader.verify(step) > 0


def test_all_are_corrupt(tmp_path):
    run(tmp_path, epochs=2)
    reader = ody.store.Reader(tmp_path / "checkpoints")
    for step in reader.steps():
        damage(tmp_path, step, "metadata/metadata")
    with pytest.raises(
        ody.errors.CheckpointCorruptError, match=r"as the latest: step 4 .*; step 2 "
    ):
        run(tmp_path)
    run(tmp_path, epochs=1, resume=False)
    assert reader.steps() == (2,)
