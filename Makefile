# Needs Python 3.11 or newer, make, and a Python package index. Everything goes into .venv and the model store.
#   make demo    the agent fixes a failing test with a model that runs on this machine
#   make test    lint and the quick tests (this is what CI runs)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
MODEL ?= qwen2.5-coder-1.5b
# What a developer gets by activating the environment: `python` and the tools are the ones installed there.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test quick test-all lint bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/local.stamp
	@$(BIN)/python scripts/demo.py $(MODEL)

# Side by side: the type checker keeps one core busy, and many tests wait; so there are more workers than cores. Work is
# stolen, not dealt out, because tests that stand together share what the first of them makes.
test: $(VENV)/dev.stamp
	@$(MAKE) --no-print-directory --jobs=2 lint quick

quick: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -n 4 --dist worksteal -m "not slow and not real_model"

test-all: lint $(VENV)/cuda-check.stamp
	$(BIN)/laguna-agent models pull $(MODEL)
	$(BIN)/python -m pytest -q -n 3 --dist worksteal -m "not real_model"
	$(BIN)/python -m pytest -q -m real_model

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_sizes.py

bench: $(VENV)/dev.stamp
	$(BIN)/laguna-agent models pull $(MODEL)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/acp.py
	$(BIN)/python benchmarks/small_model.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "laguna-agent needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of dependencies, so that the demo does not wait for the developers' tools. Bytecode is made
# here because a program that starts from source for the first time starts slowly. A machine without a C++ compiler gets
# one for the kernels, in the environment.
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[$*]'
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || $(PIP) install --editable '.[compiler]'
	@$(BIN)/python -m compileall -q laguna_agent
	@touch $@
