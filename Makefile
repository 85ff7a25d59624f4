# Few commands, the same here and in CI. `make help` lists them.
SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
# LevelDB's binding has wheels for 3.11 and 3.12 only.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
ARGS  ?=
SEEDS ?= 300
START ?= 0
JOBS  ?= 2

.PHONY: help env demo test check format sim bench lock vectors clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(VENV)/.installed ## the virtual environment with the locked dependencies

$(VENV)/.installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "medchain needs Python 3.11 or 3.12 (python3 -m venv included); set PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing locked dependencies (about a minute)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: env ## four institutions, real business, a killed leader; ARGS=--exit ends by itself, ARGS="--data DIR" sends published files
	@$(BIN)/medchain demo $(ARGS)

test: env ## the whole test suite
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: env ## lint, format, types, architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py

format: env ## rewrite files in the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

sim: env ## deterministic simulation; SEEDS=N START=S JOBS=J
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START) --jobs $(JOBS) $(ARGS)

bench: env ## throughput and latency of a local cluster
	@$(BIN)/python -m bench $(ARGS)

vectors: env ## rewrite tests/vectors/*.json from the code
	@$(BIN)/python -m tests.vectors

lock: env ## resolve requirements.txt again from pyproject.toml
	@$(BIN)/python -m pip install --quiet pip-tools
	@$(BIN)/pip-compile --quiet --all-extras --group dev --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --output-file requirements.txt pyproject.toml

clean: ## remove the environment and everything generated
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
