# Few commands, the same here and in CI. `make help` lists them.
SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
# LevelDB's binding has wheels for 3.11 and 3.12 only. Of those found, the one that runs a short trial fastest is taken:
# builds with profile-guided optimisation, as Debian's, run this code 1.1 to 1.4 times as fast as plain ones.
CANDIDATES := python3.11 python3.12 python3 python /usr/bin/python3.11 /usr/bin/python3.12
TRIAL := import sys, timeit, venv, ensurepip; (3, 11) <= sys.version_info[:2] < (3, 13) or sys.exit(1); \
	made = "class A:\n def __init__(self, x): self.x = x\n def y(self): return (self.x, str(self.x))"; \
	print(int(min(timeit.repeat("A(1).y()", made, number=5000, repeat=40)) * 1e6))
ARGS  ?=
SEEDS ?= 300
START ?= 0
JOBS  ?= 2
ROUNDS ?= 100

.PHONY: help env demo test check format sim mutate explore bench bench-suite kills killpoints flips traps lock vectors clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(VENV)/.installed ## the virtual environment with the locked dependencies

$(VENV)/.installed: requirements.txt pyproject.toml
	@test -x $(BIN)/python || { \
		python="$(PYTHON)"; test -n "$$python" || python=$$(for p in $(CANDIDATES); do \
			took=$$($$p -c '$(TRIAL)' 2>/dev/null) && echo "$$took $$p"; done | sort -n | sed -n '1s/.* //p'); \
		test -n "$$python" || { echo "medchain needs Python 3.11 or 3.12 with venv; set PYTHON=/path/to/python" >&2; exit 2; }; \
		echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV); }
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

sim: env ## deterministic simulation; SEEDS=N START=S JOBS=J, ARGS=--trace shows one run (docs/simulation.md)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START) --jobs $(JOBS) $(ARGS)

mutate: env ## plant faults in the product and count the seeds until the simulator finds each; ARGS=--write
	@$(BIN)/python -m tests.simulation.mutate --jobs $(JOBS) $(ARGS)

explore: env ## all that four engines can do in small scopes, one of them Byzantine (docs/exploration.md); ARGS=--quick, --faults
	@$(BIN)/python -m tests.exploration $(ARGS)

bench: env ## throughput and latency of a local cluster
	@$(BIN)/python -m bench $(ARGS)

bench-suite: env ## every row of the performance table, some hours; ARGS="--quick", ARGS="--only sustained,light"
	@$(BIN)/python -m bench.suite $(ARGS)

killpoints: env ## one node killed just before and just after every durable write, at several of its times
	@$(BIN)/python -m tests.kill_points $(ARGS)

flips: env ## a thousand flipped bits in a closed data folder and logs cut short, each noticed or harmless
	@$(BIN)/python -m tests.bit_flips $(ARGS)

kills: env ## four real processes, ROUNDS=100 times kill -9, the leader half of the time (ARGS="--members 1": one)
	@$(BIN)/python -m tests.live_kills --rounds $(ROUNDS) $(ARGS)

traps: env ## rewrite docs/traps.md from the docstrings of the tests
	@$(BIN)/python -m tests.traps --write

vectors: env ## rewrite tests/vectors/*.json from the code
	@$(BIN)/python -m tests.vectors

lock: env ## resolve requirements.txt again from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --output-file requirements.txt pyproject.toml

clean: ## remove the environment and everything generated
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
