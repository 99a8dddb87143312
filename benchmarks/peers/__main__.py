"""The digits job, and a streamed CNN, as others' libraries have them written.

``python -m benchmarks.peers [--quick] [--json FILE] [--docs FILE] [--environments DIR]``

Each peer is a program in `benchmarks/peers/programs`, run in a virtual environment with its
packages alone (peers that need the same ones share it). What can't be installed is skipped, with
a line. The programs take turns, in a new order each round; each is a process of its own, which
trains one epoch (cold: from the process's start, imports and compilation included) and then the
whole job (warm: the quickest of some later calls). All of them keep a history, stop early (here
never: each does the same work) and return the parameters of the best epoch.

``--quick`` installs nothing, and leaves out what is not there.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax._compilation_cache import default_directory
from odyssey_jax._digits import load_digits

PROGRAMS = Path(__file__).parent / "programs"
CHECKOUT = Path(__file__).parents[2]
LONGEST, INSTALLING = 120, 900  # s, of a program and of an environment
MEASURES = ("warm", "cold", "memory")


class Peer(NamedTuple):
    """One way to write the job.

    Attributes:
        program: The file's name.
        packages: What is installed for it.
        jobs: Those that it does: "digits", "digits saved" each epoch, "cnn" streamed.
        options: Of the job, for it alone.
        epochs: Of a digits run: fewer for those that take long, and have nothing to compile anew
            for more than one.
    """

    program: str
    packages: tuple[str, ...]
    jobs: tuple[str, ...] = ("digits", "digits saved", "cnn")
    options: Mapping[str, Any] = {}
    epochs: int = 100


JAX = ("jax", "flax", "optax", "orbax-checkpoint")
TORCH = ("torch", "lightning")
PEERS = {
    "one compiled program": Peer("bare", JAX, ("digits",)),
    "an epoch compiled, by hand": Peer("functional", JAX, ("digits", "digits saved")),
    "odyssey_jax": Peer("odyssey", ("--editable", str(CHECKOUT))),
    "NNX's own loop": Peer("nnx_loop", JAX, epochs=20),
    "Keras on JAX": Peer("keras_jax", ("keras", "jax"), epochs=20),
    "Keras on JAX, 39 steps per execution": Peer(
        "keras_jax", ("keras", "jax"), ("digits", "digits saved"), {"steps_per_execution": 39}, 20
    ),
    "Kauldron": Peer("kauldron_train", ("kauldron",), epochs=80),
    "PyTorch": Peer("pytorch", TORCH, epochs=20),
    "Lightning": Peer("lightning_loop", TORCH, epochs=20),
}
DIGITS = {"name": "digits", "streamed": False, "batch": 32, "valid_batch": 90, "rate": 3e-3}
DIGITS |= {"room": 128, "steps_per_execution": 1}
CNN = {"name": "cnn", "streamed": True, "batch": 32, "valid_batch": 32, "rate": 1e-3, "room": 8}
CNN |= {"steps_per_execution": 1, "warm": 1}


def environment(folder: Path, packages: Sequence[str], install: bool) -> Path | None:
    """Return the Python of an environment with these packages; None where there is none."""
    name = "-".join(Path(x).name for x in packages if not x.startswith("-"))
    place = folder / f"{name}-{platform.python_version()}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.exists():
        return python
    if not install:
        print(f"left out: {name}, which is not installed in {folder}")
        return None
    print(f"installing {name} in {place}", flush=True)
    venv.create(place, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "uv"]
    # In seconds what pip alone tries versions of for a quarter of an hour, as for Kauldron.
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    try:
        for command in (pip, [*uv, *packages]):
            subprocess.run(
                command, check=True, timeout=INSTALLING, stderr=subprocess.PIPE, text=True
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = str(error.stderr or error).strip().splitlines()[-1]
        print(f"skipped: {name} can't be installed: {reason}")
        return None
    ready.touch()
    return python


def write_data(folder: Path, images: int) -> dict[str, Path]:
    """Write the arrays of both jobs; return job -> folder."""
    places = {"digits": folder / "digits", "cnn": folder / "cnn"}
    sets = dict(zip(("train", "valid", "test"), load_digits(32), strict=True))
    drawn = np.random.default_rng(0)
    for place in places.values():
        place.mkdir()
    for part, found in sets.items():
        for name, x in found.data.items():
            np.save(places["digits"] / f"{part}_{name}.npy", np.asarray(x))
        count = images if part == "train" else 256
        pixels = drawn.integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
        np.save(places["cnn"] / f"{part}_image.npy", pixels)
        labels = drawn.integers(10, size=count, dtype=np.int32)
        np.save(places["cnn"] / f"{part}_label.npy", labels)
    return places


def measure(peer: Peer, python: Path, job: str, data: Mapping[str, Path], quick: bool) -> Any:
    """Run a program once; return its report, or None, having said why there is none."""
    slow = peer.epochs < 100
    epochs = 2 if job == "cnn" else peer.epochs // 4 if quick and slow else peer.epochs
    return report_of(peer, python, job, data, epochs)


def report_of(
    peer: Peer,
    python: Path,
    job: str,
    data: Mapping[str, Path],
    epochs: int,
    **variables: str,
) -> Any:
    """Run a program for so many epochs; of a single one, cold, no more is measured."""
    base, slow = CNN if job == "cnn" else DIGITS, peer.epochs < 100
    arrays = [f"{a}_{b}" for a in ("train", "valid", "test") for b in ("image", "label")]
    given: dict[str, Any] = {**base, **({"warm": 0} if slow else {}), **peer.options}
    given |= {"epochs": epochs, "patience": 10**6, "arrays": arrays}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        kept = [str(Path(folder) / "checkpoints")] if job == "digits saved" else []
        environment = {**os.environ, "PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "", **variables}  # as what is installed has it
        given["started"] = time.time()
        command = [python, f"{peer.program}.py", json.dumps(given), data[base["name"]], report]
        try:
            subprocess.run(
                [str(x) for x in [*command, *kept]],
                cwd=PROGRAMS,
                env=environment,
                check=True,
                timeout=LONGEST,
                capture_output=True,
                text=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = [x for x in str(error.stderr or error).splitlines() if "Error: " in x]
            reason = (lines or [str(error)])[-1].strip()
            print(f"skipped: {peer.program}, {job}: {reason}")
            return None
        found = json.loads(report.read_text())
    return found | {"warm": found.get("warm", 0.0) / epochs, "epochs": epochs}


def lines_of_code(program: str) -> int:
    """Count the lines of a program, and of the models that it imports, that say something."""
    text = (PROGRAMS / f"{program}.py").read_text()
    imported = [x.split()[1] for x in text.splitlines() if x.startswith("from _models ")]
    count = sum(map(lines_of_code, imported))
    text = text.partition('if __name__ == "__main__":')[0]
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        documents = token.type == tokenize.STRING and token.line.startswith('"""')
        if token.type not in ignored | {tokenize.ENDMARKER} and not documents:
            lines.update(range(token.start[0], token.end[0] + 1))
    return count + len(lines)


