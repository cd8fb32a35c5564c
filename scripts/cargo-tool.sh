# shellcheck shell=bash
# For scripts that need a tool of cargo's: source this from the root of the repository. What is not on PATH in the right version is
# installed once, into target/audit; compiling it takes minutes.

tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/audit
PATH=$tools/bin:$PATH

# cargo_tool NAME VERSION: installs it unless that version is there.
cargo_tool() {
  # cargo-auditable and cargo-cyclonedx want their name first: they are made to be called by cargo.
  for name in "" "${1#cargo-}"; do
    # shellcheck disable=SC2086 # without a name, there is no argument
    if [ "$("$1" $name --version 2>/dev/null | grep -oE '[0-9.]+$')" = "$2" ]; then return; fi
  done
  echo "installing $1 $2" >&2
  CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" "$1@$2"
  rm -rf "$tools/build"
}
