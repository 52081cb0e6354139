# Tandem's commands. `make` alone lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

PREFIX  ?= /usr
DESTDIR ?=
# LAB names the lab of the lab-… targets; NODE is one of its machines.
LAB     ?= lab
NODE    ?= n1
# SIM_SEED is the first seed of make sim, SIM_FOR for how long it runs.
SIM_SEED ?= 1
SIM_FOR  ?= 10m
# SOAK is what make soak runs.
SOAK     ?= soak-gossip soak-peer soak-calendar soak-kills soak-moves sim sim-bugs soak-e2e

# BENCH_ROUNDS is how often make bench measures each case; in BENCH_REFERENCE of them ssh and syncoid take part also where they take
# minutes. BENCH_PAGE is where its page goes.
BENCH_ROUNDS    ?= 5
BENCH_REFERENCE ?= 1
BENCH_PAGE      ?= docs/evidence/bench.md

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT    := go tool -modfile=deploy/tools/go.mod golangci-lint
LABCTL  := bin/labctl --name $(LAB)

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build tandemd and tandem into bin/, static
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/tandem ./cmd/tandemd

.PHONY: install
install: build ## Install binaries, units, sample configuration and man pages (DESTDIR=, PREFIX=/usr)
	install -D -m 0755 -t '$(DESTDIR)$(PREFIX)/bin' bin/tandem bin/tandemd
	install -D -m 0644 -t '$(DESTDIR)/usr/lib/systemd/system' systemd/tandemd.service systemd/tandem-vm@.service systemd/tandem-ct@.service
	@[ '$(PREFIX)' = /usr ] || sed -i 's|^\(Exec[A-Za-z]*\)=/usr/bin/tandem|\1=$(PREFIX)/bin/tandem|' \
		'$(DESTDIR)/usr/lib/systemd/system/'{tandemd,tandem-vm@,tandem-ct@}.service
	install -D -m 0644 systemd/tandem.sysusers.conf '$(DESTDIR)/usr/lib/sysusers.d/tandem.conf'
	install -D -m 0644 pkg/config/sample.toml '$(DESTDIR)/etc/tandem/tandemd.toml.sample'
	install -D -m 0644 -t '$(DESTDIR)$(PREFIX)/share/man/man1' docs/man/tandem.1
	install -D -m 0644 -t '$(DESTDIR)$(PREFIX)/share/man/man5' docs/man/tandemd.toml.5
	install -D -m 0644 -t '$(DESTDIR)$(PREFIX)/share/man/man8' docs/man/tandemd.8

.PHONY: check
check: need format tidy lint unit fuzz shell units ## Everything that needs no virtual machine: format, tidy, lint, unit tests, fuzzing, scripts, units
	@echo 'check: all good'

.PHONY: test
test: check sim-bugs e2e ## check, then the simulator's bugs, then the end-to-end tests in the lab: this is what CI runs
	@echo 'test: all good'

.PHONY: soak
soak: ## The expensive tests with their full figures, hours; cut and started again it goes on (SOAK=)
	@deploy/checks/soak.sh $(SOAK)

.PHONY: bench
bench: ## Compare Tandem with plain zfs and syncoid in a lab machine; the page goes to docs/evidence (as root)
	go test -tags lab -count=1 -timeout 3h -v -run '^TestBench$$' ./deploy/lab/bench -args -commit '$(VERSION)' \
		-rounds $(BENCH_ROUNDS) -reference $(BENCH_REFERENCE) -page '$(abspath $(BENCH_PAGE))'

.PHONY: bench-transport
bench-transport: ## Compare a data stream with a bare copy loop over TLS, on this machine, without ZFS
	go test -run '^$$' -bench '^BenchmarkTransport$$' -benchtime 1x ./pkg/peer

.PHONY: bench-cluster
bench-cluster: ## Measure whole clusters in one process; the report is a page for docs/evidence
	@mkdir -p bin
	go test -c -o bin/daemon.test ./pkg/daemon
	cd pkg/daemon && unshare --user --map-root-user --net sh -c 'ip link set lo up && \
		exec ../../bin/daemon.test -test.run "^$$" -test.bench "^BenchmarkCluster$$" -test.benchtime 1x -test.timeout 2h \
		-cluster.commit "$(VERSION)"'

.PHONY: bench-plan
bench-plan: ## Measure planning with many snapshots, with ZFS in memory; the report is a page for docs/evidence
	go test -run '^$$' -bench '^BenchmarkPlan$$' -benchtime 3x -timeout 1h ./pkg/replicate -args -plan.commit '$(VERSION)'

