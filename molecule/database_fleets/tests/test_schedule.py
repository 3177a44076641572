"""The schedule in the database: the ten documented entries, what users add to them, and what they change in them.

Users work in Django's admin. The tests use its shell, with the same models and so the same signals to beat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import documented
import means
import pytest
from documented import At, Every
from support import database, fleets, units
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

ROWS = """
    SELECT p.name, p.task, p.enabled, p.queue, p.one_off, p.total_run_count AS runs, p.last_run_at,
           i.every, i.period, c.minute, c.hour, c.day_of_week, c.day_of_month, c.month_of_year, c.timezone
      FROM django_celery_beat_periodictask AS p
      LEFT JOIN django_celery_beat_intervalschedule AS i ON i.id = p.interval_id
      LEFT JOIN django_celery_beat_crontabschedule AS c ON c.id = p.crontab_id
"""
UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}

BY_HAND = "Made in the admin"
BY_HAND_TASK = "suppliers.tasks.cleanup_supplier_data"
EDITED = "Sync Marketplace Orders"
DISABLED = "AI Session Cleanup"

MAKE = f"""
from django_celery_beat.models import IntervalSchedule, PeriodicTask
every, _ = IntervalSchedule.objects.get_or_create(every=3, period="seconds")
PeriodicTask.objects.create(name="{BY_HAND}", task="{BY_HAND_TASK}", interval=every, queue="suppliers")
"""
EDIT = f"""
from django_celery_beat.models import IntervalSchedule, PeriodicTask
every, _ = IntervalSchedule.objects.get_or_create(every=7, period="hours")
edited = PeriodicTask.objects.get(name="{EDITED}")
edited.interval, edited.crontab = every, None
edited.save()
disabled = PeriodicTask.objects.get(name="{DISABLED}")
disabled.enabled = False
disabled.save()
"""
REMOVE = f"""
from django_celery_beat.models import PeriodicTask
PeriodicTask.objects.filter(name="{BY_HAND}").delete()
"""


def shell(fleet: Fleet, script: str) -> None:
    """Do what a user does in the admin."""
    host = fleet.one("celery_producers")
    done = fleets.must(fleet, host, "exec -- python manage.py shell", script)
    assert "Traceback" not in done.text, done.text


def entries(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return all entries in the database by their names."""
    return {row["name"]: row for row in database.query(fleet, ROWS)}


def when(row: dict[str, Any]) -> Every | At | str:
    """Return an entry's schedule; as text if it has a form that no documented one has."""
    if row["every"] is not None:
        return Every(row["every"] * UNITS[row["period"]])
    shown = " ".join(
        row[part] for part in ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
    )
    if row["day_of_month"] != "*" or row["month_of_year"] != "*" or row["timezone"] != "UTC":
        return f"{shown} {row['timezone']}"
    day = {"*": -1, "0": 0, "sun": 0, "sunday": 0}.get(row["day_of_week"].lower())
    if day is None or not (row["hour"].isdigit() and row["minute"].isdigit()):
        return shown
    return At(int(row["hour"]), int(row["minute"]), day)


def documented_entries() -> dict[str, tuple[str, Every | At, bool]]:
    return {name: (task, at, True) for name, (task, at) in documented.ENTRIES.items()}


def in_database(fleet: Fleet) -> dict[str, tuple[str, Any, bool]]:
    return {name: (row["task"], when(row), row["enabled"]) for name, row in entries(fleet).items()}


def test_exactly_the_documented_entries_are_in_the_database(market: Fleet) -> None:
    assert in_database(market) == documented_entries()
    # None of them names a queue, or runs only once.
    for name, row in entries(market).items():
        assert row["queue"] in (None, documented.QUEUES[row["task"]]), name
        assert not row["one_off"]


def marked(fleet: Fleet) -> set[str]:
    """Return entries that are ours by their marks; the one without a name is the lock of a process that writes."""
    found = database.query(fleet, "SELECT name FROM celery_fleet_schedule WHERE name <> ''")
    return {row["name"] for row in found}


def test_entries_are_marked_as_ours(market: Fleet) -> None:
    assert marked(market) == set(documented.ENTRIES)


def test_declared_in_the_inventory_by_their_documented_names(market: Fleet) -> None:
    variables = market.of("celery_beat")
    assert variables["celery_beat_scheduler"] == "database"
    assert set(variables["celery_beat_schedule"]) == set(documented.ENTRIES)


def test_beat_holds_what_the_database_has(fleet: Fleet) -> None:
    """The running beat writes the file that is compared."""
    app, host = fleets.app_of(fleet), fleet.one("celery_beat")
    loaded = json.loads(fleet.must(host, ["cat", f"/run/{app}-beat/schedule.json"]))
    held = {entry["name"] for entry in loaded["entries"]}
    assert held == {name for name, row in entries(fleet).items() if row["enabled"]}
    pid = units.state(fleet, host, f"{app}-beat.service")["MainPID"]
    maps = fleet.must(host, ["ls", "-l", f"/proc/{pid}/fd"])
    assert "celerybeat-schedule" not in maps, "it keeps its schedule in a file"


def test_the_operators_list_agrees_with_the_database(market: Fleet) -> None:
    found = means.ask(market, market.one("celery_beat"), "schedule")["entries"]
    listed = {entry["name"]: entry["task"] for entry in found}
    assert listed == {name: task for name, (task, _) in documented.ENTRIES.items()}


