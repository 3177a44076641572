"""Beat has exactly the documented schedule, in its time zone, and each entry is due when the document says.

The documented schedules and times are typed here by hand.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support import fleets
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

ALL_HOURS = list(range(24))
EVERY_DAY = list(range(7))
PIPELINE_HOURS = [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
MONDAY_TO_SATURDAY = [1, 2, 3, 4, 5, 6]  # Sunday is 0

# Application -> task -> minutes, hours and days of the week; or seconds between two runs.
DOCUMENTED: dict[str, dict[str, Any]] = {
    "flexiprice": {
        "app.tasks.recompute_all_discounts": ([0], ALL_HOURS, EVERY_DAY),
        "app.tasks.cleanup_expired_discounts": ([0], [2], EVERY_DAY),
        "app.tasks.update_price_history": ([0], [0, 6, 12, 18], EVERY_DAY),
    },
    "aiecommerce": {
        "run_scrape_tecnomega": ([0], PIPELINE_HOURS, MONDAY_TO_SATURDAY),
        "run_normalize_products": ([10], PIPELINE_HOURS, MONDAY_TO_SATURDAY),
        "run_enrich_products": ([15], PIPELINE_HOURS, MONDAY_TO_SATURDAY),
        "run_ml_eligibility_update": ([20], PIPELINE_HOURS, MONDAY_TO_SATURDAY),
        "run_image_fetcher": ([25], PIPELINE_HOURS, MONDAY_TO_SATURDAY),
        "run_sync_price_list": ([0], [10], EVERY_DAY),
        "run_prune_scrapes": ([0], [0], EVERY_DAY),
    },
    "flash_promos": {
        "promotions.tasks.check_active_promos": 60,
        "promotions.tasks.cleanup_expired_promos": 3600,
        "promotions.tasks.process_notification_queue": 30,
    },
}
# Two documents name no time zone, so Celery uses UTC.
ZONES = {"flexiprice": "UTC", "aiecommerce": "America/Guayaquil", "flash_promos": "UTC"}
# Only this document names its entries.
ENTRIES = {
    "check-flash-promos-every-minute": "promotions.tasks.check_active_promos",
    "cleanup-expired-promos-every-hour": "promotions.tasks.cleanup_expired_promos",
    "process-notification-queue-every-30s": "promotions.tasks.process_notification_queue",
}

# Application -> task, the time of its last run, and when it is due after that. 2026-11-21 is a Saturday.
MOMENTS: dict[str, list[tuple[str, str, str]]] = {
    "aiecommerce": [
        # The first hour of the day, and the last.
        ("run_scrape_tecnomega", "2026-11-23T07:59:59-05:00", "2026-11-23T08:00:00-05:00"),
        ("run_scrape_tecnomega", "2026-11-20T18:59:59-05:00", "2026-11-20T19:00:00-05:00"),
        ("run_scrape_tecnomega", "2026-11-20T08:00:00-05:00", "2026-11-20T09:00:00-05:00"),
        # Friday evening's entries continue on Saturday.
        ("run_scrape_tecnomega", "2026-11-20T19:00:00-05:00", "2026-11-21T08:00:00-05:00"),
        # After Saturday evening it is due on Monday; never on Sunday or at midnight.
        ("run_scrape_tecnomega", "2026-11-21T19:00:00-05:00", "2026-11-23T08:00:00-05:00"),
        ("run_scrape_tecnomega", "2026-11-22T12:30:00-05:00", "2026-11-23T08:00:00-05:00"),
        ("run_scrape_tecnomega", "2026-11-23T00:00:00-05:00", "2026-11-23T08:00:00-05:00"),
        ("run_normalize_products", "2026-11-21T08:00:00-05:00", "2026-11-21T08:10:00-05:00"),
        ("run_normalize_products", "2026-11-21T19:10:00-05:00", "2026-11-23T08:10:00-05:00"),
        ("run_normalize_products", "2026-11-22T09:00:00-05:00", "2026-11-23T08:10:00-05:00"),
        ("run_enrich_products", "2026-11-21T19:14:59-05:00", "2026-11-21T19:15:00-05:00"),
        ("run_enrich_products", "2026-11-21T19:15:00-05:00", "2026-11-23T08:15:00-05:00"),
        ("run_ml_eligibility_update", "2026-11-21T18:20:00-05:00", "2026-11-21T19:20:00-05:00"),
        ("run_ml_eligibility_update", "2026-11-21T19:20:00-05:00", "2026-11-23T08:20:00-05:00"),
        ("run_image_fetcher", "2026-11-21T19:00:00-05:00", "2026-11-21T19:25:00-05:00"),
        ("run_image_fetcher", "2026-11-21T19:25:00-05:00", "2026-11-23T08:25:00-05:00"),
        ("run_image_fetcher", "2026-11-20T23:59:59-05:00", "2026-11-21T08:25:00-05:00"),
        # Daily, including Sundays.
        ("run_sync_price_list", "2026-11-21T09:59:59-05:00", "2026-11-21T10:00:00-05:00"),
        ("run_sync_price_list", "2026-11-21T10:00:00-05:00", "2026-11-22T10:00:00-05:00"),
        ("run_prune_scrapes", "2026-11-21T23:59:59-05:00", "2026-11-22T00:00:00-05:00"),
        ("run_prune_scrapes", "2026-11-22T00:00:00-05:00", "2026-11-23T00:00:00-05:00"),
    ],
    "flexiprice": [
        ("app.tasks.recompute_all_discounts", "2026-11-21T19:00:00+00:00", "2026-11-21T20:00:00+00:00"),
        ("app.tasks.recompute_all_discounts", "2026-11-21T23:59:59+00:00", "2026-11-22T00:00:00+00:00"),
        ("app.tasks.cleanup_expired_discounts", "2026-11-22T00:00:00+00:00", "2026-11-22T02:00:00+00:00"),
        ("app.tasks.cleanup_expired_discounts", "2026-11-22T02:00:00+00:00", "2026-11-23T02:00:00+00:00"),
        ("app.tasks.update_price_history", "2026-11-21T18:00:00+00:00", "2026-11-22T00:00:00+00:00"),
        ("app.tasks.update_price_history", "2026-11-22T00:00:00+00:00", "2026-11-22T06:00:00+00:00"),
    ],
    "flash_promos": [
        ("promotions.tasks.check_active_promos", "2026-11-21T23:59:30+00:00", "2026-11-22T00:00:30+00:00"),
        ("promotions.tasks.cleanup_expired_promos", "2026-11-21T23:15:00+00:00", "2026-11-22T00:15:00+00:00"),
        ("promotions.tasks.process_notification_queue", "2026-11-22T00:00:00+00:00", "2026-11-22T00:00:30+00:00"),
    ],
}  # fmt: skip

# Runs in the release's Python with beat's own settings. Beat asks each entry whether it is due; here the time of its
# last run and the current time are replaced.
ASK = r"""
import json, os, sys
from datetime import datetime, timedelta
from celery.app.utils import find_app
from celery.beat import Scheduler
from celery.schedules import crontab

