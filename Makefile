# Comporta. `make` alone lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help

# Rows of the demo catalogue when it is first loaded.
ROWS ?= 300000
# Shadow servers, up to 4: as many rollback proofs run side by side.
SHADOWS ?= 1
# Which tests `make test` runs, such as TESTS=tests/unit.
TESTS ?= tests
PY := .venv/bin/python

.PHONY: help packages environment run stop status dry-run test lint clean reference constraints

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## install the Debian packages that are missing, or say which command to run
	@bin/bootstrap packages

environment: ## make .venv from requirements.txt and constraints.txt
	@bin/bootstrap environment

run: ## start everything, dry-run the release, prove its rollbacks (ROWS=300000, SHADOWS=1, COMPORTA_WEB_PORT=8080)
	@bin/bootstrap run run --rows $(ROWS) --shadows $(SHADOWS)

dry-run: ## dry-run the release once more on the system that runs
	@bin/bootstrap run run --rows $(ROWS) --shadows $(SHADOWS) --again

stop: ## stop what `make run` started, and nothing else
	@bin/bootstrap run stop

status: ## what runs, where, and how to sign in
	@bin/bootstrap run status

test: ## all tests, on servers and in a browser of their own (TESTS=tests/unit for some)
	@bin/bootstrap tests
	@$(PY) -m pytest $(TESTS)

lint: environment ## ruff and mypy --strict
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean: ## stop, then delete the local clusters, logs and caches (reports under archives/ stay)
	@bin/bootstrap run clean
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build

reference: environment ## write docs/dags.md from the DAGs
	@AIRFLOW_HOME=$(CURDIR)/.comporta/airflow-reference AIRFLOW__CORE__LOAD_EXAMPLES=False $(PY) -m comporta.orchestration.reference docs/dags.md

constraints: environment ## write constraints.txt from .venv, after a change of requirements.txt
	@{ echo "# Every package of the environment that the tests passed in (Python 3.11). Made by \`make constraints\`."; \
	   VIRTUAL_ENV=.venv .venv/bin/uv pip freeze | grep -vE '^(-e|pip|setuptools|wheel|comporta)( |==|@)'; } > constraints.partial
	@mv constraints.partial constraints.txt
