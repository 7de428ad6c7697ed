# Everything runs with the interpreter in .venv; paths are relative, so that a clone may lie anywhere.
PYTHON ?= python3
PY := .venv/bin/python
TFLITE_PYTHON ?= python3.12
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench train predict serve up down logs tflite-env clean

help: ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Python 3.11 or newer is needed; name one with PYTHON=python3.12 where python3 is older."

setup: .venv/.installed ## make .venv and install Corbel in it, once
	@:

# Anew only where pyproject.toml or constraints.txt changed since.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, and $(PYTHON) is not: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PY) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv, once; this takes some minutes"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## draw the demo set, train on it, predict, and say where everything is
	@set -e; \
	stamp=$$(date +%Y-%m-%d_%H-%M-%S); run=outputs/dual_head/$$stamp; predictions=outputs/predict/$$stamp; \
	$(PY) scripts/train.py hydra.run.dir=$$run; \
	$(PY) -m demo.baseline $$run; \
	$(PY) scripts/predict.py ckpt=$$run images=$$run/test_metadata.csv hydra.run.dir=$$predictions; \
	echo; \
	echo "demo set     data/demo (truth.csv says what was drawn)"; \
	echo "run folder   $$run"; \
	echo "report       $$run/report.html"; \
	echo "predictions  $$predictions/predictions.csv"

test: setup ## run the tests
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: setup ## measure ours beside the naive way: make bench ARGS="split"
	$(PY) scripts/benchmark.py $(ARGS)

train: setup ## train: make train ARGS="data.root=photos/"
	$(PY) scripts/train.py $(ARGS)

predict: setup ## predict: make predict ARGS="images=photos/ output=predictions.csv"
	$(PY) scripts/predict.py $(ARGS)

serve: setup ## predictions over HTTP and a page: make serve ARGS="port=8080"
	$(PY) scripts/serve.py $(ARGS)

up: ## the service on PostgreSQL, Redis and workers, in containers; see compose.yaml
	docker compose up --build --detach --wait $(ARGS)

down: ## end it; photos and database stay
	docker compose down $(ARGS)

logs: ## what it logs: make logs ARGS="worker"
	docker compose logs --follow $(ARGS)

tflite-env: .venv-tflite/.installed ## make .venv-tflite, the converter of formats=[tflite], once
	@:

.venv-tflite/.installed: requirements-tflite.txt
	@$(TFLITE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "error: the converter needs Python 3.12 or newer: make tflite-env TFLITE_PYTHON=PATH" >&2; exit 2; }
	$(TFLITE_PYTHON) -m venv --clear .venv-tflite
	.venv-tflite/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-tflite.txt
	@touch $@

clean: ## delete caches; never data, runs, .venv or .venv-tflite
	rm -rf .pytest_cache .ruff_cache build *.egg-info
	find src demo scripts benchmarks tests notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
