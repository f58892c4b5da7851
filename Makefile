# A target is one line; the logic is Python.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DEMO := build/my-project
TEXT := build/text/my-project
BENCHED := $(if $(filter bert-% accuracy-text,$(WORKLOAD)),$(TEXT),$(DEMO))
BENCH_accuracy := accuracy.py
BENCH_accuracy-text := accuracy.py --tasks languages
BENCH_patches := patches.py
BENCH_gains := gains.py --text $(TEXT)
BENCH_timeline := timeline.py
BENCH_allreduce := allreduce.py
LOCK := $(CURDIR)/{{cookiecutter.project_slug}}/src/{{cookiecutter.__package_name}}/engine/tools/lock.py
TEMPLATE_LOCKS := {{cookiecutter.project_slug}}/requirements.lock {{cookiecutter.project_slug}}/torch-cu130.lock
CUDA ?= cu130
REGISTRY ?= $(shell sed -n 's|.*"universal_image": "\(.*\)/.*|\1|p' cookiecutter.json)
TORCH := $(shell sed -n 's|.*"_torch_version": "\(.*\)".*|\1|p' cookiecutter.json)
IMAGE := torch-universal:$(TORCH)-$(CUDA)
TARGETS := serve ssh $(if $(filter cu130,$(CUDA)),devel)
BUILD := docker build --build-arg CUDA=$(CUDA) $(if $(PACKAGE_MIRROR),--build-arg PACKAGE_MIRROR=$(PACKAGE_MIRROR)) $(if $(DEBIAN),--build-arg DEBIAN=$(DEBIAN)) $(ARGS)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(VIRTUAL_ENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo bench test golden lint lock newest image test-image push torch-lock image-name engine gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## generate the default project in build/, train and score it
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir build
	$(MAKE) -C $(DEMO) train evaluate CONFIG=configs/digits.yaml

bench: $(if $(findstring --rounds 0,$(ARGS))$(filter accuracy-text,$(WORKLOAD)),,gpu) $(READY) ## measure training on this GPU [WORKLOAD=…] [ARGS=…]
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir $(dir $(BENCHED)) $(if $(filter $(TEXT),$(BENCHED)),task=text)
	$(MAKE) -C $(BENCHED) setup
	$(if $(filter gains,$(WORKLOAD)),cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir $(dir $(TEXT)) task=text && $(MAKE) -C $(TEXT) setup)
	$(or $(UV_PROJECT_ENVIRONMENT),$(BENCHED)/.venv)/bin/python benchmarks/$(or $(BENCH_$(WORKLOAD)),compare.py $(WORKLOAD)) --project $(BENCHED) $(ARGS)

test: $(READY) ## bake every option, run what was baked
	python -m pytest $(or $(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

golden: demo ## write tests/golden/ again, if results are meant to change
	python tests/golden.py $(DEMO)

lint: $(READY) ## pre-commit's hooks on every file
	git ls-files -coz --exclude-standard | xargs -0 pre-commit run --files

lock: $(READY) ## renew every lock: of this folder, the project, the image
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group dev pyproject.toml --output-file requirements.lock
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir build
	cd $(DEMO) && python "$(LOCK)"
	cp $(DEMO)/requirements.lock $(DEMO)/torch-cu130.lock "{{cookiecutter.project_slug}}"
	cookiecutter . --no-input --default-config --overwrite-if-exists --output-dir build/text task=text
	cd $(TEXT) && python "$(LOCK)" --constraint ../../my-project/requirements.lock --constraint ../../my-project/torch-cu130.lock
	cp $(TEXT)/requirements.lock $(TEXT)/torch-cu130.lock "{{cookiecutter.project_slug}}/tasks/text"
	cd image && python "$(LOCK)" --constraint ../$(DEMO)/requirements.lock --constraint ../$(DEMO)/torch-cu130.lock
	cd image && uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --group nvcc --constraint torch-cu130.lock --output-file nvcc-cu130.lock

newest: $(READY) ## name the newest torch and lightning; then: make lock test
	python newest_versions.py

image: engine ## build the universal image [CUDA=…] [PACKAGE_MIRROR=…]
	$(BUILD) --tag $(IMAGE) --tag $(REGISTRY)/$(IMAGE) image
	for target in $(TARGETS); do $(BUILD) --target $$target --tag $(IMAGE)-$$target --tag $(REGISTRY)/$(IMAGE)-$$target image || exit; done

test-image: image $(READY) ## build it, test it, list its contents in build/ [CUDA=…]
	IMAGE=$(IMAGE) python -m pytest image/tests --capture=no
	mkdir -p build && docker run --rm --interactive $(IMAGE) python - < image/sbom.py > build/$(subst :,-,$(IMAGE)).cdx.json

push: engine ## publish the image that is built: REGISTRY=host/team [CUDA=…]
	for tag in $(IMAGE) $(addprefix $(IMAGE)-,$(TARGETS)); do docker tag $$tag $(REGISTRY)/$$tag$(SUFFIX) && docker push $(REGISTRY)/$$tag$(SUFFIX) || exit; done

torch-lock: $(READY) ## lock torch for CUDA=cu126 or cpu, from PyTorch's own index
	$(if $(filter cu130,$(CUDA)),$(error make lock locks cu130; set CUDA=cu126 or CUDA=cpu))
	cd image && grep -oE '"torch(vision)?==[^"]+"' pyproject.toml | tr -d '"' | uv pip compile --quiet --python-version 3.13 --generate-hashes --no-annotate --no-header --no-emit-index-url --torch-backend $(CUDA) --constraint requirements.lock --output-file torch-$(CUDA).lock -

image-name:
	@echo $(IMAGE)

engine:
	@docker info > /dev/null 2>&1 || { echo "There is no container engine: docker info fails. Install or start Docker" >&2; exit 1; }

gpu:
	@nvidia-smi > /dev/null 2>&1 || { echo "There is no NVIDIA GPU here: nvidia-smi fails. make $(MAKECMDGOALS) needs one" >&2; exit 1; }

clean: ## remove the demo, the environment and the caches
	rm -rf build .venv .pytest_cache .ruff_cache

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	[ -x $(VENV)/bin/uv ] || $(PYTHON) -m venv $(VENV)
	[ -x $(VENV)/bin/uv ] || sed -n '/^uv==/,/[^\\]$$/p' requirements.lock | $(VENV)/bin/python -m pip install --quiet --require-hashes -r /dev/stdin
	uv pip sync --quiet --require-hashes requirements.lock
	@touch $@