app = find_app(os.environ["CELERY_APP"])
app.loader.import_default_modules()
app.finalize()
scheduler = Scheduler(app, lazy=True)
scheduler.setup_schedule()
entries = {entry.task: entry for entry in scheduler.schedule.values()}

def at(entry, ran, now):
    entry.schedule.nowfun = lambda: now
    entry.last_run_at = ran
    return entry.is_due()

def times(schedule):
    if isinstance(schedule, crontab):
        assert len(schedule.day_of_month) == 31 and len(schedule.month_of_year) == 12
        return [sorted(schedule.minute), sorted(schedule.hour), sorted(schedule.day_of_week)]
    return schedule.run_every.total_seconds()

answers = []
for task, moment in json.load(sys.stdin):
    entry = entries[task]
    ran = datetime.fromisoformat(moment).astimezone(app.timezone)
    is_due, wait = at(entry, ran, ran)
    due = ran + timedelta(seconds=round(wait))
    answers.append({
        "due": due.isoformat(),
        "too_early": is_due or at(entry, ran, due - timedelta(seconds=1)).is_due,
        "fires": at(entry, ran, due).is_due,
    })
print(json.dumps({
    "zone": str(app.timezone),
    "utc": app.conf.enable_utc,
    "entries": {name: entry.task for name, entry in scheduler.schedule.items()},
    "times": {task: times(entry.schedule) for task, entry in entries.items()},
    "answers": answers,
}))
"""


def beat_says(fleet: Fleet, moments: list[tuple[str, str, str]]) -> Any:
    """Return the answer of beat's own code, run on its host."""
    variables = fleet.of("celery_beat")
    # celery-fleet calls this itself, because it only passes beat's credentials to its own programs.
    command = [
        *(
            "/usr/bin/python3",
            "-S",
            "-I",
            f"{variables['celery_app_runtime']}/celery_fleet/system/exec.py",
        ),
        *("--app", variables["celery_app_name"], "--as", "beat", "--", "python", "-c", ASK),
    ]
    asked = json.dumps([moment[:2] for moment in moments])
    return json.loads(fleet.must(fleet.one("celery_beat"), command, asked).strip().splitlines()[-1])


