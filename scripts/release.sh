#!/usr/bin/env bash
# Makes the files of a release in target/release-files: the programs with the page and deploy/, bills of materials (CycloneDX), checksums,
# and the notes. cargo-auditable puts the list of crates into each program, too: `cargo audit bin FILE` reads it.
# GITHUB_REF_NAME names the tag; without it, the release is called "dev".
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=scripts/cargo-tool.sh
source scripts/cargo-tool.sh
cargo_tool cargo-auditable 0.7.7

version=${GITHUB_REF_NAME:-dev}
files=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release-files
name=gha-slurm-$version-$(rustc -vV | sed -n 's/^host: //p')
programs=(webhook-ingest launcher token-broker repo-mapping gha-slurm gha-slurm-munge gha-slurm-token-signer)

options=()
for program in "${programs[@]}"; do options+=(--bin "$program"); done
cargo auditable build --release --locked "${options[@]}"
scripts/web-build.sh

rm -rf "$files"
mkdir -p "$files/$name"
for program in "${programs[@]}"; do cp "${files%/*}/release/$program" "$files/$name/"; done
cp -r web/dist "$files/$name/web"
cp -r deploy LICENSE README.md CHANGELOG.md "$files/$name/"
scripts/sbom.sh "$files/$name/sbom" "${programs[@]}"
tar -C "$files" --owner=0 --group=0 --numeric-owner --sort=name -czf "$files/$name.tar.gz" "$name"
rm -r "${files:?}/$name"
(cd "$files" && sha256sum ./*.tar.gz >SHA256SUMS)
# The section of this version, or what is not released yet.
section() { awk -v heading="## [$1]" 'index($0, "## [") == 1 { on = index($0, heading) == 1; next } on' CHANGELOG.md; }
section "${version#v}" >"$files/notes.md"
[ -s "$files/notes.md" ] || section Unreleased >"$files/notes.md"
