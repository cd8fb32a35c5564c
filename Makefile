# Thin on purpose: what a person types. The work is in cargo and in scripts/.
XTASK = $${CARGO_TARGET_DIR:-target}/debug/xtask
.PHONY: help test fmt lint build packages schemas

help: ## what can be done here
	@sed -nE 's/^([a-z]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

packages: ## install the Debian packages that are started privately, where root or sudo is there
	@scripts/packages.sh

lint: ## formatting and lints, as strict as CI
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

# All targets at once, as the tests need them: the same features, so nothing is built twice.
build: ## every binary and every test
	cargo build --workspace --all-targets --locked

test: packages lint build ## everything that proves the code
	$(XTASK) with-services -- cargo test --workspace --locked
	scripts/web-test.sh
	if [ -x crates/simulator/github-contract/check.sh ]; then crates/simulator/github-contract/check.sh; fi

fmt: ## format
	cargo fmt --all
