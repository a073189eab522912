# Everything a newcomer or CI types. Each target installs what it needs into .venv first.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.8
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without byte code on disk every start of a stage compiles its imports again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo lint docs test test-long bench reproduce schema plan lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: .venv/.installed ## Create .venv and install requirements.lock

.venv/.installed: requirements.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: python3 is " + sys.version.split()[0] + ", needed is 3.11 or later: install it, or put it first in PATH")'
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	touch $@

demo: install ## Run the pipeline on real digits (CPU, no download) and print the tables
	@start=$$(date +%s); snakemake --cores all --quiet rules reason host; \
	echo "The pipeline took $$(( $$(date +%s) - start )) s on $$(nproc) cores."
	@python -m arnas results

lint: install ## Style, types and the workflow's own lint
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check workflow
	snakemake --lint

# The theme announces at every start that MkDocs 2 will not fit it; pyproject.toml asks for MkDocs 1.
docs: export NO_MKDOCS_2_WARNING := 1
docs: install ## Build the documentation to site/, warnings are errors
	python -m mkdocs build --quiet --strict --config-file docs/mkdocs.yml
	@echo "The documentation is in site/: open site/index.html"

test: install ## Fast tests
	python -m pytest -q -n 2 --dist loadfile

test-long: install ## Long tests: engines end to end, golden runs
	python -m pytest -q -m long -n 2 --dist loadfile

bench: install ## Time the package against its peers: a table, and benchmarks/results/latest.json
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r pyproject.toml --extra bench
	python benchmarks/bench.py

reproduce: install ## Rerun the committed tables in copies and fail on drift
	./tests/workflow/reproduce.sh

schema: install ## Rewrite workflow/schemas/params.schema.json from the option models
	python -m arnas params schema > workflow/schemas/params.schema.json

plan: install ## Rewrite dvc.yaml from arnas/pipeline/plan.py
	python -m arnas plan dvc > dvc.yaml.new
	mv dvc.yaml.new dvc.yaml

lock: install ## Resolve pyproject.toml into requirements.lock again
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --extra workflow --extra slurm --extra kubernetes --extra dev --extra docs \
	  --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' -o requirements.lock pyproject.toml

clean: ## Remove heavy results and caches; tables and .venv stay
	find results -mindepth 1 -maxdepth 1 ! -name tables -exec rm -rf {} +
	rm -rf site .snakemake .arnas .pytest_cache .mypy_cache .ruff_cache .hypothesis dvc_plots
