# `make help` lists the targets. PYTHON is the interpreter to build for.
PYTHON ?= python3
SHELL := /bin/bash

.PHONY: help develop wheel wheel-for wheels test-wheels check-dist release-check demo docs picture \
	bench ecosystem upstream lint lint-rust lint-free-threading lint-python msrv fuzz refused stress \
	deny test test-314 test-315 test-all test-debug test-aarch64 test-install bench-embed bench-cluster \
	example-rust-function example-http-server example-plugin-host loom loom-mutations memcheck \
	test-asan test-asan-embed test-tsan

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

# The cargo profile: `quick`, or `checked`, which has debug assertions.
PROFILE ?= quick

develop: ## build in place for PYTHON (PROFILE=quick); `PYTHONPATH=python $(PYTHON)` then imports it
	@set -e; exe=$$($(PYTHON) -c 'import sys; print(sys.executable)'); \
	tag=$$($$exe -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	target=target/$$($$exe -c 'import sys; print("py%d.%d" % sys.version_info[:2])'); \
	PYO3_PYTHON=$$exe CARGO_TARGET_DIR=$$target cargo build --lib --profile $(PROFILE); \
	install -m 755 $$target/$(PROFILE)/libferroloop.so python/ferroloop/_ferroloop$$tag

# The interpreter itself: a version manager's shim may start another one in each directory.
EXE = $(shell $(PYTHON) -c 'import sys; print(sys.executable)')
PY = $(shell $(PYTHON) -c 'import sys; print("py%d.%d" % sys.version_info[:2])')
WHEELS = build/wheels/$(PY)

# cargo and pip show their progress on a terminal; in a file each crate would be a line.
QUIET := $(shell test -t 2 || echo --quiet)

build/maturin/bin/maturin:
	@echo "installing the build tool maturin into build/maturin"
	$(EXE) -m venv build/maturin
	build/maturin/bin/pip install $(QUIET) --disable-pip-version-check 'maturin>=1.9.4,<2'

# A hundred megabytes, for wheels that run on systems older than this one.
build/maturin/zig: build/maturin/bin/maturin
	build/maturin/bin/pip install $(QUIET) --disable-pip-version-check 'maturin[zig]>=1.9.4,<2'
	touch $@

# `quick` builds without link-time optimisation, which takes minutes.
WHEEL_PROFILE ?= release

wheel: build/maturin/bin/maturin ## build the release wheel for PYTHON into build/wheels
	@echo "compiling ferroloop for $(PY): minutes the first time, and after a change of its Rust code"
	rm -rf $(WHEELS)
	CARGO_TARGET_DIR=target/$(PY) build/maturin/bin/maturin build $(QUIET) --profile $(WHEEL_PROFILE) \
		--interpreter $(EXE) --out $(WHEELS)

# Maturin knows the ABI of each CPython release, so the interpreter need not be installed; zig links
# against the symbols of an old glibc. Each version has its own target directory, so that several can
# be built at the same time.
VERSION ?= 3.15
TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')

wheel-for: build/maturin/zig ## build the manylinux wheel for CPython VERSION, which need not be installed
	rm -rf build/wheels/py$(VERSION)
	PATH=$(CURDIR)/build/maturin/bin:$$PATH CARGO_TARGET_DIR=target/wheels-py$(VERSION) \
		build/maturin/bin/maturin build $(QUIET) --profile $(WHEEL_PROFILE) --zig --target $(TARGET) \
		--interpreter python$(VERSION) --out build/wheels/py$(VERSION)

wheels: build/maturin/zig ## build manylinux wheels for CPython 3.11 to 3.15, free-threaded from 3.14 on, and the sdist, into dist
	rm -rf dist
	build/maturin/bin/maturin sdist --out dist
	PATH=$(CURDIR)/build/maturin/bin:$$PATH CARGO_TARGET_DIR=target/wheels \
		build/maturin/bin/maturin build --profile $(WHEEL_PROFILE) --zig --target $(TARGET) \
		$(addprefix --interpreter python,3.11 3.12 3.13 3.14 3.14t 3.15 3.15t) --out dist

test-wheels: ## install each wheel of dist, and the sdist, in a clean environment and run programs on it
	$(EXE) tests/try_wheels.py dist

build/release/ready: tests/requirements-release.txt
	rm -rf build/release
	$(EXE) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check -r tests/requirements-release.txt
	touch $@

check-dist: build/release/ready ## check names, metadata, platforms, SBOMs and contents of the files in dist
	build/release/bin/python tests/check_dist.py dist

# One after the other, also with --jobs.
release-check: ## what must pass before a release: wheels, check-dist, test-wheels
	$(MAKE) wheels
	$(MAKE) check-dist
	$(MAKE) test-wheels

demo: wheel ## fetch thousands of pages with aiohttp on ferroloop and on asyncio, from a fresh venv
	@echo "installing the wheel and aiohttp into build/demo"
	rm -rf build/demo
	$(EXE) -m venv build/demo
	build/demo/bin/pip install $(QUIET) --disable-pip-version-check $(WHEELS)/*.whl aiohttp
	@echo "running the demo: four rounds, each a few seconds on each loop"
	build/demo/bin/python examples/demo

build/site-$(PY)/ready: docs/site/requirements.txt
	rm -rf build/site-$(PY)
	$(EXE) -m venv build/site-$(PY)
	build/site-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check -r docs/site/requirements.txt
	touch $@

# rustdoc does not remove the pages that another run with other options has made.
docs: develop build/site-$(PY)/ready ## build the documentation site into build/docs/html; needs Python 3.12
	rm -rf target/$(PY)/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(QUIET) --no-deps --features embed
	PYTHONPATH=python build/site-$(PY)/bin/python docs/site/build.py build/docs \
		--rustdoc target/$(PY)/doc

picture: develop ## draw what `top` shows, docs/top.svg; needs tmux
	PYTHONPATH=$(CURDIR)/python $(EXE) docs/site/picture.py docs/top.svg

CARGO = PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=target/$(PY) cargo

example-rust-function: develop ## run a Python program that awaits functions of a Rust extension module
	cd examples/rust_function && PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=../../target/$(PY) cargo build
	mkdir -p build/examples/$(PY)
	cp target/$(PY)/debug/librust_function.so build/examples/$(PY)/rust_function.so
	PYTHONPATH=python:build/examples/$(PY) $(EXE) examples/rust_function/__main__.py

example-http-server: ## run a Rust HTTP server whose handlers are Python coroutines; PORT=8080
	$(CARGO) run --quiet --features embed --example http_server $(PORT)

example-plugin-host: ## run a Rust program that restarts and shuts down a plug-in in Python
	$(CARGO) run --quiet --features embed --example plugin_host

bench: wheel ## compare with the other event loops; ARGS="--only tasks" for a part
	test -x build/bench-$(PY)/bin/python || $(EXE) -m venv build/bench-$(PY)
	build/bench-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check -r benches/requirements.txt
	build/bench-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/bench-$(PY)/bin/python -m benches $(if $(ARGS),$(ARGS),--results benches)

ecosystem: wheel ## run real programs on ferroloop and asyncio; ARGS="--only 'uvicorn*'" for a part
	test -x build/ecosystem-$(PY)/bin/python || $(EXE) -m venv build/ecosystem-$(PY)
	build/ecosystem-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check \
		-r tests/ecosystem/requirements.txt
	build/ecosystem-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/ecosystem-$(PY)/bin/python -m tests.ecosystem $(ARGS)

upstream: wheel ## run the test suites of seven other projects on both loops; ARGS="--only anyio"
	$(EXE) -m tests.upstream --wheel $(WHEELS)/*.whl $(ARGS)

bench-embed: wheel ## measure round trips to Rust futures, on the loop and on Tokio
	test -x build/bench-$(PY)/bin/python || $(EXE) -m venv build/bench-$(PY)
	build/bench-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	cd benches/embed && PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=../../target/$(PY) cargo build --release
	mkdir -p build/benches/$(PY)
	cp target/$(PY)/release/libembed_bench.so build/benches/$(PY)/embed_bench.so
	PYTHONPATH=build/benches/$(PY) build/bench-$(PY)/bin/python -m benches.embed

bench-cluster: wheel ## measure a Dask cluster on each loop: scheduler, workers and client; ARGS="--rounds 1"
	test -x build/bench-$(PY)/bin/python || $(EXE) -m venv build/bench-$(PY)
	build/bench-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check \
		-r benches/requirements.txt -r benches/cluster/requirements.txt
	build/bench-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/bench-$(PY)/bin/python -m benches.cluster $(ARGS)

build/lint-$(PY)/ready: tests/requirements.txt
	rm -rf build/lint-$(PY)
	$(EXE) -m venv build/lint-$(PY)
	build/lint-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check -r tests/requirements.txt
	touch $@

build/tools/bin/%:
	CARGO_TARGET_DIR=target/tools cargo install $(QUIET) --locked --root build/tools $*

# Crates that are no part of ferroloop's package. Those with the oldest PyO3 are not checked: what is
# in them is also in others, or is kept as it was.
OTHER_CRATES = compat examples/rust_function tests/rust/extension tests/rust/ported benches/embed \
	benches/cores

lint: lint-rust lint-free-threading lint-python msrv ## check format, lints and types of the Rust and the Python code

lint-rust:
	$(EXE) tests/check_layers.py --heads --sizes
	$(EXE) tests/check_entries.py
	cargo fmt --check
	for crate in $(OTHER_CRATES); do \
		cargo fmt --check --manifest-path $$crate/Cargo.toml || exit; done
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	for crate in $(OTHER_CRATES); do $(CARGO) clippy --quiet --locked --all-targets --all-features \
		--manifest-path $$crate/Cargo.toml -- -D warnings || exit; done
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps --all-features --document-private-items
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --locked --no-deps --all-features \
		--manifest-path compat/Cargo.toml

# PyO3 needs the version of a free-threaded interpreter, but not the interpreter. Tests are not linted:
# they are the same.
lint-free-threading:
	PYO3_NO_PYTHON=1 PYO3_CROSS_PYTHON_VERSION=3.14t CARGO_TARGET_DIR=target/free-threading \
		cargo clippy --quiet --locked --all-features -- -D warnings

lint-python: build/lint-$(PY)/ready
	build/lint-$(PY)/bin/ruff check .
	build/lint-$(PY)/bin/ruff format --check .
	for version in 3.11 3.14 3.15; do build/lint-$(PY)/bin/mypy --python-version $$version \
		--python-executable build/lint-$(PY)/bin/python || exit; done
	build/lint-$(PY)/bin/typos
	build/lint-$(PY)/bin/zizmor --quiet --offline --no-progress .github
	build/lint-$(PY)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

msrv: ## check that the oldest Rust supported compiles the crate, from rustup or in a Debian root
	$(EXE) tests/oldest_rust.py

test-314: ## run the tests on CPython 3.14 in a Debian root; only as root
	$(EXE) tests/run.py --roots-alone --debian-root 3.14 $(ARGS)

test-315: ## run the tests on CPython 3.15 in the same root
	$(EXE) tests/run.py --roots-alone --debian-root 3.15 $(ARGS)

FUZZ_SECONDS ?= 20
SEED ?= $(shell date +%s)

fuzz: PROFILE = checked
fuzz: develop ## compare results for random input with simple models; FUZZ_SECONDS each, SEED to repeat a run
	CARGO_TARGET_DIR=target/fuzz cargo run --quiet --release --locked \
		--manifest-path fuzz/timers/Cargo.toml -- $(FUZZ_SECONDS) $(SEED)
	PYTHONPATH=python $(EXE) fuzz/addresses.py $(FUZZ_SECONDS) $(SEED)
	PYTHONPATH=python $(EXE) fuzz/writes.py $(FUZZ_SECONDS) $(SEED)
	PYTHONPATH=python $(EXE) fuzz/api.py $(FUZZ_SECONDS) $(SEED)

loom: ## explore the protocols between threads in every interleaving: tests/loom
	CARGO_TARGET_DIR=target/loom cargo test --quiet --locked \
		--manifest-path tests/loom/Cargo.toml models::

loom-mutations: ## break these protocols one way at a time, which a model must notice; ARGS=waker.rs for a part
	$(EXE) tests/loom/mutations.py $(ARGS)

# Sanitizers are unstable options of rustc, which the stable one accepts only so.
UNSTABLE = RUSTC_BOOTSTRAP=1
WITHOUT_PYTHON = test --quiet --locked --manifest-path tests/without_python/Cargo.toml
# Valgrind before 3.20 knows neither epoll_pwait2 nor pidfd_open.
UNKNOWN_TO_VALGRIND = --skip sys::process --skip sys::poll::tests::a_signal \
	--skip sys::poll::tests::an_event --skip sys::poll::tests::no_wait

memcheck: ## run the unit tests of the modules without Python under AddressSanitizer and Valgrind
	@ls $$(rustc --print sysroot)/lib/rustlib/$(TARGET)/lib/librustc-*_rt.asan.a > /dev/null \
		|| { echo "memcheck: Rust for $(TARGET) has no AddressSanitizer"; exit 1; }
	@command -v valgrind > /dev/null || { echo "memcheck: Valgrind is not installed"; exit 1; }
	$(UNSTABLE) RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=target/without-python-asan \
		cargo $(WITHOUT_PYTHON) --target $(TARGET)
	CARGO_TARGET_DIR=target/without-python cargo $(WITHOUT_PYTHON) \
		--config 'target."cfg(all())".runner = ["valgrind", "-q", "--error-exitcode=9", "--fair-sched=yes"]' \
		-- $(UNKNOWN_TO_VALGRIND)

# The interpreter is not instrumented, so the runtime library is loaded before it: the C compiler's.
ASAN_RUNTIME ?= $(shell $(CC) -print-file-name=libasan.so)
ASAN = build/asan-$(PY)

test-asan: build/lint-$(PY)/ready ## run the parity tests with the extension module under AddressSanitizer; ARGS="-k cancel" for a part
	@test -e "$(ASAN_RUNTIME)" || { echo "test-asan: no runtime library: set ASAN_RUNTIME"; exit 1; }
	$(UNSTABLE) RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt --cfg keep_no_instances" PYO3_PYTHON=$(EXE) \
		CARGO_TARGET_DIR=target/asan-$(PY) cargo build --lib --profile checked --target $(TARGET)
	rm -rf $(ASAN)
	mkdir -p $(ASAN)/ferroloop
	cp -r $$(ls -d python/ferroloop/* | grep -v '\.so$$') $(ASAN)/ferroloop
	cp target/asan-$(PY)/$(TARGET)/checked/libferroloop.so $(ASAN)/ferroloop/_ferroloop.so
	LD_PRELOAD=$(ASAN_RUNTIME) ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/$(ASAN)/report \
		PYTHONMALLOC=malloc PYTHONPATH=$(ASAN) build/lint-$(PY)/bin/python -m pytest \
		-p no:cacheprovider -p tests.support.asan --loops ferroloop --timeout 300 \
		tests/parity $(ARGS) \
		|| { cat $(ASAN)/report.* 2> /dev/null; exit 1; }

# A program of Rust contains the runtime library.
test-asan-embed: ## run the Rust program that hosts the loop under AddressSanitizer; ARGS="closing" for a part
	$(UNSTABLE) RUSTFLAGS="-Zsanitizer=address --cfg keep_no_instances" PYO3_PYTHON=$(EXE) \
		ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc CARGO_TARGET_DIR=target/asan-embed-$(PY) \
		cargo test --locked --features embed --test embedding --target $(TARGET) -- $(ARGS)

# The interpreter contains the runtime library. The tests are those in which several threads use a
# loop. CPython's sources have a list of its own races, which depends on the version:
# Tools/tsan/suppressions_free_threading.txt.
TSAN = build/tsan-$(PY)
TSAN_SUPPRESSIONS ?=
TSAN_TESTS = $(patsubst %,tests/parity/test_%.py,\
	foreign_threads threadsafe executor running handles tasks watchdog)

build/tsan-venv-$(PY)/ready: tests/requirements-debug.txt
	rm -rf build/tsan-venv-$(PY)
	TSAN_OPTIONS=report_bugs=0 $(EXE) -m venv build/tsan-venv-$(PY)
	TSAN_OPTIONS=report_bugs=0 build/tsan-venv-$(PY)/bin/pip install $(QUIET) \
		--disable-pip-version-check -r tests/requirements-debug.txt
	touch $@

test-tsan: build/tsan-venv-$(PY)/ready ## run tests with threads under ThreadSanitizer; PYTHON was configured with --disable-gil --with-thread-sanitizer; ARGS="-k cancel" for a part
	rm -rf $(TSAN)
	mkdir -p $(TSAN)/ferroloop
	set -e; flags=$$($(EXE) tests/support/tsan_std.py $(TSAN)); \
	$(UNSTABLE) PYO3_PYTHON=$(EXE) CARGO_TARGET_DIR=target/tsan-$(PY) \
		RUSTFLAGS="-Zsanitizer=thread -Zexternal-clangrt -Cunsafe-allow-abi-mismatch=sanitizer $$flags" \
		cargo build --lib --profile quick --target $(TARGET)
	cp -r $$(ls -d python/ferroloop/* | grep -v '\.so$$') $(TSAN)/ferroloop
	cp target/tsan-$(PY)/$(TARGET)/quick/libferroloop.so $(TSAN)/ferroloop/_ferroloop.so
	cat tests/support/tsan.txt $(TSAN_SUPPRESSIONS) > $(TSAN)/suppressions
	TSAN_OPTIONS=history_size=7:exitcode=0:suppressions=$(CURDIR)/$(TSAN)/suppressions:log_path=$(CURDIR)/$(TSAN)/report \
		PROGRAM_SECONDS=300 PYTHONPATH=$(TSAN) build/tsan-venv-$(PY)/bin/python -m pytest \
		-p no:cacheprovider -p tests.support.tsan --loops ferroloop --timeout 900 $(TSAN_TESTS) $(ARGS)

REFUSED_SECONDS ?= 300

refused: develop build/lint-$(PY)/ready ## make every system call fail under small programs; REFUSED_SECONDS, SEED to repeat a run
	PYTHONPATH=python build/lint-$(PY)/bin/python -m tests.refused \
		--seconds $(REFUSED_SECONDS) --seed $(SEED) $(ARGS)

STRESS_SECONDS ?= 120

stress: wheel ## open thousands of connections of each kind for STRESS_SECONDS, then check for leaks; ARGS="--kind tls --connections 500"
	test -x build/stress-$(PY)/bin/python || $(EXE) -m venv build/stress-$(PY)
	build/stress-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check trustme
	build/stress-$(PY)/bin/pip install $(QUIET) --disable-pip-version-check --force-reinstall \
		--no-deps $(WHEELS)/*.whl
	build/stress-$(PY)/bin/python -m tests.stress --seconds $(STRESS_SECONDS) --seed $(SEED) $(ARGS)

deny: build/tools/bin/cargo-deny ## check licences, sources and advisories of the crates; with OFFLINE=1 the advisories may fail
	build/tools/bin/cargo-deny --all-features check licenses bans sources
	build/tools/bin/cargo-deny check advisories || test "$(OFFLINE)" = 1

DEBUG_PYTHON ?= python3.11-dbg
# A debug build shows all warnings by default; the programs of the tests expect the usual ones.
RELEASE_WARNINGS = PYTHONWARNINGS=ignore::ResourceWarning,ignore::ImportWarning,$\
	ignore::PendingDeprecationWarning,ignore::DeprecationWarning,default::DeprecationWarning:__main__

test-debug: build/maturin/bin/maturin ## run the tests with debug assertions on a debug build of CPython; ARGS="-k cancel" for a part
	rm -rf build/test-debug build/wheels/debug
	$(DEBUG_PYTHON) -m venv build/test-debug
	build/test-debug/bin/pip install $(QUIET) --disable-pip-version-check -r tests/requirements-debug.txt
	PATH=$(CURDIR)/build/maturin/bin:$$PATH CARGO_TARGET_DIR=target/debug-python \
		build/maturin/bin/maturin build $(QUIET) --profile checked \
		--interpreter build/test-debug/bin/python --out build/wheels/debug
	build/test-debug/bin/pip install $(QUIET) --disable-pip-version-check build/wheels/debug/*.whl
	$(RELEASE_WARNINGS) build/test-debug/bin/python -m pytest -p no:cacheprovider $(ARGS)

test-aarch64: build/maturin/bin/maturin ## cross-build the wheel for aarch64 and test it under emulation; only as root; ARGS="--only programs"
	$(EXE) tests/aarch64.py --profile $(PROFILE) $(ARGS)

test-install: ## install from a checkout and from the sdist in fresh Debian roots; only as root; ARGS="--suite trixie"
	$(EXE) tests/try_install.py $(ARGS)

test: ## build and run all tests on the oldest and the newest CPython present; ARGS="--only pytest"
	$(EXE) tests/run.py $(ARGS)

test-all: ## test, plus test-314 and test-315, there on ferroloop alone, if this machine can create a Debian root
	$(EXE) tests/run.py --debian-root 3.14 --debian-root 3.15 --may-skip --loops-in-roots ferroloop $(ARGS)
