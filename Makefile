# dashdeploy: `make run` does the main job, `make test` runs every check and test. Both set up what they need.
#
# PYTHON      an interpreter >= 3.11 (default: python3)
# TORCH_INDEX where pip takes torch from, if the default index would give a CUDA build that is not wanted:
#             make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
EXTRAS := cpu,rtx,openvino,test

.PHONY: help setup run test check format wheel lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 10

setup: $(STAMP) ## Make .venv with everything that the project and its tests use

# The stamp is written last, so that an interrupted installation is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dashdeploy needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

run: setup ## The main job: distil, export and measure the digits recipe
	$(BIN)/dashdeploy run digits

test: check ## Every check and the whole test suite
	$(BIN)/python -m pytest -q --durations=10

check: setup ## Lint, format, types, and that the README's tables are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/render.py --check

format: setup ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup ## Build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

lock: ## Write constraints.txt anew from a fresh environment
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	.venv-lock/bin/python -m pip install --quiet '.[$(EXTRAS)]'
	{ echo "# Exact versions of what make setup installs. Written by: make lock"; \
	  .venv-lock/bin/python -m pip freeze --exclude dashdeploy | sed 's/+cpu//'; } > constraints.txt
	rm -rf .venv-lock

clean: ## Remove the environment and build products; runs/ stays
	rm -rf $(VENV) build dist *.egg-info
