"""Hosts of a scenario that are installed again, under their names and addresses and with their old SSH keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from support.inventory import ROOT


def make_hosts(scenario: str, suites: Mapping[str, str]) -> None:
    """Give each host of a scenario its Debian: one that has another is replaced by a bare one; at least one has to be.

    Args:
        scenario: Its name.
        suites: Debian's suite of every host of it, by the host's name.
    """
    connection = ROOT / "molecule" / scenario / "inventory" / "connection.yml"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "hosts.py"), "create"),
            *(f"--scenario={scenario}", f"--inventory={connection}"),
            *(f"{name}={suite}" for name, suite in suites.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed\n"
