#!/usr/bin/env bash
# Install the same packages and virtualenvs as a first run of site.yml on one host, without configuring, securing,
# starting or checking anything. `scripts.bench cold` compares both.
#
# usage: bench_baseline.sh GROUP...   (the host's groups in the inventory)
# Run as root on the host; the code is in /tmp/code.tar.gz, requirements of Flower in /tmp/flower.txt and of the
# operator's command in /tmp/command.txt.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

packages=(python3-venv)
for group in "$@"; do
  case $group in
    redis) packages+=(redis-server) ;;
    celery_producers | flower) packages+=(nginx-light) ;;
  esac
done
apt-get update --quiet --quiet
apt-get install --quiet --quiet --yes --no-install-recommends "${packages[@]}"

# virtualenv DIRECTORY REQUIREMENTS
virtualenv() {
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
}

case " $* " in
  *" celery_"*)
    mkdir -p /opt/application/source
    tar --extract --gzip --file /tmp/code.tar.gz --directory /opt/application/source
    virtualenv /opt/application/venv /opt/application/source/requirements.txt
    ;;
esac
case " $* " in
  *" flower "*) virtualenv /opt/flower /tmp/flower.txt ;;
esac
virtualenv /opt/celery-fleet /tmp/command.txt
