"""Beats whose schedule is on the broker, with celery-redbeat, which an application may edit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl
from celery import Celery
from celery.schedules import crontab, schedule
from redbeat import RedBeatSchedulerEntry

from celery_fleet.compat import redbeat
from celery_fleet.delivery.keys import BEAT_SENT
from tests import fleet
from tests.fleet import wait_for
from tests.support.redis_server import Server, redis_server
from tests.unit.runtime.beat.real import RealBeat
from tests.unit.runtime.conftest import document

pytestmark = pytest.mark.slow

SECOND = {"task": "shop.tick", "interval": 1}
HOURLY = {"task": "shop.hourly", "interval": 3600}

EDIT = """
from datetime import timedelta
import shop
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    passwords = {"beat": "secret", "producer": "secret"}
    text = acl("broker", passwords, ["celery"], standby=True, redbeat=True)
    _, *users = text.splitlines()
    # On a host nobody can log in as this one.
    default = "user default on nopass allkeys allchannels +@all"
    with redis_server(tmp_path, users="\n".join((default, *users, ""))) as server:
        yield server


def url(server: Server, user: str) -> str:
    return server.url.replace("//", f"//{user}:secret@")


@pytest.fixture
def beats(server: Server, tmp_path: Path) -> tuple[RealBeat, RealBeat]:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = RealBeat(
            tmp_path / name, server, standby=True, scheduler="redbeat", url=url(server, "beat")
        )
        found.append(made)
    return found[0], found[1]


