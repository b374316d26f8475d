# Two commands matter: `make demo` and `make test`. Both do their own set-up and can be repeated.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules

GO      ?= go
LDFLAGS := -s -w
# Nothing but Ceph's provider needs cgo; one way for all means that Go compiles a package once.
export CGO_ENABLED := 0

.PHONY: all build lab headers check test fuzz crash bench demo generate clean

all: build

PROVIDERS := $(addprefix muster-provider-,mem aws gluster csi)

# Ceph's provider alone needs cgo and Ceph's headers; where they are not, it is not built. "pacific" is how
# old Debian 12's headers are.
HEADERS   := /usr/include/rbd/librbd.h
COMMA     := ,
TAGS       = $(if $(shell test -e $(HEADERS) && echo yes),-tags ceph$(COMMA)ceph_preview$(COMMA)pacific)

build: bin/muster bin/lab $(addprefix bin/,$(PROVIDERS)) bin/muster-provider-ceph ## build the commands

bin/muster: FORCE
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/muster
bin/muster-provider-ceph: FORCE
	@test -e $(HEADERS) || { echo 'muster-provider-ceph is left out: it needs librados-dev, librbd-dev and libcephfs-dev'; exit 0; }; \
		CGO_ENABLED=1 $(GO) build $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/muster-provider-ceph
bin/muster-provider-%: FORCE
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/muster-provider-$*
bin/lab: FORCE # without -trimpath: it builds the lab from its own source folder
	@$(GO) build -o $@ ./testenv/cmd/lab
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

headers: ## what Ceph's provider compiles against; as root
	@test -e $(HEADERS) || { apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev librados-dev librbd-dev libcephfs-dev; } >/dev/null

CEPH := ./providers/ceph ./cmd/muster-provider-ceph

# The lab's own tests look at all labs there are, and so run alone; a run that was killed leaves some. What takes
# longest begins first.
test: headers lab ## everything, on the lab, whose machines of before end: needs root and Debian 12
	bin/lab down --all
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) vet $(TAGS) $(CEPH)
	@echo "corpus: $$(ls testenv/corpus/cases | wc -l) cases" # go test shows what a test prints only when it fails
	@failed=; \
		CGO_ENABLED=1 $(GO) test $(TAGS) -p 1 $(CEPH) || failed=yes; \
		$(GO) test ./testenv || failed=yes; \
		$(GO) test -p 2 -timeout 60m ./testenv/scenario $$($(GO) list ./... | grep -vE '/testenv(/scenario)?$$') || failed=yes; \
		$(MAKE) --no-print-directory fuzz FUZZ='$(READERS)' || failed=yes; \
		test -z "$$failed"

# Making an interesting input smaller is bounded: by itself Go spends a target's whole time on one of a few kilobytes.
FUZZTIME ?= 60s
FUZZ     ?= ^Fuzz
# What reads recovery points and snapshots that somebody else may have written.
READERS  := ^Fuzz(Snapshot|StoredObject|ReadIndex|ObjectFile|Manifest)$$$$
fuzz: ## every fuzz target that fits FUZZ for FUZZTIME, one after the other; says nothing unless one fails
	@for package in $$(git grep --untracked -l '^func Fuzz' -- '*_test.go' | xargs -n 1 dirname | sort -u); do \
		targets=$$($(GO) test -list '^Fuzz' ./$$package) || { echo "$$targets"; exit 1; }; \
		for target in $$(grep -E '^Fuzz' <<<"$$targets" | grep -E '$(FUZZ)'); do \
			out=$$($(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x -parallel 2 ./$$package 2>&1) \
				|| { echo "$$out"; exit 1; }; \
		done; \
	done

crash: lab ## kill the runner at every point at which it can die, and let another go on; random plans
	$(GO) test -count 1 -run '^TestCrash$$' -v ./orchestrator
	MUSTER_COMPACT_DEATHS=10 $(GO) test -count 1 -timeout 20m -run '^TestDeathWhileCompacting$$' -v ./orchestrator
	$(GO) test -count 1 -timeout 90m -tags crashpoints -run '^TestCrashPoints$$' -v ./testenv/scenario
	MUSTER_RANDOM_STEPS=100000 $(GO) test -count 1 -timeout 60m -run '^TestRandom$$' -v ./orchestrator

demo: build lab ## capture a cluster, destroy every machine, rebuild it, prove it
	@mkdir -p build
	$(GO) run ./testenv/cmd/demo

bench: build lab ## measure next to a peer in the same run; writes docs/benchmarks*.md and .json
	$(GO) run ./testenv/cmd/bench

# The plugins' versions fit google.golang.org/protobuf and grpc in go.mod; protoc is Debian's.
bin/protoc-gen-go:
	GOBIN=$(CURDIR)/bin $(GO) install google.golang.org/protobuf/cmd/protoc-gen-go
bin/protoc-gen-go-grpc:
	GOBIN=$(CURDIR)/bin $(GO) install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

generate: bin/protoc-gen-go bin/protoc-gen-go-grpc ## code from providers/proto, golden files
	test -f /usr/include/google/protobuf/timestamp.proto || apt-get install -y --no-install-recommends protobuf-compiler libprotobuf-dev
	PATH=$(CURDIR)/bin:$$PATH protoc -I providers/proto --go_out=providers/proto --go_opt=paths=source_relative \
		--go-grpc_out=providers/proto --go-grpc_opt=paths=source_relative providers/proto/provider.proto
	$(GO) test ./plans ./cmd/muster -update
	$(GO) test ./providers/aws -run '^TestPolicy$$' -update

clean: ## remove what was built, and every lab
	-bin/lab down --all
	rm -rf bin build
