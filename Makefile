# SPDX-License-Identifier: Apache-2.0

# The engine to build: a directory below engines/ or examples/, or a path.
ENGINE ?= wasmtime
# WASMTIME, on the command line or in the environment, says which of wasmtime's libraries is
# linked: prebuilt, or full, which needs cargo; engines/wasmtime/engine.mk says more. Where
# it says nothing, what is installed or handed on has the full one, what is tested on
# Kubernetes has it where it can be built, and the rest the prebuilt one.
PREFIX ?= /usr/local
DESTDIR ?=
MINUTES ?= 10
SEED ?= 0

# netgo, osusergo: a static binary must not load glibc's NSS plugins.
# seccomp: libcontainer applies profiles. The others leave out code that a shim
# never runs.
export TAGS := netgo osusergo seccomp urfave_cli_no_docs runc_nocriu grpcnotrace
export GOFLAGS := -buildvcs=false -tags=netgo,osusergo,seccomp,urfave_cli_no_docs,runc_nocriu,grpcnotrace
SHIM := dist/containerd-shim-$(notdir $(ENGINE))-v1

.DEFAULT_GOAL := help
.PHONY: help ci deps build shim demo test unit test-contract e2e test-full test-matrix test-k8s vm test-vm soak soak-container test-engine abi fuzz lint bench bench-http install install-shim image archive dist clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install or build what builds and tests need (Debian packages, containerd, runc)
	@scripts/deps.sh

build: ## Build libwasmshim.a
	@scripts/pack.sh

shim: ## Build dist/containerd-shim-ENGINE-v1 (ENGINE=wasmtime; WASMTIME=prebuilt or full)
	@scripts/shim.sh $(ENGINE)

demo: ## Run a WebAssembly container on a private containerd, from nothing
	@scripts/demo.sh

test: deps ## Run every test
	@scripts/test.sh all

unit: ## Run the tests that need neither root nor containerd
	@scripts/test.sh unit

e2e: deps ## Run the end-to-end tests on containerd 2.4.2
	@scripts/test.sh e2e

test-full: deps ## Run the engine suite and the end-to-end tests on wasmtime's full library
	@scripts/test.sh full

test-contract: deps ## Run what any shim binary must do, without containerd, on ours and runc's
	@scripts/test.sh contract

test-matrix: deps ## Run the smoke suite on every containerd from 1.6 to 2.4
	@scripts/deps.sh matrix
	@scripts/test.sh matrix

test-k8s: ## Run what a kubelet and critest ask of a runtime, on private Kubernetes nodes (builds Kubernetes and wasmtime once)
	@scripts/deps.sh build daemon
	@scripts/test.sh k8s

test-vm: deps ## Run what needs cgroup v2, systemd and AppArmor in a machine that is emulated (root; 25 minutes)
	@scripts/test.sh vm

ci: deps ## Run what CI runs: every test, then those of test-k8s, test-vm and test-full
	@scripts/test.sh all k8s vm full

vm: shim ## Boot a machine with cgroup v2 and systemd, for a shell with the shim, containerd and ctr
	@scripts/deps.sh daemon test vm
	@scripts/vm.sh pack
	@scripts/vm.sh shell

soak: deps ## Do everything that clients do at random, for MINUTES=10, from SEED=0 (0: one that is drawn)
	@scripts/shim.sh wasmtime
	go test -count=1 -timeout 0 -run TestSoak -v ./test/soak -minutes $(MINUTES) -seed $(SEED)

soak-container: ## Create and destroy 32,000 containers in one process
	WASMSHIM_SOAK_ROUNDS=1000 go test -count=1 -timeout 60m -run TestSoak -v ./shim/internal/container

test-engine: shim ## Find out what ENGINE can do, in real containers
	go run ./cmd/wasmshim-test $(SHIM)

abi: build ## Check the C contract: header, ABI, packages, engines
	@scripts/test.sh abi

fuzz: ## Fuzz the decoders, a fixed number of inputs each
	@scripts/test.sh fuzz

lint: ## Check style
	@scripts/lint.sh

bench: deps shim ## Measure latencies and memory against runc's shim
	go run ./bench

bench-http: deps ## Measure how HTTP services are served, against the wasmtime command (which it builds once)
	@WASMTIME=full scripts/shim.sh wasmtime
	go run ./bench/http -wasmtime "$$(scripts/wasmtime-cli.sh)"

install: ## Install header, library, pkg-config, CMake files, test kit and manual to DESTDIR/PREFIX
	@scripts/install.sh $(DESTDIR)$(PREFIX)

install-shim image archive: export WASMTIME := $(or $(WASMTIME),full)

install-shim: shim ## Install the shim to DESTDIR/PREFIX/bin (WASMTIME=full unless it says prebuilt)
	@scripts/put.sh 0755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/$(notdir $(SHIM))

image: shim ## Make dist/ENGINE-installer.tar, the image that deploy/ has on each node (WASMTIME=full unless it says prebuilt)
	go run ./scripts/image $(SHIM) localhost/libwasmshim/$(notdir $(ENGINE)):latest dist/$(notdir $(ENGINE))-installer.tar

archive: shim ## Make dist/containerd-shim-ENGINE-v1-linux-ARCH.tar.gz, the shim alone, for deploy/shim.yaml (WASMTIME=full unless it says prebuilt)
	@scripts/archive.sh dist $(notdir $(SHIM)) dist/$(notdir $(SHIM))-linux-$$(uname -m)

dist: ## Make dist/libwasmshim-VERSION-linux-ARCH.tar.gz, the same bytes for the same commit
	@scripts/dist.sh

clean: ## Remove what was built here (caches outside the tree stay)
	rm -rf build dist bench/out
