"""Several beats, of which one sends: who that is, and what happens when it ends, dies or is frozen."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl
from celery import Celery, Task, _state
from celery.beat import PersistentScheduler, Service
from celery.schedules import crontab

from celery_fleet.beat import leadership, standby
from celery_fleet.beat.leadership import Leadership, Renewal
from celery_fleet.beat.schedule_file import ScheduleFile
from celery_fleet.compat import beat as compat
from celery_fleet.compat import clock_changes, last_runs
from celery_fleet.compat.beat import keep_schedule_in, stock
from celery_fleet.delivery.keys import BEAT_LEADER, BEAT_SENT
from tests.fleet import wait_for
from tests.support.redis_server import Server, redis_server
from tests.unit.runtime.beat.real import RealBeat

SECOND = {"task": "shop.tick", "interval": 1}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def beats(server: Server, tmp_path: Path) -> tuple[RealBeat, RealBeat]:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(RealBeat(tmp_path / name, server, standby=True))
    return found[0], found[1]


def leading(beat: RealBeat) -> bool:
    return "this beat sends now" in beat.log


def wait_until_leading(beat: RealBeat, seconds: float) -> float:
    began = time.monotonic()
    wait_for(lambda: leading(beat), seconds)
    return time.monotonic() - began


def runs(server: Server) -> list[float]:
    """Return when the messages in the queue were sent, the oldest first."""
    messages = [json.loads(text) for text in server.client.lrange("celery", 0, -1)]
    return sorted(float(message["headers"]["x-fleet-sent"]) for message in messages)


# --- the election --------------------------------------------------------------------------------------


def test_there_is_one_leader_until_it_gives_up(server: Server) -> None:
    one, two = (Leadership(server.client, token) for token in ("one", "two"))
    assert [one.take(), two.take(), one.take()] == [True, False, True]
    assert 0 < server.client.pttl(BEAT_LEADER) <= leadership.LEASE * 1000
    two.give_up()
    assert not two.take()
    one.give_up()
    assert two.take()


def test_a_lease_that_has_ended_is_renewed_unless_another_one_was_the_leader(
    server: Server,
) -> None:
    one, two = (Leadership(server.client, token) for token in ("one", "two"))
    assert one.take()
    server.client.delete(BEAT_LEADER)
    assert one.stay()
    server.client.delete(BEAT_LEADER)
    assert two.take()
    assert not one.stay()
    two.give_up()
    # What the other one has sent, this one would send again. In its next process it begins with those times.
    assert not one.stay()
    assert one.take()


def test_only_the_leader_can_send(server: Server) -> None:
    one, two = (Leadership(server.client, token) for token in ("one", "two"))
    assert not one.send("nightly", "1.5", "celery", "a", "{}")
    assert one.take()
    assert one.send("nightly", "1.5", "celery", "a", "{}")
    server.client.delete(BEAT_LEADER)
    assert two.take()
    assert not one.send("nightly", "2.5", "celery", "a", "{}")
    assert server.client.lrange("celery", 0, -1) == [b"{}"]
    assert two.sent() == {"nightly": 1.5}


def test_the_rights_of_a_beat_on_a_host_suffice(server: Server) -> None:
    lines = acl("broker", {"beat": "secret"}, ["mail"], setinfo=False, standby=True).splitlines()
    (rules,) = [line.removeprefix("user ") for line in lines if line.startswith("user beat ")]
    server.client.execute_command("ACL SETUSER", *rules.split(" "))
    where = server.client.connection_pool.connection_kwargs
    beat = redis.Redis(
        host=where["host"], port=where["port"], username="beat", password="secret", protocol=2
    )
    leader = Leadership(beat, "one")
    assert leader.take()
    assert leader.send("nightly", "1.5", "mail", "a", "{}")
    assert leader.send("nightly", "1.5", "mail\x06\x163", "a", "{}")
    assert leader.sent() == {"nightly": 1.5}
    with pytest.raises(redis.exceptions.NoPermissionError):
        leader.send("nightly", "2.5", "other", "a", "{}")
    with pytest.raises(redis.exceptions.NoPermissionError):
        beat.lrange("mail", 0, -1)
    leader.give_up()
    assert server.client.get(BEAT_LEADER) is None
    beat.close()


@pytest.mark.slow
def test_an_entry_that_is_gone_is_forgotten(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    """If it is added again after two months, nothing of that time was missed."""
    server.client.hset(BEAT_SENT, "switched off", "1.5\0")
    (one, _) = beats
    with one.running(tick=SECOND):
        wait_for(lambda: server.client.hexists(BEAT_SENT, "tick"))
    assert not server.client.hexists(BEAT_SENT, "switched off")


@pytest.mark.parametrize(("one_off", "count"), [(True, 1), (False, 0)])
def test_an_entry_of_a_database_that_ran_once_has_run_for_the_next_leader(
    one_off: bool, count: int
) -> None:
    """The leader before it may have died before it saved the row, whose count decides."""
    row = SimpleNamespace(last_run_at=None, one_off=one_off, total_run_count=0, no_changes=False)
    moment = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)
    entry = SimpleNamespace(
        name="e", model=row, last_run_at=None, total_run_count=0, _default_now=lambda: moment
    )
    saved: list[str] = []
    scheduler = SimpleNamespace(_dirty=set(), sync=lambda: saved.extend(scheduler._dirty))
    app = SimpleNamespace(timezone=UTC, conf={})
    service: Any = SimpleNamespace(app=app, scheduler=scheduler)
    last_runs.ran_at(service, entry, moment)
    assert (row.last_run_at, row.total_run_count, entry.total_run_count) == (moment, count, count)
    assert saved == ["e"]


def test_a_message_whose_answer_was_lost_is_not_sent_again(server: Server) -> None:
    leader = Leadership(server.client, "one")
    assert leader.take()
    # An exchange may have several queues.
    for queue in ("a", "b", "a", "b"):
        assert leader.send("nightly", "1.5", queue, "a", "{}")
    assert [server.client.llen(queue) for queue in ("a", "b")] == [1, 1]
    for queue in ("b", "a"):
        assert leader.send("nightly", "2.5", queue, "a", "{}")
    assert [server.client.llen(queue) for queue in ("a", "b")] == [2, 2]
    assert leader.sent() == {"nightly": 2.5}


def test_a_task_may_send_itself_several_times_in_a_run(server: Server) -> None:
    leader = Leadership(server.client, "one")
    assert leader.take()
    # kombu may send a message again at once, because the answer was lost.
    for identity in ("a", "a", "b", "a", "ab", "b"):
        assert leader.send("nightly", "1.5", "q", identity, "{}")
    assert server.client.llen("q") == 3
    assert leader.sent() == {"nightly": 1.5}


def test_what_is_stored_about_a_run_with_many_messages_is_bounded(server: Server) -> None:
    leader = Leadership(server.client, "one")
    assert leader.take()
    for number in range(500):
        for _ in range(2):
            assert leader.send("nightly", "1.5", "q", f"{number:036}", "{}")
    assert server.client.llen("q") == 500
    assert len(server.client.hget(BEAT_SENT, "nightly")) < 2.5 * leadership.REMEMBERED
    assert leader.sent() == {"nightly": 1.5}


@pytest.mark.parametrize("protocol", [1, 2])
def test_beat_sends_each_message_of_a_task_that_sends_itself_several_times(
    host: OneHost, server: Server, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.setattr(stock.Channel, "_put", stock.Channel._put)
    leader = Leadership(server.client, "one")
    assert leader.take()
    service = host.start()
    service.app.conf.task_protocol = protocol

    class ForEach(Task):  # type: ignore[type-arg]  # not generic at runtime
        name = "t"

        def apply_async(self, *args: Any, **options: Any) -> None:  # type: ignore[override]  # no result
            for tenant in ("a", "b", "c"):
                super().apply_async((tenant,), **options)

    service.app.register_task(ForEach())
    standby.take_over(service.app, service, leader, {})
    entry = service.scheduler.schedule["e"]
    service.scheduler.reserve(entry)
    service.scheduler.apply_entry(entry, producer=service.scheduler.producer)
    assert server.client.llen("celery") == 3


@pytest.mark.slow
def test_the_leader_hears_that_it_is_none_any_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "RENEWAL", 0.05)
    lost: list[str] = []
    leader = Leadership(server.client, "one")
    assert leader.take()
    renewal = Renewal(leader, lambda: lost.append("lost"))
    renewal.start()
    time.sleep(0.3)
    assert lost == []
    server.client.set(BEAT_LEADER, "two")
    wait_for(lambda: lost, 10)
    time.sleep(0.3)
    assert lost == ["lost"]


# --- taking over ---------------------------------------------------------------------------------------


class OneHost:
    """Beats of one host, one after another, with an hourly entry."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.now = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)
        self._file = directory / "schedule"
        self._server = server

    def start(self) -> Any:
        app: Any = Celery("shop", set_as_current=False, broker=self._server.url, fixups=[])
        entry = {"task": "t", "schedule": crontab(minute=0)}
        app.conf.update(timezone="UTC", result_expires=None, beat_schedule={"e": entry})
        app.set_current()
        app.now = lambda: self.now.astimezone(app.timezone)
        clock_changes.install()
        keep_schedule_in(ScheduleFile)
        return Service(app, schedule_filename=str(self._file), scheduler_cls=PersistentScheduler)

    def ran(self, moment: datetime) -> None:
        """Save a run of a single beat."""
        service = self.start()
        service.scheduler.schedule["e"].last_run_at = moment
        service.scheduler.schedule["e"].total_run_count = 5
        service.scheduler.sync()

    def lead(self) -> Any:
        """Return when the entry ran last for a beat that has become the leader."""
        return self.entry_of_a_leader().last_run_at

    def entry_of_a_leader(self) -> Any:
        """Return the entry of a beat that has become the leader."""
        self._server.client.delete(BEAT_LEADER)
        leader = Leadership(self._server.client, "one")
        assert leader.take()
        service = self.start()
        put = stock.Channel._put
        try:
            standby.take_over(service.app, service, leader, {})
        finally:
            stock.Channel._put = put
        return service.scheduler.schedule["e"]


