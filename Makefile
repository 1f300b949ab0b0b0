# make demo: the story, on a fresh machine.   make test: everything that must hold.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench clean

demo: $(VENV)/.core
	$(BIN)/lorakit demo

test: $(VENV)/.dev $(VENV)/.llama
	$(BIN)/python -m pytest -rs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python bench/decode.py

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lorakit needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing lorakit into $(VENV) (once, about a minute)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "installing the development tools into $(VENV) (once)"
	$(PIP) --editable '.[dev]'
	@touch $@

# The tests of the llama.cpp engine need it compiled; where it cannot be they are skipped.
$(VENV)/.llama: $(VENV)/.dev scripts/build_llama.py
	@$(BIN)/python scripts/build_llama.py && touch $@ || \
		echo "going on without llama.cpp: its tests will be skipped" >&2

clean:
	rm -rf $(VENV)
