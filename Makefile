# dashdeploy: `make run` does the main job, `make test` runs every check and test. Both set up what they need.
#
# PYTHON      an interpreter >= 3.11 (default: the first one found among python3, python3.14 ... python3.11)
# TORCH_INDEX where pip takes torch from, if the default index would give a CUDA build that is not wanted:
#             make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu

VERSION := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(VERSION)' 2>/dev/null && echo $$p && break; done || echo python3)
NEW_ENOUGH = $(PYTHON) -c '$(VERSION)' || { echo "dashdeploy needs Python 3.11 or newer, \
	which '$(PYTHON)' is not. Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
TORCH_INDEX ?=
EXTRAS := cpu,rtx,openvino,triton,prune,sign,docs,test
VENV := .venv
BIN := $(VENV)/bin
LOCK := build/lock
# The variable silences an advertisement of mkdocs-material.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
TORCH_OPTIONS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
# The stamp's name is what was asked for, so that a new checkout of the same files installs nothing.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt tools/triton_setup.py tools/web_setup.py | cksum | cut -d ' ' -f 1)

.PHONY: help setup run test quick torture check docs format wheel lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /	/' | expand -t 10

setup: $(STAMP) ## Make .venv with everything that the project and its tests use

# The old stamp goes first and the new one comes last: an interrupted installation is done again.
# torch goes in alone and exactly pinned: a range would take the CUDA build and gigabytes with it.
$(STAMP):
	@$(NEW_ENOUGH)
	@rm -f $(VENV)/.installed*
	@echo "Setting up $(VENV): minutes of downloads and 2 GB on disk, once" >&2
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_OPTIONS) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python tools/triton_setup.py $(VENV)/triton
	$(BIN)/python tools/web_setup.py $(VENV)/web
	@touch $@

run: setup ## The main job: distil, export and measure the digits recipe
	$(BIN)/dashdeploy run digits

# Two workers of one thread each: with two threads each they would run ten times slower on two cores. The tests of one
# file, or of a folder that shares a build or a server, go to one worker (tests/conftest.py).
test: check ## Every check and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=10

quick: setup ## The tests that are not marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow'

torture: setup ## The whole campaign of broken inputs, kills and full disks, of which make test does a part
	DASHDEPLOY_TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --timeout 7200 tests/torture

check: setup ## Lint, format, types; tables and reference pages up to date; the site builds, with no broken link
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/render.py --check
	$(BIN)/python tools/schema_pages.py --check
	$(BIN)/python tools/web_build.py --check
	$(SITE) --site-dir build/site

docs: setup ## Build the documentation as a site: site/index.html
	$(BIN)/python benchmarks/render.py
	$(BIN)/python tools/schema_pages.py
	$(BIN)/python tools/rooms_diagram.py
	$(SITE)

format: setup ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup ## Build dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation

# To take another torch, change its line in constraints.txt first; everything else becomes the newest that fits.
lock: ## Write constraints.txt anew from a fresh environment
	@$(NEW_ENOUGH)
	rm -rf $(LOCK) && $(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_OPTIONS) $(TORCH)
	$(LOCK)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) '.[$(EXTRAS)]'
	$(LOCK)/bin/python -m pip freeze --exclude dashdeploy > $(LOCK)/frozen.txt
	{ echo "# Exact versions of what make setup installs. Written by: make lock"; \
	  sed 's/+[a-z0-9.]*$$//' $(LOCK)/frozen.txt; } > constraints.txt
	rm -rf $(LOCK)

clean: ## Remove the environment and build products; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info
