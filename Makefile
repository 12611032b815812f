# Asof: `make quickstart` for a first look, `make test` for all that passing means.
# Build output stays in the user's cache folder, so that a fresh clone does not build the dependencies again.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/asof
export CARGO_TARGET_DIR ?= $(CACHE)/target
VENV := $(CACHE)/venv
ASOF := $(CARGO_TARGET_DIR)/debug/asof

DAYS ?= 30
SPEED ?= 0

.PHONY: help setup fresh build wheel quickstart demo-stream demo-predict test format lint rust-test python-test feast-test bench python-env

help:
	@echo "make quickstart   build, then run the flights example from files to online answers"
	@echo "make demo-stream  a month of arrivals pushed as they happen (DAYS=30 SPEED=0: as fast as it goes)"
	@echo "make demo-predict models that predict while arrivals are pushed, in the shadow too, and a replay of their log"
	@echo "make test         format, Rust tests, Python tests"
	@echo "make lint         clippy"
	@echo "make feast-test   what asof import-feast makes of a Feast repository, beside Feast itself"
	@echo "make bench        measurements, side by side with peers"
	@echo "make wheel        the Python package with the asof command in it: dist/"
	@echo "make build        the asof command: $(ASOF)"

setup:
	@scripts/setup

# Checkouts share the build output, and cargo tells by time stamps what is fresh, which say nothing between two of
# them: what another checkout built last is built again here.
fresh: setup
	@mkdir -p "$(CARGO_TARGET_DIR)"; \
	if [ "$$(cat "$(CARGO_TARGET_DIR)/checkout" 2>/dev/null)" != "$(CURDIR)" ]; then \
		touch build.rs src/lib.rs src/main.rs tests/integration/main.rs; \
		echo "$(CURDIR)" > "$(CARGO_TARGET_DIR)/checkout"; \
	fi

# The command is built together with a test: cargo gives the dependencies other features when it builds with the
# development dependencies and without them, and would build most of them twice.
build: fresh
	cargo build --bin asof --test integration

wheel: build python-env
	"$(VENV)/bin/python" python/scripts/build_wheel.py "$(ASOF)" dist

quickstart: build
	@ASOF="$(ASOF)" PYTHON=python3 examples/flights/quickstart

demo-stream: build python-env
	"$(VENV)/bin/python" examples/flights/stream.py --asof "$(ASOF)" --days "$(DAYS)" --speed "$(SPEED)"

demo-predict: build python-env
	"$(VENV)/bin/python" examples/flights/predict.py --asof "$(ASOF)"

test: setup format rust-test python-test

format:
	cargo fmt --check

# Checks need the dependencies in a form of their own: the first run takes a while.
lint: fresh
	cargo clippy --all-targets -- -D warnings

rust-test: fresh
	@if command -v cargo-nextest >/dev/null; then cargo nextest run --no-fail-fast; else cargo test --lib --bins --tests --no-fail-fast; fi

python-env: setup
	@scripts/python-env "$(VENV)"

python-test: build python-env
	cd python && "$(VENV)/bin/mypy" --cache-dir "$(CACHE)/mypy"
	cd python && ASOF_BIN="$(ASOF)" "$(VENV)/bin/python" -m pytest -p no:cacheprovider
	ASOF_BIN="$(ASOF)" "$(VENV)/bin/python" -m pytest -p no:cacheprovider tests/python

# Feast and what it needs are half a gigabyte, so they have an environment of their own, and no part in `make test`.
feast-test: build python-env
	[ -x "$(CACHE)/feast/bin/feast" ] || { python3 -m venv "$(CACHE)/feast" && "$(CACHE)/feast/bin/pip" install --quiet "feast[duckdb]"; }
	cd python && ASOF_FEAST_PYTHON="$(CACHE)/feast/bin/python" ASOF_BIN="$(ASOF)" "$(VENV)/bin/python" -m pytest -p no:cacheprovider tests/test_feast.py tests/test_feast_remote.py

bench: python-env
	ASOF_PYTHON="$(VENV)/bin/python" benches/run
