"""When an entry of a database ran last: after a send that failed, a user's new time, and without time zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from .conftest import Project

#: A daily entry that was due two hours ago and ran a day before, and beats of which the broker refuses everything.
PROJECT = """
from datetime import UTC, datetime, timedelta
from celery.beat import Service
from django.conf import settings
from celery_fleet.beat import missed, standby
from celery_fleet.beat.database import scheduler as database
from celery_fleet.beat.leadership import Leadership
from celery_fleet.compat import clock_changes
from celery_fleet.config.entries import Missed
from shop.celery import app, clean

app.conf.update(timezone="UTC", beat_sync_every=1, beat_schedule={}, result_expires=None)
clock_changes.install()
database.hold_all()
database.wait_for_first_slots()
now = datetime.now(UTC).replace(second=0, microsecond=0)
refused, sent = [True], []

def apply_async(*args, **kwargs):
    if refused[0]:
        raise RuntimeError("OOM command not allowed")
    sent.append(args)

clean.apply_async = apply_async

def saved(moment):
    return moment if settings.USE_TZ else moment.replace(tzinfo=None)

def crontab(moment):
    return CrontabSchedule.objects.create(minute=moment.minute, hour=moment.hour, timezone="UTC")

def half_an_hour():
    return IntervalSchedule.objects.create(every=30, period="minutes")

due = now - timedelta(hours=2)
last = due - timedelta(days=1)
PeriodicTask.objects.create(name="nightly", task="shop.clean", crontab=crontab(due))
PeriodicTask.objects.update(last_run_at=saved(last), total_run_count=5)

class Broker:
    runs = {}
    def eval(self, *args):
        return 1
    def hgetall(self, key):
        return dict(self.runs)

def start(standing_by=False, **what):
    service = Service(app, scheduler_cls="django_celery_beat.schedulers:DatabaseScheduler", max_interval=5)
    service.scheduler
    if standing_by:
        standby.take_over(app, service, Leadership(Broker(), "token"), what)
    else:
        missed.install(app, service, what)
    database.guard(service, lambda trouble: None, standby=standing_by)
    return service.scheduler

def tick(scheduler):
    for _ in range(6):
        scheduler.tick()
