# Infini from a clone: `make demo` shows it, `make up` runs it, `make test` proves it. `make help` lists the rest.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
IS_NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'

# The first of these that runs and is 3.11 or newer; `make PYTHON=/path/to/python` decides otherwise.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python)
FOUND_PYTHON = $(shell for p in $(CANDIDATES); do "$$p" $(IS_NEW_ENOUGH) >/dev/null 2>&1 && { echo "$$p"; break; }; done)
NO_PYTHON = Infini needs Python 3.11 or newer, and $(if $(PYTHON),$(PYTHON) is not,none was found). \
Install one, or name it: make PYTHON=/path/to/python3.11

.PHONY: help setup setup-dev up demo down backup restore test lint messages roles screenshots chaos bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    run the site with a small model deployed on it"
	@echo "make up      run the site: web, two workers, monitor, local agent (Ctrl-C ends it)"
	@echo "make down    end the site and stop the instances on this machine"
	@echo "make backup FILE=f   write the whole site to a file while it runs; make restore FILE=f takes it back"
	@echo "make test    run all tests            (ARGS='-k chat' runs a part, in one process)"
	@echo "make lint    check form, types, migrations"
	@echo "make messages  collect new texts for locale/ and compile what is translated (needs gettext)"
	@echo "make roles   write docs/roles.md from the table that tests hold the site to"
	@echo "make screenshots  take the pictures of the main pages anew, into docs/images (needs Chromium)"
	@echo "make chaos   200 random faults on a real site and real agents (FAULTS=30 for fewer)"
	@echo "make bench   measure and print tables"
	@echo "make clean   remove the virtual environment and caches; data stays"

setup: $(VENV)/.requirements
	@:
setup-dev: $(VENV)/.requirements-dev
	@:

# A virtual environment whose Python has gone from the machine is made anew.
ifneq ($(wildcard $(VENV)),)
ifneq ($(shell $(VENV_PYTHON) $(IS_NEW_ENOUGH) >/dev/null 2>&1 && echo runs),runs)
.PHONY: $(VENV)/.requirements
endif
endif

$(VENV)/.requirements: requirements.lock
	$(eval BASE := $(FOUND_PYTHON))
	$(if $(BASE),,$(error $(NO_PYTHON)))
	@$(VENV_PYTHON) $(IS_NEW_ENOUGH) 2>/dev/null || { rm -rf $(VENV) && "$(BASE)" -m venv $(VENV); }
	@echo "Installing what Infini needs into $(VENV) ..."
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

$(VENV)/.requirements-dev: requirements-dev.lock $(VENV)/.requirements
	@echo "Installing what its tests need ..."
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-dev.lock
	@touch $@

up demo: setup
	@exec $(VENV_PYTHON) manage.py $@

backup: setup
	@$(VENV_PYTHON) manage.py backup $(if $(FILE),"$(FILE)")

restore: setup
	@$(VENV_PYTHON) manage.py restore $(if $(FILE),"$(FILE)")

down: setup
	@$(VENV_PYTHON) manage.py down

test: setup-dev
	@$(VENV_PYTHON) -m $(if $(ARGS),pytest -m "not benchmark" $(ARGS),tests.whole)

lint: setup-dev
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy
	@$(VENV_PYTHON) manage.py makemigrations --check --dry-run

chaos: setup-dev
	@INFINI_CHAOS_FAULTS=$${FAULTS:-200} $(VENV_PYTHON) -m pytest tests/live/test_chaos.py -q -s $(ARGS)

bench: setup-dev
	@$(VENV_PYTHON) -m pytest -m benchmark tests/benchmarks -s -q -p no:cacheprovider --timeout 900 $(ARGS)

# What stands in sources and is not translated yet gets an empty msgstr; a test names it.
roles: setup-dev
	@$(VENV_PYTHON) -m tests.roles.document > docs/roles.md

messages: setup-dev
	@$(VENV_PYTHON) manage.py makemessages --locale zh_Hans --no-location --no-obsolete --ignore .venv --ignore tests
	@$(VENV_PYTHON) manage.py compilemessages --ignore .venv --verbosity 0

# A site with a small simulated fleet and one real model, ten pages in four looks.
screenshots: setup-dev
	@$(VENV_PYTHON) -m tests.screenshots $(ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .bench
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
