# Everything a new machine needs is set up by these targets; nothing outside .venv, demo/ and the model cache is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Not compiled: that takes most of an installation's time, and Python compiles what it imports.
PIP    := $(BIN)/python -m pip install --quiet --no-compile
# Two files of tests at a time: together, since a file's tests share what is slow to start, and two, since each process
# holds models. In the order of tests/conftest.py: the longest first.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Checks the types of the page's JavaScript, as tsconfig.json says. npx keeps it in npm's cache.
TSC    := npx --yes --package typescript@5.9.3 -- tsc

.PHONY: demo bench test test-long versions mutants check check-types check-js check-tests format setup setup-dev clean

demo: setup  ## set up, and run the main job: train on notes by each method, compare
	$(BIN)/nlft demo

# An idle machine is needed. JSON for docs/BENCHMARKS.md: ARGS="--out docs/bench-NAME.json"; other options go there too.
bench: setup  ## time and memory of a step of each method, beside TRL's; MODEL=folder ARGS="--batch 8"
	$(BIN)/python benchmarks/bench.py run $(if $(MODEL),--model $(MODEL)) $(ARGS)

test: setup-dev  ## set up, and run the tests
	$(PYTEST)

test-long: setup-dev  ## simulations of minutes: how often intervals hold the truth
	$(PYTEST) -m long -rP

# The lowest and the newest versions that pyproject.toml allows, each in a folder before .venv's own packages. torch is as
# in .venv, and then each of TORCH="2.8.0 2.15.0": those builds are for CUDA, and take gigabytes.
LOWEST := transformers==5.23.0 trl==1.16.0 peft==0.21.0
NEWEST := 'transformers<6' 'trl<2' 'peft<1'
TRIED  := test_trainer test_resume test_cli test_models test_feedback_baselines test_tracking test_merging test_sft test_strike \
          test_beginnings test_chat test_interrupts test_two_processes test_same_trajectory
versions: setup-dev  ## the tests of what uses transformers, TRL and PEFT, with their lowest and newest versions
	rm -rf .versions
	$(PIP) --no-deps --target .versions/lowest $(LOWEST)
	$(PIP) --no-deps --upgrade --target .versions/newest $(NEWEST)
	PYTHONPATH=.versions/lowest $(PYTEST) $(TRIED:%=tests/%.py)
	PYTHONPATH=.versions/newest $(PYTEST) $(TRIED:%=tests/%.py)
	for torch in $(TORCH); do $(PIP) --target .versions/torch-$$torch torch==$$torch \
	  && PYTHONPATH=.versions/torch-$$torch $(PYTEST) $(TRIED:%=tests/%.py) || exit 1; done

N    ?= 200
SEED ?= 0
mutants: setup-dev  ## one to two hours: change one place of a copy at a time, and print what no test notices; N=200 SEED=0
	PYTHONPATH=tests $(BIN)/python -u -m mutation --drawn $(N) --seed $(SEED)

check: setup-dev  ## what CI runs: formatting, lint, types of Python and JavaScript, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory --jobs 3 check-types check-js check-tests

# Side by side, since mypy uses one core. What fails is printed when it is found, and make ends with an error.
check-types:
	$(BIN)/mypy

check-tests:
	$(PYTEST)

check-js:  ## the types of the page's JavaScript, where node is there
	@if ! command -v npx >/dev/null; then why="npx is not on the PATH"; \
	elif ! $(TSC) --version >/dev/null 2>&1; then why="npm cannot fetch typescript"; \
	else echo "$(TSC)"; $(TSC); exit; fi; \
	echo "SKIPPED: $$why, so the types of the page's JavaScript go unchecked"

format: setup-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch first and on its own, from the pin: see constraints.txt.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) demo