def note(server: Server, moment: datetime) -> None:
    server.client.hset(BEAT_SENT, "e", f"{moment.timestamp():.6f}\0".encode())


@pytest.fixture
def host(tmp_path: Path, server: Server) -> Iterator[OneHost]:
    current = _state._tls.current_app
    yield OneHost(tmp_path, server)
    _state._set_current_app(current)


HOUR = timedelta(hours=1)


def test_what_a_beat_sent_that_ran_alone_is_not_due_again(host: OneHost, server: Server) -> None:
    note(server, host.now - 30 * 24 * HOUR)
    host.ran(host.now - HOUR / 2)
    assert host.lead() == host.now - HOUR / 2
    # The next leader may be a host that was not there then.
    assert Leadership(server.client, "two").sent() == {"e": (host.now - HOUR / 2).timestamp()}


def test_a_leader_continues_with_what_others_sent(host: OneHost, server: Server) -> None:
    host.ran(host.now - 30 * 24 * HOUR)
    note(server, host.now - HOUR / 2)
    assert host.lead() == host.now - HOUR / 2


def test_an_entry_that_is_new_on_a_host_is_not_new_to_the_fleet(
    host: OneHost, server: Server
) -> None:
    note(server, host.now - 2 * HOUR)
    entry = host.entry_of_a_leader()
    # With a count of 0 it would be shown as one that never ran.
    assert (entry.last_run_at, entry.total_run_count) == (host.now - 2 * HOUR, 1)


