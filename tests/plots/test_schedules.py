"""Schedules drawn, as a picture and as text: every curve where it belongs, at every width."""

import numpy as np
import pytest

import odyssey_jax as ody
from odyssey_jax.plots._schedules import step_label

RECIPE = ody.warmup_cosine(0.1, 1_000, 10_000, end_value=0.01)


def test_a_picture_of_one(tmp_path):
    figure = ody.plot(RECIPE, 12_000, steps_per_epoch=500, path=tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    ax = figure.axes[0]
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, RECIPE(np.asarray(x)), rtol=1e-6)
    assert {0, 999, 1_000, 10_000, 11_999} <= set(x)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [1_000, 10_000]
    assert [text.get_text() for text in ax.texts] == ["cosine decay", "held", "linear warmup"]
    (epochs,) = ax.child_axes
    assert epochs.get_xlabel() == "epoch"
    figure.canvas.draw()
    assert epochs.get_xlim() == (0, 24)


def test_a_picture_of_several():
    figure = ody.plot({"ours": RECIPE, "plain": lambda t: 0.05}, 12_000, log=True)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "plain"]
    assert figure.axes[0].get_yscale() == "log"
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[0])  # 0 has no logarithm
    twice = ody.plot([RECIPE, RECIPE])
    assert len(twice.legends[0].get_texts()) == 2
    assert len(ody.plot([ody.cosine_decay(n, 9) for n in range(1, 30)]).axes[0].lines) == 29


def test_names_are_shown_as_they_are(tmp_path):
    schedules = {"_mine": RECIPE, r"$\frac$": 2 * RECIPE}
    figure = ody.plot(schedules, path=tmp_path / "lr.png")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(schedules)


def test_stairs_stay_upright_in_a_long_run():
    stairs = ody.join([ody.constant(x) for x in (3.0, 2.0, 1.0)], [10**9, 2 * 10**9])
    x, y = ody.plot(stairs, 2**31 - 1).axes[0].lines[0].get_data()
    assert len(x) < 20_000
    assert (y[list(x).index(10**9 - 1)], y[list(x).index(10**9)]) == (3.0, 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ody.plot([]), "there is no schedule to draw"),
        (lambda: ody.plot(ody.constant(0.1)), "total_steps must be given for a schedule without"),
        (lambda: ody.plot(RECIPE, 0), "total_steps must be in the range"),
        (lambda: ody.plot(RECIPE, steps_per_epoch=0), "steps_per_epoch must be greater than 0"),
        (lambda: ody.plot(RECIPE, path="lr.bad"), "must end in one of .*png"),
        (lambda: ody.plot([0.1]), "schedule must be a schedule.*got schedule = 0.1"),
        (
            lambda: ody.plot(ody.cosine_decay(0.1, ody.schedules.epochs(3)), 9),
            "is written in epochs",
        ),
        (
            lambda: ody.plots.plot_text(RECIPE, width=9),
            "width must be an integer of at least 20, got 9",
        ),
        (lambda: ody.plots.plot_text(RECIPE, height=2), "height must be an integer of at least 3"),
        (
            lambda: ody.plots.plot_text(RECIPE, characters="dots"),
            "must be 'braille' or 'ascii', got 'dots'",
        ),
        (lambda: ody.plots.plot_text(ody.constant(0.0), 9, log=True), "no value above 0"),
    ],
)
def test_what_cannot_be_drawn(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_chart_says_where_its_curve_is():
    chart = ody.plots.plot_text(ody.cosine_decay(0.1, 100), width=46, height=5, characters="ascii")
    assert chart.splitlines() == [
        " 0.1|**********",
        "    |         *********",
        "0.05|                 *******",
        "    |                        ********",
        "   0|                               **********",
        "    ++-------------------+--------------------",
        "     0                  50",
    ]


@pytest.mark.parametrize("characters", ["braille", "ascii"])
@pytest.mark.parametrize("width", [20, 21, 33, 80, 200])
@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (RECIPE, 12_000),
        (RECIPE, 2**31 - 1),
        (ody.constant(0.1), 1),
        (ody.constant(0.0), 2),
        (ody.step_decay(-1e-12, 3), 7),
        (ody.cosine_decay(1e30, 5) - 5e29, 5),
    ],
)
def test_a_chart_fits_its_width(schedule, steps, width, characters):
    for log in (False, True):
        if log and float(schedule(min(steps, 1_000) - 1)) <= 0:
            continue
        lines = ody.plots.plot_text(
            schedule, steps, width=width, height=6, log=log, characters=characters
        ).splitlines()
        assert len(lines) == 8
        assert all(len(line) <= width for line in lines)
        assert lines[-1].split()[0] == "0"
        # The curve is there from the first column on, and each row begins with the axis.
        axis = "│" if characters == "braille" else "|"
        assert len({line.index(axis) for line in lines[:6]}) == 1
        assert any(line.partition(axis)[2].strip() for line in lines[:6])
        if characters == "ascii":
            assert "\n".join(lines).isascii()


def test_charts_of_several_share_their_axes():
    chart = ody.plots.plot_text(
        {"high": ody.constant(0.1), "low": ody.constant(0.05)}, 9, width=30, height=3
    ).splitlines()
    assert (chart[0], chart[6]) == ("high", "low")
    assert chart[1].startswith("0.1│⠉")
    assert chart[8].startswith("   │⠤")


def test_steps_read_as_people_write_them():
    labels = {0: "0", 12_000: "12,000", 2_500_000: "2.5M", 2_000_000_000: "2B"}
    assert {step: step_label(step) for step in labels} == labels
