# graft. `make` alone lists the targets. Everything is installed into .venv; nothing else on the machine is touched.

PYTHON ?= python3
# ARGS go to the command behind a target: make serve ARGS="--port 9000 --home /data/graft"
ARGS ?=
BIN := .venv/bin
FAST := tests/unit tests/conformance
# What mostly waits for processes runs side by side, a file at a time; what computes on one thread, two at a time; and the
# whole product has the machine for itself.
SPREAD := -n auto --maxprocesses 4 --dist loadfile
PAIRED := -n 2 --dist loadfile
PROCESSES := $(addprefix tests/integration/,chart eyes launcher ledger ray sdk service) tests/security tests/chaos
COMPUTING := $(addprefix tests/integration/,bench engine training)

.DEFAULT_GOAL := help
.PHONY: help install serve test fuzz chaos soak churn testgpu check lint bench bench-rivals sdks postgres charts images prometheus ray dashboards lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Set up .venv with the pinned packages that fit this machine (GPU or CPU).
	@$(PYTHON) tools/install.py $(if $(FLAVOUR),--flavour $(FLAVOUR))

serve: install ## Bring everything up: service, engines, trainer. ARGS="--host ... --port ... --home ..."
	@exec $(BIN)/graft up $(ARGS)

test: install sdks postgres charts prometheus ray ## Run the whole suite: unit, conformance, integration, end to end with real vLLM.
	$(BIN)/pytest $(SPREAD) $(FAST) $(PROCESSES) $(ARGS)
	$(BIN)/pytest $(PAIRED) -m "not gpu" $(COMPUTING) $(ARGS)
	$(BIN)/pytest --randomly-dont-reorganize -m "not gpu" tests/e2e $(ARGS)

fuzz: install ## Send thousands of requests made from the published description, with keys on. ARGS="--cases 200" of each operation.
	$(BIN)/pytest -n 2 tests/fuzz $(ARGS)

chaos: install postgres ray ## Kill everything at random, at release size (hours); docs/reliability.md says what was found.
	$(BIN)/pytest --randomly-dont-reorganize --timeout 7200 --chaos release --scoreboard docs/reliability.md tests/chaos $(ARGS)

churn: install ## Ask 40 adapters over a live set of 8 for ten minutes, with loads, promotions and rollbacks: real vLLM.
	$(BIN)/pytest -s --randomly-dont-reorganize --timeout 3600 --churn release tests/e2e/test_7_churn.py $(ARGS)

soak: install postgres ## Ask a bit of everything for an hour, and see that nothing grows; docs/reliability.md says what was found.
	$(BIN)/pytest -s --timeout 7200 --soak 3600 --scoreboard docs/reliability.md tests/chaos/test_soak.py $(ARGS)

testgpu: install ## Run what only an NVIDIA GPU can show: training in bfloat16, and the whole suite on vLLM's GPU flavour.
	$(BIN)/pytest -m gpu tests/gpu $(ARGS)
	$(BIN)/pytest --randomly-dont-reorganize tests/e2e $(ARGS)

check: lint ## Run what is quick: lint, then the unit and conformance tests, in random order.
	$(BIN)/pytest -q -p tests.support.light $(SPREAD) $(FAST) $(ARGS)

lint: install ## Check formatting, style, types, import directions and declared dependencies.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

sdks: install ## Set up the older OpenAI SDKs that the tests run against, under .sdks.
	@$(PYTHON) -m tools.sdks

postgres: ## See that PostgreSQL is there, for tests on a server of their own. Root has it installed.
	@$(PYTHON) -m tools.postgres

charts: install ## Set up Helm 3 and 4, validators and hadolint, for the tests of chart and Dockerfile, under .helm-bin.
	@$(PYTHON) -m tools.helm

images: install charts ## Run the steps of the Dockerfile's service image outside of a container. Minutes.
	$(BIN)/pytest tests/integration/images $(ARGS)

prometheus: ## See that Prometheus and promtool are there, for tests that let it scrape. Root has it installed.
	@$(PYTHON) -m tools.prometheus

ray: install ## Set up Ray under .ray, beside .venv. PYTHONPATH=.ray .venv/bin/graft up --trainer ray
	@$(PYTHON) -m tools.ray_env

dashboards: install ## Rewrite the Grafana dashboards in helm/graft/files/dashboards from tools/dashboards.
	$(BIN)/python -m tools.dashboards

bench: install ## Measure against peers and print ratios (bench/LOG.md keeps the history).
	$(BIN)/python -m bench $(ARGS)

bench-rivals: install ## Set up LLaMA-Factory and TRL, each in an environment of its own under .rivals, for make bench.
	@$(PYTHON) -m tools.rivals $(ARGS)

lock: install ## Rewrite what lies in requirements from pyproject.toml and tools.
	$(PYTHON) -m tools.lock
	$(PYTHON) -m tools.rivals --lock
	$(PYTHON) -m tools.sdks --lock
	$(PYTHON) -m tools.helm --lock
	$(PYTHON) -m tools.images --lock
	$(PYTHON) -m tools.ray_env --lock
	$(BIN)/python -m tools.values_schema

clean: ## Remove .venv and every cache of the tools. The home folder, with your adapters, stays.
	rm -rf .venv .rivals .sdks .helm-bin .ray .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
