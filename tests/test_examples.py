"""The examples: at most 120 lines each, and every one interrupted and gone on with to the bit."""

import importlib
from pathlib import Path

import jax
import pytest

import odyssey_jax as ody
from tests import examples

ROOT = Path(__file__).parents[1]
NAMES = sorted(x.stem for x in (ROOT / "examples").glob("*.py") if x.stem != "__init__")

# What is shorter than it is for users.
SHORT = {"byte_transformer": {"steps_per_epoch": 4}, "physics_informed": {"steps_per_epoch": 3}}
IN_X64 = {"physics_informed"}
EPOCHS, LEFT_AT = 3, 2


def leave(view):
    if view.epoch == LEFT_AT:
        raise KeyError("left")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short(name):
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) <= 120


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_to_the_bit(name, tmp_path):
    """The exception stands for all that ends a run: what was saved last is gone on from."""
    module = importlib.import_module(f"examples.{name}")
    options = {"epochs": EPOCHS, "writers": [], **SHORT.get(name, {})}
    with jax.enable_x64(name in IN_X64):
        whole = module.run(tmp_path / "whole", **options)
        left = {**options, "hooks": [ody.hook(leave)]}
        with pytest.raises(KeyError, match="left"):
            module.run(tmp_path / "left", **left)
        again = module.run(tmp_path / "left", **options)
        assert again.epochs == whole.epochs == EPOCHS
        examples.assert_same(again.state, whole.state)
        examples.assert_same(dict(again.history), dict(whole.history))
