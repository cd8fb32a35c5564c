# Thin on purpose: what a person types. The work is in cargo and in scripts/.
XTASK = $${CARGO_TARGET_DIR:-target}/debug/xtask
.PHONY: help demo test tests test-slurm test-faults test-apptainer bench bench-slurm env fmt lint audit fuzz build page packages schemas

help: ## what can be done here
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# DATABASE_URL and AMQP_URL name servers of yours; ONCE=1 ends with the build; PORTS_FROM=9400 moves its ports.
demo: ## one build from a signed webhook to a finished workflow job, on this machine
	@scripts/packages.sh demo
	cargo build --workspace --bins --locked
	@scripts/web-build.sh optional || echo "going on without the page"
	@exec $(XTASK) demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(PORTS_FROM),--ports-from $(PORTS_FROM))

test: packages lint tests ## everything that proves the code: lint, then tests

# REQUIRE_ROOT_TESTS=1: a test that is skipped for want of root or a package fails the run.
tests: packages build ## the tests alone: Rust, end to end, the page
	$(XTASK) with-services -- cargo test --workspace --locked
	scripts/web-test.sh
	if [ -x crates/simulator/github-contract/check.sh ]; then crates/simulator/github-contract/check.sh; fi

test-apptainer: ## tests of runners in containers, with Apptainer itself, in a Debian made for it; takes root
	scripts/test-apptainer.sh

# TESTS holds names of tests: TESTS=rest::, or options of theirs. DEBIAN=sid is the newest Slurm.
test-slurm: packages ## slurm-agent's tests on the Slurm of another Debian: DEBIAN=trixie; takes root
	@scripts/test-slurm.sh $(or $(DEBIAN),trixie) $(TESTS)

test-faults: packages build ## builds beneath schedules of faults: docs/reliability.md; takes 10 minutes; some of it takes root
	$(XTASK) with-services -- cargo test --locked -p gha-slurm-e2e --test it faults:: -- --include-ignored --nocapture --test-threads 2

# BENCH holds options: BENCH=--json, BENCH='--seconds 10 --rounds 5'.
bench: ## requests per second, latency and memory beside a floor: docs/performance.md
	@scripts/packages.sh
	cargo build --release --workspace --bins --locked
	@exec $${CARGO_TARGET_DIR:-target}/release/gha-slurm-bench $(BENCH)

bench-slurm: ## submissions to Slurm through launcher and agent, beside bare ones; takes root
	@scripts/packages.sh
	cargo build --release --workspace --bins --locked
	@exec $${CARGO_TARGET_DIR:-target}/release/gha-slurm-bench slurm $(BENCH)

env: ## the .env of docker-compose.yml, with new secrets; an existing one stays
	@scripts/env.sh

packages: ## install the Debian packages that are started privately, where root or sudo is there
	@scripts/packages.sh

# All targets at once, as the tests need them: the same features, so nothing is built twice.
build: ## every binary and every test
	cargo build --workspace --all-targets --locked

page: ## the page that repo-mapping serves
	@scripts/web-build.sh

# --examples makes cargo choose the features that clippy's --all-targets has, so that dependencies are not checked twice.
lint: ## format and lints of Rust, its documentation and shell scripts, as strict as CI
	cargo fmt --all --check
	scripts/lint-shell.sh
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet --lib --bins --examples

audit: ## dependencies and GitHub workflows: licences, advisories, what is unused, what is unsafe; installs its tools
	scripts/audit.sh

# INPUTS=100000 tries fewer, TARGETS="labels webhook" fewer parsers.
fuzz: ## throw 10 million inputs at each parser that strangers reach; takes hours, and a nightly toolchain
	scripts/fuzz.sh $(or $(INPUTS),10000000) $(TARGETS)

fmt: ## format Rust and shell scripts
	cargo fmt --all
	scripts/lint-shell.sh fix

schemas: ## write proto-schemas/ from the types
	cargo xtask schemas
