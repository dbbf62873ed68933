# One command from a bare python3 (3.11 to 3.13) to the book, and one to a green test run.
# Everything is installed into .venv, at the versions of constraints.txt; a second run installs nothing.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/bash

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
MATHJAX := book/.mathjax/tex-svg.js
SITE := _build/html
PYTEST_ARGS ?=
BENCH ?= rsa_layer
HOUSE := .[book,test]
LOG := $(VENV)/setup.log
# pip writes to a log; if it fails, the log's end is what the reader needs.
install = $(BIN)/python -m pip install -c constraints.txt $(1) >$(LOG) 2>&1 || { \
  tail -n 25 $(LOG) >&2; echo "error: pip could not install $(1); the whole log is $(LOG)" >&2; exit 1; }

# What pip and Jupyter say on every call and nobody needs.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: help setup book site serve test browser lab lint format execute address samples bench clean

help:  ## list the targets
	@echo "minirsa: the book and its package"
	@echo
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18
	@echo
	@echo "  PYTHON=python3.12 picks the interpreter for .venv, PORT=8080 the port of make serve."

setup: $(READY)  ## install everything into .venv (the other targets do this by themselves)

$(READY): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) found; install Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: $$($(PYTHON) --version) is not supported: use Python 3.11, 3.12 or 3.13, for example make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "[1/4] making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make virtual environments (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "[2/4] installing torch (the first time this is most of 1.5 GB and three minutes; later, seconds)"
	@$(call install,pip setuptools wheel)
	@$(call install,torch)
	@echo "[3/4] installing the tools of the book and of the tests, and minirsa itself"
	@$(call install,--no-build-isolation --editable $(HOUSE))
	@$(call install,--no-deps torchvision timm)
	@$(call install,transformers)
	@echo "[4/4] checking the installation"
	@$(BIN)/python -c 'import torch, jupyter_book, nbval, minirsa' 2>$(LOG) || { tail -n 5 $(LOG) >&2; exit 1; }
	@touch $@

$(MATHJAX): $(READY) book/tools/mathjax.py
	@$(BIN)/python book/tools/mathjax.py

book: $(READY) $(MATHJAX)  ## build the site and print the path of its start page
	@$(BIN)/python book/tools/build.py

site: $(READY) $(MATHJAX)  ## the same from nothing, every warning an error
	@$(BIN)/python book/tools/build.py --strict

serve: book  ## build the site and serve it on localhost
	@echo "http://127.0.0.1:$(PORT)  (stop with Ctrl-C)"
	@cd $(SITE) && ../../$(BIN)/python -m http.server --bind 127.0.0.1 $(PORT)

test: $(READY) $(MATHJAX)  ## run every test: package, chapters, repository, and site if chromium is there
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

browser: $(READY) $(MATHJAX)  ## run only the tests in chromium: of the built site, of single figures
	@$(BIN)/python -m pytest tests/browser tests/viz/test_in_browser.py

lab: $(READY)  ## open the chapters in JupyterLab
	@$(call install,--no-build-isolation --editable .[lab])
	@cd book && ../$(BIN)/jupyter lab

lint: $(READY)  ## ruff over the package, the tests and the notebooks
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python book/tools/address.py --check

format: $(READY)  ## let ruff put the formatting right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

execute: $(READY)  ## run chapters in place: make execute CHAPTER=13, or CHAPTER=all
	@test -n "$(CHAPTER)" || { echo "error: say which: make execute CHAPTER=13" >&2; exit 2; }
	@$(BIN)/python book/tools/execute.py $(CHAPTER)

address: $(READY)  ## write the address of _config.yml into every text that is made from it
	@$(BIN)/python book/tools/address.py

samples: $(READY)  ## make the clips of data_samples again
	@$(BIN)/python -m minirsa.data.samples data_samples

bench: $(READY)  ## time the RSA layer (minutes, on a quiet machine); BENCH=kernel_context for the ablation
	@$(BIN)/python -m benchmarks.$(BENCH)

clean:  ## remove what was built (not .venv)
	rm -rf _build build dist .pytest_cache .ruff_cache
