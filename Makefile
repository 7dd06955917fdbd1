# make demo and make test need nothing but Python 3.11 or newer, make and a package registry.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete
# The package itself, which is installed anew, alone, where only pyproject.toml has changed.
INSTALLED := .venv/.installed
# The kernel in C, which is built where there is a compiler; the package works without.
KERNEL := .venv/.kernel

.PHONY: env demo test test-all mutants lint format bench clean

env: $(INSTALLED) $(KERNEL)

$(KERNEL): $(INSTALLED) setup.py $(wildcard src/ibot/kernels/*.[ch])
	@$(BIN)/python setup.py --quiet build_ext --inplace > /dev/null 2>&1 || echo "without a compiler: data.pixels=fast is slower"
	@touch $(KERNEL)

$(INSTALLED): $(STAMP) pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make env PYTHON=python3.12"; exit 2; }
	@echo "building .venv: torch and the tools, a few minutes on the first call"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $(STAMP)

demo: env
	@$(BIN)/ibot demo $(ARGS)

test: env
	@$(BIN)/python -m pytest

test-all: env
	@$(BIN)/python -m pytest -m "not gpu"

mutants: env
	@$(BIN)/python tests/mutants.py $(ARGS)

lint: env
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports

format: env
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: env
	@$(BIN)/python -m benchmarks.step
	@$(BIN)/python -m benchmarks.input

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .ruff_cache