def loaded(fleet: Fleet) -> Any:
    """Return the schedule that the running beat reports."""
    path = f"/run/{fleets.app_of(fleet)}-beat/schedule.json"
    return json.loads(fleet.must(fleet.one("celery_beat"), ["cat", path]))


@pytest.mark.parametrize("name", fleets.NAMES)
def test_schedule_is_exactly_the_documented_one(name: str) -> None:
    fleet = fleets.load(name)
    found = beat_says(fleet, [])
    wanted = {
        task: list(when) if isinstance(when, tuple) else float(when)
        for task, when in DOCUMENTED[name].items()
    }
    assert found["times"] == wanted
    assert (found["zone"], found["utc"]) == (ZONES[name], True)
    assert len(found["entries"]) == len(wanted)
    # The running process has the same schedule.
    running = loaded(fleet)
    assert {entry["name"]: entry["task"] for entry in running["entries"]} == found["entries"]
    assert running["zone"] == ZONES[name]


def test_entries_have_their_documented_names(flash: Fleet) -> None:
    assert {entry["name"]: entry["task"] for entry in loaded(flash)["entries"]} == ENTRIES


@pytest.mark.parametrize("name", fleets.NAMES)
def test_entries_are_due_at_the_documented_times(name: str) -> None:
    found = beat_says(fleets.load(name), MOMENTS[name])["answers"]
    wanted = [{"due": due, "too_early": False, "fires": True} for _, _, due in MOMENTS[name]]
    differing = [
        (moment, said)
        for moment, said, right in zip(MOMENTS[name], found, wanted, strict=True)
        if said != right
    ]
    assert differing == []
    assert {task for task, _, _ in MOMENTS[name]} == DOCUMENTED[name].keys()


@pytest.mark.parametrize("name", fleets.NAMES)
def test_the_operators_command_shows_the_same_schedule(name: str) -> None:
    fleet = fleets.load(name)
    host = fleet.one("celery_beat")
    found = json.loads(fleets.must(fleet, host, "--format json schedule -n 30").output)
    assert found["timezone"] == ZONES[name]
    assert {entry["task"] for entry in found["entries"]} == DOCUMENTED[name].keys()
    for entry in found["entries"]:
        when = DOCUMENTED[name][entry["task"]]
        moments = [datetime.fromisoformat(due["local"]) for due in entry["due"]]
        assert len(moments) == 30
        if isinstance(when, tuple):
            minutes, hours, days = when
            assert {moment.minute for moment in moments} <= set(minutes)
            assert {moment.hour for moment in moments} <= set(hours)
            # In Python, Sunday is 7.
            assert {moment.isoweekday() % 7 for moment in moments} <= set(days)
        else:
            gaps = {(later - earlier).total_seconds() for earlier, later in pairwise(moments)}
            assert gaps == {when}


@pytest.mark.stage(1)
@pytest.mark.parametrize(
    ("entry", "seconds"),
    [("process-notification-queue-every-30s", 30), ("check-flash-promos-every-minute", 60)],
)
def test_beat_sends_at_the_documented_intervals(flash: Fleet, entry: str, seconds: int) -> None:
    app, host = fleets.app_of(flash), flash.one("celery_beat")

    def sent() -> list[float]:
        lines = fleets.journal(flash, host, f"{app}-beat.service")
        found = [at for at, text in lines if "Sending due task" in text and entry in text]
        return found if len(found) > 2 else []

    moments = wait_for(f"{entry} is sent three times", 4 * seconds, sent, pause=2)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert [gap for gap in gaps if abs(gap - seconds) > 2] == []
