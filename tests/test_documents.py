"""What the documents show runs, and the names and rooms that they speak of are there."""

import operator
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import optax
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

import odyssey_jax as ody
from odyssey_jax import compat
from tests.test_house import ALLOWED, PURE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
NOTEBOOKS = {  # what the last cell prints, and how many pictures there are
    "colab_tpu.ipynb": ("validation accuracy", 1),
    "data_from_grain.ipynb": ("validation accuracy", 2),
    "flax_loops_of_ones_own.ipynb": ("validation accuracy", 2),
    "quickstart.ipynb": ("test accuracy", 4),
    "schedules_in_optax_chains.ipynb": ("best validation loss", 6),
    "sweep.ipynb": ("accuracy", 2),
}


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
    assert f"It ends with `{main_program['result'].reason}`" in README
    run(0, main_program)  # run the same line again, and it is complete
    assert capsys.readouterr().out == first


def test_the_readmes_data_trains_as_printed(main_program):
    metrics = run(1, main_program)["result"].metrics
    assert metrics["valid/unseen/loss"] < 0.5
    assert metrics["valid/all/loss"] < 0.5


def test_the_readmes_checkpoints_are_read_as_printed(main_program):
    restored = run(2, main_program)["restored"]
    assert (restored.step, restored.tree["epoch"]) == (100, 7)
    assert restored.report.exact
    best = main_program["result"].state.params["head"]["kernel"]
    np.testing.assert_array_equal(restored.tree["params"]["head"]["kernel"], best)


def test_the_readme_is_of_a_page_that_is_read():
    assert len(PROGRAMS) == 3
    assert len(README.splitlines()) <= 200


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r'\]\(([^):#]+)\)|src="([^":]+)"', README)
    assert len(links) > 8
    for link in links:
        assert (ROOT / "".join(link)).exists(), link


