"""What type checkers say of a user's program, as strict as they can be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = str(HERE.parent.parent)
PROGRAMS = ("program.py", "wrong.py")


def _check(found, wrong):
    """Compare pairs of a program's name and the numbers of the lines that are refused."""
    assert [line for name, line in found if name == "program.py"] == []
    lines = enumerate((HERE / "wrong.py").read_text().splitlines(), 1)
    marked = {number for number, line in lines if line.endswith(wrong)}
    assert {line for name, line in found if name == "wrong.py"} == marked


def _is_of_jax(error):
    """Return whether it is that JAX's `jnp.zeros` and others give `device` no type."""
    unknown = error["rule"] == "reportUnknownMemberType"
    return unknown and "device: Unknown | Sharding" in error["message"]


@pytest.mark.slow
def test_pyright_accepts_the_right_program_and_refuses_each_wrong_line(tmp_path):
    for name in PROGRAMS:
        (tmp_path / name).write_text((HERE / name).read_text())
    settings = {
        "typeCheckingMode": "strict",
        "reportMissingTypeStubs": False,  # Optax has types, and no stubs
        "pythonVersion": "3.11",
        "extraPaths": [ROOT],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", str(tmp_path)], capture_output=True, text=True)
    errors = [x for x in json.loads(done.stdout)["generalDiagnostics"] if not _is_of_jax(x)]
    found = [(Path(x["file"]).name, x["range"]["start"]["line"] + 1) for x in errors]
    _check(found, "# wrong")


@pytest.mark.slow
def test_mypy_accepts_the_right_program_and_refuses_each_wrong_line(tmp_path):
    for name in PROGRAMS:
        (tmp_path / name).write_text((HERE / name).read_text())
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\n"
        # What is installed is not for a user's checker to judge.
        f"mypy_path = {ROOT}\n[mypy-odyssey_jax.*]\nfollow_imports = silent\n"
        "[mypy-optax.*]\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--output", "json", *PROGRAMS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    errors = [x for x in map(json.loads, done.stdout.splitlines()) if x["severity"] == "error"]
    _check([(x["file"], x["line"]) for x in errors], "# wrong")
