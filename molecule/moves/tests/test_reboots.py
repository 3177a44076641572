"""Hosts reboot one after the other, and no task is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support import database, plays, tasks, units

if TYPE_CHECKING:
    from support.change import Fleets


def test_reboots_lose_no_task(changes: Fleets, label: str) -> None:
    """Docker starts a rebooting container again."""
    fleet = changes.fleet
    before = {
        name: fleet.must(name, "systemctl show --property=UserspaceTimestamp --value")
        for name in fleet.hosts("fleet")
    }
    queues = ("discounts", "maintenance", "analytics")
    sent = [tasks.tracer(f"{label}-{n}", queues[n % 3], 1) for n in range(30)]
    tasks.send(fleet, sent)
    run = plays.play(
        fleet,
        "reboots",
        "--extra-vars=celery_pause_reboot_timeout=180",
        playbook="playbooks/reboot_hosts.yml",
    )
    assert run.status == 0, run.end
    for name, earlier in before.items():
        now = fleet.must(name, "systemctl show --property=UserspaceTimestamp --value")
        assert now != earlier, name
    database.assert_ran_once(fleet, f"{label}-", len(sent), 60)
    units.wait_until_up(fleet, 60)
    host = fleet.one("celery_workers")
    found = json.loads(fleet.execute(host, "celery-fleet --format json status").output)
    assert found["pauses"] == []
