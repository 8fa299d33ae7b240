# Everything works from a fresh clone: each target makes what it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-slow check notebooks wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        the whole chain on built-in footage (some minutes after the installation)"
	@echo "make test        the tests; needs no network, no GPU"
	@echo "make test-slow   the long tests"
	@echo "make check       linters, formatter, types"
	@echo "make notebooks   execute the notebooks"
	@echo "make install     only the environment, in .venv"

install: $(STAMP)

# The stamp is newer than what defines the environment, so nothing is installed twice.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; on Debian: apt-get install python3 python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
	  || { echo "the venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: install
	$(BIN)/python -m anomaly demo

test: install
	$(BIN)/python -m pytest

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: install
	$(BIN)/python notebooks/run.py

wheel: install
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
