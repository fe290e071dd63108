# Everything from a fresh clone: `make lab` runs the main job, `make test` the tests. Needs Python >= 3.11 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB_RUN ?= runs/lab
# All tests; `make test` leaves out those marked slow. A test file stays in one process: what its tests share is built once. Each test uses one thread. Files run in the order of their folders; by
# default those with the fewest tests come last, and the longest are among them.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help lab test check clean
help:
	@echo "make lab    install into $(VENV) and run the main job on the embedded lab (18 minutes on two cores)"
	@echo "make test   install into $(VENV) and run the tests, but for a few slow ones"
	@echo "make check  formatting, lint, types, import directions, all tests"

# Installed again only when what is installed changes. Of thousands of modules few are ever imported: those are compiled when they are.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lab: $(VENV)/.installed
	$(BIN)/distillability run recipes/lab.toml --out $(LAB_RUN) --resume

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
