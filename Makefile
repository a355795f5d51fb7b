# `make help` lists the targets. Everything is installed from requirements.lock into .venv by pip.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# One worker a core, at most 8, each with single-threaded kernels.
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
WORKERS ?= $(shell [ $(CORES) -lt 8 ] && echo $(CORES) || echo 8)
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --dist worksteal

# Compiled programs are kept between runs and shared by the workers, however small. Most of a test's
# time is compilation: QUICK is for tests, THOROUGH keeps XLA's optimisations, some faults show only
# there. NPROC: threads of XLA. With two, batched triangular solves side by side wait for each other
# for ever in jaxlib 0.10 ("A run that never ends" in
# docs/guide.md).
ENV := JAX_PLATFORMS=cpu MPLBACKEND=Agg NPROC=16 \
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
QUICK := $(ENV) XLA_FLAGS="$$($(BIN)/python tests/xla_flags.py)"
THOROUGH := $(ENV) XLA_FLAGS=--xla_cpu_multi_thread_eigen=false

.PHONY: help setup demo test law claims fuzz check lint types architecture doctests notebooks docs \
	bench bench-pldi matrix lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.stamp ## make .venv with the locked dependencies and this project

.venv/.stamp: pyproject.toml requirements.lock
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer (with venv and ensurepip) found:" \
	"install one, or say which to use: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing the locked dependencies (about a minute)"
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## train a VAE on digits and fit the noisy cone; pictures in demo-output/
	$(BIN)/python -m stdlib.demo

test: setup ## tests, doctests and documentation examples, in parallel; DURATIONS=20 shows the slowest
	$(QUICK) $(PYTEST) $(PARALLEL) $(if $(DURATIONS),--durations=$(DURATIONS))

law: setup ## the estimator law: every estimator with every family in every context
	$(THOROUGH) $(PYTEST) $(PARALLEL) -m mechanism tests
	$(QUICK) $(PYTEST) $(PARALLEL) -m law tests

claims: setup ## trains what methods claim to reach, and compares with the exact or published number
	$(THOROUGH) $(PYTEST) $(PARALLEL) -m claims tests

N ?= 1000
SEED ?= 0
fuzz: setup ## N random programs of the sequence SEED against their exact expectations
	$(QUICK) JAX_ENABLE_COMPILATION_CACHE=false $(BIN)/python -m tests.random_programs -n $(N) \
	--seed $(SEED) --shrink

check: lint types architecture doctests notebooks ## everything but the tests

lint: setup ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup ## pyright on ppl and stdlib; what it and mypy reveal in a user's file
	$(BIN)/pyright
	$(PYTEST) -q tests/types

architecture: setup ## layers, imports, file sizes, public names
	$(QUICK) $(PYTEST) -q tests/test_architecture.py

doctests: setup ## examples in docstrings, README and docs
	$(QUICK) $(PYTEST) -q $(PARALLEL) ppl stdlib tests/test_docs.py

notebooks: setup ## run every notebook headless
	$(THOROUGH) $(BIN)/python tests/run_notebooks.py

docs: setup ## reference from docstrings, and the guide as HTML in docs/_build/
	$(BIN)/python docs/build.py

bench: setup ## comparisons with hand-written JAX and with peers
	$(BIN)/python -m benchmarks

bench-pldi: setup ## the PLDI paper's results, table by table beside the published numbers
	$(BIN)/python -m benchmarks pldi

MATRIX ?= oldest,locked,newest
matrix: ## the core tests on other JAX releases, e.g. MATRIX=oldest,newest
	@[ -n "$(PYTHON)" ] || { echo "No Python 3.11 or newer found: pass PYTHON=" >&2; exit 1; }
	$(ENV) $(PYTHON) tests/matrix.py --only $(MATRIX) -n $(WORKERS)

lock: ## resolve pyproject.toml into requirements.lock; LOCK_FLAGS=--upgrade takes newer releases
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip --disable-pip-version-check install --quiet --upgrade uv
	.cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--all-extras --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command 'make lock' $(LOCK_FLAGS) pyproject.toml -o requirements.lock
