# SPDX-License-Identifier: Apache-2.0
# Needs make and Python 3.11 to 3.13; other Pythons serve the tests where they are found. Everything it makes lies below
# .venv/, dist/ and site/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

AIRFLOW := 3.3.2
COMPAT := 2.11.2 3.0.6 3.1.8 3.2.2
VERSIONS := $(AIRFLOW) $(COMPAT)
PYTHONS := 3.10 3.12 3.13 3.14
UV_VERSION := 0.13.9

# A pyenv shim may exist for a Python that does not run, so each candidate is asked.
PYTHON := $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Empty where there is none; pyenv keeps those that it does not put forward in a folder.
python = $(shell for p in python$(1) "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(1).*/bin/python; do \
	"$$p" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(1)")' 2>/dev/null && { echo "$$p"; break; }; done)
PYTHONS_HERE = $(strip $(foreach version,$(PYTHONS),$(if $(call python,$(version)),$(version))))
MAIN := .venv/$(AIRFLOW)/bin
UV := .venv/uv/bin/uv

# What the shell around happens to set must not reach Airflow.
unexport $(filter AIRFLOW%,$(.VARIABLES)) PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Nor may it keep Python from compiling Airflow once: hundreds of modules, in each of many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## show this help
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
	@echo '  make test-VERSION, test-engine-VERSION, demo-VERSION: on one Airflow of $(VERSIONS)'
	@echo '  make test-python-VERSION: on one Python of $(PYTHONS)'

.PHONY: demo
demo: demo-$(AIRFLOW) ## gated submissions in a real Airflow against a simulated cluster; about three minutes

.PHONY: demo-keys
demo-keys: .venv/$(AIRFLOW)/.made ## the same with access keys: tokens that end during the wait
	@$(MAIN)/python -m demo.run --access-keys

.PHONY: play
play: .venv/$(AIRFLOW)/.made ## the demo with Airflow's pages, to click through, until Ctrl-C; PORT=8080
	@$(MAIN)/python -m demo.play $(if $(PORT),--port $(PORT))

.PHONY: pictures
pictures: .venv/$(AIRFLOW)/.made ## make docs/pictures anew, from those pages; needs a Chromium
	@$(MAIN)/python -m demo.pictures

.PHONY: test
test: .venv/$(AIRFLOW)/.made ## the test suite
	$(MAIN)/python -m pytest -n 4

.PHONY: coverage
coverage: .venv/$(AIRFLOW)/.made ## the same, and which branches it takes; half as long again
	$(MAIN)/python -m pytest -n 4 --cov

.PHONY: test-compat
test-compat: $(COMPAT:%=test-%) ## the test suite on the other Airflow versions

.PHONY: test-lowest
test-lowest: ## the test suite on the lowest versions that pyproject.toml admits

# Airflow's own work, in whole DAGs and at the start of each command, takes half of the time of the suite, and is not
# what a Python changes. Nor are the pages and what is simulated, which one version tests for all.
ONCE := $(addprefix tests/test_,$(addsuffix .py,pages project shared_decisions turn expiry kept_room claim_record job_request simulator simulator_job_lives submission_schedules submit_once))
.PHONY: test-pythons
test-pythons: ## the test suite without whole DAGs on the other Pythons, where they are found
	$(if $(PYTHONS_HERE),$(MAKE) --no-print-directory $(PYTHONS_HERE:%=test-python-%))
	@echo 'Tested on Python: $(or $(PYTHONS_HERE),none). Not found here: $(or $(filter-out $(PYTHONS_HERE),$(PYTHONS)),none).'

.PHONY: test-engine
test-engine: test-engine-$(AIRFLOW) ## what only a whole Airflow shows: ways through it, killed components; minutes

# Needs Debian's packages postgresql and redis-server. It takes the machine for itself. SHORT=1: what matters most.
PRODUCTION := engine_tests/test_production.py
.PHONY: test-production
test-production: .venv/$(AIRFLOW)/.made ## gates on the parts that production runs, each of which is killed; minutes
	$(if $(SHORT),SCNET_TEST_WATCHERS=60) $(MAIN)/python -m pytest $(PRODUCTION) --timeout 600 --durations 10 \
	  $(if $(SHORT),-k 'both or triggerer or postgresql or limit or lost')