def edit(beat: RealBeat, server: Server, line: str) -> str:
    """Run code of the application in a process that sends."""
    settings = document(
        "producer", broker_url=url(server, "producer"), result_backend="disabled://"
    )
    settings["beat_scheduler"] = "redbeat"
    path = beat.directory / "producer.json"
    path.write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:redbeat", "-c", EDIT + line],
        cwd=beat.directory,
        env=fleet.environment("producer", path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def extend(beat: RealBeat, code: str) -> None:
    """Add code to the application that a beat loads."""
    with (beat.directory / "shop.py").open("a") as lines:
        lines.write(f"{code}\n")


def names(beat: RealBeat) -> set[str]:
    return {str(entry["name"]) for entry in beat.loaded()}


def test_an_application_edits_the_schedule_of_a_running_beat(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    with beat.running(hourly=HOURLY):
        wait_for(lambda: names(beat) == {"hourly"}, 30)
        edit(
            beat,
            server,
            "RedBeatSchedulerEntry('own', 'shop.own', schedule(1), app=shop.app).save()",
        )
        wait_for(lambda: beat.arrived("shop.own") >= 3, 30)
        wait_for(lambda: names(beat) == {"hourly", "own"}, 30)
        sources = {entry["name"]: entry["source"] for entry in beat.loaded()}
        assert sources == {"hourly": "inventory", "own": "redbeat"}
        edit(
            beat,
            server,
            "RedBeatSchedulerEntry.from_key('redbeat:own', app=shop.app).delete()",
        )
        wait_for(lambda: names(beat) == {"hourly"}, 30)
        number = beat.arrived("shop.own")
        time.sleep(3)
        assert beat.arrived("shop.own") == number
        assert beat.arrived("shop.hourly") == 0
    assert server.client.acl_log() == []
    assert "Error" not in beat.log


def test_what_is_no_longer_declared_is_removed(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    # From when the schedule was in a file. If it is there again, nothing of this time was missed.
    left = beat.directory / "celerybeat-schedule"
    left.touch()
    with beat.running(hourly=HOURLY, tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 2, 30)
    assert not left.exists()
    with beat.running(hourly=HOURLY):
        wait_for(lambda: names(beat) == {"hourly"}, 30)
    assert server.client.zrange("redbeat::schedule", 0, -1) == [b"redbeat:hourly"]


def test_a_changed_time_makes_nothing_due_at_once(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    with beat.running(hourly=HOURLY, tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 2, 30)
    app = Celery("shop", set_as_current=False, broker=server.url)
    app.conf.update(redbeat.settings(server.url))
    redbeat.connect(app)
    redbeat.ran_at(redbeat.entry(app, "hourly"), datetime.now(UTC) - timedelta(minutes=50))
    with beat.running(hourly={**HOURLY, "interval": 1800}, tick=SECOND):
        number = beat.arrived("shop.tick")
        wait_for(lambda: beat.arrived("shop.tick") >= number + 3, 30)
    assert beat.arrived("shop.hourly") == 0


def test_another_beat_continues_when_one_ends(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    one, two = beats
    with two.running(tick=SECOND, hourly=HOURLY) as leader:
        wait_for(lambda: "this beat sends now" in two.log, 30)
        with one.running(tick=SECOND, hourly=HOURLY):
            wait_for(lambda: "another beat sends" in one.log, 30)
            wait_for(lambda: two.arrived("shop.tick") >= 3, 30)
            server.client.hset(BEAT_SENT, "deleted", b"1\0")
            leader.send_signal(signal.SIGTERM)
            wait_for(lambda: "this beat sends now" in one.log, 30)
            number = one.arrived("shop.tick")
            wait_for(lambda: one.arrived("shop.tick") >= number + 2, 30)
            assert one.arrived("shop.hourly") == 0
            assert set(server.client.hgetall(BEAT_SENT)) == {b"tick"}


def test_a_beat_that_stands_by_does_not_change_the_schedule(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    """Its host was down when the schedule was deployed."""
    new, outdated = beats
    with new.running(tick=SECOND, hourly=HOURLY):
        wait_for(lambda: new.arrived("shop.tick") >= 1, 30)
        with outdated.running(hourly={**HOURLY, "interval": 1800}):
            wait_for(lambda: "another beat sends" in outdated.log, 30)
            number = new.arrived("shop.tick")
            wait_for(lambda: new.arrived("shop.tick") >= number + 3, 30)
            assert b'"every": 3600.0' in server.client.hget("redbeat:hourly", "definition")
            assert names(outdated) == {"tick", "hourly"}


def test_a_beat_that_stands_by_shows_what_it_would_write(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    """In a deploy it starts before the one that sends, which then writes the new entries."""
    older, new = beats
    with older.running(tick=SECOND):
        wait_for(lambda: older.arrived("shop.tick") >= 1, 30)
        with new.running(tick=SECOND, hourly=HOURLY):
            wait_for(lambda: "another beat sends" in new.log, 30)
            assert names(new) == {"tick", "hourly"}
            assert not server.client.exists("redbeat:hourly")


def test_beat_waits_for_the_broker_and_survives_its_outage(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    with beat.running(tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 2, 30)
        server.client.execute_command("ACL SETUSER", "beat", "off")
        server.client.client_kill_filter(user="beat")
        wait_for(lambda: "waiting for the broker" in beat.log, 30)
        number = beat.arrived("shop.tick")
        server.client.execute_command("ACL SETUSER", "beat", "on")
        wait_for(lambda: beat.arrived("shop.tick") >= number + 2, 60)


def test_an_entry_that_beat_may_not_send_is_skipped(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    with beat.running(hourly=HOURLY, tick=SECOND):
        wait_for(lambda: names(beat) == {"hourly", "tick"}, 30)
        edit(
            beat,
            server,
            """
entry = RedBeatSchedulerEntry("own", "shop.own", schedule(600), options={"queue": "other"}, app=shop.app)
entry.save().reschedule(entry.last_run_at - timedelta(hours=1))
""",
        )
        wait_for(lambda: "Sending due task own" in beat.log, 30)
        number = beat.arrived("shop.tick")
        wait_for(lambda: beat.arrived("shop.tick") >= number + 4, 30)
        assert beat.log.count("Sending due task own") == 1
        assert "NOPERM" in beat.log or "permission" in beat.log


def test_what_cannot_be_used_does_not_stop_the_rest(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    broken = {"redbeat:broken": b"{", "redbeat:later": b"{"}
    for key, text in broken.items():
        server.client.hset(key, "definition", text)
    server.client.zadd("redbeat::schedule", {"redbeat:broken": 1, "redbeat:later": 2**33})
    server.client.zadd("redbeat::schedule", {"celery": 1})
    with beat.running(hourly=HOURLY, tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 3, 30)
        assert names(beat) == {"hourly", "tick"}
    assert "the entry redbeat:broken can't be used and is dropped" in beat.log


@pytest.mark.parametrize("queue", ["fleet:beat:sent", "redbeat:other"])
def test_an_entry_cannot_write_to_what_is_no_queue(
    server: Server, beats: tuple[RealBeat, RealBeat], queue: str
) -> None:
    beat, _ = beats
    with beat.running(hourly=HOURLY):
        wait_for(lambda: names(beat) == {"hourly"}, 30)
        line = f"RedBeatSchedulerEntry('own', 'shop.own', schedule(1), options={{'queue': '{queue}'}}, app=shop.app)"
        edit(beat, server, f"{line}.save()")
        wait_for(lambda: "no queue may begin with" in beat.log, 30)
    assert server.client.type(queue) != b"list"


def test_an_application_keeps_neither_a_lock_nor_a_prefix(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    text = "app.conf.update(REDBEAT_LOCK_KEY='mine', redbeat_key_prefix='mine:', redbeat_redis_url='redis://gone')"
    extend(beat, text)
    with beat.running(tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 2, 30)


def test_what_a_handler_sends_does_not_replace_the_message_of_an_entry(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    extend(beat, HANDLER)
    with beat.running(tick=SECOND):
        wait_for(lambda: beat.arrived("shop.tick") >= 3, 30)
    assert abs(beat.arrived("shop.audit") - beat.arrived("shop.tick")) <= 1


HANDLER = """
from celery import signals
@signals.before_task_publish.connect
def audit(sender=None, **_):
    if sender != "shop.audit":
        app.send_task("shop.audit")
"""


def test_a_task_that_sends_nothing_is_not_tried_again_at_once(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    beat, _ = beats
    extend(beat, SILENT)
    with beat.running(silent={"task": "shop.silent", "interval": 2}, tick=SECOND):
        began = time.monotonic()
        wait_for(lambda: beat.arrived("shop.tick") >= 7, 60)
        # Beat itself may have looked once more in each second.
        most = (time.monotonic() - began) / 2 + 2
        assert 2 <= beat.log.count("Sending due task silent") <= most


SILENT = """
class Silent(celery.Task):
    name = "shop.silent"
    def apply_async(self, *args, **kwargs):
        return None
app.register_task(Silent())
"""


def test_an_error_while_it_takes_over_ends_a_beat(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    """Celery ignores errors of its signals' receivers, and would send without an election."""
    beat, _ = beats
    server.client.set(BEAT_SENT, "no hash")
    with pytest.raises(AssertionError), beat.running(tick=SECOND) as process:
        assert process.wait(30) == 1
    assert "this beat can't take over" in beat.log
    assert beat.arrived("shop.tick") == 0


# --- clock changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        # A night with a clock change has 25 hours.
        ("2027-10-30T04:00:00", "2027-10-30T04:00:00", "2027-10-31T05:00:00"),
        ("2027-10-31T00:55:00", "2027-10-31T00:55:00", "2027-10-31T05:00:00"),
        ("2027-10-29T05:00:00", "2027-10-28T04:00:00", "2027-10-29T05:00:00"),
    ],
)
def test_due_times_on_days_with_a_clock_change(
    monkeypatch: pytest.MonkeyPatch, now: str, last: str, due: str
) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    app = Celery("shop", set_as_current=False)
    app.conf.update(timezone="Europe/Berlin", **redbeat.settings("redis://redis1"))
    monkeypatch.setattr(app, "now", lambda: moment.astimezone(app.timezone))
    redbeat.connect(app)
    entry = RedBeatSchedulerEntry("e", "t", crontab(minute=0, hour=6, app=app), app=app)
    entry.last_run_at = datetime.fromisoformat(last).replace(tzinfo=UTC).astimezone(app.timezone)
    assert entry.due_at == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_the_hour_of_a_run_that_the_clock_shows_twice_is_kept() -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.update(timezone="Europe/Berlin", **redbeat.settings("redis://redis1"))
    redbeat.connect(app)
    for hour in (0, 1):
        run = datetime(2027, 10, 31, hour, 10, tzinfo=UTC)
        entry = RedBeatSchedulerEntry("e", "t", schedule(600, app=app), app=app)
        entry.last_run_at = run.astimezone(app.timezone)
        meta = RedBeatSchedulerEntry.decode_meta(redbeat.run_to_save(entry).meta)
        assert meta["last_run_at"] == run
