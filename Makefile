# SPDX-License-Identifier: Apache-2.0
# make demo and make test install what they need first; see README.md.

PYTHON := .venv/bin/python
CLANG ?= $(firstword $(foreach c,clang-14 clang-19 clang,$(if $(shell command -v $(c)),$(c))))
LLVM_STRIP ?= $(firstword $(foreach s,llvm-strip llvm-strip-14 llvm-strip-19,$(if $(shell command -v $(s)),$(s))))
BPF_CFLAGS ?= -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused-parameter -Werror -I/usr/include/$(shell uname -m)-linux-gnu
OBJECT_DIR := src/loxilb/kernel/bpf/objects
# On which kernels test-kernels runs; see docs/kernels.md.
KERNELS ?= 6.1 newest 5.10
OBJECTS := $(patsubst bpf/%.bpf.c,$(OBJECT_DIR)/%.bpf.o,$(wildcard bpf/*.bpf.c))
# The same for kernels before Linux 5.17 (docs/kernels.md), without programs for sockets.
LEGACY := $(patsubst %,$(OBJECT_DIR)/legacy/%.bpf.o,base gc tc xdp egress flowcheck movecheck)

.PHONY: help install packages bpf demo test test-kernels test-container lint bench bench-restart bench-scale wheel man clean

help:
	@echo "make demo     see it work: client, load balancer and three servers in network namespaces"
	@echo "make test     run the tests"
	@echo "make test-kernels  run the core subset on other kernels, in an emulated machine"
	@echo "make test-container  make and run the container's image, without podman"
	@echo "make install  install what is needed: packages, .venv, BPF objects"
	@echo "make bpf      build the BPF objects"
	@echo "make lint     check style, types and layers"
	@echo "make bench    measure, beside nft, haproxy and direct routing"
	@echo "make bench-restart  measure what clients notice of a restart"
	@echo "make bench-scale  measure with a hundred thousand services"
	@echo "make wheel    build dist/*.whl, which carries the BPF objects"
	@echo "make man      write the man pages to build/man"
	@echo "make clean    remove what was built"

install: packages .venv/.complete
	@$(MAKE) --no-print-directory bpf

packages:
	@./scripts/packages

.venv/.complete: pyproject.toml scripts/venv | packages
	@./scripts/venv
	@touch $@

bpf: $(OBJECTS) $(LEGACY)

# Every object depends on every header: a full build takes seconds.
define compile
	@mkdir -p $(@D)
	$(CLANG) $(BPF_CFLAGS) $1 -c $< -o $@.tmp
	$(LLVM_STRIP) -g $@.tmp
	@mv $@.tmp $@
endef

$(OBJECT_DIR)/legacy/%.bpf.o: bpf/legacy/%.bpf.c $(wildcard bpf/*.h) Makefile
	$(call compile,-DLOX_LEGACY)

$(OBJECT_DIR)/legacy/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) Makefile
	$(call compile,-DLOX_LEGACY)

$(OBJECT_DIR)/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) Makefile
	$(call compile)

demo: install
	@$(PYTHON) -m examples.demo

test: install
	@$(PYTHON) -m pytest

test-kernels: install
	@./scripts/packages qemu-system-x86 busybox-static kmod debian-archive-keyring
	@$(PYTHON) -m tests.kernels $(KERNELS)

test-container: wheel
	@./scripts/packages debootstrap
	@$(PYTHON) -m tests.container dist/loxilb-*.whl

lint: install
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/lint

bench: install
	@$(PYTHON) -m bench

bench-restart: install
	@$(PYTHON) -m bench.restart

bench-scale: install
	@$(PYTHON) -m bench.scale

wheel: install
	@$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

man: install
	@$(PYTHON) deploy/manpages.py build/man

clean:
	rm -rf build dist $(OBJECT_DIR) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples bench -name __pycache__ -prune -exec rm -rf {} +