.PHONY: sim
sim: ## Run simulated clusters with faults for ten minutes; the report is a page for docs/evidence (SIM_SEED=, SIM_FOR=)
	@mkdir -p bin
	go test -c -o bin/sim.test ./pkg/sim
	cd pkg/sim && GOGC=400 GOTRACEBACK=all ../../bin/sim.test -test.run '^TestClusters$$' -test.timeout 24h -sim.for $(SIM_FOR) -sim.seed $(SIM_SEED) \
		-sim.length 10m -sim.commit '$(VERSION)' -sim.running ../../bin/sim.running

.PHONY: demo
demo: ## Show the main job in three virtual machines, from nothing; they stay up (as root)
	@deploy/checks/need.sh demo
	@deploy/demo/demo.sh

.PHONY: demo-down
demo-down: labctl ## End the demo's machines
	@bin/labctl --name demo down

.PHONY: lab-up
lab-up: labctl ## Start three machines with Tandem installed, to try things (LAB=lab)
	@$(LABCTL) up
	@$(LABCTL) push

.PHONY: lab-push
lab-push: labctl ## Install the freshly built Tandem on the lab's machines
	@$(LABCTL) push

.PHONY: lab-list
lab-list: labctl ## List the labs and their machines
	@$(LABCTL) list

.PHONY: lab-ssh
lab-ssh: labctl ## Open a shell on a machine of the lab (NODE=n1)
	@$(LABCTL) ssh $(NODE)

.PHONY: lab-down
lab-down: labctl ## End the lab's machines and remove what they leave
	@$(LABCTL) down

# ---- the parts of check and test, each a target of its own

.PHONY: need
need:
	@deploy/checks/need.sh check

.PHONY: format
format:
	$(LINT) fmt --diff

.PHONY: tidy
tidy:
	go mod tidy -diff

.PHONY: lint
lint:
	$(LINT) run --build-tags lab ./...

.PHONY: unit
unit:
	go test -race -shuffle=on ./...

.PHONY: fuzz
fuzz:
	deploy/checks/fuzz.sh

.PHONY: shell
shell:
	deploy/checks/shell.sh

.PHONY: units
units:
	deploy/checks/units.sh

# LONG are the end-to-end tests that only `make soak` runs.
LONG := TestTandem/kills/again|TestTandem/move/(drill|disk|power|pause|daemon|without)|TestTandem/example

.PHONY: e2e
e2e:
	go test -tags lab -count=1 -timeout 75m -v -skip '$(LONG)' ./deploy/lab/e2e

.PHONY: sim-bugs
sim-bugs:
	go test -count=1 -timeout 3h -parallel 2 -v -run '^TestBugs' ./pkg/sim -args -sim.bugs

.PHONY: soak-gossip
soak-gossip:
	go test -count=1 -timeout 4h -v -run '^TestGossip_HostilePackets$$' ./pkg/gossip -args -hostile=1000000

.PHONY: soak-peer
soak-peer:
	go test -count=1 -timeout 1h -v -run Hostile ./pkg/peer ./pkg/daemon -args -hostile 10m

.PHONY: soak-calendar
soak-calendar:
	go test -count=1 -timeout 12h -v -run AgreesWithSystemd ./pkg/calendar -args -calendar.expressions 200000

.PHONY: soak-kills
soak-kills:
	go test -race -count=1 -timeout 2h -v -run '^TestKill_' ./pkg/replicate -args -kill-points 0

.PHONY: moves-bugs
moves-bugs: ## Build each recorded mistake of moves into the simulated moves, and require that it is found
	go test -count=1 -timeout 1h -parallel 2 -v -run '^TestBugs' ./pkg/move/movesim -args -movesim.bugs

.PHONY: soak-moves
soak-moves:
	go test -race -count=1 -timeout 12h -v ./pkg/move/movesim -args -movesim.for 1h -movesim.kills 0 -movesim.ways 0

.PHONY: soak-e2e
soak-e2e:
	go test -tags lab -count=1 -timeout 8h -v ./deploy/lab/e2e -args -contract '^TestZFS_' -power-cuts 20 -kills 60 -sync-cuts 10 -damages 1000 \
		-boot-guests -migrations 10 -move-kills 33 -pause 10m -own-units

.PHONY: labctl
labctl:
	@mkdir -p bin
	@go build -o bin/labctl ./deploy/lab/labctl
