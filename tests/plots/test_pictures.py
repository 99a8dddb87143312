"""The pictures: drawn headless, written whole or not at all, and errors that say why."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from odyssey_jax.plots import _confusion, plot_history, save_confusion, save_curves

PNG = b"\x89PNG\r\n\x1a\n"


def a_history(epochs=40):
    t = np.arange(epochs)
    return {
        "train/loss": 2.3 * np.exp(-t / 6) + 0.01,
        "valid/loss": 2.3 * np.exp(-t / 6) + 0.07 + 0.001 * t,
        "valid/accuracy": 1 - 0.9 * np.exp(-t / 4),
        "learning_rate": 3e-3 * np.minimum(t / 3, 0.5 * (1 + np.cos(np.pi * t / epochs))),
        "steps_per_second": np.ones(3),
    }


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures drawn, to look inside."""
    drawn = []

    def make(*args, **kwargs):
        drawn.append(Figure(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr("matplotlib.figure.Figure", make)
    return drawn


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_curves_have_a_panel_for_what_there_is(tmp_path, figures):
    path = tmp_path / "curves.png"
    save_curves(a_history(), path, best_epoch=17)
    assert path.read_bytes().startswith(PNG)
    assert os.listdir(tmp_path) == ["curves.png"]
    loss, accuracy, rate = figures[0].axes
    assert loss.get_ylabel() == "loss (log scale)"
    assert [t.get_text() for t in loss.get_legend().get_texts()] == [
        "train",
        "valid",
        f"best epoch 17: {a_history()['valid/loss'][17]:.4g}",
    ]
    assert accuracy.get_ylabel() == "accuracy"
    assert (rate.get_ylabel(), rate.get_xlabel()) == ("learning rate", "epoch")


@pytest.mark.parametrize(
    "history",
    [
        {"train/loss": [1.0]},
        {"valid/loss": np.array([np.nan, np.nan])},
        {"train/loss": np.array([-1.0, 2.0, np.inf]), "epoch": np.array([5, 6, 7])},
        {"learning_rate": np.zeros(3)},
    ],
)
def test_curves_of_odd_histories(tmp_path, history):
    save_curves(history, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


def test_confusion_shows_counts(tmp_path, figures):
    counts = np.array([[50, 2, 0], [1, 47, 0], [0, 0, 0]])
    save_confusion(counts, tmp_path / "m.png", class_names=["cat", "dog", "none of these"])
    ax = figures[0].axes[0]
    assert texts(ax) == ["50", "2", "1", "47"]
    assert ax.get_title() == "97 of 100 right (97.0%)"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["cat", "dog", "none of these"]


def test_mistakes_have_a_scale_of_their_own(tmp_path, figures):
    counts = np.array([[996, 4], [0, 1000]])
    save_confusion(counts, tmp_path / "m.png")
    ax = figures[0].axes[0]
    right, wrong = ax.images
    assert (right.norm.vmin, right.norm.vmax) == (0, 1)
    assert (wrong.norm.vmin, wrong.norm.vmax) == (0, 0.004)
    shade = wrong.cmap(wrong.norm(wrong.get_array()))
    assert np.abs(shade[0, 1, :3] - shade[1, 0, :3]).max() > 0.5, "4 of 1,000 are seen"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1"]


@pytest.mark.parametrize(
    ("rates", "scale"),
    [
        (0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(40) / 39)), "linear"),
        (0.1 * 10 ** -(np.arange(40) / 8), "log"),
        (np.zeros(40), "linear"),
        (np.full(40, np.nan), "linear"),
    ],
)
def test_rates_that_span_decades_are_logarithmic(rates, scale):
    (ax,) = plot_history({"learning_rate": rates}).axes
    assert ax.get_yscale() == scale


def test_without_an_epoch_column_they_count_from_0():
    (ax,) = plot_history({"train/loss": [2.0, 1.0, 0.5]}).axes
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2]


def test_control_characters_of_a_name_are_not_drawn(tmp_path):
    (ax,) = plot_history({"train/a\x1b[2J": [2.0, 1.0]}, path=tmp_path / "a.png").axes
    assert ax.get_ylabel() == r"a\x1b[2J"


