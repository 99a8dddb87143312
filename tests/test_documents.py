"""What the documents show runs: the README's programs as printed, and the notebooks."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("index", range(len(PROGRAMS)))
def test_the_readmes_programs_run_as_printed(index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(PROGRAMS[index], f"README.md, program {index}", "exec"), names)
    first = capsys.readouterr().out
    if "directory=" in PROGRAMS[index]:  # run the same line again, and it is complete
        assert names["result"].metrics["valid/accuracy"] > 0.95
        exec(compile(PROGRAMS[index], f"README.md, program {index}", "exec"), names)
        assert capsys.readouterr().out == first
    else:
        assert names["ody"].StopReason(int(names["stop"])).name == "NO_IMPROVEMENT"
        assert abs(names["w"] - names["jnp"].arange(3.0)).max() < 0.05


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