@pytest.mark.stage(2)
class TestChanges:
    """Users change the schedule, and runs of site.yml follow; each test continues from the previous one."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def put_back(cls, market: Fleet, workshop: fleets.Workshop) -> Iterator[None]:
        yield
        shell(market, REMOVE)
        workshop.settle(market, "schedule-settled")
        run = workshop.site(market, "schedule-reset", "-e", "celery_beat_schedule_on_edit=reset")
        assert run.status == 0, run.end
        assert in_database(market) == documented_entries()

    def runs(self, market: Fleet) -> int:
        """Return how often its task has succeeded, by the log of its queue's worker."""
        host = next(node.partition("@")[2] for node in fleets.nodes(market) if "suppliers@" in node)
        done = rf"Task {BY_HAND_TASK}\[.* succeeded"
        file = f"/var/log/{fleets.app_of(market)}/celery_suppliers.log"
        return int(market.execute(host, ["grep", "--count", done, file]).output)

    def fires(self, market: Fleet) -> None:
        """Check that it ran more often than before; nothing else sends its task so often."""
        before = self.runs(market)
        wait_for(f"{BY_HAND} fires", 40, lambda: self.runs(market) > before + 1, pause=1)

    def test_entry_made_by_hand_fires(self, market: Fleet) -> None:
        shell(market, MAKE)
        self.fires(market)

    def test_the_list_says_who_owns_each_entry(self, market: Fleet) -> None:
        shell(market, EDIT)
        found = means.ask(market, market.one("celery_beat"), "schedule")["entries"]
        said = {entry["name"]: entry["state"] for entry in found}
        assert said == {
            **dict.fromkeys(documented.ENTRIES, "declared"),
            EDITED: "edited",
            DISABLED: "disabled",
            BY_HAND: "user's",
        }

    def test_plan_reports_what_users_changed(
        self, market: Fleet, workshop: fleets.Workshop
    ) -> None:
        run = workshop.plan(market, "schedule-edited")
        assert run.status == 0, run.end
        words = (f"{EDITED} was edited by a user", f"{DISABLED} was disabled by a user")
        assert [word for word in words if word not in run.text] == [], run.end

    def test_users_changes_survive_two_further_runs(
        self, market: Fleet, workshop: fleets.Workshop
    ) -> None:
        before, pids = in_database(market), fleets.pids(market)
        assert before[EDITED][1] == Every(7 * 3600)
        assert before[DISABLED][2] is False
        for number in (1, 2):
            run = workshop.site(market, f"schedule-kept-{number}")
            assert run.status == 0, run.end
            assert run.changed == dict.fromkeys(market.hosts(), 0)
        assert in_database(market) == before
        assert fleets.pids(market) == pids
        self.fires(market)

    def test_synchronising_by_hand_has_a_dry_run(self, market: Fleet) -> None:
        """The dry run reports changes and writes nothing."""
        before, host = in_database(market), market.one("celery_beat")
        done = fleets.must(market, host, "schedule sync --dry-run --reset")
        assert [name for name in (EDITED, DISABLED) if name not in done.text] == [], done.text
        assert in_database(market) == before

    def test_edited_entries_are_reset_if_the_inventory_says_so(
        self, market: Fleet, workshop: fleets.Workshop
    ) -> None:
        by_hand = in_database(market)[BY_HAND]
        run = workshop.site(
            market, "schedule-edits-reset", "-e", "celery_beat_schedule_on_edit=reset"
        )
        assert run.status == 0, run.end
        assert in_database(market) == {**documented_entries(), BY_HAND: by_hand}

    def test_an_entry_that_left_the_inventory_is_deleted_and_users_keep_theirs(
        self, market: Fleet, workshop: fleets.Workshop
    ) -> None:
        """If the inventory declares an entry with the name of a user's entry, this is reported and the user's stays."""
        declared = dict(market.of("celery_beat")["celery_beat_schedule"])
        entry = declared.pop(DISABLED)
        by_hand = entries(market)[BY_HAND]
        variables = workshop.variables(celery_beat_schedule={**declared, BY_HAND: entry})
        plan = workshop.plan(market, "schedule-left-plan", variables)
        assert plan.status == 0, plan.end
        words = ("no longer declared", f"{BY_HAND} is not written: a user's entry has this name")
        assert [word for word in words if word not in plan.text] == [], plan.end
        assert DISABLED in entries(market)
        run = workshop.site(market, "schedule-left", variables)
        assert run.status == 0, run.end
        now = entries(market)
        assert now.keys() == {*documented.ENTRIES, BY_HAND} - {DISABLED}
        assert when(now[BY_HAND]) == when(by_hand) == Every(3)
        assert now[BY_HAND]["task"] == BY_HAND_TASK
        assert marked(market) == documented.ENTRIES.keys() - {DISABLED}
        # The entry comes back with the inventory, and the user's is still there.
        workshop.settle(market, "schedule-back")
        assert in_database(market).keys() == {*documented.ENTRIES, BY_HAND}
        self.fires(market)

    def test_declared_entries_can_be_switched_off_and_on_again(self, market: Fleet) -> None:
        """Users' entries stay as they are. Without a terminal to ask at, nothing is done."""
        host = market.one("celery_beat")
        before = in_database(market)
        assert fleets.call(market, host, "schedule disable-all", "y\n").status == 2
        dry = fleets.must(market, host, "schedule disable-all --dry-run")
        assert [name for name in documented.ENTRIES if name not in dry.output] == [], dry.text
        assert in_database(market) == before
        fleets.must(market, host, "schedule disable-all --yes")
        now = in_database(market)
        assert {name for name, (_, _, on) in now.items() if on} == {BY_HAND}
        fleets.must(market, host, "schedule enable-all --yes")
        now = in_database(market)
        by_hand = now.pop(BY_HAND)
        assert (now, by_hand[2]) == (documented_entries(), True)
