#!/usr/bin/env bash
# Build the disk of the emulated test machines for one Debian suite and architecture, amd64 or arm64, and write its
# directory to .state/machine-SUITE-ARCHITECTURE.
#
# It is bootstrapped as the image of the test hosts is (image.sh), with a kernel, and has the same files in it. The directory
# has disk.qcow2, vmlinuz and initrd; its name has a hash of all that goes into them. Nothing in it belongs to one machine.
# No loop device and no boot loader is needed: mke2fs fills the file system, and qemu loads the kernel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
source scripts/debian.sh

usage='usage: vm_image.sh SUITE amd64|arm64'
SUITE=${1:?$usage}
ARCHITECTURE=${2:?$usage}
INPUTS=(molecule/shared/image/rootfs molecule/shared/machine/rootfs)
# Of the test hosts' image, and what a machine has beside: a kernel, udev. lz4 packs the initrd.
PACKAGES=systemd-sysv,dbus,openssh-server,sudo,ca-certificates,iproute2,procps,python3,python3-apt
PACKAGES+=,udev,lz4,linux-image-cloud-$ARCHITECTURE
# The database of an example is no part of what is tested, and would take minutes in there.
PACKAGES+=,postgresql,python3-psycopg2,ssl-cert
SIZE=8G # grows as it is written
KEPT_DAYS=14
# qemu and mke2fs lie where not every user's shell looks.
PATH=$PATH:/usr/sbin:/sbin

can() { command -v "$1" >/dev/null 2>&1; }

install_missing_packages() {
  local missing=()
  case $ARCHITECTURE in
    amd64) can qemu-system-x86_64 || missing+=(qemu-system-x86) ;;
    arm64)
      can qemu-system-aarch64 || missing+=(qemu-system-arm)
      can qemu-aarch64-static || missing+=(qemu-user-static)
      can arch-test || missing+=(arch-test) # mmdebstrap asks it whether programs for arm64 run
      ;;
    *) die "$usage" ;;
  esac
  can qemu-img || missing+=(qemu-utils)
  can mke2fs || missing+=(e2fsprogs)
  ((${#missing[@]})) || return 0
  can apt-get || die "these packages are missing and this is no Debian to install them on: ${missing[*]}"
  ((EUID == 0)) || die "the emulated machine needs these packages; install them as root: ${missing[*]}"
  say "installing ${missing[*]}"
  quietly "$STATE_DIR/apt-update.log" apt-get update
  quietly "$STATE_DIR/apt-install.log" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${missing[@]}"
}

# finish ROOT: the same as the Dockerfile of the test hosts does, and what only a machine has.
finish() {
  local root=$1
  chroot "$root" update-ca-certificates
  chmod 0440 "$root/etc/sudoers.d/admin"
  chroot "$root" useradd --create-home --shell /bin/bash admin
  rm -f "$root"/etc/ssh/ssh_host_*
  install -d -m 0755 "$root/etc/ssh/authorized_keys"
  install -d -m 1777 "$root/var/cache/pip"
  echo machine >"$root/etc/hostname" # its own comes with its first start
  rm -f "$root/etc/resolv.conf"
  echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
  chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service machine-keys.service
  # They would hold the package manager's lock at a moment of their own, or are consoles that nobody looks at.
  chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer getty@tty1.service serial-getty@ttyS0.service
  : >"$root/etc/machine-id"
  # Nothing has to be rebuilt at the first boot.
  touch "$root/etc/.updated" "$root/var/.updated"
}

BINFMT=/proc/sys/fs/binfmt_misc
# What this script removes at its end.
work='' registered=''
clean_up() {
  [[ -z $registered ]] || echo -1 >"$BINFMT/$registered"
  [[ -z $work ]] || rm -rf "$work"
}
trap clean_up EXIT

# register_arm64: let the kernel run programs for arm64 with qemu, until this script ends.
register_arm64() {
  mountpoint --quiet "$BINFMT" || mount -t binfmt_misc binfmt_misc "$BINFMT"
  [[ ! -e $BINFMT/qemu-aarch64 ]] || return 0
  cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$BINFMT/register"
  registered=qemu-aarch64
}

[[ $(dpkg --print-architecture) == amd64 ]] || die "emulated machines are made on amd64 alone"
install_missing_packages
mkdir -p "$CACHE_DIR/machines" "$STATE_DIR"
exec {lock}>"$CACHE_DIR/machines/.$SUITE-$ARCHITECTURE.lock"
flock "$lock"

mirror
hash=$({
  printf '%s\n' "$SUITE" "$PACKAGES" "$SIZE" "$sources" "$options"
  find "${INPUTS[@]}" scripts/vm_image.sh -type f -print0 | sort -z | xargs -0 sha256sum
  own_authorities | xargs -0r sha256sum
} | sha256sum | cut -c1-12)
made=$CACHE_DIR/machines/$SUITE-$ARCHITECTURE-$hash

if [[ ! -d $made ]]; then
  ((EUID == 0)) || die "the disk of the emulated machine is missing; make it as root: scripts/vm_image.sh $SUITE $ARCHITECTURE"
  find "$CACHE_DIR/machines" -mindepth 1 -maxdepth 1 -type d -mtime "+$KEPT_DAYS" -exec rm -rf {} +
  work=$(mktemp -d "$CACHE_DIR/machines/build.XXXXXX")
  [[ $ARCHITECTURE == amd64 ]] || register_arm64
  say "bootstrapping Debian $SUITE for $ARCHITECTURE with a kernel"
  # Put in before the packages are set up, since the initrd is made then.
  export FILES=$work/files
  mkdir -p "$FILES/usr/local/share/ca-certificates"
  for inputs in "${INPUTS[@]}"; do cp -R "$inputs/." "$FILES"; done
  own_authorities | xargs -0r cp -t "$FILES/usr/local/share/ca-certificates"
  # The package lists stay in, as on any host that was ever updated: a dry run needs them.
  # shellcheck disable=SC2016 # mmdebstrap gives the root to the hook
  quietly "$STATE_DIR/machine-mmdebstrap.log" mmdebstrap --mode=root --variant=minbase --format=directory \
    --architectures="$ARCHITECTURE" \
    --skip=cleanup/apt/lists --include="$PACKAGES" "${apt_flags[@]}" "${DPKG_FLAGS[@]}" \
    --aptopt='Apt::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
    --extract-hook='cp -R "$FILES/." "$1"' \
    "$SUITE" "$work/tree" - <<<"$sources"
  quietly "$STATE_DIR/machine-finish.log" finish "$work/tree"
  say "writing the disk"
  mkdir "$work/made"
  cp "$work"/tree/boot/vmlinuz-* "$work/made/vmlinuz"
  cp "$work"/tree/boot/initrd.img-* "$work/made/initrd"
  rm -f "$work"/tree/boot/{vmlinuz,initrd.img}-*
  truncate --size="$SIZE" "$work/disk.raw"
  quietly "$STATE_DIR/machine-mke2fs.log" mke2fs -q -t ext4 -F -L root -m 0 -E lazy_itable_init=1 -d "$work/tree" "$work/disk.raw"
  quietly "$STATE_DIR/machine-qemu-img.log" qemu-img convert -O qcow2 "$work/disk.raw" "$work/made/disk.qcow2"
  mv "$work/made" "$made"
  say "made $made"
fi
touch "$made"
printf '%s\n' "$made" >"$STATE_DIR/machine-$SUITE-$ARCHITECTURE"