@pytest.mark.parametrize("own", [False, True])
def test_a_clock_that_is_a_little_behind_doubles_nothing(
    host: OneHost, server: Server, own: bool
) -> None:
    """The leader before sent the run of 11:00 by its own clock, and here it is not quite 11:00."""
    sent = host.now + HOUR / 2
    if own:
        host.ran(sent)
    note(server, sent if not own else host.now - HOUR)
    host.now = sent - timedelta(seconds=1.5)
    assert host.lead() == sent
    assert Leadership(server.client, "two").sent() == {"e": sent.timestamp()}


def test_only_the_leader_notes_runs(server: Server) -> None:
    one, two = (Leadership(server.client, token) for token in ("one", "two"))
    assert one.take()
    two.note({"e": 1.5})
    assert one.sent() == {}
    one.note({"e": 2.5, "f": 3.5})
    assert one.sent() == {"e": 2.5, "f": 3.5}


def test_a_run_that_another_leader_prevented_is_not_saved(host: OneHost) -> None:
    """Otherwise this host would take it for a run that only it knows."""
    service = host.start()
    before = service.scheduler.schedule["e"].last_run_at
    host.now += HOUR
    service.scheduler.reserve(service.scheduler.schedule["e"])
    last_runs.forget_unsaved(service)
    service.sync()
    assert host.start().scheduler.schedule["e"].last_run_at == before


