# make restore [IMAGE=photo.jpg] [OUT=folder]   restore a photo four times larger with the weights that come with the project
# make test                                     run the tests
# make docs                                     build the documentation into the folder site
# make web-test                                 run the page in a real browser (Debian's chromium)
# Each sets up .venv from pyproject.toml when that is missing or stale: the first with what restoring needs and no more.

PYTHON ?= python3
IMAGE  ?= examples/cat.jpg
OUT    ?= restored
RUN    := .venv/bin/python

.PHONY: restore test lint docs web-test

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

web-test: .venv-web/ready
	.venv-web/bin/python -m pytest -m "slow or not slow" -rs tests/scripts/test_web.py

# gradio allows no Pillow as new as the rest is tested with: its packages lie in front of those of .venv.
.venv-web/ready: .venv/tested
	test -x .venv-web/bin/python || $(RUN) -m venv .venv-web
	.venv-web/bin/python -c "import pathlib, sysconfig; own = sysconfig.get_path('purelib'); \
	pathlib.Path(own, 'behind.pth').write_text(f'import site; site.addsitedir({own.replace(\".venv-web\", \".venv\")!r})')"
	.venv-web/bin/python -m pip install --quiet 'gradio>=5.20' playwright
	touch $@

.venv/ready: pyproject.toml setup.py
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/ready
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@
