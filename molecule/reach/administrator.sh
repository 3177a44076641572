#!/usr/bin/env bash
# Leave the administrator one way to become root. The administrator and root already have a password.
#
# usage: administrator.sh sudo|su|doas BASTION
#   sudo    with the administrator's password
#   su      with root's password; sudo is not installed
#   doas    without a password; sudo is not installed, and only BASTION (an address) may log in
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

case $1 in
sudo)
  echo 'admin ALL=(ALL) ALL' >/etc/sudoers.d/admin
  ;;
doas)
  apt-get -q update
  apt-get -qy install --no-install-recommends doas
  echo 'permit nopass admin' >/etc/doas.conf
  echo "AllowUsers admin@$2" >/etc/ssh/sshd_config.d/bastion.conf
  systemctl reload ssh
  ;;
esac
[[ $1 == sudo ]] || SUDO_FORCE_REMOVE=yes apt-get -qy purge sudo
