# The two commands, `make simulate` and `make test`, do all the set-up that they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?=

DATA ?= ../shared/data/heart-disease

.PHONY: help simulate consortium test test-fast lint types contracts docs wheel wheelhouse check clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "FedMed needs Python 3.11 or newer, $(PYTHON) is older; set PYTHON=python3.x" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

simulate: $(STAMP)  ## Train a shared adapter across four synthetic hospitals (RUN="key=value ..." to change it)
	$(BIN)/fedmed simulate $(RUN)

consortium: SHELL := bash
consortium: $(STAMP)  ## The same over real processes: a coordinator and four sites, on DATA or synthetic hospitals
	@set -o pipefail; words="experiment=consortium $(RUN)"; \
	if [ -d "$(DATA)" ]; then words="data=heart_disease scenario=heart_disease_twice data.root=$(DATA) $$words"; fi; \
	$(BIN)/fedmed simulate $$words | sed '$$s|$$|/summary.json|'

test: $(STAMP)  ## Run the whole test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not processes"
	$(BIN)/python -m pytest -m processes || { echo "again, what failed: real processes on a busy machine may be late once, not twice" >&2; \
	  $(BIN)/python -m pytest -m processes --last-failed --last-failed-no-failures none; }

test-fast: $(STAMP)  ## Run the tests that take less than ten seconds each
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy --strict
	$(BIN)/mypy

contracts: $(STAMP)  ## import contracts
	$(BIN)/lint-imports

docs: $(STAMP)  ## Build the documentation, warnings are errors
	$(BIN)/mkdocs build --strict --quiet --site-dir site-docs

wheel: $(STAMP)  ## Build the wheel and test it in a clean environment
	$(BIN)/python tests/wheel_check.py

wheelhouse: $(STAMP)  ## Wheels of FedMed and all that it needs, for machines without the internet
	$(BIN)/python -m pip wheel --quiet --constraint constraints.txt --wheel-dir wheelhouse '.[tables,imaging,chinese,onnx]'

check: lint types contracts docs wheel test  ## All that CI runs

clean:  ## Remove what was built
	rm -rf $(VENV) dist build wheelhouse site-docs .mypy_cache .pytest_cache .ruff_cache .hypothesis
