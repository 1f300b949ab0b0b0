# make demo: the story, on a fresh machine.   make check: two minutes.   make test: all that must hold.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
VENDOR := src/lorakit/web/vendor
NODE_PACKAGE := @huggingface/transformers
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo demo-browser node check test real lowest core-tests llama lint bench dist docs clean

demo: $(VENV)/.core
	$(BIN)/lorakit demo

# The example app, with what it runs on from npm (fetched once, 42 MB).
demo-browser: $(VENV)/.core $(VENDOR)/.placed
	$(BIN)/lorakit demo --browser

# What the tests of the browser's side run on; they are skipped where npm cannot give it.
node:
	-@$(PYTHON) scripts/web/vendor.py
	@test -e .node/node_modules/$(NODE_PACKAGE)/package.json -a -e .node/node_modules/vite || \
		( mkdir -p .node && \
		ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix .node --no-package-lock --no-audit \
			--no-fund --silent $(NODE_PACKAGE)@4.3.2 vite@8.4.0 react@19.3.1 react-dom@19.3.1 ) || \
		echo "npm cannot install $(NODE_PACKAGE): tests of the browser's side are skipped"

# Without torch and llama.cpp, installed or not.
check: lint
	$(BIN)/python -m pytest --quick

test: $(VENV)/.oracles node
	$(BIN)/python -m pytest -rs --strict-skips tests/skips.txt

# int8 on a real model, which is fetched once.
real: $(VENV)/.dev
	LORAKIT_REAL_MODEL="$$($(BIN)/python bench/real_model.py --folder)" \
		$(BIN)/python -m pytest tests/engines/onnx/test_onnx_real_model.py

# The core on the lowest versions that are allowed, which have wheels for Python 3.11 and 3.12.
lowest:
	$(MAKE) VENV=$(VENV)-lowest CONSTRAINTS=constraints-lowest.txt core-tests

core-tests: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python bench/decode.py

# The same bytes from everywhere (tests/test_distribution.py).
dist: $(VENV)/.dev $(VENDOR)/.placed
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

# build/site; a warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "lorakit needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	@echo "installing lorakit into $(VENV) (once, about a minute)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "installing the development tools into $(VENV) (once)"
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.oracles: $(VENV)/.dev
	@echo "installing torch and what else the tests compare with into $(VENV) (once)"
	$(PIP) --editable '.[dev,llama,torch,oracles]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	@echo "installing what builds the documentation into $(VENV) (once)"
	$(PIP) --editable '.[docs]'
	@touch $@

$(VENDOR)/.placed: scripts/web/vendor.json
	$(PYTHON) scripts/web/vendor.py
	@touch $@

# Compiled for this CPU; it is then used instead of the prebuilt library (docs/llama.md).
llama: $(VENV)/.dev
	$(BIN)/python scripts/build_llama.py

clean:
	rm -rf $(VENV) $(VENV)-lowest
