"""Each queue's worker, beat and Flower have their documented files; rotation and the weekly clean-up don't fight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import documented
import means
import pytest
from support import fleets
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

ROTATIONS = 3
TASK = "core.tasks.cleanup_system_logs"


def host_of(fleet: Fleet, queue: str) -> str:
    """Return the host of a queue's worker."""
    (found,) = (node for node, queues in fleets.nodes(fleet).items() if queue in queues)
    return found.partition("@")[2]


def directory(fleet: Fleet) -> str:
    return f"/var/log/{fleets.app_of(fleet)}"


def names(fleet: Fleet, host: str) -> set[str]:
    return set(fleet.must(host, ["ls", directory(fleet)]).split())


def test_files_have_their_documented_names(market: Fleet) -> None:
    """A host has no other worker's file."""
    for host in market.hosts("celery_workers"):
        queues = {queue for queue in documented.TASKS if host_of(market, queue) == host}
        found = {name for name in names(market, host) if name.endswith(".log")}
        assert found == {f"celery_{queue}.log" for queue in queues}
    control = market.one("celery_beat")
    assert "celery_beat.log" in names(market, control)
    assert market.must(control, ["cat", "/var/log/marketplace_ops-flower/flower.log"]).strip()


@pytest.mark.parametrize("queue", documented.TASKS)
def test_each_worker_writes_to_its_own_file(market: Fleet, queue: str) -> None:
    tasks = {
        "suppliers": "suppliers.tasks.cleanup_supplier_data",
        "marketplaces": "marketplaces.tasks.sync_all_marketplace_inventory",
        "workflows": "orchestration.tasks.cleanup_old_executions",
        "ai_processing": "ai_agents.tasks.cleanup_ai_sessions",
        "analytics": "analytics.tasks.calculate_profitability_metrics",
        "maintenance": "core.tasks.system_health_check",
    }
    done = fleets.run(market, tasks[queue])
    host = host_of(market, queue)
    path = f"{directory(market)}/celery_{queue}.log"
    wait_for(
        "its end is in the file",
        10,
        lambda: f"[{done.id}] succeeded" in market.must(host, ["cat", path]),
    )
    found = market.must(host, f"grep --files-with-matches {done.id} {directory(market)}/*.log")
    assert found.split() == [path]


@pytest.mark.stage(2)
def test_rotated_under_its_worker_and_cleaned_up_by_a_task(market: Fleet) -> None:
    """Old rotated files are deleted. Files in use, recently rotated ones and other programs' files stay."""
    app, host = fleets.app_of(market), host_of(market, "maintenance")
    place, pids = directory(market), fleets.pids(market)
    ids = []
    for _ in range(ROTATIONS):
        ids.append(fleets.run(market, "core.tasks.system_health_check").id)
        market.must(host, ["logrotate", "--force", f"/etc/logrotate.d/{app}"])
    ids.append(fleets.run(market, "core.tasks.system_health_check").id)
    text = market.must(host, f"cd {place} && zcat --force celery_maintenance.log*")
    assert [identity for identity in ids if text.count(f"[{identity}] succeeded") != 1] == []
    assert fleets.pids(market) == pids, "a rotation has restarted something"

    rotated = {"celery_maintenance.log.1", "celery_maintenance.log.2.gz"}
    assert rotated <= names(market, host)
    old, young = "celery_maintenance.log.40.gz", "celery_maintenance.log.41.gz"
    strangers = "notes-of-somebody.txt"
    for name, age in ((old, "40 days ago"), (young, "20 days ago"), (strangers, "400 days ago")):
        market.must(host, ["install", "-o", app, "-g", app, "/dev/null", f"{place}/{name}"])
        market.must(host, ["touch", "--date", age, f"{place}/{name}"])
    # A file that is in use but was not written to for long, like that of a quiet queue.
    quiet = next(
        queue for queue in documented.TASKS
        if queue != "maintenance" and host_of(market, queue) == host
    )  # fmt: skip
    living = f"{place}/celery_{quiet}.log"
    # The worker creates the file with its next line; until then there must be no file of another user.
    market.must(host, ["runuser", "-u", app, "--", "touch", "--date", "60 days ago", living])
    before = names(market, host)

    found = means.run(market, TASK)["result"]
    assert found["removed"] == [old]
    assert before - names(market, host) == {old}
    # Rotation finds the files that it needs, and logging continues.
    market.must(host, ["logrotate", "--force", f"/etc/logrotate.d/{app}"])
    done = fleets.run(market, "core.tasks.system_health_check")
    path = f"{place}/celery_maintenance.log"
    wait_for(
        "the living file is written to", 10, lambda: done.id in market.must(host, ["cat", path])
    )
    market.must(host, ["rm", f"{place}/{young}", f"{place}/{strangers}"])
    assert fleets.pids(market) == pids
