# The two commands of a fresh machine are `make repro` and `make test`; each sets up what is missing first.

PYTHON ?= python3.11
NAME ?= embedded
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONHASHSEED := 0
# threads of torch that wait for each other give way soon: where another program shares the cores, spinning on for as long
# as is the default makes a training 15 times as slow
export GOMP_SPINCOUNT ?= 1000

.PHONY: repro test quick preset ablation experiments bench clean setup

repro: setup                 ## photographs to results/ and report/index.html, all under one Ray head
	python -m commands.graph --check
	python -m commands.cluster dvc repro

test: setup                  ## every test
	python -m pytest -n 2 --dist worksteal

quick: setup                 ## the tests that take no longer than seconds each
	python -m pytest -m "not slow"

preset: setup                ## make preset NAME=embedded|labelled|paper: the parameters of presets/NAME.yaml
	@test -f presets/$(NAME).yaml || { echo "presets/$(NAME).yaml is missing; there are: $(basename $(notdir $(wildcard presets/*.yaml)))" >&2; exit 2; }
	cp presets/$(NAME).yaml params.yaml
	python -m commands.graph

ablation: setup              ## make ablation TABLE=rain_placement: a table of ablations.yaml as experiments; without TABLE, their list
	python -m commands.ablation $(TABLE)

experiments: setup           ## what differs between experiments: the columns of `dvc exp show` that changed and fit a screen
	dvc exp show --only-changed --hide-workspace --no-pager --drop '.*/|Created|State|Executor'

bench: setup                 ## ratios of speed and memory against peers
	@for file in benchmarks/[a-z]*.py; do python -m benchmarks.$$(basename $$file .py) || exit 1; done

clean:                       ## everything that was made but the environment and DVC's cache
	rm -rf data artifacts results report .runs dvc.lock models/dvc.lock

setup: .venv/ready

.venv/ready: requirements.lock
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@
