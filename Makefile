# make help prints this list. Everything works from a fresh clone; `setup` runs by itself where it is needed.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
# what faces the broker: run a second time on RabbitMQ 4.3
BROKER_TESTS := tests/integration/test_dispatch.py tests/integration/test_recorder.py tests/integration/test_ingress.py tests/integration/test_roles.py tests/e2e/test_broker_faults.py tests/e2e/test_bad_messages.py tests/e2e/test_group_commit.py
# have stacks of their own, and play beside others
DRILL_TESTS := tests/e2e/test_drills.py
DEVSTACK_TESTS := tests/e2e/test_devstack.py tests/e2e/test_packages.py
# $(1) in the background, told of when $(2) has ended
define beside
mkdir -p .local; $(1) >.local/beside.txt 2>&1 & $(2); mine=$$?; wait $$!; other=$$?; cat .local/beside.txt; exit $$((mine ? mine : other))
endef

.PHONY: help setup demo up down status test test-fast test-all lint format bench bench-check drills celery-suite clean

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: .venv/.installed ## install what is missing: .venv, rabbitmq-server, ffmpeg
	@$(BIN)/jobplatform dev install

.venv/.installed: setup.cfg pyproject.toml constraints.txt deploy/setup-venv.sh
	@sh deploy/setup-venv.sh

demo: setup ## show the main job: one email, one video, one model answer
	@$(BIN)/jobplatform dev demo

up: setup ## start the stack and leave it running
	@$(BIN)/jobplatform dev up

down: setup ## stop the stack; its data stays
	@$(BIN)/jobplatform dev down

status: setup ## show what runs, and where
	@$(BIN)/jobplatform dev status

.local/node/.installed: deploy/setup-node.sh $(wildcard tests/node/*)
	@sh deploy/setup-node.sh

test: setup .local/node/.installed ## run all tests on a private stack
	@$(BIN)/python -m pytest -n 2 tests/unit tests/architecture tests/model tests/integration tests/contract $(PYTEST_ARGS)
	@$(call beside,$(BIN)/python -m pytest $(DEVSTACK_TESTS) $(PYTEST_ARGS),\
		$(BIN)/python -m pytest tests/e2e --ignore $(DRILL_TESTS) $(DEVSTACK_TESTS:%=--ignore %) $(PYTEST_ARGS))
	@$(call beside,JOBPLATFORM_RABBITMQ=4.3 $(BIN)/python -m pytest $(BROKER_TESTS) $(PYTEST_ARGS),\
		$(BIN)/python -m pytest $(DRILL_TESTS) $(PYTEST_ARGS))

test-fast: setup ## tests without servers: unit and architecture, half a minute
	@$(BIN)/python -m pytest -n 2 tests/unit tests/architecture $(PYTEST_ARGS)

test-all: test ## all tests, and what is slow: generated canvases beside plain Celery, Celery's own tests, bench-check
	@CANVAS_GENERATED=60 $(BIN)/python -m pytest tests/e2e/test_celery_control.py $(PYTEST_ARGS)
	@$(BIN)/python -m tests.celery_suite $(SUITE_ARGS)
	@$(MAKE) bench-check

lint: setup ## ruff, mypy strict, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## measure beside bare Celery, in one run
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-check: setup ## drain and accept beside bare Celery: fails below 80 % of the ratios in bench/record.json
	@$(BIN)/python -m bench --only drain accept --rounds 1 --check bench/record.json

drills: setup ## play every fault under load, on the distribution's RabbitMQ and on 4.3
	@$(BIN)/python -m drills $(DRILLS_ARGS)
	@JOBPLATFORM_RABBITMQ=4.3 $(BIN)/python -m drills $(DRILLS_ARGS)

celery-suite: setup ## run Celery's own integration tests on the platform (wants redis-server; a quarter of an hour)
	@$(BIN)/python -m tests.celery_suite $(SUITE_ARGS)

clean: ## remove .venv, and the stack of `make up` with its data
	@if [ -x $(BIN)/jobplatform ]; then $(BIN)/jobplatform dev down --delete-data; fi
	@rm -rf .venv .local