def test_a_run_that_could_not_be_sent_is_not_saved(
    host: OneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError("the broker is away")

    monkeypatch.setattr(stock.Channel, "_put", stock.Channel._put)
    service = host.start()
    scheduler = service.scheduler
    # Celery saves at the end of its own `apply_async`, which this calls.
    scheduler.send_task, scheduler.sync_every_tasks = fails, 1
    compat.send_by(service, lambda *_: True, lambda _: None)
    entry = scheduler.schedule["e"]
    host.now += HOUR
    following = scheduler.reserve(entry)
    scheduler.apply_entry(entry, producer=None)
    assert following.last_run_at == host.now
    # A beat that is killed now has saved the right time, too.
    assert host.start().scheduler.schedule["e"].last_run_at == entry.last_run_at
    service.sync()
    assert host.start().scheduler.schedule["e"].last_run_at == entry.last_run_at < host.now


# --- real beats ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_another_beat_continues_when_one_ends(
    server: Server, beats: tuple[RealBeat, RealBeat]
) -> None:
    one, two = beats
    hourly = {"task": "shop.hourly", "interval": 3600}
    with two.running(tick=SECOND, hourly=hourly) as leader:
        wait_until_leading(two, 30)
        with one.running(tick=SECOND, hourly=hourly):
            wait_for(lambda: "another beat sends" in one.log, 30)
            wait_for(lambda: server.client.llen("celery") >= 4, 30)
            assert not leading(one)
            # What was sent an hour ago by one beat is due for all.
            key = f"{time.time() - 3600:.6f}".encode() + b"\0"
            server.client.hset(BEAT_SENT, "hourly", key)
            leader.send_signal(signal.SIGTERM)
            assert wait_until_leading(one, 30) < 12
            wait_for(lambda: one.arrived("shop.hourly") == 1, 30)
            number = server.client.llen("celery")
            wait_for(lambda: server.client.llen("celery") >= number + 2, 30)
    seconds = Counter(round(moment) for moment in runs(server))
    assert max(seconds.values()) <= 3


@pytest.mark.long
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_another_beat_takes_over_when_one(
    server: Server, beats: tuple[RealBeat, RealBeat], how: str
) -> None:
    one, two = beats
    with one.running(tick=SECOND) as other:
        wait_until_leading(one, 30)
        with two.running(tick=SECOND):
            wait_for(lambda: "another beat sends" in two.log, 30)
            other.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            assert wait_until_leading(two, 60) <= 30
            if how == "frozen":
                number = server.client.llen("celery")
                other.send_signal(signal.SIGCONT)
                assert other.wait(30) == 0
                assert "another beat has become the leader" in one.log
                wait_for(lambda: server.client.llen("celery") >= number + 3, 30)
            else:
                other.wait(30)
                other.returncode = 0
    sent = runs(server)
    assert all(after - before > 0.5 for before, after in itertools.pairwise(sent))