def test_a_package_page_has_no_relative_link():
    """By the rules in pyproject.toml, which hatch applies when it builds a package."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    page = README
    for rule in rules["hooks"]["fancy-pypi-readme"]["substitutions"]:
        page = re.sub(rule["pattern"], rule["replacement"], page)
    assert re.findall(r"\]\((?!https://|#)|src=\"(?!https://)", page) == []
    assert "](https://github.com/" in page
    assert 'src="https://' in page


def tables(document):
    """The lines of each table, by the first cell of its head."""
    found = re.findall(r"(?:^\|.*\n)+", document, flags=re.MULTILINE)
    return {text.split("|")[1].strip(): text.splitlines() for text in found}


def test_the_callbacks_of_the_table_are_there():
    _, _, *rows = tables((ROOT / "docs/tutorials/callbacks.md").read_text())[""]
    names = [name for row in rows for name in re.findall(r"`ody\.(.*?)`", row.split("|")[1])]
    assert len(names) > 10
    for name in names:
        operator.attrgetter(name)(ody)  # raises where it is not


# What `ody.schedules` has beside schedules: for looking at them and for writing one's own.
TOOLS = {"builds", "check_learning_rate", "describe", "differences", "epochs_to_steps", "from_form"}
TOOLS |= {
    "improves",
    "lint",
    "named_form",
    "no_average",
    "node",
    "observed",
    "real",
    "smoothed",
    "survey",
    "worst",
}


def test_the_table_of_schedules_names_every_one():
    _, _, *rows = tables((ROOT / "docs/schedules.md").read_text())["ody.schedules"]
    peers = (compat.torch, optax, compat.timm, compat.transformers, compat.keras)
    peers = (ody.schedules, *peers)
    ours, on_top = set(), set()
    for row in rows:
        cells = row.split("|")[1:-1]
        for where, cell in zip(peers, cells, strict=True):
            for name in re.findall(r"`([\w.]+)(?=[`(])", cell):
                assert callable(operator.attrgetter(name)(where))  # raises where it is not
        ours |= set(re.findall(r"`(\w+)`", cells[0]))
        on_top |= set(re.findall(r"\*\*`(\w+)`\*\*", cells[0]))
    public = {n for n, value in vars(ody.schedules).items() if n[0].islower() and callable(value)}
    assert ours == public - TOOLS
    assert on_top == ours & set(ody.__all__)


def test_the_architecture_names_rooms_that_are_there():
    house = ARCHITECTURE.split("## The rooms")[1].split("```")[1].removeprefix("\nodyssey_jax/\n")
    named = re.findall(r"(\w+(?:\.py|/))(?= |$)", house, flags=re.MULTILINE)
    for name in named:
        assert (ROOT / "odyssey_jax" / name).exists(), name
    rooms = {name.removesuffix("/").removesuffix(".py") for name in named}
    assert rooms == {room for room in ALLOWED if room[0] != "_"} | {"_types"}


def test_the_architectures_arrows_are_those_of_the_house():
    """Whatever a room may import stands to the left of it."""
    picture = ARCHITECTURE.split("## The rooms")[1].split("```")[3]
    layers = [set(re.findall(r"\w+", layer)) for layer in picture.split("<-")]
    assert set.union(*layers) == {room for room in ALLOWED if room[0] != "_"} | {"_types"}
    for place, layer in enumerate(layers):
        left = set.union(set(), *layers[:place])
        for room in layer:
            assert {name for name in ALLOWED[room] if name and name[0] != "_"} <= left, room


def test_the_architectures_table_has_the_arrows_of_the_house():
    _, _, *rows = tables(ARCHITECTURE)["room"]
    found = {}
    for row in rows:
        room, _, allowed = (cell.strip() for cell in row.split("|")[1:-1])
        found[room.strip("`/").removesuffix(".py")] = set(re.findall(r"`(\w+)`", allowed))
    assert found == {
        room: {name or "odyssey_jax" for name in names - PURE}
        for room, names in ALLOWED.items()
        if room not in PURE
    }


PATH = r"`((?:odyssey_jax|tests|benchmarks|notebooks)/[\w./]*|\w+/_\w+\.py)`"


@pytest.mark.parametrize("document", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contrib"])
def test_the_documents_name_files_that_are_there(document):
    named = re.findall(PATH, document)
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "odyssey_jax" / name).exists(), name


@pytest.mark.parametrize("document", [ARCHITECTURE, CONTRIBUTING], ids=["architecture", "contrib"])
def test_the_documents_name_what_is_there(document):
    for name in re.findall(r"`ody\.([\w.]*\w)", document):
        assert operator.attrgetter(name)(ody), name


def test_every_notebook_is_run():
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


def cells(name):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    return ["".join(cell.source) for cell in notebook.cells]


INSTALL = re.compile(
    r"^(REPOSITORY = .*?\n    import odyssey_jax as ody\n)\n(?:import|from)", re.DOTALL
)


def test_every_notebook_installs_the_same_way_and_opens_in_colab():
    """By the address in one variable: no index has the package."""
    ways = set()
    for name in NOTEBOOKS:
        sources = cells(name)
        assert f"/blob/main/notebooks/{name})" in sources[0]
        (found,) = filter(None, map(INSTALL.match, sources))
        ways.add(found[1])
        assert 'print(f"{jax.device_count()} x {jax.devices()[0].device_kind}")' in found.string
    (way,) = ways
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert way.startswith(f'REPOSITORY = "{urls["Source"]}"\n')


@pytest.mark.parametrize("in_a_checkout", [True, False])
def test_notebooks_install_from_the_checkout_or_from_the_repository(
    in_a_checkout, tmp_path, monkeypatch
):
    (folder := tmp_path / "notebooks").mkdir()
    if in_a_checkout:
        (tmp_path / "odyssey_jax").mkdir()
        (tmp_path / "odyssey_jax/__init__.py").touch()
    monkeypatch.chdir(folder)
    shell = InteractiveShell()
    installed = []

    def pip(line):
        installed.append(line)
        monkeypatch.setitem(sys.modules, "odyssey_jax", ody)

    shell.register_magic_function(pip, "line", "pip")
    monkeypatch.setitem(sys.modules, "odyssey_jax", None)  # not there
    shell.run_cell(INSTALL.match(cells("quickstart.ipynb")[1])[1]).raise_error()
    where = tmp_path.as_uri() if in_a_checkout else "git+https://github.com/odyssey-jax/odyssey_jax"
    assert installed == [f'install --quiet "odyssey-jax[digits,grain] @ {where}" "jax[]"']
    assert shell.user_ns["ody"] is ody


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run_and_are_committed_without_outputs(name, tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    printed, count = NOTEBOOKS[name]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pictures = [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == count
    assert any(printed in o.get("text", "") for o in code[-1].outputs)
