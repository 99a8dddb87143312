"""The documentation: its programs run and print what is printed, and what it names is there.

That every link leads somewhere, and every docstring can be drawn, `make docs` holds.
"""

import ast
import doctest
import importlib
import importlib.util
import inspect
import operator
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

import pytest

import odyssey_jax as ody

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROGRAMS = DOCS / "programs"
NAMES = sorted(path.relative_to(PROGRAMS).as_posix() for path in PROGRAMS.rglob("*.py"))
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}


def tool(name):
    """Load a module of the site's own, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_build" / f"{name}.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


errors, notebooks, reference = map(tool, ("errors", "notebooks", "reference"))

INCLUDED = re.compile(r'--8<-- "([\w/.]+?\.py)(?::\w+)?"')


def libraries(name):
    """The modules that a program imports."""
    for node in ast.walk(ast.parse((PROGRAMS / name).read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


# Programs of other libraries are run where those are installed: torch is not for every Python.
OTHERS = {"keras", "lightning", "torch", "transformers"}
RUNNABLE = [
    name
    for name in NAMES
    if all(importlib.util.find_spec(each) for each in OTHERS.intersection(libraries(name)))
]


def test_programs_of_ours_are_all_run():
    assert {name for name in NAMES if "_before" not in name and "torch_loader" not in name} <= set(
        RUNNABLE
    )


def promised(name):
    """The lines that the pages with a program say it prints."""
    for text in PAGES.values():
        if name in INCLUDED.findall(text):
            for block in re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL):
                yield from block.splitlines()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
@pytest.mark.parametrize("name", RUNNABLE)
def test_programs_run_as_printed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    runpy.run_path(str(PROGRAMS / name), run_name="__main__")
    printed = iter(capsys.readouterr().out.splitlines())
    checker, how = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for line in promised(name):  # in this order, among others
        assert any(checker.check_output(line + "\n", got + "\n", how) for got in printed), line


def test_no_program_hides_a_package_that_it_needs():
    """Copied under the name above it, `orbax.py` would be what `import orbax` finds."""
    packages = {*metadata.packages_distributions(), *sys.stdlib_module_names}
    assert not packages & {Path(name).stem for name in NAMES}


def test_every_program_is_on_a_page():
    on_pages = {name for text in PAGES.values() for name in INCLUDED.findall(text)}
    assert on_pages == set(NAMES)


def test_every_how_to_and_migration_page_has_a_program():
    for path, text in PAGES.items():
        if path.split("/")[0] in ("how-to", "migration") and not path.endswith("index.md"):
            assert INCLUDED.search(text), path


@pytest.mark.parametrize("folder", ["tutorials", "how-to", "migration"])
def test_the_indices_list_every_page(folder):
    listed = re.findall(r"\]\((\w+\.md)\)", PAGES[f"{folder}/index.md"])
    found = {path.split("/")[1] for path in PAGES if path.startswith(f"{folder}/")}
    assert sorted([*listed, "index.md"]) == sorted(found)


def test_the_index_of_notebooks_lists_every_one():
    listed = re.findall(r"\]\((\w+)\.md\)", PAGES["notebooks/index.md"])
    opened = re.findall(r"/blob/main/notebooks/(\w+)\.ipynb\)", PAGES["notebooks/index.md"])
    found = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(listed) == sorted(opened) == found


def test_the_pictures_of_notebooks_are_of_cells_that_there_are():
    for picture in notebooks.PICTURES.glob("*.png"):
        name, _, index = picture.stem.rpartition("_")
        cells = notebooks.cells(notebooks.NOTEBOOKS / f"{name}.ipynb")
        assert cells[int(index)]["cell_type"] == "code"


def test_pages_load_no_picture_from_elsewhere():
    notes = dict(notebooks.pages())
    for path, text in {**PAGES, **notes}.items():
        assert not re.findall(r"!\[[^]]*\]\(http", text), path
    assert all("[Open in Colab](https://colab" in text for text in notes.values())


def test_programs_show_whole_sections():
    """A section that is included and not there would be left out without a word."""
    for text in PAGES.values():
        for name, section in re.findall(r'--8<-- "([\w/.]+\.py):(\w+)"', text):
            program = (PROGRAMS / name).read_text()
            assert f"# --8<-- [start:{section}]" in program, (name, section)
            assert f"# --8<-- [end:{section}]" in program, (name, section)


NAMED = re.compile(r"`(?:ody|odyssey_jax)\.([\w.]*\w)")


@pytest.mark.parametrize("path", sorted(PAGES))
def test_pages_name_what_is_there(path):
    for name in NAMED.findall(PAGES[path]):
        operator.attrgetter(name)(ody)  # raises where it is not


# Errors


TROUBLE = PAGES["troubleshooting.md"]


def test_errors_that_are_explained_are_in_the_source():
    explained = re.findall(r"^### `(.* .*)` \{ #[\w-]+ \}$", TROUBLE, flags=re.MULTILINE)
    assert len(explained) > 40
    texts = errors.templates()
    for text in explained:
        assert any(text in each for each in texts), text


def test_every_exception_and_warning_has_an_anchor():
    public = {name for name, value in vars(ody.errors).items() if inspect.isclass(value)}
    assert public
    for name in public:
        assert f"### `{name}` {{ #{name.lower()} }}" in TROUBLE


def test_every_error_has_an_anchor():
    """Against a search of the source for what begins a message, which knows nothing of `ast`."""
    page = re.sub(r"\s+", " ", errors.page())
    anchors = re.findall(r'id="([^"]*)"', page)
    assert len(anchors) == len(set(anchors)) > 400
    begins = re.compile(r'raise [A-Z]\w*(?:Error|Warning)\(\s*f?"([^"{}\\]{12,})')
    found = [
        text for path in errors.PACKAGE.rglob("*.py") for text in begins.findall(path.read_text())
    ]
    assert len(found) > 100
    for text in found:
        assert errors.html.escape(text.strip()) in page, text


# Reference


def test_the_reference_has_every_public_name():
    pages = dict(reference.pages())
    everything = "\n".join(pages.values())
    for room in reference.ROOMS:
        for name in reference.names(room):
            where = reference.home()[f"{room}.{name}"]
            assert f"::: {where}\n" in everything, f"{room}.{name}"


def test_the_reference_has_every_public_room():
    public = {name for name, value in vars(ody).items() if inspect.ismodule(value)}
    public = {name for name in public if not name.startswith("_")} & set(ody.__all__)
    assert {room.partition(".")[0] for room in reference.ROOMS} >= public


def test_code_is_linked_to_the_name_that_it_means():
    assert reference.target("ody.fit", False) == "odyssey_jax.fit._fit.fit"
    assert reference.target("ody.cosine_decay", False) == "odyssey_jax.schedules.cosine_decay"
    assert reference.target("early_stopping", True) == "odyssey_jax.callbacks.early_stopping"
    assert reference.target("early_stopping", False) is None
    assert reference.target("ody.no_such_name", False) is None


# Words of ours


GLOSSARY = dict(
    re.findall(r"^### ([\w, ]+) \{ #(\w+) \}$", PAGES["glossary.md"], flags=re.MULTILINE)
)
# Those that mean nothing else in these pages; others are words of every day, too.
OURS = ["carry", "retention", "chunk", "cadence", "population", "block"]


def test_every_term_is_defined_where_it_first_appears():
    order = re.findall(r"\]\((\w+\.md)\)", PAGES["tutorials/index.md"])
    tutorials = "".join(PAGES[f"tutorials/{name}"] for name in order)
    prose = re.sub(r"```.*?```", "", tutorials, flags=re.DOTALL)
    linked = re.findall(r"glossary\.md#(\w+)\)", "\n".join(PAGES.values()))
    assert set(linked) <= set(GLOSSARY.values())
    for word in OURS:
        first = re.search(rf"\b{word}", prose, flags=re.IGNORECASE)
        if first is not None:
            assert prose[: first.end() + 40].count(f"#{word})") == 1, word


def test_terms_are_linked():
    linked = set(re.findall(r"glossary\.md#(\w+)\)", "\n".join(PAGES.values())))
    assert set(GLOSSARY.values()) - linked <= {"shell", "writer", "placement", "block"}
