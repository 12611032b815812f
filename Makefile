# Asof: `make quickstart` for a first look, `make test` for all that passing means.
# Build output stays in the user's cache folder, so that a fresh clone does not build the dependencies again.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/asof
export CARGO_TARGET_DIR ?= $(CACHE)/target
VENV := $(CACHE)/venv
ASOF := $(CARGO_TARGET_DIR)/debug/asof

.PHONY: help setup build quickstart test check rust-test python-test bench bench-release clean-state python-env

help:
	@echo "make quickstart   build, then run the flights example from files to online answers"
	@echo "make test         format, lints, Rust tests, Python tests"
	@echo "make bench        measurements, side by side with peers"
	@echo "make build        the asof command: $(ASOF)"

setup:
	@scripts/setup

build: setup
	cargo build --bin asof

quickstart: build
	@ASOF="$(ASOF)" PYTHON=python3 examples/flights/quickstart

test: setup check rust-test python-test

check:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

rust-test:
	@if command -v cargo-nextest >/dev/null; then cargo nextest run --no-fail-fast; else cargo test --no-fail-fast; fi
	cargo test --doc

python-env: setup
	@scripts/python-env "$(VENV)"

python-test: build python-env
	ASOF_BIN="$(ASOF)" "$(VENV)/bin/python" -m pytest -q python/tests tests/python

bench: python-env
	ASOF_PYTHON="$(VENV)/bin/python" benches/run
