.DEFAULT_GOAL := help
.PHONY: help install ablation five-claims five-claims-quick change-by-change change-by-change-quick browser test test-fast check format docs docs-serve house bench gpu-check clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-23s %s\n", $$1, $$2}'

# Re-made only when what is to be installed has changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "ablab needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt hatchling editables setuptools
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(STAMP)

install: $(STAMP) ## create .venv and install everything into it

ablation: install ## train the quickstart study, compare its variants and write the report (re-uses finished runs)
	$(BIN)/ablab -m study=quickstart

five-claims: install ## run the flagship study: hours on two cores; goes on where it stopped (SCALE=gpu: on a GPU)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python experiments/run.py experiments/five_claims $(or $(SCALE),cpu)

five-claims-quick: install ## the same in a few steps of three seeds each: preliminary
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python experiments/run.py experiments/five_claims quick

change-by-change: install ## run the studies from GPT-2 to DeepSeek-V4: goes on where it stopped (SCALE=gpu: on a GPU; PROSE=FILE: a text)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python experiments/run.py experiments/change_by_change $(or $(SCALE),cpu)

change-by-change-quick: install ## the same in a few steps of three seeds each: preliminary
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python experiments/run.py experiments/change_by_change quick

browser: ## install Chromium (Debian's package, as root), in which tests open the report and the dashboard
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }

test: install ## run the whole test suite, on as many cores as there are, four at most, and with a worker more than that
	$(BIN)/pytest --numprocesses auto --maxprocesses 5 --dist worksteal

test-fast: install ## run the tests that take less than a few seconds each
	$(BIN)/pytest -m "not slow"

check: install ## lint, format, types, the import contract, and the site: a broken link or page fails
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) build --strict --quiet

docs: install ## build the documentation as a site, into site/
	$(MKDOCS) build --strict

docs-serve: install ## show the documentation on this machine alone, at http://127.0.0.1:8000, and follow its changes
	$(MKDOCS) serve --dev-addr 127.0.0.1:8000

format: install ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

house: install ## print the measures of the code's structure: files, reaches into other packages, files of a step
	$(BIN)/python tests/house.py

bench: install ## time the harness beside a bare PyTorch loop
	$(BIN)/ablab bench loop

# Where nothing can be installed: make gpu-check WITH=python3, of an environment that has PyTorch and what ablab needs.
gpu-check: $(if $(WITH),,install) ## all that is to be known of a GPU at hand, in 8 minutes at most (OUT=... another folder)
	PYTHONPATH="$(CURDIR)/src:$$PYTHONPATH" $(or $(WITH),$(BIN)/python) -m ablab bench gpu \
		--out "$(or $(OUT),outputs/gpu-check)" $(if $(STEPS),--steps $(STEPS))

clean: ## remove the environment and caches (outputs/ stays)
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
