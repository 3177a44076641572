"""A run does only what was approved, and notifies a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.change import Fleets


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_only_approved_changes_are_made_and_a_program_is_notified(
    changes: Fleets, tmp_path: Path
) -> None:
    fewer = changes.layer(
        worker1={"celery_worker_instances": changes.workers("discounts", concurrency=3)}
    )
    approved, kept = tmp_path / "approved.json", tmp_path / "told"
    planned = changes.plan("approval-plan", *fewer)
    approved.write_text(json.dumps(planned.plan))
    program = ["/bin/sh", "-c", 'cat >> "$0"; echo >> "$0"', str(kept)]
    asked = [f"-efleet_plan_approved={approved}", *changes.variables(fleet_notify=program)]
    before, files = changes.pids(), changes.files()

    more = changes.variables(redis_broker_maxmemory="320mb")
    refused = changes.site("approval-refused", *fewer, *more, *asked)
    assert refused.run.status != 0
    assert "not approved: redis1" in refused.run.text
    assert (changes.pids(), changes.files(), told(kept)) == (before, files, [])

    done = changes.site("approval", *fewer, *asked)
    assert done.run.status == 0, done.run.end
    assert done.plan["items"] == planned.plan["items"]
    assert changes.restarted(before) == {changes.unit("worker1", "discounts")}
    start, end = told(kept)
    assert (start["event"], end["event"], end["failed"]) == ("start", "success", [])
    assert start["items"] == planned.plan["items"]

    # Another run has made all changes.
    again = changes.site("approval-again", *fewer, *asked)
    assert again.run.status == 0, again.run.end
    assert len(told(kept)) == 2


def test_a_program_is_notified_of_a_failure(changes: Fleets, tmp_path: Path) -> None:
    """A user's drop-in keeps a worker from starting. The last run also undoes the changes of the other test."""
    kept = tmp_path / "told"
    program = ["/bin/sh", "-c", 'cat >> "$0"; echo >> "$0"', str(kept)]
    fewer = changes.layer(
        worker1={"celery_worker_instances": changes.workers("discounts", concurrency=2)}
    )
    host, unit = changes.unit("worker1", "discounts")
    path = f"/etc/systemd/system/{unit}.d/zz-mine.conf"
    changes.fleet.must(host, ["mkdir", "-p", f"/etc/systemd/system/{unit}.d"])
    changes.fleet.must(host, f"cat > {path}", "[Service]\nExecCondition=/bin/false\n")
    try:
        failed = changes.site("told-failure", *fewer, *changes.variables(fleet_notify=program))
        assert failed.run.status != 0
        start, end = told(kept)
        assert (start["event"], end["event"]) == ("start", "failure")
        assert {one["host"] for one in end["failed"]} == {host}
        assert end["failed"][0]["message"]
    finally:
        changes.fleet.must(host, f"rm {path}; systemctl daemon-reload")
    assert changes.site("told-back").run.status == 0
