# `make help` lists the targets. PYTHON is the interpreter to build for.
PYTHON ?= python3
SHELL := /bin/bash

.PHONY: help develop wheel demo bench ecosystem lint test \
	example-rust-function example-http-server example-plugin-host bench-embed

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

develop: ## build in place for PYTHON (profile quick): then `PYTHONPATH=python $(PYTHON)` imports it
	@set -e; exe=$$($(PYTHON) -c 'import sys; print(sys.executable)'); \
	tag=$$($$exe -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	target=target/$$($$exe -c 'import sys; print("py%d.%d" % sys.version_info[:2])'); \
	PYO3_PYTHON=$$exe CARGO_TARGET_DIR=$$target cargo build --lib --profile quick; \
	cp $$target/quick/libferroloop.so python/ferroloop/_ferroloop$$tag

# The interpreter itself: a version manager's shim would choose anew in every directory.
EXE = $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
PY = $(shell $(PYTHON) -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
WHEELS = build/wheels/$(PY)

build/maturin/bin/maturin:
	$(EXE) -m venv build/maturin
	build/maturin/bin/pip install --quiet --disable-pip-version-check 'maturin>=1.9.4,<2'

wheel: build/maturin/bin/maturin ## build the release wheel for PYTHON into build/wheels
	rm -rf $(WHEELS)
	CARGO_TARGET_DIR=target/$(PY) build/maturin/bin/maturin build --quiet --release \
		--interpreter $(EXE) --out $(WHEELS)

demo: wheel ## fetch thousands of pages with aiohttp on ferroloop and on asyncio, from a fresh venv
	rm -rf build/demo
	$(EXE) -m venv build/demo
	build/demo/bin/pip install --quiet --disable-pip-version-check $(WHEELS)/*.whl aiohttp
	build/demo/bin/python examples/demo

CARGO = PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=target/$(PY) cargo

example-rust-function: develop ## a Python program awaits functions of an extension module in Rust
	cd examples/rust_function && PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=../../target/$(PY) cargo build
	mkdir -p build/examples/$(PY)
	cp target/$(PY)/debug/librust_function.so build/examples/$(PY)/rust_function.so
	PYTHONPATH=python:build/examples/$(PY) $(EXE) examples/rust_function/__main__.py

example-http-server: ## a Rust HTTP server whose handlers are Python coroutines; PORT=8080
	$(CARGO) run --quiet --features embed --example http_server $(PORT)

example-plugin-host: ## a Rust program with a plug-in in Python, restarted and shut down
	$(CARGO) run --quiet --features embed --example plugin_host

bench: wheel ## compare with the other event loops; ARGS="--only tasks" for a part
	test -x build/bench-$(PY)/bin/python || $(EXE) -m venv build/bench-$(PY)
	build/bench-$(PY)/bin/pip install --quiet --disable-pip-version-check -r benches/requirements.txt
	build/bench-$(PY)/bin/pip install --quiet --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/bench-$(PY)/bin/python -m benches $(if $(ARGS),$(ARGS),--results benches)

ecosystem: wheel ## run real programs on ferroloop and asyncio; ARGS="--only 'uvicorn*'" for a part
	test -x build/ecosystem-$(PY)/bin/python || $(EXE) -m venv build/ecosystem-$(PY)
	build/ecosystem-$(PY)/bin/pip install --quiet --disable-pip-version-check \
		-r tests/ecosystem/requirements.txt
	build/ecosystem-$(PY)/bin/pip install --quiet --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/ecosystem-$(PY)/bin/python -m tests.ecosystem $(ARGS)

bench-embed: wheel ## measure round trips to Rust futures, on the loop and on Tokio
	test -x build/bench-$(PY)/bin/python || $(EXE) -m venv build/bench-$(PY)
	build/bench-$(PY)/bin/pip install --quiet --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	cd benches/embed && PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=../../target/$(PY) cargo build --release
	mkdir -p build/benches/$(PY)
	cp target/$(PY)/release/libembed_bench.so build/benches/$(PY)/embed_bench.so
	PYTHONPATH=build/benches/$(PY) build/bench-$(PY)/bin/python -m benches.embed

build/lint-$(PY)/ready: tests/requirements.txt
	rm -rf build/lint-$(PY)
	$(EXE) -m venv build/lint-$(PY)
	build/lint-$(PY)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

lint: build/lint-$(PY)/ready ## check format, lints and types of the Rust and the Python code
	$(EXE) tests/check_layers.py
	cargo fmt --check
	PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=target/$(PY) cargo clippy --all-targets --all-features -- -D warnings
	build/lint-$(PY)/bin/ruff check .
	build/lint-$(PY)/bin/ruff format --check .
	build/lint-$(PY)/bin/mypy --python-executable build/lint-$(PY)/bin/python

test: ## build and run all tests on the oldest and the newest CPython present; ARGS="--only pytest"
	$(EXE) tests/run.py $(ARGS)
