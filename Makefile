# make help lists the targets. Everything runs in a virtual environment of this checkout, which the
# targets make by themselves when it is missing.

PYTHON ?= python3
STACK ?= onedl
TASK ?= det
PYTEST_ARGS ?=
SOAK_MINUTES ?= 10

ifeq ($(STACK),openmmlab)
VENV ?= .venv-openmmlab
else
VENV ?= .venv
endif
BIN := $(VENV)/bin
# A worker a core, each with one thread; the tests of a file stay together and in order. The files come
# in their own order too: by number of tests, the few long ones would come last, to one worker.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

# pyenv puts a python3.10 on the PATH that refuses to run unless that version is the active one: then
# take it from where pyenv keeps it.
BASE_PYTHON := $(or $(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null),\
$(shell pyenv root >/dev/null 2>&1 && ls "$$(pyenv root)"/versions/*/bin/$(PYTHON) 2>/dev/null | sort -V | tail -n 1),\
$(PYTHON))

.PHONY: help setup doctor demo bench test test-fast soak lint docs linkcheck clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  STACK=onedl (default) or openmmlab, the classic packages; PYTHON=python3.11, say, for"
	@echo "  the Python to make the environment with; VENV=DIR, TASK=det|seg|cls, PYTEST_ARGS='-k ...',"
	@echo '  SOAK_MINUTES=10'

setup: ## make the environment, or see that it is ready
	@$(BASE_PYTHON) dev/setup_env.py --stack $(STACK) --venv $(VENV)

doctor: setup ## check the environment and say how to fix it
	@$(BIN)/python tools/doctor.py

demo: setup ## train, test and draw a small model on the embedded dataset
	$(BIN)/python tools/demo.py --task $(TASK)

bench: setup ## measure the speed against peers and a plain reading, in a few minutes
	$(BIN)/python tools/benchmark.py --quick

test: setup ## run the tests
	$(PYTEST) --durations=15 $(PYTEST_ARGS)

test-fast: setup ## run the tests that take no time: under three minutes
	$(PYTEST) -m 'not slow' $(PYTEST_ARGS)

soak: setup ## train, hurt, resume and compare for ten minutes; the table of docs/reliability.md
	OMP_NUM_THREADS=1 $(BIN)/python -m dev.soak --minutes $(SOAK_MINUTES)

lint: setup ## ruff (check and format) and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

# Warnings are errors: a link to a file, page or heading that is not there is one.
SPHINX = $(BIN)/python -m sphinx -W --keep-going -q -c docs

docs: ## write docs/_build/html; a broken link between pages is an error
	@$(BASE_PYTHON) dev/setup_env.py --stack $(STACK) --venv $(VENV) --docs
	$(SPHINX) -b html . docs/_build/html
	@echo 'read it: docs/_build/html/index.html'

linkcheck: ## ask the network whether the links of the documentation lead somewhere
	@$(BASE_PYTHON) dev/setup_env.py --stack $(STACK) --venv $(VENV) --docs
	$(SPHINX) -b linkcheck . docs/_build/linkcheck

clean: ## remove what building and testing left; environments, data and work_dirs stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build
	find paca_mm tools tests configs -name __pycache__ -type d -exec rm -rf {} +
