"""What type checkers say of a user's program."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_pyright_accepts_the_right_program_and_refuses_each_wrong_line(tmp_path):
    for name in ("program.py", "wrong.py"):
        (tmp_path / name).write_text((HERE / name).read_text())
    settings = {
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "extraPaths": [str(HERE.parent.parent)],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, "-p", str(tmp_path)], capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [error for error in found if error["severity"] == "error"]
    right = [e["message"] for e in errors if Path(e["file"]).name == "program.py"]
    assert right == []
    wrong = {e["range"]["start"]["line"] for e in errors if Path(e["file"]).name == "wrong.py"}
    lines = enumerate((HERE / "wrong.py").read_text().splitlines())
    assert wrong == {number for number, line in lines if line.endswith("# wrong")}
