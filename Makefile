# SgMg on shards. `make` lists the targets; each sets up .venv by itself from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# DALI and torch share the cores: two torch threads are enough for the demo, tests set their own.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

# one process; `accelerate config` or other flags here use more
LAUNCH ?= --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
# processes that share the tests, each on one torch thread
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
	  --constraints requirements.lock --editable '.[dev,app,ray]'
	@touch $@

# freed memory is kept for the next update, which then meets no page faults
demo: export MALLOC_MMAP_MAX_ = 0
demo: export MALLOC_TRIM_THRESHOLD_ = 8589934592
demo: export MALLOC_TOP_PAD_ = 67108864
demo: $(VENV)/ready  ## data -> shards -> image pretraining -> video fine-tuning -> held-out scores, overlays
	rm -rf demo
	$(BIN)/python preprocess/build_shards.py synthetic --root demo/data --out demo/shards --workers 2
	$(BIN)/accelerate launch $(LAUNCH) train.py synthetic-pretrain --out demo/pretrain \
	  --data.shards demo/shards/image-train --data.vocabulary demo/shards/train
	$(BIN)/accelerate launch $(LAUNCH) train.py synthetic --out demo/run --init demo/pretrain \
	  --data.shards demo/shards/train
	$(BIN)/python evaluate.py demo/run demo/shards/valid --out demo/evaluation --short-side 144
	@printf 'demo: %s\n' "$$(cat demo/evaluation/summary.txt)"

test: $(VENV)/ready  ## run the tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

check: $(VENV)/ready  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready  ## rewrite files in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/ready  ## run every benchmark (each prints a table and one JSON line)
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

lock: pyproject.toml  ## pin the dependencies anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url --extra dev --extra app --extra ray -o requirements.lock pyproject.toml

clean:  ## remove what the targets made (not .venv)
	rm -rf demo runs .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
