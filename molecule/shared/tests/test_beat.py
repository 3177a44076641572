"""One beat runs, with the right pidfile and exactly the documented schedule, and its entries fire."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from support import database, units
from support.inventory import Fleet
from support.waiting import wait_for

# The schedule in FlexiPrice's document: task, queue, time.
DOCUMENTED = {
    "recompute-all-discounts": (
        "app.tasks.recompute_all_discounts",
        "discounts",
        "crontab 0 * * * *",
    ),
    "cleanup-expired-discounts": (
        "app.tasks.cleanup_expired_discounts",
        "maintenance",
        "crontab 0 2 * * *",
    ),
    "update-price-history": (
        "app.tasks.update_price_history",
        "analytics",
        "crontab 0 */6 * * *",
    ),
}
# Due every few seconds, so that a test need not wait for the hour. Only the tests' inventory has it.
PROBE = "probe"

pytestmark = pytest.mark.unit("{celery_app_name}-beat.service", "celery_beat")


def beats(fleet: Fleet, name: str) -> list[str]:
    """Return the processes on a host that are a beat, by their command lines."""
    script = "for f in /proc/[0-9]*/cmdline; do echo \"$f $(tr '\\0' ' ' <$f)\"; done 2>/dev/null"
    found = [line.split() for line in fleet.must(name, script).splitlines()]
    return [words[0].split("/")[2] for words in found if {"celery", "beat"} <= set(words[1:])]


def pidfile(fleet: Fleet) -> str:
    """Return the content of beat's pidfile; empty if there is none."""
    app = fleet.of("celery_beat")["celery_app_name"]
    command = ["cat", f"/run/{app}-beat/beat.pid"]
    return fleet.execute(fleet.one("celery_beat"), command).output.strip()


def unit(fleet: Fleet) -> str:
    """Return beat's unit."""
    return f"{fleet.of('celery_beat')['celery_app_name']}-beat.service"


def test_one_beat_runs_and_the_pidfile_names_it(fleet: Fleet) -> None:
    found = {name: beats(fleet, name) for name in fleet.hosts()}
    main = units.state(fleet, fleet.one("celery_beat"), unit(fleet))["MainPID"]
    expected: dict[str, list[str]] = {name: [] for name in fleet.hosts()}
    assert found == {**expected, fleet.one("celery_beat"): [main]}
    assert pidfile(fleet) == main


def test_beat_has_loaded_exactly_the_documented_schedule(fleet: Fleet) -> None:
    app = fleet.of("celery_beat")["celery_app_name"]
    text = fleet.must(fleet.one("celery_beat"), ["cat", f"/run/{app}-beat/schedule.json"])
    found = {
        entry["name"]: (entry["task"], entry["queue"], entry["schedule"])
        for entry in json.loads(text)["entries"]
    }
    probe: Mapping[str, object] = fleet.of("celery_beat")["celery_beat_schedule"][PROBE]
    when = f"every {probe['interval']} s"
    assert found == {**DOCUMENTED, PROBE: (probe["task"], probe["queue"], when)}


def test_beat_sends_due_entries(fleet: Fleet) -> None:
    before = database.last_tick(fleet)
    wait_for("the probe writes a row", 10, lambda: database.last_tick(fleet) > before)


def test_beat_saves_each_run_while_it_runs(fleet: Fleet) -> None:
    """Otherwise one that is killed would send again what it has sent since its start."""
    app = fleet.of("celery_beat")["celery_app_name"]
    saved = ["stat", "--format=%y", f"/var/lib/{app}/beat/celerybeat-schedule"]
    before = fleet.must(fleet.one("celery_beat"), saved)
    wait_for(
        "the probe's next run is saved",
        10,
        lambda: fleet.must(fleet.one("celery_beat"), saved) > before,
    )
