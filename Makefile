# make restore [IMAGE=photo.jpg] [OUT=folder]   restore a photo four times larger with the weights that come with the project
# make test                                     run the tests
# make docs                                     build the documentation into the folder site
# Each sets up .venv from pyproject.toml when that is missing or stale: the first with what restoring needs and no more.

PYTHON ?= python3
IMAGE  ?= examples/cat.jpg
OUT    ?= restored
RUN    := .venv/bin/python

.PHONY: restore test lint docs

restore: .venv/ready
	.venv/bin/burnish restore "$(IMAGE)" --out "$(OUT)" --compare

test: .venv/tested
	$(RUN) -m pytest -n auto --maxprocesses 8

lint: .venv/tested
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

docs: .venv/ready
	$(RUN) -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

.venv/ready: pyproject.toml setup.py
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/ready
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@
