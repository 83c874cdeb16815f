# On a machine with nothing but Python (3.11 or newer) and make:
#
#     make quickstart     install into .venv, then trace paths on this machine: results/quickstart
#     make test           install, check the code, run the tests
#     make test-pages     the slow tests of pages: documentation, notebooks, and the report in a browser
#     make test-all       all tests, with the slow ones
#     make install        install only; a second time takes no time
#     make docs           build the documentation site: build/site/index.html
#
# Another Python: make PYTHON=python3.12 test

PYTHON ?= python3
EXTRAS ?= dev# of pyproject.toml; the nodes of cluster.yaml ask for others

BIN := .venv/bin
INSTALLED := .venv/installed-$(EXTRAS)
PAGES := tests/test_pages.py tests/test_notebooks.py tests/test_site.py tests/analysis/test_report_browser.py

.PHONY: install quickstart test test-pages test-all lint docs clean

install: $(INSTALLED)

quickstart: install
	$(BIN)/fipray run experiments.quickstart:study --into results/quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses 2

test-pages: install
	$(BIN)/python -m pytest -m "slow or not slow" --numprocesses 2 $(PAGES)

test-all: lint
	$(BIN)/python -m pytest -m "slow or not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one, as in: make PYTHON=python3.12 install"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fipray needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another, as in: make PYTHON=python3.12 install"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
