# `make help` lists the targets. PYTHON is the interpreter to build for.
PYTHON ?= python3
SHELL := /bin/bash

.PHONY: help develop

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

develop: ## build in place for PYTHON (profile quick): then `PYTHONPATH=python $(PYTHON)` imports it
	@set -e; exe=$$($(PYTHON) -c 'import sys; print(sys.executable)'); \
	tag=$$($$exe -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))'); \
	target=target/$$($$exe -c 'import sys; print("py%d.%d" % sys.version_info[:2])'); \
	PYO3_PYTHON=$$exe CARGO_TARGET_DIR=$$target cargo build --lib --profile quick; \
	cp $$target/quick/lib_ferroloop.so python/ferroloop/_ferroloop$$tag
