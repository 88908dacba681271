# make demo   the whole pipeline on a small generated dataset
# make ui     the web UI on what the demo made
# make test   the whole test suite
# make docs   the site, into build/site; a warning is an error
# make audit  known vulnerabilities of what is installed (asks PyPI), and a list of it: build/sbom.json
# make soak   all stages, random kills, power cuts, orders of use, damaged files, for MINUTES (10)
# make bench  every stage and whole jobs against named alternatives: 40 minutes by the sum of its rows,
#             15 GB of disk, 14 GB of memory
# make gpu-check   what this machine's GPU computes, against the CPU, and how fast: 4 minutes, no network
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

DEMO := demo_data
export DAGSTER_HOME := $(CURDIR)/.dagster
DEMO_ENV := NSD_SOURCE=$(CURDIR)/$(DEMO)/nsd NSD_ENCODER=$(CURDIR)/$(DEMO)/tiny_dinov2 \
	NSD_STORAGE=$(CURDIR)/artifacts

.PHONY: demo ui test types tests docs soak bench audit lint lock clean

demo: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	$(BIN)/python -m nsd_pipeline.demo $(DEMO)
	$(DEMO_ENV) $(BIN)/python -m nsd_pipeline.demo.run

# From below DAGSTER_HOME, or Dagster warns of the dagster.yaml here, which is the same file. The other
# warning that is turned off recommends a command that would have to be installed first.
ui: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	cd $(DAGSTER_HOME) && PYTHONWARNINGS='ignore:Function `dev_command` is superseded' \
		$(DEMO_ENV) $(CURDIR)/$(BIN)/dagster dev -w $(CURDIR)/workspace.yaml --host 127.0.0.1

test: $(VENV)/.installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(MAKE) --jobs 2 types tests

types: # a minute of one processor, beside the tests
	$(BIN)/mypy

tests: # by three processes, also on two processors: one mostly waits for a daemon, a queue or a server
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/site

soak: $(VENV)/.installed-dev
	NSD_SOAK_MINUTES=$(or $(MINUTES),10) NSD_SOAK_SEED=$(or $(SEED),33) \
		$(BIN)/python -m pytest -m soak nsd_pipeline_tests/soak

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

gpu-check: # with the environment that is there: torch, transformers and what training imports
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check --page docs/gpu.md

audit: $(VENV)/.installed build/audit/.installed
	build/audit/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON \
		--output-file build/sbom.json $(BIN)/python
	rm -f build/audit.json
	-build/audit/bin/pip-audit --no-deps --disable-pip --format json --output build/audit.json \
		-r requirements.lock -r requirements-cluster.lock -r requirements-dev.lock
	$(BIN)/python .ci/audit.py build/audit.json

build/audit/.installed: # apart, so that neither tool is part of what it looks at
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check \
		pip-audit==2.10.1 cyclonedx-bom==7.5.0
	touch $@

# The reference, for a row of the benchmark: Python 3.12, 5 GB with PyPI's torch. Versions of
# torchvision and torchaudio are named, so that pip need not search which of them fit; the pip that
# comes with Python 3.12.1 searches for more than half an hour all the same.
build/neuralbench/.installed:
	$(or $(PYTHON312),python3.12) -m venv build/neuralbench
	build/neuralbench/bin/pip install --quiet --disable-pip-version-check --upgrade pip
	build/neuralbench/bin/pip install --quiet --disable-pip-version-check neuralbench==0.4.0 neuralset==0.4.0 \
		neuraltrain==0.4.0 neuralfetch==0.4.0 pybids==0.22.0 torch==2.13.0 torchvision==0.28.0 \
		torchaudio==2.11.0 transformers==5.23.0 nilearn==0.14.1
	touch $@

lock: # new versions of everything, within pyproject's ranges
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --upgrade pip
	build/lock/bin/pip install --quiet torch==2.13.0 .
	build/lock/bin/pip freeze --exclude nsd_pipeline | sed 's/+cpu$$//' > requirements.lock
	build/lock/bin/pip install --quiet '.[cluster]'
	build/lock/bin/pip freeze --exclude nsd_pipeline | sed 's/+cpu$$//' \
		| grep -vxFf requirements.lock > requirements-cluster.lock
	build/lock/bin/pip install --quiet --group dev
	build/lock/bin/pip freeze --exclude nsd_pipeline | sed 's/+cpu$$//' \
		| grep -vxFf requirements.lock -f requirements-cluster.lock > requirements-dev.lock
	rm -rf build/lock

clean: # everything that was generated, downloaded or computed
	rm -rf $(VENV) $(DAGSTER_HOME) $(DEMO) artifacts build

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; see README.md" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-cluster.lock requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock \
		-r requirements-cluster.lock -r requirements-dev.lock
	# The authors' package, a peer in tests; the versions it asks for are of 2020.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps nsdcode==1.1.dev260054000
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(@D) && ln -sf ../dagster.yaml $@
