# Set-up and the usual commands. Everything works on a fresh clone: `make test`, `make demo`, `make lint`.
#
# The CPU build of torch goes in first, so that vLLM's requirement is met by it; both are pinned.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# ninja lies there: it builds side by side, and only what changed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
STAMPS := $(VENV)/.stamps
TORCH := torch==2.13.0
TORCH_PIP_ARGS ?=  # where pip does not find the CPU build by itself
VLLM := vllm==0.32.0
# most of what these packages hold is never imported: byte code is made at the first import, not by the installation
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile
TEST_PACKAGES := pytest pytest-timeout pytest-xdist hypothesis expecttest ruff mypy types-PyYAML aiohttp uvicorn uvloop pyzmq
OUR_PACKAGES := "pybind11>=2.13" numpy "xgboost>=2.1" "pyarrow>=15" "pandas>=2" "pydantic>=2" pyyaml "rich>=13" \
	"typer>=0.12" plotly "setuptools>=77" wheel ninja
NATIVE_SOURCES := $(shell find csrc -type f 2>/dev/null) $(wildcard setup.py pyproject.toml)

# side by side, file by file; more need more memory (two engines at once: 8 GiB)
TEST_JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

.PHONY: help setup test test-all test-fast lint demo accuracy clean

help:
	@echo "make test      set up, then run the tests, real vLLM included"
	@echo "make test-all  the same with the slow ones: thousands of worlds, full samples"
	@echo "make test-fast set up, then the tests that need no serving engine"
	@echo "make lint      ruff and mypy"
	@echo "make demo      Llama-3.1-8B on one virtual H100 under a chat-like load; report and trace in out/"
	@echo "make accuracy  the measured cases (DATA=DIR for those with recorded requests)"
	@echo "make clean     remove what was built (not the virtual environment)"

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --upgrade pip
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(PIP_INSTALL) $(TORCH_PIP_ARGS) $(TORCH)
	@$(BIN)/python -c "import sys, torch; sys.exit(torch.version.cuda and 'make: torch came as a CUDA build; Revati \
	needs the CPU build: make TORCH_PIP_ARGS=\"--index-url <index of CPU wheels>\"')"
	touch $@

$(STAMPS)/vllm: $(STAMPS)/torch
	$(PIP_INSTALL) $(TORCH) $(VLLM)
	touch $@

$(STAMPS)/packages: $(STAMPS)/vllm Makefile
	$(PIP_INSTALL) $(TORCH) $(VLLM) $(OUR_PACKAGES) $(TEST_PACKAGES)
	touch $@

$(STAMPS)/revati: $(STAMPS)/packages $(NATIVE_SOURCES)
	$(PIP_INSTALL) --no-build-isolation --no-deps -e .
	touch $@

setup: $(STAMPS)/revati

test: setup
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: setup
	$(PYTEST) $(PYTEST_ARGS)

test-fast: setup
	$(PYTEST) -m "not engine and not slow" $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

OUT := out
DEMO_GPU := h100_sxm
DEMO_MODEL := meta-llama/Llama-3.1-8B-Instruct
DEMO_PROMPTS := 200
DEMO_RATE := 8

demo: setup
	mkdir -p $(OUT)
	$(BIN)/revati models sharegpt $(DEMO_MODEL) $(OUT)/dataset.json --count $(DEMO_PROMPTS)
	$(BIN)/revati bench vllm --gpu $(DEMO_GPU) --model $(DEMO_MODEL) --dataset-name sharegpt \
		--dataset-path $(OUT)/dataset.json --num-prompts $(DEMO_PROMPTS) --request-rate $(DEMO_RATE) \
		--ignore-eos --temperature 0 --result $(OUT)/demo.json --html $(OUT)/demo.html --trace $(OUT)/demo-trace.json \
		--server-log $(OUT)/demo-server.log
	@echo "written: $(OUT)/demo.json, $(OUT)/demo.html (open in a browser), $(OUT)/demo-trace.json (ui.perfetto.dev)"

accuracy: setup
	mkdir -p $(OUT)
	$(BIN)/python -m benchmarks.accuracy $(CASES) $(if $(DATA),--data $(DATA)) --json $(OUT)/accuracy.json

clean:
	rm -rf build out *.egg-info $(STAMPS)/revati revati/native revati/_C*.so