def test_a_link_at_the_place_of_a_picture_is_replaced(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("m.png", f".m.png.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(victim)
    save_confusion(np.eye(2, dtype=int), tmp_path / "m.png")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "m.png").is_symlink()


def test_confusion_of_many_and_of_nothing(tmp_path, figures):
    save_confusion(np.eye(100, dtype=int), tmp_path / "m.svg")
    save_confusion(np.zeros((2, 2), int), tmp_path / "m.svg")
    assert not texts(figures[0].axes[0])
    assert figures[1].axes[0].get_title() == "0 of 0 right"


def test_what_was_there_is_kept_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "m.png"
    path.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_confusion(np.eye(2, dtype=int), path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["m.png"]
    with pytest.raises(FileNotFoundError, match=r"absent/m.png could not be written: No such file"):
        save_confusion(np.eye(2, dtype=int), tmp_path / "absent" / "m.png")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: save_curves({}, p), "there is nothing to draw: .* and has nothing"),
        (lambda p: save_curves({"los": [1]}, p), "and has 'los'"),
        (
            lambda p: save_curves({"train/loss": [1, 2], "valid/loss": [1]}, p),
            r"one value for each of 2 epochs .* 'valid/loss': \[1\]",
        ),
        (lambda p: save_curves({"train/loss": []}, p), "at least one epoch"),
        (
            lambda p: save_curves({"train/loss": [1, 2]}, p, best_epoch=2),
            "best_epoch must be one of the epochs 0 to 1, got 2",
        ),
        (
            lambda p: save_confusion(np.ones((2, 3), int), p),
            r"square matrix, got shape \[2, 3\]",
        ),
        (lambda p: save_confusion(-np.eye(2, dtype=int), p), "must not be negative, got -1"),
        (
            lambda p: save_confusion(np.eye(2, dtype=int), p, ["a"]),
            "class_names must be 2 names, one for each class, got 1",
        ),
        (
            lambda p: save_confusion(np.eye(2, dtype=int), p.with_suffix(".docx")),
            r"must end in one of .*png.*, got 'x.docx'",
        ),
    ],
)
def test_refuses(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "x.png")
    assert not os.listdir(tmp_path)


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'odyssey-jax\[plot\]'$"):
        save_confusion(np.eye(2, dtype=int), tmp_path / "m.png")


def test_import_needs_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    program = (
        "import sys, numpy as np, runpy\n"
        f"pictures = runpy.run_path({_confusion.__file__!r})\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"pictures['save_confusion'](np.eye(2, dtype=int), {str(tmp_path / 'm.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_notebook_shows_a_figure_without_pyplot(tmp_path):
    program = (
        "import copy, pickle, sys\n"
        "from IPython.core.formatters import DisplayFormatter\n"
        "from odyssey_jax import plot_history\n"
        "figure = plot_history({'train/loss': [2.0, 1.0]})\n"
        "for each in (figure, copy.deepcopy(figure), pickle.loads(pickle.dumps(figure))):\n"
        "    shown, _ = DisplayFormatter().format(each)\n"
        "    assert shown['image/png'].startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_metrics_that_are_one_name():
    with pytest.raises(ValueError, match=r"several names, such as \['loss'\], got 'loss'"):
        plot_history({"train/loss": np.array([1.0])}, "loss")


def test_names_are_shown_as_they_are(tmp_path):
    history = {r"valid/$\frac$": [2.0, 1.0], "_mine": [1.0, 2.0]}
    figure = plot_history(history, path=tmp_path / "history.png")
    first, second = figure.axes
    assert first.get_ylabel() == r"$\frac$"
    assert [text.get_text() for text in second.get_legend().get_texts()] == ["_mine"]
    save_confusion(np.eye(2, dtype=int), tmp_path / "confusion.png", [r"$\frac$", "b"])


def test_values_that_are_missing_are_bridged_by_dots():
    loss = np.array([3.0, np.nan, 2.0, np.nan, np.nan, 1.0])
    history = {"train/loss": np.ones(6), "valid/ood/loss": loss}
    train, ood = plot_history(history, best_epoch=3).axes
    (curve,) = (line for line in ood.lines if line.get_marker() == "o")  # and no star at a NaN
    assert (curve.get_xdata().tolist(), curve.get_ydata().tolist()) == ([0, 2, 5], [3, 2, 1])
    assert [line.get_marker() for line in train.lines] == ["None", "None", "*"]