def as_markdown(found: Mapping[str, Mapping[str, list[Any]]], rounds: int) -> str:
    """Return the page: a table for each job, medians and the spread."""
    now = datetime.datetime.now(datetime.UTC).date()
    load = os.getloadavg()[1]
    versions: dict[str, str] = {}
    parts = [
        "# Peers, measured",
        "Written by `python -m benchmarks.peers --docs docs/peers.md`; the programs are in "
        "`benchmarks/peers/programs`. Warm: ms an epoch of a later call in the process, with "
        "validation, history, early stopping and the best parameters. Cold: s from the start of "
        "the process to the end of the first epoch. Memory: the most that the process held. Each "
        "is a median, with the least and the most in brackets. Lines: of the whole program, its "
        "model included. Kauldron compiles anew for each `Trainer`, which is in its warm time; it "
        "neither stops early nor keeps the best by itself, so an evaluator of the program does.",
        f"{now}, {platform.machine()}, {os.cpu_count()} CPU cores, load {load:.1f}, Python "
        f"{platform.python_version()}, {rounds} rounds by turns.",
    ]
    titles = {
        "digits": "The digits, an MLP on 1,258 examples",
        "digits saved": "The digits, with a checkpoint each epoch",
        "cnn": "A CNN on images that are streamed",
    }
    for job, title in titles.items():
        if not found[job]:
            continue
        rows = []
        for name, reports in found[job].items():
            cells = [name]
            for measure, unit, digits in (("warm", 1e-3, 1), ("cold", 1, 1), ("memory", 1e6, 0)):
                values = [report[measure] / unit for report in reports]
                middle, least, most = statistics.median(values), min(values), max(values)
                cells.append(f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})")
            accuracy = statistics.median(report["accuracy"] for report in reports)
            after = f"{accuracy:.3f} after {reports[0]['epochs']} epochs"
            cells.append("" if job == "cnn" else after)
            cells.append(str(lines_of_code(PEERS[name].program)))
            rows.append(f"| {' | '.join(cells)} |")
            for report in reports:
                versions |= report["versions"]
        head = "| | warm, ms an epoch | cold, s | memory, MB | test accuracy | lines |"
        table = [head, "|---|---|---|---|---|---|", *rows]
        parts += [f"## {title}", "\n".join(table)]
    parts.append("Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the reports there")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--environments",
        type=Path,
        default=default_directory() / "peers",
        metavar="DIR",
        help="where the environments are made (default: %(default)s)",
    )
    options = parser.parse_args()
    quick, rounds = options.quick, 1 if options.quick else options.rounds
    pythons = {
        packages: environment(options.environments, packages, install=not quick)
        for packages in dict.fromkeys(peer.packages for peer in PEERS.values())
    }
    jobs = ("digits",) if quick else ("digits", "digits saved", "cnn")
    todo = [
        (name, job)
        for name, peer in PEERS.items()
        for job in jobs
        if job in peer.jobs and pythons[peer.packages] is not None
    ]
    found: dict[str, dict[str, list[Any]]] = {
        job: {name: [] for name, other in todo if other == job}
        for job in ("digits", "digits saved", "cnn")
    }
    shuffle, order = random.Random(0).shuffle, list(todo)
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), 512 if quick else 1_024)
        for number in range(rounds):
            shuffle(order)
            for name, job in order:
                python = pythons[PEERS[name].packages]
                assert python is not None
                report = measure(PEERS[name], python, job, data, quick)
                if report is not None:
                    found[job][name].append(report)
                    shown = ", ".join(f"{x} {report[x]:.4g}" for x in MEASURES)
                    print(f"round {number}, {job}, {name}: {shown}", flush=True)
    found = {job: {k: x for k, x in each.items() if x} for job, each in found.items()}
    page = as_markdown(found, rounds)
    print(f"\n{page}")
    if options.docs is not None:
        options.docs.write_text(page)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
