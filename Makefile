# Each target sets itself up: nothing is needed but python3 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The suite is bound by compiling, so it gains from a process for each core.
WORKERS ?= auto

.PHONY: train test lint types tests slow core docs pictures clean

train: $(VENV)/ready-digits  ## the main job: learns to read digits, in runs/digits
	$(BIN)/odyssey-jax train $(ARGS)

test: lint  ## lint, pyright, and the tests but for the slow ones
	$(MAKE) --jobs 2 types tests

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

tests: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) --durations 10

slow: $(VENV)/ready-dev  ## the slow ones: several processes, runs killed at random instants, the notebooks
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

# What another Python, and the JAX that it resolves, may change: the rooms that compile programs,
# and what is saved. Other libraries' curves, pictures, the documents and the shell are left out.
CORE := tests/train tests/fit tests/store tests/callbacks tests/schedules/test_contract.py \
  tests/metrics tests/transforms tests/data tests/feed tests/parallel tests/test_house.py

core: $(VENV)/ready-dev  ## what another Python must pass too
	$(BIN)/python -m pytest -n $(WORKERS) $(CORE)

# The theme's announcements are kept out. Not --quiet: warnings that aren't logged fail nothing.
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/ready-docs  ## the site, in build/site; a warning fails it
	$(BIN)/mkdocs build --strict

pictures: $(VENV)/ready-docs  ## the documents' pictures, by the library's own plots
	$(BIN)/python docs/_build/pictures.py

# Half of pip's time would go to the bytecode of modules, most of which nothing imports. What is
# imported writes its own, once: without it, each of the tests' processes takes 2 s longer to start.
unexport PYTHONDONTWRITEBYTECODE
$(VENV)/ready-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV)
