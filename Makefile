# Everything happens in .venv, which the first target that needs it makes; other versions in .venv-*.
PYTHON ?= python3
OLDEST_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.13
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
SPEC := pyproject.toml setup.py constraints.txt

EXTRAS := .[av,bench,cloud,docs,explore,hear,hub,hybrid,nnaudio,onnx,pandas,parquet,plot,pretrain,probe,ray,sklearn,torchaudio,umap]

.PHONY: demo test test-oldest test-newest lint docs fuzz bench notebooks wheel clean

demo: .venv/.demo  ## embed the example clips with the default weights
	$(BIN)/python examples/embed_clips.py

test: .venv/.dev  ## run every test
	$(BIN)/python -m pytest

test-oldest:  ## every test on the lower bounds of pyproject.toml; downloads gigabytes
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt \
		-e '$(EXTRAS)' build hypothesis pytest setuptools
	.venv-oldest/bin/python -m pytest

test-newest:  ## every test on the newest versions of everything; downloads gigabytes
	$(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager \
		-e '$(EXTRAS)' build hypothesis pytest setuptools
	.venv-newest/bin/python -m pytest

lint: .venv/.dev  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.docs  ## build the documentation into site/
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d .venv/.doctrees . site
	@echo "open site/index.html"

fuzz: .venv/.dev  ## damaged files of every kind, for a minute
	$(BIN)/python fuzz/fuzz.py

bench: .venv/.bench  ## measure speed and memory on this machine; takes long
	$(BIN)/python benchmarks/run.py

notebooks: .venv/.dev  ## run the notebooks of examples/ and keep what they show
	$(BIN)/python examples/run_notebooks.py

wheel: .venv/.dev  ## build dist/*.whl, the same bytes for the same commit
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## remove what the other targets made
	rm -rf .venv .venv-oldest .venv-newest build dist site demo-output *.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python $(SPEC)
	$(PIP) -e '.[parquet]'
	@touch $@

.venv/.dev: .venv/bin/python $(SPEC)
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.demo

.venv/.docs: .venv/bin/python $(SPEC)
	$(PIP) -e '.[docs]'
	@touch $@

.venv/.bench: .venv/bin/python $(SPEC)
	$(PIP) -e '.[bench]'
	@touch $@