"""


@pytest.mark.slow
@pytest.mark.parametrize("once", [False, True])
def test_another_beat_makes_up_for_a_send_that_failed(project: Project, once: bool) -> None:
    said = project.python(
        f"{PROJECT}\n"
        f"PeriodicTask.objects.update(one_off={once}, total_run_count={0 if once else 5})\n"
        "first = start(standing_by=True)\n"
        "tick(first)\n"
        "first.sync()\n"
        "print(of('nightly').last_run_at == last, of('nightly').enabled, len(sent))\n"
        "refused[0] = False\n"
        "tick(start(standing_by=True))\n"
        "print(of('nightly').total_run_count, len(sent))"
    )
    assert said.splitlines()[-2:] == ["True True 0", "1 1" if once else "6 1"]


@pytest.mark.slow
def test_a_run_is_saved_as_soon_as_it_was_sent(project: Project) -> None:
    said = project.python(
        f"{PROJECT}\n"
        "refused[0] = False\n"
        "start(standing_by=True).tick()\n"
        "print(of('nightly').last_run_at > due, len(sent))"
    )
    assert said.splitlines()[-1] == "True 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        "row = of('nightly'); row.crontab = crontab(now - timedelta(hours=1)); row.save()",
        # Several entries may share the time.
        "time = of('nightly').crontab; time.hour = (now - timedelta(hours=1)).hour; time.save()",
        "row = of('nightly'); row.crontab, row.interval = None, half_an_hour(); row.save()",
    ],
    ids=["another crontab", "the crontab's hour", "an interval"],
)
def test_a_users_new_time_makes_nothing_due_at_once(project: Project, edit: str) -> None:
    said = project.python(
        f"{PROJECT}\n"
        "refused[0] = False\n"
        "PeriodicTask.objects.update(last_run_at=due)\n"
        "beat = start()\n"
        "tick(beat)\n"
        f"{edit}\n"
        "tick(beat)\n"
        "print(len(sent), of('nightly').last_run_at >= now, of('nightly').total_run_count)\n"
        "tick(start())\n"
        "print(len(sent))"
    )
    assert said.splitlines()[-2:] == ["0 True 5", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("seen", [True, False], ids=["beat saw it off", "beat did not"])
def test_a_row_that_the_admin_pages_switch_on_again_is_not_due_at_once(
    project: Project, seen: bool
) -> None:
    """Their actions change rows without noting when."""
    said = project.python(
        f"{PROJECT}\n"
        "from django_celery_beat.models import PeriodicTasks\n"
        "def act(**what):\n"
        "    PeriodicTask.objects.update(**what)\n"
        "    PeriodicTasks.update_changed()\n"
        "refused[0] = False\n"
        "long_ago = now - timedelta(days=3)\n"
        "PeriodicTask.objects.update(last_run_at=due, date_changed=long_ago)\n"
        "beat = start()\n"
        "tick(beat)\n"
        "act(enabled=False, last_run_at=None)\n"
        f"tick(beat) if {seen} else None\n"
        "act(enabled=True)\n"
        "tick(beat)\n"
        "print(len(sent), of('nightly').last_run_at >= now)"
    )
    assert said.splitlines()[-1] == "0 True"


@pytest.mark.slow
def test_a_project_without_time_zones(project: Project) -> None:
    """Its missed runs are sent once, and a beat that takes over can save what the broker knows."""
    project.environment["WITHOUT_ZONES"] = "yes"
    said = project.python(
        f"{PROJECT}\n"
        "refused[0] = False\n"
        "each = Missed('each', 10)\n"
        "PeriodicTask.objects.update(last_run_at=saved(last - timedelta(days=2)))\n"
        "tick(start(nightly=each))\n"
        "tick(start(nightly=each))\n"
        "print(len(sent), of('nightly').last_run_at == saved(due))\n"
        "known = now - timedelta(hours=1)\n"
        "Broker.runs = {b'nightly': b'%d\\0' % known.timestamp()}\n"
        "tick(start(standing_by=True))\n"
        "print(len(sent), of('nightly').last_run_at == saved(known))"
    )
    assert said.splitlines()[-2:] == ["3 True", "3 True"]


def later(time: str, hours: int) -> str:
    """Return code that makes an old entry, the only one, which begins in some hours."""
    return (
        f"{PROJECT}\n"
        "PeriodicTask.objects.all().delete()\n"
        f"begin = now + timedelta(hours={hours})\n"
        f"PeriodicTask.objects.create(name='later', task='shop.clean', {time}, start_time=begin)\n"
        "PeriodicTask.objects.update(date_changed=now - timedelta(days=3))\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("time", "hours", "due", "count"),
    [
        ("crontab=crontab(now + timedelta(hours=5))", -6, 5, 0),
        ("crontab=crontab(now + timedelta(hours=5))", 100, 101, 0),
        ("interval=half_an_hour()", -6, 0, 1),
        ("interval=half_an_hour()", 100, 100, 0),
    ],
    ids=["a crontab, over", "a crontab", "an interval, over", "an interval"],
)
def test_an_entry_with_a_start_time(
    project: Project, time: str, hours: int, due: int, count: int
) -> None:
    """A crontab waits for its first slot after it, an interval begins at it. Before that, nothing is missed."""
    made = later(time, hours)
    project.python(made)
    listed = project.ask("list", "--count=1")["entries"]
    (entry,) = [one for one in listed if one["name"] == "later"]
    wanted = datetime.now(UTC) + timedelta(hours=due)
    assert abs(datetime.fromisoformat(entry["due"][0]["utc"]) - wanted) < timedelta(minutes=2)
    assert entry["last"] is None
    if not count:
        assert entry["missed"] == 0
    said = project.python(
        f"{made}"
        "refused[0] = False\n"
        "beat = start()\n"
        "tick(beat)\n"
        "PeriodicTasks.update_changed()\n"
        "tick(beat)\n"
        "print(len(sent), of('later').total_run_count)"
    )
    assert said.splitlines()[-1] == f"{count} {count}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "runs"),
    [
        ("", 0),
        ("last_run_at=now - timedelta(days=3)", 0),
        ("last_run_at=now - timedelta(days=3), total_run_count=30", 30),
    ],
    ids=["new", "with another time", "has run"],
)
def test_the_start_time_of_a_crontab_comes_while_beat_runs(
    project: Project, fields: str, runs: int
) -> None:
    """The slots since its last change, a user's new time or its last run do not count."""
    changed = f"PeriodicTask.objects.update({fields})" if fields else ""
    made = f"{later('crontab=crontab(now + timedelta(hours=5))', 100)}{changed}\n"
    project.python(made)
    (entry,) = [one for one in project.ask("list", "--count=1")["entries"] if one["enabled"]]
    assert entry["missed"] == 0
    said = project.python(
        f"{made}"
        "refused[0] = False\n"
        "beat = start()\n"
        "tick(beat)\n"
        "print(len(sent))\n"
        "over = now - timedelta(minutes=1)\n"
        "PeriodicTask.objects.update(start_time=over)\n"
        "for entry in beat.schedule.values(): entry.model.start_time = over\n"
        "print([entry.is_due().is_due for entry in beat.schedule.values()])\n"
        "tick(beat)\n"
        "PeriodicTasks.update_changed()\n"
        "tick(beat)\n"
        "print(len(sent), of('later').total_run_count)"
    )
    assert said.splitlines()[-3:] == ["0", "[False]", f"0 {runs}"]


@pytest.mark.slow
@pytest.mark.parametrize("runs", [0, 30])
def test_an_interval_that_is_changed_before_its_start_time_still_begins_at_it(
    project: Project, runs: int
) -> None:
    last = (
        f"PeriodicTask.objects.update(last_run_at=now - timedelta(days=3), total_run_count={runs})"
    )
    said = project.python(
        f"{later('interval=half_an_hour()', 1)}"
        f"{last if runs else ''}\n"
        "refused[0] = False\n"
        "beat = start()\n"
        "tick(beat)\n"
        "row = of('later')\n"
        "row.interval = IntervalSchedule.objects.create(every=2, period='days')\n"
        "row.save()\n"
        "tick(beat)\n"
        "print(len(sent))\n"
        "PeriodicTask.objects.update(start_time=now - timedelta(minutes=1))\n"
        "tick(start())\n"
        "print(len(sent), of('later').total_run_count)"
    )
    assert said.splitlines()[-2:] == ["0", f"1 {runs + 1}"]


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_an_interval_with_a_start_time_has_missed_nothing_before_it(
    project: Project, hours: int
) -> None:
    said = project.python(
        f"{later('interval=half_an_hour()', hours)}"
        "refused[0] = False\n"
        "beat = start(later=Missed('each', 10))\n"
        "tick(beat)\n"
        "print(len(sent))"
    )
    assert said.splitlines()[-1] == ("2" if hours < 0 else "0")