.PHONY: check
check: .venv/$(AIRFLOW)/.made ## ruff, mypy, and the workflows
	$(MAIN)/ruff check
	$(MAIN)/ruff format --check
	$(MAIN)/mypy
	$(MAIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

.PHONY: wheel
wheel: .venv/build/.made ## build sdist and wheel into dist/, and check what they hold
	rm -rf dist
	.venv/build/bin/python -m build --no-isolation
	.venv/build/bin/python scripts/check_wheel.py dist

.PHONY: test-wheel
test-wheel: wheel ## install that wheel beside an Airflow, which has to find it
	.venv/build/bin/python scripts/check_wheel.py dist --uv $(UV) --constraint requirements/airflow-$(AIRFLOW).txt

# The pages need nothing from elsewhere, neither to be built nor to be read.
.PHONY: docs
docs: .venv/docs/.made ## build the pages, in both languages, into site/, and check their links
	NO_MKDOCS_2_WARNING=1 .venv/docs/bin/mkdocs build --strict
	! grep -rE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:)?//' site --include='*.html'
	@echo 'Built: site/index.html'

.PHONY: bench
bench: .venv/$(AIRFLOW)/.made ## what gates cost, beside what people use today; idle machine, two hours
	@$(MAIN)/python -m benchmarks.run $(PARTS)

.PHONY: clean
clean: ## remove everything that was made
	rm -rf .venv dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: $(VERSIONS:%=test-%)
$(VERSIONS:%=test-%) test-lowest: test-%: .venv/%/.made
	.venv/$*/bin/python -m pytest -n 2 $(ONCE:%=--ignore %)

.PHONY: $(PYTHONS:%=test-python-%)
$(PYTHONS:%=test-python-%): test-python-%: .venv/python-%/.made
	.venv/python-$*/bin/python -m pytest -n 2 $(ONCE:%=--ignore %) --ignore tests/test_dags.py --ignore tests/test_cli.py

# A module has an Airflow of its own, which mostly waits: three at once take little more time than one.
ENGINE_TESTS := engine_tests
.PHONY: $(VERSIONS:%=test-engine-%)
$(VERSIONS:%=test-engine-%): test-engine-%: .venv/%/.made
	.venv/$*/bin/python -m pytest $(ENGINE_TESTS) $(PRODUCTION:%=--ignore %) -n 3 --dist loadfile --timeout 600 --durations 10

.PHONY: $(VERSIONS:%=demo-%)
$(VERSIONS:%=demo-%): demo-%: .venv/%/.made
	@.venv/$*/bin/python -m demo.run

$(VERSIONS:%=.venv/%/.made) .venv/lowest/.made: .venv/%/.made: requirements/airflow-%.txt
.venv/build/.made .venv/docs/.made: .venv/%/.made: requirements/%.txt
$(PYTHONS:%=.venv/python-%/.made): requirements/airflow-$(AIRFLOW).txt

INTERPRETER = $(PYTHON)
# Each Python that is found serves one of the other Airflow versions, so that both are tested at once.
.venv/lowest/.made: INTERPRETER = $(or $(call python,3.10),$(PYTHON))
.venv/3.1.8/.made: INTERPRETER = $(or $(call python,3.12),$(PYTHON))
.venv/3.2.2/.made: INTERPRETER = $(or $(call python,3.13),$(PYTHON))
.venv/python-%/.made: INTERPRETER = $(or $(call python,$(*:python-%=%)),$(error $(*:python-%=Python %) was not found))

# sync: what a requirements file no longer names is removed.
.venv/%/.made: pyproject.toml | $(UV)
	$(INTERPRETER) -m venv --without-pip $(@D)
	$(UV) pip sync --quiet --python $(@D)/bin/python $(filter requirements/%,$^)
	$(UV) pip install --quiet --python $(@D)/bin/python --no-deps -e .
	touch $@

$(UV):
	@$(if $(PYTHON),,echo 'Python 3.11 is needed, and was found neither as python3.11 nor as python3 or python' >&2; exit 1)
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Pins everything anew. Universal, for all Pythons that the project supports.
PIN := $(UV) pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate
.PHONY: pins
pins: $(UV) ## renew requirements/*.txt from requirements/*.in
	for version in $(VERSIONS); do \
	  $(PIN) --upgrade requirements/airflow-$$version.in -o requirements/airflow-$$version.txt; done
	$(PIN) --resolution lowest-direct --no-deps pyproject.toml | \
	  $(PIN) --upgrade requirements/airflow-lowest.in - -o requirements/airflow-lowest.txt
	for use in build docs; do $(PIN) --upgrade requirements/$$use.in -o requirements/$$use.txt; done
