# Everything that people and CI call. `make check` is exactly what CI runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
LINTERS := lint-python lint-imports lint-yaml lint-roles lint-dockerfiles lint-scripts lint-packer
SITE ?= local
# One more than there are processors, as many tests wait; few, as each has caches and a base image of its own.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 7 ? n + 1 : 8)))

.PHONY: help setup engine demo ami fmt lint type unit tools test molecule boundaries check bench lock clean
.PHONY: $(LINTERS)

help: ## this list
	@awk -F':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## the virtual environment, from the committed lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

engine: setup ## a container engine: finds one, or installs and starts the distribution's
	$(RUN) scripts/ensure-engine

demo: engine ## builds, checks and publishes cpu-ddp to a registry on this machine
	$(RUN) scripts/ensure-engine docker-registry
	$(RUN) builder build --target cpu-ddp --publish

ami: engine ## all AMIs that the site can make, side by side; SITE=aws for the account of the environment
	$(RUN) builder build --all --kind ami --site $(SITE)

fmt: setup ## formats the code
	$(RUN) ruff check --fix-only --quiet .
	$(RUN) ruff format .

lint: $(LINTERS) ## style, import order, roles, Dockerfiles, scripts
lint-python: setup ; $(RUN) ruff check . && $(RUN) ruff format --check .
lint-imports: setup ; $(RUN) lint-imports --no-cache
lint-yaml: setup ; $(RUN) yamllint --strict .
lint-roles: setup ; cd ansible && $(RUN) ansible-lint --offline --profile production
lint-dockerfiles: setup ; $(RUN) hadolint --failure-threshold info containers/*/Dockerfile
lint-scripts: setup ; $(RUN) shellcheck .ci/run $(filter-out %.py,$(wildcard scripts/*))
lint-packer: setup ; $(RUN) scripts/lint-packer packer/ami

type: setup ## mypy, strict
	$(RUN) mypy
unit: setup ## the fast tests
	$(RUN) pytest -q tests/unit

tools: engine ## what the tests play with: a registry, Packer, makers of packages
	$(RUN) scripts/ensure-engine docker-registry packer ssh-keygen:openssh-client gpg:gnupg gpgv:gnupg \
	    rpmbuild:rpm createrepo_c:createrepo-c

test: tools lint type ## lint, types and all tests but those of `molecule` and `boundaries`
	$(RUN) pytest -n $(WORKERS) -m "not roles and not boundaries"
molecule: tools ## every role on machines of its own, twice, then its checks (an hour)
	$(RUN) pytest tests/roles -m roles
boundaries: tools ## kills builds of an AMI at every call and at every task (half an hour)
	$(RUN) pytest -n $(WORKERS) tests/e2e -m boundaries
check: test ## what CI runs

bench: engine ## compares with peers, in one run, as ratios
	$(RUN) python -m bench
lock: setup ## resolves the Python requirements of the factory anew
	$(RUN) scripts/lock
clean: ## what was built here; `builder clean` clears the engine
	rm -rf out .mypy_cache .pytest_cache .ruff_cache .hypothesis

%: catalog/targets/%.toml engine ## any target of the catalog, by its name
	$(RUN) builder build --target $@ --site $(SITE)
