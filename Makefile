# Every target installs what it needs into .venv, once; `make demo` on a fresh clone is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test docs faults faults-nightly fuzz lint clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing gorp into $(VENV), with the versions of constraints.txt"
	@$(PIP) install -qq --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the tools for tests and lint into $(VENV)"
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.runtime
	@echo "installing the tools for the docs site into $(VENV)"
	@$(PIP) install -qq --constraint constraints.txt --editable '.[docs]'
	@touch $@

demo: $(VENV)/.runtime  ## learn the built-in stream with three methods and write the report to runs/demo
	$(BIN)/gorp demo --out runs/demo

test: $(VENV)/.dev  ## the fast tests; `make test PYTEST_ARGS='-m slow'` for the slow ones
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(PYTEST_ARGS)

docs: $(VENV)/.docs  ## the docs site, in build/site; broken links and anchors are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fuzz: $(VENV)/.dev  ## ten thousand configs, rows, spaces and run folders that may be anything; about six minutes
	GORP_FUZZ=$${GORP_FUZZ:-10000} OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz

faults: $(VENV)/.dev  ## every fault at every moment of a run, as a table; about six minutes on two cores
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults $(FAULTS_ARGS)

faults-nightly: $(VENV)/.dev  ## 200 random kills over a run of five tasks
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m faults --kills 200 $(FAULTS_ARGS)

lint: $(VENV)/.dev  ## style and strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove the environment and the caches, not the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
