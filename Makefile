# Thin on purpose: what a person types. The work is in cargo and in scripts/.
.PHONY: help test fmt lint packages

help: ## what can be done here
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

packages: ## install the Debian packages that the tests start privately, where root or sudo is there
	@scripts/packages.sh

lint: ## formatting and lints, as strict as CI
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

test: packages lint ## everything that proves the code
	cargo test --workspace --locked

fmt: ## format
	cargo fmt --all
