# Commands for developers and CI. `make check` is exactly what CI runs.
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
unexport PYTHONDONTWRITEBYTECODE  # tests start the builder many hundred times
# An AMI is built by an instance of the account; only its rehearsal needs a container engine.
AMI_TOOLS = $(if $(filter aws,$(SITE)),setup,engine)
# One more than the processors, because many tests wait; at most 8, because each worker builds its own base image.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 7 ? n + 1 : 8)))

.PHONY: help setup engine demo ami fmt lint type unit tools test molecule boundaries images launch upstream fuzz check bench lock clean $(LINTERS)

help: ## list these targets
	@awk -F':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create the virtual environment from requirements.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

engine: setup ; $(RUN) scripts/ensure-engine ## find a container engine, or install and start the distribution's

demo: engine ## build and check cpu-ddp, publish it to a registry on this machine
	$(RUN) scripts/ensure-engine docker-registry
	$(RUN) builder build cpu-ddp --publish

ami: $(AMI_TOOLS) ## build all AMIs that the site can build, in parallel; SITE=aws: in your AWS account
	$(RUN) builder build --all --kind ami --site $(SITE)

fmt: setup ## format the code
	$(RUN) ruff check --fix-only --quiet .
	$(RUN) ruff format .

lint: $(LINTERS) ## run all linters
lint-python: setup ; $(RUN) ruff check . && $(RUN) ruff format --check .
lint-imports: setup ; $(RUN) lint-imports --no-cache
lint-yaml: setup ; $(RUN) yamllint --strict .
lint-roles: setup ; $(RUN) scripts/lint-roles
lint-dockerfiles: setup ; $(RUN) hadolint --failure-threshold info containers/*/Dockerfile
lint-scripts: setup ; $(RUN) shellcheck .ci/run $(filter-out %.py,$(wildcard scripts/*))
lint-packer: setup ; $(RUN) scripts/lint-packer packer/ami

type: setup ; $(RUN) mypy ## run mypy in strict mode
unit: setup ; $(RUN) pytest -q tests/unit ## run the unit tests

tools: engine ## install programs that tests need: registry, Packer, package builders, shells
	$(RUN) scripts/ensure-engine docker-registry packer ssh-keygen:openssh-client gpg:gnupg gpgv:gnupg zsh fish \
	    rpmbuild:rpm createrepo_c:createrepo-c

test: tools ## run linters, mypy and all tests but `molecule`, `boundaries`, `images`, `launch`, `upstream`, `fuzz`
	$(RUN) pytest --collect-only -q >/dev/null & $(MAKE) --no-print-directory --jobs=2 --output-sync lint type; wait  # collecting compiles the tests once for all workers
	$(RUN) pytest -n $(WORKERS) -m "not roles and not boundaries and not launch and not upstream and not fuzz"
molecule: tools ; $(RUN) pytest tests/roles -m roles ## apply every role twice to a fresh machine, then check it (an hour)
boundaries: tools ; $(RUN) pytest -n $(WORKERS) tests -m boundaries ## kill and break builds at every call and every task (an hour)
images: engine ; $(RUN) python scripts/images.py $(if $(REPRODUCE),--reproduce) $(ONLY) ## build and check all container images (hours); ONLY="T T@FLAVOUR", REPRODUCE=1: twice, and compare
upstream: tools ; $(RUN) pytest tests/upstream -m upstream ## build the real software of upstreams on Debian 13 (an hour)
fuzz: setup ; $(RUN) FUZZ_EXAMPLES=2000 pytest -n $(WORKERS) -m "" tests/unit/test_fuzz*.py ## odd files, options, responses (10 minutes)
check: test ## run what CI runs

launch: tools ## run launch files on a Slurm cluster, and monitoring with the real programs (20 minutes)
	$(RUN) scripts/ensure-engine promtool:prometheus amtool:prometheus-alertmanager prometheus-node-exporter sqfstar:squashfs-tools 'kubectl?:kubernetes-client' && $(RUN) pytest tests -m launch
bench: engine ; $(RUN) python -m bench ## compare build times with Packer and a Dockerfile
lock: setup ; $(RUN) scripts/lock ## update requirements.lock of the factory
clean: ; rm -rf out .mypy_cache .pytest_cache .ruff_cache .hypothesis ## delete out/ and tool caches

%: catalog/targets/%.toml engine ## build a target of the catalog by name
	$(RUN) builder build $@ --site $(SITE)
ami-%: catalog/targets/ami-%.toml $(AMI_TOOLS) ; $(RUN) builder build $@ --site $(SITE)
