"""Mangled documents are a trouble of their own run: they hide no other, and no error escapes."""

import contextlib
import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import odyssey_jax as ody
from odyssey_jax.cli import main

# Numbers that no float holds, text for terminals, and nests.
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([10**400, -(10**30), 1e308, "\x1b[2J", "Infinity", "nan", "min"]),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = (
    *("epoch", "epochs", "metrics", "reason", "stop_reason", "seconds", "schedule", "config"),
    *("samples", "program", "run"),
)
OFTEN = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOOD = {"epoch": 0, "step": 5, "valid/loss": 0.5}


@pytest.fixture
def root(tmp_path):
    """A directory with one good run, and room for one that is not."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "metrics.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "bad").mkdir()
    return tmp_path


def command(*arguments):
    """Run a command: it ends with 0, or with 1 and one line; no escape sequence gets out."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    assert status in (0, 1)
    assert err.getvalue().count("\n") == status
    assert "\x1b" not in out.getvalue() + err.getvalue()
    return out.getvalue()


def check(root):
    """Look at all runs in every way."""
    runs = {run.directory.name: run for run in ody.runs.find_runs(root)}
    good = runs["good"]
    assert (good.epochs, good.best(), good.troubles) == (1, ("valid/loss", 0, 0.5), ())
    for run in runs.values():
        assert isinstance(run.epochs, int)
        assert run.schedule is None or isinstance(run.schedule, str)
        with contextlib.suppress(ValueError):
            run.best()
    with contextlib.suppress(ValueError):
        ody.plots.plot_runs(root)
    assert "good" in command("runs", root)
    command("runs", root, "--json")
    return runs


@OFTEN
@given(data=st.data())
def test_lines_that_are_mangled(root, data):
    rows = [{**GOOD, "epoch": i, data.draw(st.text(max_size=5)): data.draw(VALUES)} for i in (0, 1)]
    name = data.draw(st.sampled_from(["epoch", "step", "valid/loss"]))
    rows[0][name] = data.draw(st.just(rows[0][name]) | VALUES)
    lines = [json.dumps(row) for row in rows]
    lines.insert(data.draw(st.integers(0, 2)), data.draw(st.text() | VALUES.map(json.dumps)))
    text = "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
    cut = data.draw(st.integers(0, len(text)))
    text = data.draw(st.sampled_from([text, text[:cut], text[cut:], text[:cut] + text]))
    (root / "bad" / "metrics.jsonl").write_bytes(text)
    check(root)


@OFTEN
@given(metadata=st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_metadata_that_is_mangled(root, metadata):
    shutil.rmtree(root / "bad")
    with ody.Store(root / "bad" / "checkpoints", monitor="valid/loss") as store:
        try:
            store.save(1, {"w": np.zeros(2)}, metadata)
            store.wait()
        except (ValueError, TypeError, ody.errors.CheckpointError):
            return  # what the store does not take is not on the disk
    check(root)
    for action in ([], ["--json"], ["show", "1"], ["show", "1", "--json"], ["verify"]):
        command("checkpoints", root / "bad", *action)
    command("checkpoints", root / "bad", "prune", "--keep-last", "1")


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"{" * 100_000, b"null", b"[]", b"3", b"", b"\xff\xfe", b"[" + b"9" * 10_000],
)  # fmt: skip
@pytest.mark.parametrize("file", ["metadata/metadata", "checksums.json", "layout/metadata"])
def test_a_checkpoint_that_is_mangled_hides_no_run(root, content, file):
    with ody.Store(root / "bad" / "checkpoints") as store:
        store.save(1, {"w": np.zeros(2)}, {"epoch": 1})
    (root / "bad" / "checkpoints" / "1" / file).write_bytes(content)
    check(root)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000, '{"epoch":' * 50_000, '{"epoch": 0, "a": ' + "9" * 5_000 + "}",
        '{"epoch": 1e300}', '{"epoch": -1}', '{"epoch": 0, "a": [1]}', "x" * 2**21,
    ],
)  # fmt: skip
def test_a_line_that_is_hostile_is_a_trouble(root, line):
    (root / "bad" / "metrics.jsonl").write_text(f"{json.dumps(GOOD)}\n{line}\n")
    bad = check(root)["bad"]
    assert len(bad.troubles) == 1
    assert len(bad.troubles[0]) < 400
    assert bad.epochs == 1


@pytest.mark.parametrize("what", ["fifo", "zero", "directory", "nowhere"])
def test_what_is_no_file_is_not_waited_for(root, what):
    path = root / "bad" / "metrics.jsonl"
    make = {
        "fifo": lambda: os.mkfifo(path),
        "zero": lambda: path.symlink_to("/dev/zero"),
        "directory": path.mkdir,
        "nowhere": lambda: path.symlink_to("nothing"),
    }
    make[what]()
    (trouble,) = check(root)["bad"].troubles
    assert "cannot be read: " in trouble


def test_a_history_of_too_many_names_is_read_to_where_there_is_room(root, monkeypatch):
    monkeypatch.setattr("odyssey_jax.runs._runs._MOST_CELLS", 50)
    rows = [{"epoch": i, **{f"{i}-{k}": 0.5 for k in range(10)}} for i in range(20)]
    (root / "bad" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = check(root)["bad"]
    assert bad.epochs == 2
    assert "is read to line 2" in bad.troubles[0]


def test_escape_sequences_do_not_reach_the_terminal(root, capsys):
    about = {"reason": "x\x1b]52;c;cm0=\x07", "note\x1b[2J": "\x1b[2J", "metrics": {"a\x1b": 1.0}}
    with ody.Store(root / "bad\x1b[2J" / "checkpoints") as store:
        store.save(1, {"w\x1b": np.zeros(2)}, about)
        store.save(2, {"v\x1b": np.zeros(2)}, about | {"note\x1b[2J": "\x1b"})
    bad = root / "bad\x1b[2J"
    assert r"x\x1b]52;c;cm0=\x07" in command("runs", root)
    for action in ([], ["show", "2"], ["diff", "1", "2"], ["verify"], ["verify", "\x1b"]):
        command("checkpoints", bad, *action)
