# The two commands of a fresh machine are `make repro` and `make test`; each sets up what is missing first.

PYTHON ?= python3.11
NAME ?= embedded
JOBS ?= 1
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONHASHSEED := 0
# threads of torch that wait for each other give way soon: where another program shares the cores, spinning on for as long
# as is the default makes a training 15 times as slow
export GOMP_SPINCOUNT ?= 1000

.PHONY: help repro test quick lint format preset ablation experiments bench clean setup

help:                        ## what `make` can do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'\t' '{printf "make %-12s %s\n", $$1, $$2}'

repro: setup                 ## photographs to results/ and report/index.html; JOBS=n: n stages at once; KEEP_GOING=1: past failures
	python -m commands.repro --jobs $(JOBS) $(if $(filter 1,$(KEEP_GOING)),--keep-going)

test: setup                  ## every test
	python -m pytest -n 2 --dist worksteal

quick: setup                 ## the tests that take no longer than seconds each
	python -m pytest -n 2 --dist worksteal -m "not slow"

lint: setup                  ## ruff (lint and format) and mypy, both of which must be clean
	ruff check .
	ruff format --check .
	mypy

format: setup                ## let ruff write the code in its format
	ruff check --fix-only .
	ruff format .

preset: setup                ## make preset NAME=embedded|labelled|paper: the parameters of presets/NAME.yaml
	@test -f presets/$(NAME).yaml || { echo "presets/$(NAME).yaml is missing; there are: $(basename $(notdir $(wildcard presets/*.yaml)))" >&2; exit 2; }
	cp presets/$(NAME).yaml params.yaml
	python -m commands.graph

ablation: setup              ## make ablation TABLE=rain_placement: a table of ablations.yaml as experiments; without TABLE, their list
	python -m commands.ablation $(TABLE) --jobs $(JOBS)

experiments: setup           ## what differs between experiments: the columns of `dvc exp show` that changed and fit a screen
	dvc exp show --only-changed --hide-workspace --no-pager --drop '.*/|Created|State|Executor'

bench: setup                 ## ratios of speed against peers, beside those of an earlier run
	python -m benchmarks

clean:                       ## everything that was made but the environment, DVC's cache and its lock files, which one commits
	rm -rf data artifacts results report .runs

# .venv/ready holds the hash of the requirements.lock that was installed. Only a folder that this recipe made is ever emptied:
# one that somebody else made, or a link to one, is used as it is if it has all packages. (An empty .venv/ready is an older
# set-up's. The PATH is that without .venv, whose python is about to go.)
setup:
	@PATH="$${PATH#$(CURDIR)/$(BIN):}"; \
	wanted=$$($(PYTHON) -c 'import hashlib; print(hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest())') || exit 2; \
	test "$$(cat .venv/ready 2>/dev/null)" = "$$wanted" && exit 0; \
	if test -d .venv && test ! -L .venv && test -e .venv/ready && test ! -s .venv/ready; then touch .venv/made_by_setup; fi; \
	if test -x $(BIN)/python && $(BIN)/python -m pip --disable-pip-version-check install --quiet --dry-run --no-deps --no-index -r requirements.lock >/dev/null 2>&1; then \
		test -L .venv || echo "$$wanted" > .venv/ready; \
		exit 0; \
	fi; \
	if test -L .venv; then \
		echo ".venv is a link to $$(readlink .venv), which lacks packages of requirements.lock: run make setup in the checkout it belongs to, or remove the link" >&2; \
		exit 2; \
	fi; \
	rmdir .venv 2>/dev/null; \
	if test -e .venv && test ! -e .venv/made_by_setup; then \
		echo ".venv was not made by make setup and lacks packages of requirements.lock: install them (.venv/bin/python -m pip install -r requirements.lock), or move it away" >&2; \
		exit 2; \
	fi; \
	rm -rf .venv && mkdir .venv && touch .venv/made_by_setup && \
	$(PYTHON) -m venv .venv && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock && \
	echo "$$wanted" > .venv/ready
