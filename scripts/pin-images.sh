#!/usr/bin/env bash
# Pins the images that others publish, in deploy/images/Dockerfile and docker-compose.yml, to the digest that their tag has now, for all
# architectures: `name:tag` becomes `name:tag@sha256:…`, and a digest that is there is replaced. Needs docker with buildx, and the
# registry. `pin-images.sh check` needs neither: it lists images without a digest and fails if there are any.
set -euo pipefail
cd "$(dirname "$0")/.."

files=(deploy/images/Dockerfile docker-compose.yml)

# Images of `FROM` and `image:` that have a tag. gha-slurm's own have none, and neither have the stages of the Dockerfile.
images() { sed -nE 's/^(FROM|[[:space:]]+image:) ([a-z0-9./-]+:[A-Za-z0-9._-]+(@sha256:[0-9a-f]{64})?).*/\2/p' "${files[@]}" | sort -u; }

if [ "${1:-}" = check ]; then
  if unpinned=$(images | grep -v '@sha256:'); then
    echo "without a digest (run scripts/pin-images.sh):" "$unpinned" >&2
    exit 1
  fi
  exit
fi
for image in $(images); do
  name=${image%@*}
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$name")
  if ! [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "$name has no digest, but: $digest" >&2
    exit 1
  fi
  echo "$name@$digest"
  sed -Ei "s#^(FROM|[[:space:]]+image:) ${name//./\\.}(@sha256:[0-9a-f]{64})?([[:space:]]|\$)#\1 $name@$digest\3#" "${files[@]}"
done
