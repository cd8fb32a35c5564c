#!/usr/bin/env bash
# sbom.sh FOLDER PROGRAM...: writes a bill of materials (CycloneDX 1.5, JSON) of each program's crates, and one of the page's packages,
# to FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/cargo-tool.sh
source scripts/cargo-tool.sh
cargo_tool cargo-cyclonedx 0.5.9

folder=$(realpath -m "$1")
shift
mkdir -p "$folder"
host=$(rustc -vV | sed -n 's/^host: //p')
trap 'find crates -name "*_bin.cdx.json" -delete' EXIT
# cargo-cyclonedx writes beside each crate's Cargo.toml.
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$host" --no-build-deps
for program in "$@"; do
  found=$(find crates -name "${program}_bin.cdx.json")
  if [ -z "$found" ]; then
    echo "there is no bill of materials of $program" >&2
    exit 1
  fi
  mv "$found" "$folder/$program.cdx.json"
done
if [ -d web/node_modules ]; then
  (cd web && npm sbom --sbom-format cyclonedx --omit dev) >"$folder/web.cdx.json"
fi
