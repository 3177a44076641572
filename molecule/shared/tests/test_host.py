"""A host is up, is reached as its inventory says, and can resolve the others."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from support import units
from testinfra.host import Host

if TYPE_CHECKING:
    from conftest import Fleet


def ssh(
    variables: Mapping[str, Any], command: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a command on a host through SSH, with the inventory's own settings."""
    return subprocess.run(
        [
            *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
            *shlex.split(variables["ansible_ssh_common_args"]),
            *(
                "-i",
                variables["ansible_ssh_private_key_file"],
                "-p",
                str(variables["ansible_port"]),
            ),
            *options,
            *(f"{variables['ansible_user']}@{variables['ansible_host']}", command),
        ],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_has_booted_without_a_failed_unit(fleet: Fleet, host_name: str, host: Host) -> None:
    state = host.run("systemctl is-system-running").stdout.strip()
    assert (state in ("running", "degraded"), units.failed(fleet, host_name)) == (True, [])


def test_systemd_hands_out_credentials(host: Host) -> None:
    run = host.run(
        "systemd-run --quiet --wait --pipe --property=SetCredential=probe:found "
        "sh -c 'cat $CREDENTIALS_DIRECTORY/probe'"
    )
    assert run.stdout == "found", run.stderr


def test_administrator_logs_in_and_becomes_root(variables: Mapping[str, Any]) -> None:
    done = ssh(variables, "id --user && sudo --non-interactive id --user")
    uids = done.stdout.split()
    assert len(uids) == 2, done.stderr
    assert uids[0] != "0"
    assert uids[1] == "0"


def test_a_login_without_a_key_is_refused(variables: Mapping[str, Any]) -> None:
    done = ssh(variables, "true", "-o", "PubkeyAuthentication=no", "-o", "ControlPath=none")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_finds_the_other_hosts_by_name(host: Host, fleet: Fleet) -> None:
    found = {name: host.run("getent hosts %s", name).stdout.split()[:1] for name in fleet.hosts()}
    assert found == {name: [fleet.expected[name]["ansible_host"]] for name in fleet.hosts()}


def test_clock_is_right(host: Host) -> None:
    before = time.time()
    there = float(host.run("date +%s.%N").stdout)
    assert before - 2 < there < time.time() + 2
