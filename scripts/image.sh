#!/usr/bin/env bash
# Build the image of the test hosts for one Debian suite and write its name to .state/image-SUITE.
#
# It is bootstrapped from the Debian mirror that this machine uses, and trusts the extra CAs that this
# machine trusts; neither is written anywhere in the repository. Its tag is a hash of all that goes
# into it, so that it is rebuilt when, and only when, one of them changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

SUITE=${1:?usage: image.sh SUITE}
INPUTS=molecule/shared/image
CA_DIR=/usr/local/share/ca-certificates

# What a plain Debian server has. python3-apt is there because Ansible's apt module can't do a dry run
# without it. Nothing that one of the roles installs may be added: tests must start from a bare host.
PACKAGES=systemd-sysv,dbus,openssh-server,sudo,ca-certificates,iproute2,procps,python3,python3-apt

# debian_sources: the sources.list lines of SUITE, on the mirrors of this machine's own suite.
debian_sources() {
  local own
  own=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  # indextargets reads both formats of sources, and knows who signed each of them; foreign archives
  # often use Debian's suite names.
  # shellcheck disable=SC2016 # the $(...) are apt's own placeholders
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI) $(COMPONENT)' 'Created-By: Packages' |
    awk -v own="$own" -v suite="$SUITE" '
      $1 == "Debian" && $4 == "main" && ($2 == own || $2 == own "-updates" || $2 == own "-security") {
        sub("^" own, suite, $2)
        print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " $3 " " $2 " main"
      }' | sort -u
}

# apt_options: the settings of this machine's apt without which its mirror may not be reached.
apt_options() {
  apt-config dump --no-empty --format '%F "%v";%n' Acquire |
    grep -Ei '^Acquire::((http|https)::(Proxy|Timeout|CaInfo)|Retries|Check-Valid-Until|Check-Date|Languages) ' |
    sort -u || [[ $? == 1 ]] # none of them is set
}

# Scenarios side by side may need it at once.
mkdir -p "$CACHE_DIR/images"
exec {lock}>"$CACHE_DIR/images/.$SUITE.lock"
flock "$lock"

sources=$(debian_sources)
if [[ -z $sources ]]; then
  say "reading the package lists of this machine's Debian mirror"
  quietly "$STATE_DIR/apt-update.log" apt-get update
  sources=$(debian_sources)
fi
[[ -n $sources ]] || die "this machine's apt knows no Debian mirror to bootstrap test hosts from"
options=$(apt_options)

base_hash=$(printf '%s\n' "$SUITE" "$PACKAGES" "$sources" "$options" | sha256sum | cut -c1-12)
base=celery-fleet/base:$SUITE-$base_hash
hash=$({
  printf '%s\n' "$base"
  find "$INPUTS" -type f -print0 | sort -z | xargs -0 sha256sum
  if [[ -d $CA_DIR ]]; then find "$CA_DIR" -name '*.crt' -print0 | sort -z | xargs -0r sha256sum; fi
} | sha256sum | cut -c1-12)
image=celery-fleet/host:$SUITE-$hash

if ! docker image inspect "$image" >/dev/null 2>&1; then
  if ! docker image inspect "$base" >/dev/null 2>&1; then
    # Kept beside the engine's own store, so that a new engine needs no download.
    tarball=$CACHE_DIR/images/$SUITE-$base_hash.tar
    if [[ ! -f $tarball ]]; then
      ((EUID == 0)) || die "the test hosts' image is missing; run 'make setup' as root once"
      say "bootstrapping Debian $SUITE"
      rm -f "$CACHE_DIR/images/$SUITE-"*
      mapfile -t apt_flags < <(sed -n 's/^\(.*\);$/--aptopt=\1/p' <<<"$options")
      # The package lists stay in, as on any host that was ever updated: a dry run needs them.
      quietly "$STATE_DIR/mmdebstrap.log" mmdebstrap --variant=minbase --format=tar \
        --skip=cleanup/apt/lists --include="$PACKAGES" "${apt_flags[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$SUITE" "$tarball.part" - <<<"$sources"
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
  if [[ -d $CA_DIR ]]; then find "$CA_DIR" -name '*.crt' -exec cp -t "$context/ca-certificates" {} +; fi
  # Debian's client has no BuildKit plugin; newer clients have no other builder by default.
  docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
  quietly "$STATE_DIR/docker-build.log" docker build --network none --build-arg "BASE=$base" \
    --tag "$image" "$context"
fi
mkdir -p "$STATE_DIR"
printf '%s\n' "$image" >"$STATE_DIR/image-$SUITE"
