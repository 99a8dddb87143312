# Each target sets itself up: nothing is needed but python3 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The suite is bound by compiling, so it gains from a process for each core.
WORKERS ?= auto

.PHONY: train test lint types tests slow core clean

train: $(VENV)/ready-digits  ## the main job: learns to read digits, in runs/digits
	$(BIN)/odyssey-jax train $(ARGS)

test: lint types tests slow  ## everything

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

tests: $(VENV)/ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) --durations 10

slow: $(VENV)/ready-dev  ## what takes minutes: runs killed at random instants, the notebook
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

core: $(VENV)/ready-dev  ## what another Python must pass too
	$(BIN)/python -m pytest -n $(WORKERS) tests

$(VENV)/ready-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV)
