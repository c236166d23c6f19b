# Two commands do everything: `make demo` and `make test`. Both rest on one stamped rule, `make setup`.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.headrace-setup

.PHONY: setup demo test lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml pipeline/quickstart/carriers.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	$(VENV)/bin/python -m pipeline.quickstart
	$(VENV)/bin/python -m pipeline.compile_kernels
	touch $(STAMP)

demo: setup
	$(VENV)/bin/headrace run quickstart

test: setup lint
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info
