# Two commands do everything: `make demo` and `make test`. Wheels only; no root, no compiler, no system Java.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' \
  >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.shopstream-setup
LOCKS := requirements/bootstrap.txt requirements/dev.txt pyproject.toml
# uv reads its own variables only: an index that was set for pip is meant for it too
UV := $(if $(PIP_INDEX_URL),UV_DEFAULT_INDEX=$(PIP_INDEX_URL)) $(BIN)/uv
ARTEFACTS := $(or $(SHOPSTREAM_CACHE_DIR),$(HOME)/.cache/shopstream)

.PHONY: help setup demo test check clean lock audit faults simulate simulate-parity simulate-mutants parity bench

help:  ## what can be done
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(STAMP)  ## create .venv with the shopstream command

$(STAMP): $(LOCKS)
	@test -n "$(PYTHON)" || { echo "shopstream needs Python 3.11, 3.12 or 3.13 with venv; none was found on PATH." >&2; exit 1; }
	@echo "[1/3] creating $(VENV) with $(PYTHON)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/bootstrap.txt
	@echo "[2/3] installing the locked packages (wheels only, about 800 MB on disk)"
	@$(UV) pip sync --quiet --python $(BIN)/python --only-binary :all: --require-hashes requirements/dev.txt
	@echo "[3/3] installing the shopstream command"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## run the main job end to end on the embedded stack
	@$(BIN)/shopstream demo

test: setup  ## run every test, in two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0

simulate: setup  ## run the worker's logic in a simulated world, one seed after the other (SEEDS=10000, FIRST=0)
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

simulate-parity: setup  ## the same, and live compared with replays of the log and of the lake (SEEDS=1000, FIRST=0)
	@$(BIN)/python -m tests.simulation --parity --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0)

parity: setup  ## a short run with kills and broken events, then Redis, Kafka and the lake compared
	@$(BIN)/python -m tests.parity

simulate-mutants: setup  ## plant bugs in the worker, one at a time: the simulation must find each
	@$(BIN)/python -m tests.simulation --mutants

faults: setup  ## break the worker, the broker and the stores on purpose, in full (ONLY='kill.*', FRESH=1)
	@$(BIN)/python -m tests.faults $(if $(ONLY),--only '$(ONLY)') $(if $(FRESH),--fresh)

bench: setup  ## side by side with peers, on the same data in one run (LINES="live replay", EVENTS=400000, ROUNDS=5)
	@$(BIN)/python -m bench $(LINES) $(if $(EVENTS),--events $(EVENTS)) $(if $(ROUNDS),--rounds $(ROUNDS))

check: setup  ## lint, types, architecture, docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit/docs

audit: setup  ## look up the locked packages for known vulnerabilities
	@$(BIN)/python .ci/audit.py

lock: setup  ## resolve the locks again
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade pyproject.toml -o requirements/runtime.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade requirements/bench.in -o requirements/bench.txt
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade requirements/s3.in -o requirements/s3.txt
	@$(UV) pip compile --quiet --universal --no-deps --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --upgrade requirements/airflow.in -o requirements/airflow.txt
	@echo uv | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' - -o requirements/bootstrap.txt

clean:  ## remove what was made: environment, stack, data, caches, downloads
	@test ! -x $(BIN)/shopstream || $(BIN)/shopstream stack down >/dev/null 2>&1 || true
	rm -rf $(VENV) .venv-flink .venv-s3 .venv-bench .venv-airflow .shopstream .mypy_cache .ruff_cache .hypothesis .import_linter_cache $(ARTEFACTS)
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
