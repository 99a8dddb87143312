"""`odyssey-jax checkpoints`: what it lists, verifies, shows, compares, exports and deletes."""

import errno
import io
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import odyssey_jax as ody
import odyssey_jax.store._format as format_module
from odyssey_jax.cli import main

LOSSES = {10: 0.5, 20: 0.25, 30: float("nan")}


def tree(step):
    return {
        "params": {"w": jnp.full((2, 3), step, jnp.bfloat16), "b": np.arange(4.0) + step},
        "key": jax.random.key(7),
        "name": "run",
        "opt": (jnp.zeros((), jnp.int32),),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's directory with three checkpoints; 20 is the best, 10 is pinned."""
    root = tmp_path_factory.mktemp("run")
    directory = root / "checkpoints"
    with ody.Store(directory, keep_last=None, keep_best=1, monitor="loss") as store:
        for epoch, (step, loss) in enumerate(LOSSES.items(), 1):
            metrics = {"loss": loss, "accuracy": 0.125}
            store.save(step, tree(step), {"epoch": epoch, "metrics": metrics, "config": {"a": [1]}})
            store.wait()
        store.pin(10)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy of it, to be broken."""
    return shutil.copytree(made, tmp_path / "run")


def run(capsys, *arguments, status=0):
    assert main(["checkpoints", *map(str, arguments)]) == status
    return capsys.readouterr().out


def run_json(capsys, *arguments, status=0):
    def refuse(name):
        raise ValueError(name)

    return json.loads(run(capsys, *arguments, "--json", status=status), parse_constant=refuse)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_list(made, capsys):
    head, *lines, total = run(capsys, made).splitlines()
    assert head.split() == ["step", "epoch", "metrics", "size", "format", "odyssey_jax", "saved"]
    assert [line.split()[:4] for line in lines] == [
        ["10", "0", "loss", "0.5"],
        ["20", "1", "loss", "0.25"],
        ["30", "2", "loss", "nan"],
    ]
    assert [line.split("ago")[1].strip() for line in lines] == ["pinned", "best", "latest"]
    assert total.startswith("3 checkpoints, ")
    assert total.endswith("best by min of loss")
    assert run(capsys, made / "checkpoints").splitlines()[-1] == total


def test_the_list_in_json(made, capsys):
    found = run_json(capsys, made)
    assert (found["monitor"], found["mode"]) == ("loss", "min")
    ten, twenty, thirty = found["checkpoints"]
    assert (ten["step"], ten["epoch"], ten["metrics"]["loss"]) == (10, 0, 0.5)
    assert ten["bytes"] == sum(
        path.stat().st_size for path in (made / "checkpoints" / "10").rglob("*") if path.is_file()
    )
    assert ten["format_version"] == ody.store.FORMAT_VERSION
    assert ten["versions"]["jax"] == jax.__version__
    assert thirty["metrics"]["loss"] is None
    assert [x["pinned"] for x in (ten, twenty, thirty)] == [True, False, False]
    assert [x["best"] for x in (ten, twenty, thirty)] == [False, True, False]
    assert [x["latest"] for x in (ten, twenty, thirty)] == [False, False, True]
    assert not any(x["error"] for x in (ten, twenty, thirty))


def test_another_metric_says_what_is_best(made, capsys):
    options = (made, "--monitor", "accuracy", "--mode", "max")
    assert run_json(capsys, *options)["checkpoints"][0]["best"]
    assert run_json(capsys, made, "--monitor", "accuracy")["checkpoints"][0]["best"]
    assert main(["checkpoints", str(made), "--monitor", "size"]) == 1
    assert (
        "whether less or more of 'size' is better is not known: give mode (--mode) 'min' or"
        in capsys.readouterr().err
    )


def test_what_the_system_refuses_may_be_the_best(root, capsys, monkeypatch):
    opened = io.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("20/metadata/metadata"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)
    _, *lines, total = run(capsys, root).splitlines()
    assert [line.split()[0] for line in lines] == ["10", "20", "30"]
    assert lines[1].endswith("cannot be read: 20/metadata/metadata: Permission denied")
    assert not [line for line in lines if line.split()[-1].startswith("best")]
    assert "best by min of" in total


def test_what_cannot_be_read_hides_no_other(root, capsys):
    checkpoints = root / "checkpoints"
    flip(checkpoints / "30" / "metadata" / "metadata")
    (checkpoints / "20" / "layout" / "metadata").unlink()
    orbax = checkpoints / "40" / "default"
    orbax.mkdir(parents=True)
    _, *lines, total = run(capsys, root).splitlines()
    assert [line.split()[0] for line in lines] == ["10", "20", "30", "40"]
    assert "layout/metadata is missing" in lines[1]
    assert "metadata/metadata is damaged" in lines[2]
    assert "cannot be read" in lines[3]
    assert "latest" in lines[3]
    assert total.startswith("4 checkpoints")
    errors = [x["error"] for x in run_json(capsys, root)["checkpoints"]]
    assert errors[0] is None
    assert all(errors[1:])


def test_a_newer_format_is_listed_and_not_verified(root, capsys, monkeypatch):
    monkeypatch.setattr(format_module, "FORMAT_VERSION", 99)
    with ody.Store(root / "checkpoints", keep_last=None) as store:
        store.save(50, tree(50), {"epoch": 5})
    monkeypatch.undo()
    last = run_json(capsys, root)["checkpoints"][-1]
    assert (last["step"], last["latest"], last["epoch"]) == (50, True, None)
    assert last["error"].startswith("has format version 99, and this odyssey_jax")
    assert "step 50: has format version 99" in run(capsys, root, "verify", status=1)


def test_what_is_deleted_while_it_is_listed_is_left_out(root, capsys, monkeypatch):
    """As when a run goes on saving meanwhile."""
    leaves = ody.store.Reader.leaves

    def delete_and_read(reader, step):
        if step == 20:
            shutil.rmtree(root / "checkpoints" / "20")
        return leaves(reader, step)

    monkeypatch.setattr(ody.store.Reader, "leaves", delete_and_read)
    steps = [x["step"] for x in run_json(capsys, root)["checkpoints"]]
    assert steps == [10, 30]


def test_verify(root, capsys):
    assert run(capsys, root, "verify").count(": good, ") == 3
    flip(next((root / "checkpoints" / "20" / "state").glob("packed.float64/0")))
    ten, twenty, _ = run(capsys, root, "verify", status=1).splitlines()
    assert twenty.startswith("step 20: state/packed.float64/0 is damaged")
    assert ten.startswith("step 10: good")
    assert run(capsys, root, "verify", "10", "latest").count("good") == 2
    found = run_json(capsys, root, "verify", "best", status=1)["checkpoints"]
    assert [(x["step"], x["bytes"]) for x in found] == [(20, None)]
    assert "state/packed.float64/0" in found[0]["error"]


def test_show(made, capsys):
    out = run(capsys, made, "show", "best")
    assert "step: 20\n" in out
    assert "epoch: 1, the last that has ended\n" in out
    assert 'config: {"a": [1]}' in out
    lines = [line.split() for line in out.split("\n\n")[1].splitlines()]
    assert lines[0] == ["tree", "value", "size"]
    assert ["key", "key<fry>[]", "8", "B"] in lines
    assert ["name", "str", "'run'", "0", "B"] in lines
    assert ["params", "2", "leaves", "44", "B"] in lines
    assert ["w", "bfloat16[2,3]", "12", "B"] in lines
    assert ["0", "int32[]", "4", "B"] in lines
    assert "5 leaves, 56 B; " in out
    assert "w" not in run(capsys, made, "show", "20", "--depth", "1").split("\n\n")[1].split()
    leaves = run_json(capsys, made, "show", "20")["leaves"]
    assert {leaf["name"]: leaf["nbytes"] for leaf in leaves}["params/b"] == 32


def test_diff(made, tmp_path, capsys):
    out = run(capsys, made, "diff", "10", "20").splitlines()
    assert "['params']['b']: max abs difference 10 in 4 of 4 values" in out
    assert "['params']['w']: max abs difference 10 in 6 of 6 values" in out
    assert "metadata epoch: 1 in A, 2 in B" in out
    assert "metadata metrics.loss: 0.5 in A, 0.25 in B" in out
    assert out[-1] == "3 of 5 leaves are equal to the bit"
    other = {**tree(10), "params": {"w": jnp.zeros((2, 2), jnp.bfloat16)}, "new": 1, "name": "b"}
    with ody.Store(tmp_path / "other") as store:
        store.save(1, other, {"metrics": {"loss": 0.5}})
    out = run(capsys, made, "diff", "10", f"{tmp_path}/other:latest").splitlines()
    assert "['params']['b']: only in A, float64[4]" in out
    assert "['new']: only in B, int 1" in out
    assert "['params']['w']: bfloat16[2,3] in A, bfloat16[2,2] in B" in out
    assert "['name']: 'run' in A, 'b' in B" in out
    assert out[-1] == "2 of 6 leaves are equal to the bit"
    assert run_json(capsys, made, "diff", "10", "10") == {"equal": 5, "leaves": {}, "metadata": {}}


def test_nan_is_like_nan_and_unlike_all_else(tmp_path, capsys):
    with ody.Store(tmp_path, keep_last=None) as store:
        store.save(1, {"x": np.array([np.nan, 1.0, np.inf, 2.0]), "y": np.nan}, {})
        store.save(2, {"x": np.array([np.nan, 1.0, np.inf, 3.0]), "y": np.nan}, {})
        store.save(3, {"x": np.array([np.nan, np.nan, np.inf, 2.0]), "y": np.nan}, {})
    assert "max abs difference 1 in 1 of 4 values" in run(capsys, tmp_path, "diff", "1", "2")
    assert "max abs difference nan in 1 of 4 values" in run(capsys, tmp_path, "diff", "1", "3")


def test_integers_are_compared_exactly_and_zeros_have_a_sign(tmp_path, capsys):
    big, lowest = 2**60, np.iinfo(np.int64).min
    first = {
        "big": np.array([big, 0]), "far": np.array([lowest, 5]), "small": np.array([1], "int4"),
        "unsigned": np.array([2**64 - 1, 3], np.uint64), "zero": np.array([0.0, 1.0]), "py": 0.0,
    }  # fmt: skip
    second = {
        "big": np.array([big + 1, 0]), "far": np.array([lowest + 1, 7]),
        "small": np.array([-2], "int4"), "unsigned": np.array([2**64 - 3, 3], np.uint64),
        "zero": np.array([-0.0, 1.0]), "py": -0.0,
    }  # fmt: skip
    with ody.Store(tmp_path, keep_last=None) as store:
        store.save(1, first, {})
        store.save(2, second, {})
    assert run(capsys, tmp_path, "diff", "1", "2").splitlines() == [
        "['big']: max abs difference 1 in 1 of 2 values",
        "['far']: max abs difference 2 in 2 of 2 values",
        "['py']: 0.0 in A, -0.0 in B",
        "['small']: max abs difference 3 in 1 of 1 values",
        "['unsigned']: max abs difference 2 in 1 of 2 values",
        "['zero']: the sign of a zero or the bits of a NaN, in 1 of 2 values",
        "0 of 6 leaves are equal to the bit",
    ]


def test_a_tree_without_leaves_and_names_that_no_terminal_writes(tmp_path, capsys):
    with ody.Store(tmp_path, keep_last=None) as store:
        store.save(1, {}, {"note": "\ud800"})
        store.save(2, {"w": np.ones(1)}, {"\udfff": "x"})
    out = run(capsys, tmp_path, "show", "1")
    assert "note: \\ud800\n" in out
    assert "\n\n0 leaves, 0 B; " in out
    assert run_json(capsys, tmp_path, "show", "1")["leaves"] == []
    assert "\\udfff: x\n" in run(capsys, tmp_path, "show", "2")
    assert "metadata note: '\\ud800' in A" in run(capsys, tmp_path, "diff", "1", "2")
    assert main(["checkpoints", str(tmp_path), "show", "best"]) == 1
    assert "by which one is best: give --monitor and --mode" in capsys.readouterr().err


def test_export(made, tmp_path, capsys):
    file, folder = tmp_path / "model.safetensors", tmp_path / "model"
    out = run(capsys, made, "export", "best", file, "--subtree", "params")
    assert out.startswith(f"in {file}: params of step 20, ")
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    assert header["w"] == {"dtype": "BF16", "shape": [2, 3], "data_offsets": [32, 44]}
    params = ("--subtree", "params")
    run(capsys, made, "export", "20", folder, *params)
    with ocp.StandardCheckpointer() as orbax:
        found = orbax.restore(folder)
    np.testing.assert_array_equal(found["b"], tree(20)["params"]["b"])
    assert main(["checkpoints", str(made), "export", "20", str(file), *params]) == 1
    assert "is there already" in capsys.readouterr().err
    nowhere = ("--subtree", "state/params")
    assert main(["checkpoints", str(made), "export", "20", str(tmp_path / "x"), *nowhere]) == 1
    assert "there is no subtree 'state/params'; there are " in capsys.readouterr().err


def test_a_suffix_and_a_format_that_differ_are_refused(made, tmp_path, capsys):
    path = str(tmp_path / "m.safetensors")
    assert main(["checkpoints", str(made), "export", "10", path, "--format", "orbax"]) == 1
    assert "a .safetensors file and not of format='orbax'" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_prune_says_and_with_yes_does(root, capsys):
    def steps():
        return ody.store.Reader(root / "checkpoints").steps()

    options = ("prune", "--keep-last", 1)
    out = run(capsys, root, *options)
    assert out.splitlines()[0] == "kept: 10, 30"
    assert out.splitlines()[1].startswith("to be deleted with --yes: 20, ")
    assert steps() == (10, 20, 30)
    assert "kept: 10, 20, 30\n" in run(capsys, root, *options, "--keep-best", 1)
    assert "kept: 10, 20, 30\n" in run(capsys, root, *options, "--keep-every", 20)
    assert "deleted: 20" in run(capsys, root, *options, "--yes")
    assert steps() == (10, 30)


def test_prune_leaves_what_it_cannot_read(root, capsys):
    flip(root / "checkpoints" / "20" / "metadata" / "metadata")
    out = run(capsys, root, "prune", "--keep-last", 1, "--yes")
    assert "? step 20 is kept, since it cannot be read: metadata/metadata is damaged" in out
    assert ody.store.Reader(root / "checkpoints").steps() == (10, 20, 30)


def test_looking_changes_nothing(made, capsys):
    def files():
        return {path: os.stat(path).st_mtime_ns for path in made.rglob("*")}

    before = files()
    for arguments in ([], ["verify"], ["show", "best"], ["diff", "10", "20"]):
        run(capsys, made, *arguments)
    run(capsys, made, "prune", "--keep-last", 1)
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none': it is not a directory; give that of a run or a store"),
        (["checkpoints/10/state"], "there is no checkpoint in "),
        (["", "show", "11"], "no step 11 in "),
        (["", "show", "newest"], "a step is a number, 'latest' or 'best'; got 'newest'"),
        (["", "show", "-1"], "a step is a number, 'latest' or 'best'; got '-1'"),
        (["", "show", "10", "--depth", "0"], "--depth must be at least 1, got 0"),
        (["", "verify", "10", "11"], "committed are [10, 20, 30]"),
        (
            ["", "diff", "10", "none:10"],
            "there is no checkpoint in 'none': it is not a directory; give that of a run",
        ),
        (["", "prune", "--keep-last", "0"], "--keep-last must be at least 1, got 0"),
        (["", "prune", "--keep-last", "1", "--keep-every", "0"], "--keep-every must be at least 1"),
        (["", "prune"], None),
    ],
)
def test_mistakes_are_one_line(made, capsys, arguments, message):
    command = ["checkpoints", str(made / arguments[0]), *arguments[1:]]
    if message is None:  # argparse's own
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 2
        return
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
