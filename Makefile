# make setup | reproduce | quick | claims | report | results | gpu | test | test-slow | test-extras |
#      conformance | lock

PYTHON ?= python3
BIN := .venv/bin
# The folder prepared beside the checkout, where there is one; else TFDS's usual places.
ifneq ($(wildcard ../shared/tfds),)
export TFDS_DATA_DIR ?= $(abspath ../shared/tfds)
endif

.PHONY: setup reproduce quick claims report results gpu test test-slow test-extras conformance lock
.DELETE_ON_ERROR:

setup: .venv/.installed

.venv/.installed: requirements.txt .requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "bnrepro needs Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	  --editable '.[experiments]'
	@touch $@

# Both train again each time and end with all tables, so that these are made by
# the code as it is.
EXPERIMENTS := mnist_sigmoid small_batch non_iid
SEEDS ?= 3
define experiments # length, folder
	for name in $(EXPERIMENTS); do \
	  $(BIN)/python -m experiments.$$name --config=configs/$$name.py:$(1) --config.seeds=$(SEEDS) \
	    --workdir=$(2)/$$name --overwrite || exit; \
	done
endef
define tables # experiments, folder
	@for name in $(1); do printf '\n# %s\n\n' $$name; cat $(2)/$$name/summary.md; done
endef

# Most of the thirty programs train for seconds, so that they gain more by compiling faster than
# they lose by slower steps.
reproduce quick: export XLA_FLAGS ?= --xla_backend_optimization_level=2

reproduce: setup
	$(call experiments,full,runs/reproduce)
	$(BIN)/python -m experiments.labels_and_depth --config=configs/labels_and_depth.py:preview \
	  --workdir=runs/reproduce/labels_and_depth --overwrite
	$(call tables,$(EXPERIMENTS) labels_and_depth,runs/reproduce)
	@# The claims that compute, and those that the comparisons above decide. Where there is no MNIST,
	@# they end with code 2, and the page has none.
	$(BIN)/python -m scripts.claims --only=A1,A2,A3,A4,A5,A6,A7,A8,B1,C2,C3,C5,C7 \
	  --records=sigmoid=runs/reproduce/mnist_sigmoid \
	  --records=microbatches=runs/reproduce/small_batch \
	  --records=few_labels=runs/reproduce/non_iid \
	  --workdir=runs/reproduce/claims >/dev/null || test $$? -eq 2
	@$(BIN)/python -m scripts.report --runs=runs/reproduce

quick: setup
	$(call experiments,preview,runs/quick)
	$(call tables,$(EXPERIMENTS),runs/quick)

# Tests spend their time compiling. Those marked `numbers` get the programs that users get; for the
# others LLVM optimizes nothing, XLA gives it a program in one piece, and compiles fusions in its
# older, faster way, which JAX 0.12 no longer has.
COMPILING_FAST = --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 $(shell \
  $(BIN)/python -c 'from jaxlib.version import __version__ as version; \
  print("--xla_cpu_use_fusion_emitters=false" * (version < "0.12"))')
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -m "numbers and not slow" tests/layers
	XLA_FLAGS="$(COMPILING_FAST)" $(PYTEST) -m "not numbers and not slow"

test-slow: setup
	XLA_FLAGS="$(COMPILING_FAST)" $(PYTEST) -m slow

# What only some users install: Ray, PostgreSQL (its server, Debian's, has to be there), the compiler
# for TPUs, and Playwright, which takes the Chromium that is there.
test-extras: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-extras.txt
	$(BIN)/pytest tests/scripts/test_sweep.py -k 'ray or postgresql'
	$(BIN)/pytest tests/scripts/test_plan.py
	$(BIN)/pytest tests/scripts/test_report.py

# Compares the layers of other libraries with the papers' formulas, and networks with Keras' and
# torchvision's. Needs Python 3.11, since one of these libraries takes no JAX 0.12.
conformance: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	$(BIN)/python -m scripts.conformance
	$(BIN)/pytest tests/test_layouts.py

# Pins every transitive dependency for Python 3.11 and newer.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	: > .requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
	  requirements.txt requirements-extras.txt --output-file .requirements.lock

# Measures the documents' statements; `make claims FAST=--fast` takes minutes.
claims: setup
	$(BIN)/python -m scripts.claims $(FAST)

# The comparisons in results/, run again at this commit: hours; resumes.
results: setup
	$(BIN)/python -m scripts.results

# Measures what needs a GPU and is not in results/ yet. `timeout 10m make gpu` does it in slices: the
# comparison resumes, a benchmark begins anew. What fails does not keep the rest from running.
GPU := layers sweep inception_float32 inception_bfloat16 resnet_float32 resnet_bfloat16
# The sweep's commands need memory, too.
gpu: export XLA_PYTHON_CLIENT_PREALLOCATE := false
gpu: setup
	@$(BIN)/python -c 'import jax; assert jax.default_backend() == "gpu"' 2>/dev/null \
	  || { echo "JAX finds no GPU here: see docs/devices.md" >&2; exit 2; }
	$(MAKE) --keep-going $(GPU:%=results/gpu/%.md) results/gpu/inception_tiny/summary.md

results/gpu/layers.md:
	$(BIN)/python -m scripts.benchmark layers --output=$@
results/gpu/sweep.md:
	$(BIN)/python -m scripts.benchmark sweep --trials=256 --output=$@
results/gpu/inception_%.md:
	$(BIN)/python -m scripts.benchmark inception --network=inception --dtype=$* --output=$@
results/gpu/resnet_%.md:
	$(BIN)/python -m scripts.benchmark inception --network=resnet --dtype=$* --output=$@
results/gpu/inception_tiny/summary.md:
	$(BIN)/python -m experiments.inception --config=configs/inception.py:tiny --config.seeds=3 \
	  --workdir=runs/$(@D)
	$(BIN)/python -m scripts.results --only=gpu/inception_tiny

# Makes a page of everything under runs/.
report: setup
	$(BIN)/python -m scripts.report
