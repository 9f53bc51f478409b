# A fresh clone needs Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo docs check test coverage lint clean

setup: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==$(shell sed -n 's/^uv==//p' requirements.txt)
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --requirement requirements.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	for name in retinaface mediapipe; do \
	  $(BIN)/drsf weights pull $$name || echo "Going on without; 'drsf weights pull $$name' fetches these weights later."; \
	done
	touch $@

demo: setup
	$(BIN)/drsf demo demo --overwrite

# the picture of the README, and the notebook's outputs
docs: setup
	$(BIN)/python docs/make.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# a file's tests stay together, or each process would make what they share
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

# lint, types and the quick tests
check: lint
	$(PYTEST) -m "not slow"

# everything
test: lint
	$(PYTEST)

# the same with the share of lines that the tests run: 10 to 40 % longer
coverage: setup
	$(PYTEST) --cov --cov-report=term:skip-covered

clean:
	rm -rf .venv demo build dist
