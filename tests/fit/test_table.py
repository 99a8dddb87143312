"""The history as a table: a mapping, a text, a data frame, a picture."""

import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax.fit import Table


def table(rows):
    return Table({"epoch": np.arange(rows), "train/loss": np.linspace(2.0, 1.0, rows)})


def test_it_is_a_mapping():
    assert list(table(2)) == ["epoch", "train/loss"]
    assert dict(table(2))["epoch"].tolist() == [0, 1]
    with pytest.raises(KeyError, match="there is no column 'loss'; there are: epoch, train/loss"):
        table(2)["loss"]


def test_it_prints_its_ends():
    assert repr(table(3)).splitlines() == [
        "epoch  train/loss",
        "    0           2",
        "    1         1.5",
        "    2           1",
    ]
    lines = repr(table(1_000)).splitlines()
    assert len(lines) == 12
    assert lines[6].split() == ["...", "..."]
    assert lines[-1].split() == ["999", "1"]
    assert repr(Table({})) == ""


def test_it_is_a_data_frame():
    frame = table(4).to_pandas()
    assert list(frame.columns) == ["epoch", "train/loss"]
    assert frame["train/loss"].iloc[-1] == 1.0
    assert len(frame) == 4


def test_every_metric_is_drawn_and_the_chosen_ones_alone(tmp_path):
    history = dict(table(5)) | {"valid/loss": np.ones(5), "valid/f1": np.ones(5)}
    history |= {"learning_rate": np.ones(5)}
    figure = ody.plot_history(history, best_epoch=2, path=tmp_path / "history.svg")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "f1", "learning rate"]
    assert "<svg" in (tmp_path / "history.svg").read_text()
    figure = ody.plot_history(history, ["f1"])
    assert [axes.get_ylabel() for axes in figure.axes] == ["f1"]
    with pytest.raises(ValueError, match="there is no 'f2' in the history; draw of:"):
        ody.plot_history(history, ["f2"])
