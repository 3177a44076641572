"""A fleet on a host with an arm64 processor: its packages are for arm64, and everything works."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from support import database, plays, tasks, units

if TYPE_CHECKING:
    from support.inventory import Fleet

#: Seconds until a short task has run. The machine is about ten times slower than its host.
PATIENCE = 600.0


def test_the_processor_is_arm64(fleet: Fleet) -> None:
    assert fleet.must(fleet.one("fleet"), ["uname", "-m"]).strip() == "aarch64"


def test_the_wheels_with_machine_code_are_for_arm64(fleet: Fleet) -> None:
    host = fleet.one("celery_workers")
    root = fleet.expected[host]["celery_app_root"]
    found = fleet.must(host, f"find {root}/current/venv/ -name '*.so' -print").split()
    assert found
    assert [path for path in found if "x86_64" in path] == []
    assert [path for path in found if "aarch64" in path] != []


def test_all_units_are_up_and_none_has_failed(fleet: Fleet) -> None:
    assert units.down(fleet) == []
    assert units.failed(fleet, fleet.one("fleet")) == []


def test_a_task_runs(fleet: Fleet) -> None:
    run = uuid.uuid4().hex[:12]
    tasks.send(fleet, [tasks.tracer(run, "discounts", 0)])
    database.assert_ran_once(fleet, run, 1, PATIENCE)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    done = plays.play(fleet, "second")
    assert done.status == 0, done.end
    assert set(done.changed.values()) == {0}, done.end
