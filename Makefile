# Everything a new machine needs is set up by these targets; nothing outside .venv, demo/ and the model cache is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two files of tests at a time: together, since a file's tests share what is slow to start, and two, since each process
# holds models.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

.PHONY: demo test check format setup setup-dev clean

demo: setup  ## set up, and run the main job: sample, judge, train by each method, compare
	$(BIN)/nlft demo

test: setup-dev  ## set up, and run the tests
	$(PYTEST)

check: setup-dev  ## what CI runs: formatting, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch first and on its own, from the pin: see constraints.txt.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) demo
