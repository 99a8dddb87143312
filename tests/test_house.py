"""The house: which room may import which, and that nothing public goes undocumented."""

import ast
import importlib
import inspect
import tomllib
from pathlib import Path
from typing import get_origin

import pytest

import odyssey_jax as ody

PACKAGE = Path(ody.__file__).parent

# What a room may import of the others, besides itself. Private modules at the top are rooms of
# one file; `_types` is the shared vocabulary.
PURE = {"_types", "_opt_state", "_checks", "_direction", "_pytree", "_text"}
ALLOWED = {
    "_pytree": set(),
    "_types": {"_direction", "_opt_state", "_pytree"},
    "_opt_state": {"_pytree"},
    "_checks": set(),
    "_text": set(),
    "_files": set(),
    "_compilation_cache": set(),
    "_direction": set(),
    "_apply_if": PURE,
    "schedules": PURE,
    "metrics": PURE,
    "transforms": PURE | {"schedules"},
    "callbacks": PURE | {"_apply_if", "schedules", "transforms"},
    "data": PURE,
    "parallel": PURE,
    "train": PURE
    | {"_apply_if", "schedules", "metrics", "transforms", "callbacks", "data", "parallel"},
    "feed": PURE | {"_apply_if", "data", "parallel", "train"},
    "store": PURE | {"parallel"},
    "errors": {"store", "parallel"},
    "writers": PURE | {"_files", "plots"},
    "runs": PURE | {"store", "schedules"},
    "plots": PURE | {"_files", "schedules", "runs"},
    "fit": PURE
    | {
        "schedules",
        "transforms",
        "metrics",
        "callbacks",
        "data",
        "parallel",
        "train",
        "feed",
        "store",
    }
    | {"writers", "plots", "runs"},
    "flax": PURE | {"parallel", "train"},
    "eqx": PURE | {"train", "transforms"},
    "compat": PURE | {"schedules"},
    "_digits": {"", "_text", "plots"},
    "cli": {
        "_compilation_cache",
        "_digits",
        "_text",
        "parallel",
        "store",
        "errors",
        "fit",
        "runs",
        "plots",
        "schedules",
    },
    "testing": PURE | {"schedules", "store", "transforms", "callbacks", "train"},
}

# A pure room has no effects: none of these in schedules, metrics, callbacks, data and train.
EFFECTS = {"os", "io", "pathlib", "shutil", "time", "datetime", "random", "logging", "rich"}
PURE_ROOMS = {
    "_types",
    "_opt_state",
    "_checks",
    "_direction",
    "_pytree",
    "_text",
    "schedules",
    "metrics",
    "transforms",
    "callbacks",
    "data",
    "train",
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path} imports relatively from another room"
            inside = ".".join(["odyssey_jax", *path.relative_to(PACKAGE).parts[:-1]])
            module = node.module or ""
            module = f"{inside}.{module}".rstrip(".") if node.level else module
            # `from odyssey_jax import metrics` imports a room, not a name.
            if module == "odyssey_jax":
                yield from (f"{module}.{name.name}" for name in node.names)
            else:
                yield module


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    for module in imports(path):
        top, _, rest = module.partition(".")
        if top == "odyssey_jax":
            other = rest.partition(".")[0]
            assert other == room or other in ALLOWED[room], f"{room} imports {module}"
        elif room in PURE_ROOMS:
            assert top not in EFFECTS, f"{room} is pure, and imports {module}"


def test_every_room_has_its_rule():
    assert {room_of(path) for path in MODULES} == set(ALLOWED)


ROOMS = [
    "schedules",
    "metrics",
    "transforms",
    "callbacks",
    "data",
    "train",
    "feed",
    "parallel",
    "store",
    "fit",
    "writers",
    "plots",
    "runs",
    "errors",
    "testing",
]
COMPAT = ["compat.torch", "compat.timm", "compat.transformers", "compat.keras"]
PUBLIC = [
    pytest.param(value, id=f"{module}.{name}")
    for module in ["odyssey_jax", *(f"odyssey_jax.{room}" for room in [*ROOMS, *COMPAT])]
    for found in [importlib.import_module(module)]
    for name in dir(found)
    for value in [getattr(found, name)]
    if not name.startswith("_") and not inspect.ismodule(value) and callable(value)
    if get_origin(value) is None  # a type's other name has no docstring
]


@pytest.mark.parametrize("value", PUBLIC)
def test_public_names_are_documented(value):
    doc = value.__doc__ or ""
    # A NamedTuple or a dataclass without a docstring is given its signature as one.
    generated = f"{getattr(value, '__name__', '')}("
    assert doc.removeprefix(generated) == doc != "", value
    if inspect.isclass(value):
        for name, member in vars(value).items():
            own = inspect.isfunction(member) or isinstance(member, (classmethod, property))
            if own and not name.startswith("_"):
                assert inspect.getdoc(getattr(value, name)), f"{value.__name__}.{name}"


SHELL = ("fit", "store", "writers", "plots", "runs", "cli")
HIDDEN = {"Carry", "ArrayDataset", "Loop", "Inputs", "Resident", "run_compiled"}


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) in SHELL], ids=lambda p: p.name)
def test_the_shell_opens_no_carry(path):
    """It knows a run by its `Program`, its `Progress` and its `Calendar`, and data by `Source`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("odyssey_jax"):
            assert not HIDDEN & {name.name for name in node.names}


def test_one_file_imports_fsspec():
    packages = ("fsspec", "s3fs", "gcsfs", "boto3", "etils")
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(module.partition(".")[0] in packages for module in imports(path))
    }
    assert importers == {"store/_objects.py"}


def test_one_file_imports_orbax():
    """Its next API, 1.0, then changes that file alone; until then it is kept out."""
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(module.partition(".")[0] in ("orbax", "tensorstore") for module in imports(path))
    }
    assert importers == {"store/_orbax.py"}
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    (pinned,) = [x for x in project["dependencies"] if x.startswith("orbax-checkpoint")]
    assert pinned.endswith(",<1")
