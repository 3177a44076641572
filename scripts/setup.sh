#!/usr/bin/env bash
# Make this machine ready: Debian packages, .venv, a Docker engine, the image of the test hosts.
# If everything is there, it does nothing, in about a second.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

PYTHON=${PYTHON:-python3}
# Daemons are in directories that not every user has on PATH.
PATH=$PATH:/usr/sbin:/sbin
LOCK=requirements/dev.txt

# can COMMAND: true if COMMAND is found.
can() { command -v "$1" >/dev/null 2>&1; }

engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# promtool_package: print the name of the package with promtool.
promtool_package() {
  if (. /etc/os-release && [[ ${VERSION_CODENAME:-} == bookworm ]]); then echo prometheus; else echo promtool; fi
}

install_missing_packages() {
  local missing=() masked=() unit
  # Debian's python3 has the venv module without the ensurepip that it calls.
  # The tests also build releases as hosts do, with the pip that Debian's package contains.
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null && compgen -G '/usr/share/python-wheels/pip-*.whl' >/dev/null ||
    missing+=(python3-venv)
  can ssh && can ssh-keygen || missing+=(openssh-client)
  can mmdebstrap || missing+=(mmdebstrap)
  # The render tests let systemd check units; some containers lack it.
  can systemd-analyze || missing+=(systemd)
  can openssl || missing+=(openssl)
  # Tests without hosts start their own daemons, and let these check the files written for them. Debian's services would
  # run at once and at each boot, open to this machine. They are masked; unmask one to use it.
  can redis-server || { missing+=(redis-server); masked+=(redis-server.service); }
  can nginx || { missing+=(nginx-light); masked+=(nginx.service); }
  can logrotate || missing+=(logrotate)
  # What backups of Redis use.
  can rsync || { missing+=(rsync); masked+=(rsync.service); }
  can gpg || missing+=(gpg)
  # The tests load firewall rules in their own network namespaces.
  can nft || { missing+=(nftables); masked+=(nftables.service); }
  can ip || missing+=(iproute2)
  # Prometheus checks and tests the rules that are made for it. In Debian 13 promtool is a package of its own.
  if ! can promtool; then
    missing+=("$(promtool_package)")
    masked+=(prometheus.service prometheus-node-exporter.service)
  fi
  # A client is only useful if it reaches an engine; otherwise the engine's package brings its own client.
  if ! engine_answers && ! can dockerd; then
    missing+=(docker.io)
    can iptables || missing+=(iptables)
  fi
  ((${#missing[@]})) || return 0

  can apt-get || die "these packages are missing, and this is not Debian, so they can't be installed: ${missing[*]}"
  ((EUID == 0)) || die "these packages are missing; install them as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  mkdir -p /etc/systemd/system
  for unit in "${masked[@]}"; do
    [[ -e /etc/systemd/system/$unit ]] || ln -s /dev/null "/etc/systemd/system/$unit"
  done
  quietly "$STATE_DIR/apt-update.log" apt-get update
  quietly "$STATE_DIR/apt-install.log" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "${missing[@]}"
}

check_python() {
  can "$PYTHON" || die "'$PYTHON' is not found; name a Python of 3.11 or later: make setup PYTHON=..."
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$PYTHON" --version) is too old; name one of 3.11 or later: make setup PYTHON=..."
  # Not the Python of .venv, which the Makefile puts first on PATH, nor of any other virtual environment.
  PYTHON=$("$PYTHON" -c 'import sys; print(sys._base_executable)')
}

make_venv() {
  local wanted
  wanted=$({ "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'; cat "$LOCK"; } | sha256sum)
  [[ -f .venv/stamp && $(<.venv/stamp) == "$wanted" ]] && return 0
  say "making .venv from $LOCK"
  rm -rf .venv
  "$PYTHON" -m venv .venv
  # Compiling Ansible's collections would take longer than installing them, and almost none of them is ever imported
  # here: modules are sent to the hosts as source. Other packages are compiled below.
  quietly "$STATE_DIR/pip.log" .venv/bin/python -m pip install --disable-pip-version-check \
    --no-compile --require-hashes --requirement "$LOCK"
  printf '%s\n' "$wanted" >.venv/stamp
}

# Tests start hundreds of Python processes, most of which may not write bytecode. Without bytecode each of them would
# compile Celery or Django again, which takes longer than its actual work. A .venv of an older checkout is compiled as
# well.
compile_venv() {
  [[ -f .venv/compiled ]] && return 0
  say "compiling .venv"
  # The path is relative: the checkout itself may be below a directory of that name.
  quietly "$STATE_DIR/compile.log" .venv/bin/python -m compileall -q -j 0 -x '/ansible_collections/' .venv/lib
  touch .venv/compiled
}

start_engine() {
  engine_answers && return 0
  can dockerd || die "no Docker engine answers, and none is installed here (DOCKER_HOST=${DOCKER_HOST:-})"
  ((EUID == 0)) || die "the Docker engine does not answer; start it as root, and join the group docker"
  local log=$STATE_DIR/dockerd.log deadline=$((SECONDS + 60))
  say "starting the Docker engine"
  if [[ $(</proc/1/comm) == systemd ]]; then
    quietly "$log" systemctl start docker
  else
    mkdir -p "$STATE_DIR"
    # Use a new session, so that it outlives this make.
    setsid dockerd >"$log" 2>&1 </dev/null &
  fi
  until engine_answers; do
    if ((SECONDS > deadline)); then
      [[ -f $log ]] && tail -n 20 "$log" >&2
      die "the Docker engine did not answer within 60 s; see $log"
    fi
    sleep 0.3
  done
}

mkdir -p "$STATE_DIR"
chmod 0700 "$STATE_DIR"
check_python
install_missing_packages
make_venv
compile_venv
start_engine
scripts/image.sh bookworm
