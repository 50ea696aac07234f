# Targets with a "##" comment are listed by `make help`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-failure test test-fast bench lint format venv clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Processes among which the tests without a running Airflow are divided.
JOBS ?= 2

export PYTHONPATH := $(CURDIR)/include
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

demo: $(STAMP)  ## Airflow, PostgreSQL, DingTalk and WPS on this machine, and a full sync (DEMO_PORT, DEMO_EXIT=1)
	@exec $(PY) -m nancalacc.sandbox.demo

demo-failure: $(STAMP)  ## The same with a sync that fails, is compensated, and is repaired by a clear
	@exec $(PY) -m nancalacc.sandbox.demo --failure

test: $(STAMP)  ## All tests (PYTEST_ARGS="tests/unit -k name" for some)
	@PYTHON=$(PY) JOBS=$(JOBS) exec tests/halves.sh $(PYTEST_ARGS)

test-fast: $(STAMP)  ## The tests that take less than three minutes together
	@exec $(PY) -m pytest -n $(JOBS) -m "not slow and not bench" $(PYTEST_ARGS)

bench: $(STAMP)  ## Measure, and print ratios against the alternatives
	@exec $(PY) -m pytest -m bench --timeout=1800 -s $(PYTEST_ARGS) tests/bench

lint: $(STAMP)  ## Ruff, mypy, and who may import whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(STAMP)  ## Let Ruff repair and format what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

venv: $(STAMP)  ## Create the virtual environment and install what is pinned

clean:  ## Remove the virtual environment, caches and the demo's state
	rm -rf $(VENV) .demo .test .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$$($(PYTHON) --version) does not do: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot create virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing what requirements-dev.txt pins into $(VENV) (once, a few minutes)"
	@$(PY) -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	@touch $@
