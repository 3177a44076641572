"""Install hosts of a scenario again, with their names, addresses and old SSH keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from support.inventory import ROOT


def make_hosts(scenario: str, suites: Mapping[str, str]) -> None:
    """Give each host of a scenario its Debian suite, by replacing at least one host with a bare one.

    Args:
        scenario: Its name.
        suites: Debian suite of every host of the scenario, by the host's name.
    """
    connection = ROOT / "molecule" / scenario / "inventory" / "connection.yml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.hosts", "create"),
            *(f"--scenario={scenario}", f"--inventory={connection}"),
            *(f"{name}={suite}" for name, suite in suites.items()),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed\n"
