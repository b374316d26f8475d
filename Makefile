# Two commands matter: `make demo` and `make test`. Both do their own set-up and can be repeated.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules

GO      ?= go
LDFLAGS := -s -w

.PHONY: all build lab check test crash bench demo generate clean

all: build

build: bin/muster bin/lab ## build the commands

bin/muster: FORCE
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/muster
bin/lab: FORCE # without -trimpath: it builds the lab from its own source folder
	@CGO_ENABLED=0 $(GO) build -o $@ ./testenv/cmd/lab
FORCE:

bin/golangci-lint: testenv/lint/go.mod
	@cd testenv/lint && $(GO) build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

lab: bin/lab ## build Kubernetes, the base system and the images that lab machines need
	bin/lab build

check: bin/golangci-lint ## format, vet, lint, import rules, unit tests: fast
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	bin/golangci-lint run
	MUSTER_LAB=off $(GO) test ./...

test: build lab ## everything, on the lab: needs root and Debian 12
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	$(GO) vet ./...
	$(GO) test -p 1 -timeout 40m ./...

crash: lab ## kill the runner at every point at which it can die, and let another go on; random plans
	$(GO) test -count 1 -run '^TestCrash$$' -v ./orchestrator
	MUSTER_COMPACT_DEATHS=10 $(GO) test -count 1 -timeout 20m -run '^TestDeathWhileCompacting$$' -v ./orchestrator
	$(GO) test -count 1 -timeout 90m -tags crashpoints -run '^TestCrashPoints$$' -v ./testenv/scenario
	MUSTER_RANDOM_STEPS=100000 $(GO) test -count 1 -timeout 60m -run '^TestRandom$$' -v ./orchestrator

demo: build lab ## capture a cluster, destroy every machine, rebuild it, prove it
	@mkdir -p build
	$(GO) run ./testenv/cmd/demo

bench: build lab ## measure next to a peer in the same run; writes docs/benchmarks.md and .json
	$(GO) run ./testenv/cmd/bench

generate: ## golden files
	$(GO) test ./plans ./cmd/muster -update

clean: ## remove what was built, and every lab
	-bin/lab down --all
	rm -rf bin build
