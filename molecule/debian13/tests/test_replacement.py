"""A host with Debian 12 is replaced by one with Debian 13, the same name and address, while the fleet works."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import yaml
from support import database, plays, tasks, units
from support.inventory import ROOT
from support.rebuild import make_hosts
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(4)

SCENARIO = ROOT / "molecule" / "debian13"
SHUTDOWN = 120  # seconds, in which a host has drained and is off


def suites(fleet: Fleet) -> dict[str, str]:
    """Return the Debian suite of each host in the scenario's inventory."""
    hosts = yaml.safe_load((SCENARIO / "inventory" / "hosts.yml").read_text())["all"]["hosts"]
    return {name: hosts.get(name, {}).get("test_host_suite", "bookworm") for name in fleet.hosts()}


def python_of(fleet: Fleet, name: str) -> str:
    """Return the version of Python that runs the host's application."""
    root = fleet.expected[name]["celery_app_root"]
    return os.path.basename(
        fleet.must(name, f"readlink -f {root}/pins/worker-*/venv/bin/python | sort -u").strip()
    )


def test_a_host_with_debian_12_is_replaced_by_one_with_13(fleet: Fleet, label: str) -> None:
    installed = suites(fleet)
    (name,) = (host for host in fleet.hosts("celery_workers") if installed[host] == "bookworm")
    (other,) = (host for host in fleet.hosts("celery_workers") if host != name)
    assert (python_of(fleet, name), python_of(fleet, other)) == ("python3.11", "python3.13")
    before = units.main_pids(fleet)
    enabled = {host: fleet.expected[host]["celery_worker_host_instances"] for host in (name, other)}
    worker = next(worker for worker in enabled[name] if worker in enabled[other])

    # More tasks than both hosts can run at once, so the host is removed while it works.
    slots = fleet.expected[name]["celery_worker_instances"][worker]["concurrency"]
    number = 4 * slots
    tasks.send(fleet, [tasks.tracer(f"{label}-{n}", worker, 8) for n in range(number)])
    node = f"{worker}@{name}"
    wait_for(
        f"{node} runs one", 10, lambda: node in {run["node"] for run in database.runs(fleet, label)}
    )
    subprocess.run(
        ["docker", "stop", f"--time={SHUTDOWN}", fleet.containers[name]],
        check=True,
        capture_output=True,
        timeout=SHUTDOWN + 60,
    )
    make_hosts(SCENARIO.name, {**installed, name: "trixie"})
    assert fleet.must(name, "find /opt -mindepth 1; find /etc -name celery-fleet") == ""
    # The draining worker and the other host have run all tasks before the fleet is on the new host.
    database.assert_ran_once(fleet, label, number, 90)

    began = time.monotonic()
    run = plays.play(fleet, "replaced")
    assert run.status == 0, run.end
    print(f"site.yml onto the new host: {time.monotonic() - began:.0f} s")
    units.wait_until_up(fleet, 5)
    assert python_of(fleet, name) == "python3.13"
    after = units.main_pids(fleet)
    assert {key: pid for key, pid in before.items() if key[0] != name} == {
        key: pid for key, pid in after.items() if key[0] != name
    }
    assert {key for key in before if key[0] == name} == {key for key in after if key[0] == name}

    # The workers of both hosts take tasks, and have the same names as before.
    queued = [tasks.tracer(f"{label}-new-{n}", worker, 3) for n in range(number)]
    tasks.send(fleet, queued)
    database.assert_ran_once(fleet, f"{label}-new", number, 60)
    assert {run["node"] for run in database.runs(fleet, f"{label}-new")} == {
        node,
        f"{worker}@{other}",
    }

    run = plays.play(fleet, "replaced-again")
    assert run.status == 0, run.end
    assert run.changed == dict.fromkeys(fleet.hosts(), 0)
