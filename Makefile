# Every target creates what it needs. Needs only make and Python 3.11 or newer (with its venv module):
#   make demo PYTHON=python3.12

PYTHON ?= python3
# Most tests wait for processes, so there may be more of them at once than cores.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OLDER := .venvs/older-fastapi

.DEFAULT_GOAL := help
.PHONY: help demo test soak check audit docs format lint layers types bench bench-setup bench-quick hot-path clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

demo: $(VENV)/.has-examples  ## deploy a real model, ask it something, serve until Ctrl-C
	@$(BIN)/python -m examples.demo

test: $(VENV)/.has-test $(OLDER)/.installed  ## all tests, with real processes
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

soak: $(VENV)/.has-test  ## the storm for SOAK_S seconds (600): kills, deploys and scaling under load
	SOAK_S=$${SOAK_S:-600} $(BIN)/python -m pytest -s tests/chaos/test_storm.py

check: lint  ## format, lint, layers, types and the tests without processes
	$(BIN)/python -m pytest -q -m "not processes"

lint: $(VENV)/.has-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

audit: $(VENV)/.has-test  ## look the installed packages up in the database of known vulnerabilities
	$(PIP) install 'pip-audit>=2.7'
	$(BIN)/pip-audit --skip-editable --progress-spinner off

docs: $(VENV)/.has-test  ## write the pages of docs/ that are made from code and tables
	$(BIN)/python -m tests.compat.render
	$(BIN)/python -m tests.docs.render
	$(BIN)/python -m tests.python.test_settings_page

format: $(VENV)/.has-dev  ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

layers: $(VENV)/.has-dev
	$(BIN)/lint-imports

types: $(VENV)/.has-dev
	$(BIN)/mypy

bench-setup: $(VENV)/.has-bench  ## install the servers we compare with, each into .venvs/
	$(BIN)/python -m benchmarks setup

bench: $(VENV)/.has-bench  ## all that is installed, side by side; writes benchmarks/results/latest.md (BENCH="--rounds 5")
	$(BIN)/python -m benchmarks run $(BENCH)

bench-quick: $(VENV)/.has-bench  ## serve-lite beside bare servers, in minutes
	$(BIN)/python -m benchmarks run --quick --contenders serve-lite,limits $(BENCH)

hot-path: $(VENV)/.has-test  ## count the calls of a request anew, after a change that is meant to alter them
	UPDATE_HOT_PATH=1 $(BIN)/python -m pytest -q tests/benchmarks/test_hot_path.py

clean:  ## remove environments, caches and build products
	rm -rf .venv .venvs dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "serve-lite needs Python 3.11 or newer, and $(PYTHON) is older or missing. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra; redone when pyproject.toml changes.
$(VENV)/.has-%: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[$*]'
	@touch $@

# Beside the environment, not in it: tests put this folder in front of it.
$(OLDER)/.installed: tests/python/older-fastapi.txt | $(BIN)/python
	rm -rf $(OLDER)
	$(PIP) install --target $(OLDER) --requirement $<
	@touch $@
