#!/usr/bin/env bash
# Build the image of the test hosts for one Debian suite and write its name to .state/image-SUITE.
#
# It is bootstrapped from this machine's Debian mirror, and trusts the extra CAs that this machine
# trusts; neither is recorded in the repository. Its tag is a hash of everything that goes into it,
# so it is rebuilt only if something changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
source scripts/debian.sh

SUITE=${1:?usage: image.sh SUITE}
INPUTS=molecule/shared/image

# The packages of a plain Debian server. Ansible's apt module needs python3-apt for a dry run. Don't add
# anything that a role installs: tests must start from a bare host.
PACKAGES=systemd-sysv,dbus,openssh-server,sudo,ca-certificates,iproute2,procps,python3,python3-apt

# Scenarios that run in parallel may need it at the same time.
mkdir -p "$CACHE_DIR/images"
exec {lock}>"$CACHE_DIR/images/.$SUITE.lock"
flock "$lock"

mirror
base_hash=$(printf '%s\n' "$SUITE" "$PACKAGES" "$sources" "$options" | sha256sum | cut -c1-12)
base=celery-fleet/base:$SUITE-$base_hash
hash=$({
  printf '%s\n' "$base"
  find "$INPUTS" -type f -print0 | sort -z | xargs -0 sha256sum
  own_authorities | xargs -0r sha256sum
} | sha256sum | cut -c1-12)
image=celery-fleet/host:$SUITE-$hash

if ! docker image inspect "$image" >/dev/null 2>&1; then
  if ! docker image inspect "$base" >/dev/null 2>&1; then
    # Kept outside the engine's own store, so that a new engine needs no download.
    tarball=$CACHE_DIR/images/$SUITE-$base_hash.tar
    if [[ ! -f $tarball ]]; then
      ((EUID == 0)) || die "the test hosts' image is missing; make it as root: scripts/image.sh $SUITE"
      say "bootstrapping Debian $SUITE"
      rm -f "$CACHE_DIR/images/$SUITE-"*
      # Keep the package lists, as on any host that was ever updated: a dry run needs them.
      quietly "$STATE_DIR/mmdebstrap.log" mmdebstrap --variant=minbase --format=tar \
        --skip=cleanup/apt/lists --include="$PACKAGES" "${apt_flags[@]}" \
        "${DPKG_FLAGS[@]}" "$SUITE" "$tarball.part" - <<<"$sources"
      mv "$tarball.part" "$tarball"
    fi
    say "importing Debian $SUITE"
    quietly "$STATE_DIR/docker-import.log" docker import "$tarball" "$base"
  fi
  say "building $image"
  context=$(mktemp -d)
  trap 'rm -rf "$context"' EXIT
  cp -R "$INPUTS/." "$context"
  mkdir -p "$context/ca-certificates"
  own_authorities | xargs -0r cp -t "$context/ca-certificates"
  # Debian's client has no BuildKit plugin, but newer clients use BuildKit by default.
  docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
  quietly "$STATE_DIR/docker-build.log" docker build --network none --build-arg "BASE=$base" \
    --tag "$image" "$context"
fi
mkdir -p "$STATE_DIR"
# Root may have written it for a user.
rm -f "$STATE_DIR/image-$SUITE"
printf '%s\n' "$image" >"$STATE_DIR/image-$SUITE"
