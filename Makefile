# Two commands do everything on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint tables docs report clean

demo: .venv/ready  ## the main job on the embedded data sets: tables and a page in minutes
	$(BIN)/python bench/sweep.py --toy --home .demo --results .demo/results --name demo
	$(BIN)/amsrc-bench report --results .demo/results --home .demo --out .demo/report

test: lint  ## lint, types, import contracts and the tests, in minutes
	$(BIN)/pytest -n 2 --no-loadscope-reorder -m "not slow and not cluster"

test-all: lint  ## all tests: those that measure speed and those on a cluster of hosts too
	$(BIN)/pytest -n 2 --no-loadscope-reorder

lint: .venv/ready  ## style, types, who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

tables: .venv/ready  ## Table 1 and Table 2 from results/, and the copy in the README
	$(BIN)/amsrc-bench tables --readme README.md

docs: .venv/ready  ## results/SCHEMA.md from the docstrings of the records
	$(BIN)/amsrc-bench ls schema >results/SCHEMA.md

clean:
	rm -rf .venv .demo

report: .venv/ready  ## one HTML page of results/, with the figures that are there
	$(BIN)/amsrc-bench report --out report

# torch goes first and pinned, so that no other package picks another build of it.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@
