# A target is one line; the logic is Python.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DEMO := build/my-project
LOCK := $(CURDIR)/{{cookiecutter.project_slug}}/src/{{cookiecutter.__package_name}}/tools/lock.py
TEMPLATE_LOCKS := {{cookiecutter.project_slug}}/requirements.lock {{cookiecutter.project_slug}}/torch-cu130.lock
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test lint lock newest clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## generate a project with the defaults in build/, train it, score it
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir build
	$(MAKE) -C $(DEMO) train evaluate CONFIG=configs/digits.yaml

test: $(READY) ## bake every option, run what was baked
	python -m pytest $(ARGS)

lint: $(READY) ## pre-commit's hooks on every file
	git ls-files -coz --exclude-standard | xargs -0 pre-commit run --files

lock: $(READY) ## renew every lock: this folder's, the generated project's, the image's
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group dev pyproject.toml --output-file requirements.lock
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir build
	cd $(DEMO) && python "$(LOCK)"
	cp $(DEMO)/requirements.lock $(DEMO)/torch-cu130.lock "{{cookiecutter.project_slug}}"
	cd image && python "$(LOCK)" --constraint ../$(DEMO)/requirements.lock --constraint ../$(DEMO)/torch-cu130.lock
	cd image && uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group nvcc --constraint torch-cu130.lock --output-file nvcc-cu130.lock

newest: $(READY) ## write the newest torch, torchvision, lightning where versions live; then: make lock test
	python newest_versions.py

clean: ## remove the demo, the environment and the caches
	rm -rf build .venv .pytest_cache .ruff_cache

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	[ -x $(VENV)/bin/uv ] || $(PYTHON) -m venv $(VENV)
	[ -x $(VENV)/bin/uv ] || sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $(VENV)/bin/python -m pip install --quiet --require-hashes -r /dev/stdin
	uv pip sync --quiet --require-hashes requirements.lock
	@touch $@
