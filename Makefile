# The developer's menu: `make help`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# torch is asked for by exact version and first: a range would bring in the build for another machine.
TORCH := $(shell grep -E '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
SUITE ?= lora
SIZE ?= full

.DEFAULT_GOAL := help
.PHONY: help setup demo check fix test test-all test-gpu soak bench bench-quick learning perplexity docs new-method

help:  ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv with the tested set of packages, or bring it up to date

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing the tested set of packages into $(VENV); the first time takes a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

demo: setup  ## the first exercise: LoRA on film reviews, in about five minutes
	$(BIN)/tunesmith fit starter:movie-reviews --model starter:minilm --method lora

check: setup  ## style, types, layers and sizes; what CI runs first
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(PYTEST) -q tests/architecture

fix: setup  ## repair what ruff can repair, and the file tree in the README
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/python tools/file_tree.py README.md

test: setup  ## the tests, without the slow ones and without network
	$(PYTEST) -n 2 --durations=10

test-all: setup  ## everything but the soak tests; fetches the starter models and data
	$(PYTEST) -n 2 --durations=10 -m 'not soak'

test-gpu: setup  ## kernels through Triton's interpreter, and all that needs a GPU where there is one; brings Triton (200 MB)
	$(PIP) install --quiet --constraint constraints.txt triton
	$(PYTEST) -q -m 'not (slow or starter or peer or soak)' tests/gpu tests/kernels

soak: setup  ## hundreds of kills and full disks
	$(PYTEST) -m soak

bench: setup  ## side by side with peers, each in its own environment; SUITE=lora or another or all, SIZE=full, short or quick
	$(BIN)/python -m benchmarks.run --suite $(SUITE) --size $(SIZE)

bench-quick: setup  ## the same in 3 minutes; nothing is kept
	$(BIN)/python -m benchmarks.run --suite $(SUITE) --size quick

perplexity: setup  ## what storing weights in few bits costs, and the figure of docs/quantisation.md
	$(BIN)/python -m benchmarks.quantisation

learning: setup  ## train every method on both starter tasks; goes on where it stopped
	$(BIN)/python -m benchmarks.learning

docs: setup  ## write docs/reference from the code
	$(BIN)/python tools/reference.py docs/reference
	$(BIN)/python tools/methods_table.py docs/methods.md
	$(BIN)/python tools/learning_table.py docs/methods.md
	$(BIN)/python tools/benchmarks_table.py docs/benchmarks.md
	$(BIN)/python tools/growth_table.py docs/benchmarks.md
	$(BIN)/python tools/step_table.py docs/benchmarks.md
	$(BIN)/python tools/file_tree.py README.md

new-method: setup  ## scaffold a fine-tuning method: make new-method NAME=my-method
	@test -n "$(NAME)" || { echo "Which name? make new-method NAME=my-method"; exit 2; }
	$(BIN)/python tools/new_method.py $(NAME)
