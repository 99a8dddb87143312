"""What the documents show runs: the README's programs as printed, and the notebooks."""

import operator
import re
from pathlib import Path

import nbformat
import numpy as np
import optax
import pytest
from nbclient import NotebookClient

import odyssey_jax as ody
from odyssey_jax import compat

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(index, names):
    exec(compile(PROGRAMS[index], f"README.md, program {index}", "exec"), names)
    return names


@pytest.fixture
def main_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return run(0, {"__name__": "__main__"})


def test_the_readmes_program_runs_as_printed(main_program, capsys):
    first = capsys.readouterr().out
    assert main_program["result"].metrics["valid/accuracy"] > 0.95
    run(0, main_program)  # run the same line again, and it is complete
    assert capsys.readouterr().out == first


def test_the_readmes_schedules_run_as_printed(main_program):
    names = run(1, main_program)
    assert float(names["schedule"](500)) == np.float32(0.1)
    assert float(names["other"](0)) == 0.0
    resolved = names["in_epochs"].resolve(steps_per_epoch=100, total_steps=2_000)
    assert float(resolved(500)) == np.float32(0.1)
    rates = run(2, names)["result"].history["learning_rate"]
    scales = np.asarray(rates) / np.asarray(
        names["schedule"](20 * np.arange(1, len(rates) + 1) - 1)
    )
    assert scales.min() < 0.51  # the rate was cut at least once
    np.testing.assert_allclose(np.log2(scales), np.round(np.log2(scales)), atol=1e-5)


def test_the_readmes_checkpoints_are_read_as_printed(main_program):
    restored = run(3, main_program)["restored"]
    assert (restored.step, restored.tree["epoch"]) == (100, 7)
    assert restored.report.exact
    best = main_program["result"].state.params["head"]["kernel"]
    np.testing.assert_array_equal(restored.tree["params"]["head"]["kernel"], best)


def test_the_readmes_own_loop_runs_as_printed():
    names = run(4, {"__name__": "__main__"})
    assert names["ody"].StopReason(int(names["stop"])).name == "NO_IMPROVEMENT"
    assert abs(names["w"] - names["jnp"].arange(3.0)).max() < 0.05
    assert len(PROGRAMS) == 5


def tables():
    """The lines of each table, by the first cell of its head."""
    found = re.findall(r"(?:^\|.*\n)+", README, flags=re.MULTILINE)
    return {text.split("|")[1].strip(): text.splitlines() for text in found}


def test_the_readmes_callbacks_are_there():
    _, _, *rows = tables()[""]
    names = [name for row in rows for name in re.findall("`(.*?)`", row.split("|")[1])]
    assert len(names) > 10
    for name in names:
        assert operator.attrgetter(name.removeprefix("ody."))(ody), name


def test_the_readmes_table_names_what_is_there():
    _, _, *rows = tables()["odyssey_jax"]
    peers = (ody, compat.torch, optax, compat.timm, compat.transformers, compat.keras)
    ours = set()
    for row in rows:
        for where, cell in zip(peers, row.split("|")[1:-1], strict=True):
            for name in re.findall(r"`([\w.]+)(?=[`(])", cell):
                found = operator.attrgetter(name)(where)  # raises where it is not
                assert callable(found)
                if where is ody:
                    ours.add(name)
    public = {n for n in vars(ody.schedules) if hasattr(ody, n) and n[0].islower()}
    assert public - ours <= {"describe", "lint", "epochs_to_steps"}


def test_the_readme_names_rooms_that_are_there():
    house = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"^  (\w+(?:\.py|/))", house, flags=re.MULTILINE):
        assert (ROOT / "odyssey_jax" / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run_and_are_committed_without_outputs(path, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    assert any("test accuracy" in o.get("text", "") for o in code[-1].outputs)
