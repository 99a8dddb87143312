"""What a program waits for before it trains: imports, and programs that are compiled already."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import odyssey_jax as ody
from odyssey_jax.cli import main

HEAVY = [
    "IPython",
    "equinox",
    "flax",
    "grain",
    "matplotlib",
    "orbax",
    "rich",
    "tensorstore",
    "torch",
]


def python(code, **environment):
    """Run a program in a fresh process, and return what it printed, as JSON."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(ran.stdout)


def test_the_import_loads_nothing_that_is_not_needed_yet():
    loaded = "sorted({name.partition('.')[0] for name in sys.modules})"
    found = python(f"import json, sys, odyssey_jax; print(json.dumps({loaded}))")
    assert "optax" in found
    assert not set(found) & set(HEAVY)


def test_what_is_of_flax_is_there_when_asked_for():
    code = "import json, odyssey_jax as ody; t = ody.nnx_task; print(json.dumps([t.__module__, "
    code += "ody.nnx_task is t, ody.flax.nnx_task is t, 'linen_task' in dir(ody)]))"
    assert python(code) == ["odyssey_jax", True, True, True]


CACHED = """
import json, jax, odyssey_jax as ody
jax.jit(lambda x: x + 1)(1.0)  # before the cache is there
path = ody.enable_compilation_cache()
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
jax.jit(lambda x: 3 * x)(2.0)
print(json.dumps([str(path), len(hits)]))
"""


def test_a_program_is_compiled_once_for_all_processes(tmp_path):
    own = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path)}
    path, hits = python(CACHED, **own)
    assert (path, hits) == (str(tmp_path / "odyssey_jax"), 0)
    assert any(Path(path).iterdir())
    assert python(CACHED, **own) == [path, 1]


def test_the_directory_that_is_set_for_jax_is_kept(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "set"))
    assert ody.enable_compilation_cache() == tmp_path / "set"
    assert ody.enable_compilation_cache(tmp_path / "given") == tmp_path / "given"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")


@pytest.mark.parametrize("home", ["", "relative"])
def test_without_a_place_of_its_own_it_is_below_the_home(home, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    assert ody.enable_compilation_cache() == tmp_path / ".cache" / "odyssey_jax"


@pytest.mark.parametrize("given", [[], ["--no-compilation-cache"]])
def test_the_command_keeps_programs_unless_told_not_to(given, monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "set"))
    seen = []
    monkeypatch.setattr(
        "odyssey_jax.cli._train.train_digits",
        lambda *args: seen.append(jax.config.jax_enable_compilation_cache) or 0,
    )
    assert main(["train", "--directory", str(tmp_path / "run"), *given]) == 0
    assert seen == [not given]
    assert (tmp_path / "set").exists() == (not given)
