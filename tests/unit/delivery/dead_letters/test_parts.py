"""The parts of the consumer that parks messages, without a worker and without Redis."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.exceptions import Reject, TimeLimitExceeded, WorkerLostError
from redis import exceptions as redis_errors

from celery_fleet.compat.minors import celery56
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import (
    deaths,
    failed,
    internals,
    letter_writer,
    parking,
    unknown,
    waiting,
)
from celery_fleet.delivery.dead_letters.letters import FAILED, MALFORMED, POISON, UNKNOWN
from celery_fleet.delivery.hooks import HOOKS
from celery_fleet.delivery.options import Options

OPTIONS = Options(dead_letters=True, deaths=3, unknown_delay=60.0, unknown_for=3600.0)


class Timer:
    """A timer that records calls and after how many seconds they are due."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, Callable[[], object]]] = []

    def call_after(self, seconds: float, call: Any, args: tuple[Any, ...]) -> Any:
        self.entries.append((seconds, lambda: call(*args)))
        return self.entries[-1]

    def cancel(self, entry: Any) -> None:
        self.entries.remove(entry)

    def run(self) -> None:
        for entry in self.entries[:]:
            self.entries.remove(entry)
            entry[1]()


class Prefetch:
    """Counts by how many messages the prefetch is raised."""

    def __init__(self) -> None:
        self.raised = 0

    def increment_eventually(self) -> None:
        self.raised += 1

    def decrement_eventually(self) -> None:
        self.raised -= 1


class Consumer:
    """The parts of Celery's Consumer that are used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.hostname = "mail@host"
        self.timer = Timer()
        self.qos = Prefetch()
        self.strategies: dict[str, Any] = {"shop.add": None}
        self.connection_errors = (ConnectionError,)
        self.stock: list[str] = []

    def on_unknown_task(self, *_: Any) -> None:
        self.stock.append("unknown task")

    def on_unknown_message(self, *_: Any) -> None:
        self.stock.append("unknown message")

    def on_close(self) -> None:
        self.stock.append("close")

    def update_strategies(self) -> None:
        self.stock.append("strategies")

    def create_task_handler(self) -> Callable[[Any], Any]:
        return lambda message: self.stock.append(message.delivery_tag)


class Message:
    """A message that Redis keeps in `unacked`, unless said otherwise."""

    def __init__(self, tag: str = "t", **headers: Any) -> None:
        self.delivery_tag = tag
        self._raw = {"headers": {"id": tag, "task": "shop.add", **headers}, "properties": {}}
        self.headers = self._raw["headers"]
        self.payload = ((), {}, {})
        self.channel = SimpleNamespace(closed=False, connection=self)
        self.list_key = "mail"
        self.claim: str | None = None
        self.acknowledged = False
        self.rejected: list[dict[str, Any]] = []
        self.held = True

    def reject_log_error(self, *_: Any, **options: Any) -> None:
        self.rejected.append(options)


class Writer(letter_writer.LetterWriter):
    """Records what it would park."""

    def __init__(self) -> None:
        super().__init__(OPTIONS, "mail@host")
        self.parked: list[dict[str, Any]] = []
        self.fails = 0
        self.error: Exception = ConnectionError("away")

    def park(self, message: Any, reason: str, detail: str, *args: Any, **more: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise self.error
        self.parked.append(
            {"tag": message.delivery_tag, "reason": reason, "detail": detail, **more}
        )


@pytest.fixture(autouse=True)
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(internals, "in_unacked", lambda message: message.held)
    monkeypatch.setattr(HOOKS, "park_raw", None)
    yield
    signals.worker_shutdown.disconnect(dispatch_uid="celery_fleet.dead_letters")


def test_a_waiting_message_raises_the_prefetch_until_its_time() -> None:
    consumer, done = Consumer(), []
    waits = waiting.Waiting(consumer)
    waits.hold(Message("a"), 7.0, lambda message: done.append(message.delivery_tag))
    assert consumer.qos.raised == 1
    assert [seconds for seconds, _ in consumer.timer.entries] == [7.0]
    consumer.timer.run()
    assert (done, consumer.qos.raised) == (["a"], 0)
    assert waits.take() == []


def test_a_drain_takes_the_waiting_messages() -> None:
    consumer = Consumer()
    waits = waiting.Waiting(consumer)
    kept, gone = Message("kept"), Message("gone")
    for message in (kept, gone):
        waits.hold(message, 7.0, pytest.fail)
    gone.held = False
    assert waits.take() == [kept]
    assert (consumer.qos.raised, consumer.timer.entries) == (0, [])


def test_a_lost_connection_clears_waiting_messages_and_leaves_the_prefetch_to_celery() -> None:
    consumer = Consumer()
    waits = waiting.Waiting(consumer)
    waits.hold(Message(), 7.0, pytest.fail)
    waits.forget()
    assert (consumer.qos.raised, consumer.timer.entries, waits.take()) == (1, [], [])


def test_a_message_that_redis_may_have_removed_goes_back_on_the_next_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis did not answer when its task was about to begin, so kombu may not find it."""
    answers: list[Any] = [
        redis_errors.ConnectionError("away"),
        [redis_errors.NoPermissionError("NOPERM")],
        [1],
    ]
    given: list[Any] = []

    def give_back(_: Any, messages: list[tuple[Any, float]]) -> list[Any]:
        given.append([message for message, _ in messages])
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(parking, "give_back", give_back)
    consumer, _ = made(Options(profile="at_most_once"))
    consumer.app, consumer.pool = SimpleNamespace(tasks={}), None
    claimed = Message("claimed")
    claimed.claim = "fleet:claim:1"
    for message in (Message("held"), claimed):
        consumer.hold(message, pytest.fail)
    consumer.on_close()
    consumer.update_strategies()
    for _ in range(5):
        consumer.timer.run()
    assert given == [[claimed]] * 3
    assert consumer.timer.entries == []
    assert caplog.text.count("can't be put back now") == 2
    consumer.on_close()
    consumer.update_strategies()
    assert consumer.timer.entries == []


@pytest.mark.parametrize("lost", ["connection", "message"])
def test_a_message_that_is_lost_while_it_waits_is_left_alone(lost: str) -> None:
    consumer, message = Consumer(), Message()
    waits = waiting.Waiting(consumer)
    waits.hold(message, 7.0, pytest.fail)
    if lost == "connection":
        message.channel.connection = None
    else:
        message.held = False
    consumer.timer.run()
    assert waits.take() == []


def test_the_prefetch_is_not_raised_beyond_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_HELD", 2)
    consumer = Consumer()
    waits = waiting.Waiting(consumer)
    for tag in "abc":
        waits.hold(Message(tag), 7.0, pytest.fail)
    assert consumer.qos.raised == 2
    assert [message.delivery_tag for message in waits.take()] == ["a", "b", "c"]
    assert consumer.qos.raised == 0


def test_a_failed_attempt_to_park_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    consumer, writer = Consumer(), Writer()
    waits = waiting.Waiting(consumer)
    writer.fails = 2
    waits.attempt(Message(), lambda message: writer.park(message, MALFORMED, "bad"))
    assert "can't leave unacked now (ConnectionError: away)" in caplog.text
    consumer.timer.run()
    assert (writer.parked, len(consumer.timer.entries)) == ([], 1)
    consumer.timer.run()
    assert [one["reason"] for one in writer.parked] == [MALFORMED]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [1000.0]
    monkeypatch.setattr(unknown.UnknownTasks, "_now", lambda *_: time[0])
    return time


def test_an_unknown_task_waits_and_is_parked_in_the_end(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, writer, offered = Consumer(), Writer(), []
    waits = waiting.Waiting(consumer)
    tasks = unknown.UnknownTasks(consumer, OPTIONS, writer, waits)
    monkeypatch.setattr(
        internals, "places", lambda _: SimpleNamespace(unacked="u", unacked_index="i")
    )
    monkeypatch.setattr(internals, "client", lambda _: NOTHING)
    monkeypatch.setattr(internals, "forget", lambda message: offered.append(message.delivery_tag))
    monkeypatch.setattr(waiting, "run", lambda *_: 1)
    message = Message(task="shop.fresh")
    tasks.received(message, KeyError("shop.fresh"))
    ((seconds, _),) = consumer.timer.entries
    assert 45.0 <= seconds <= 75.0
    assert message.headers == {"id": "t", "task": "shop.fresh"}, "the request's own headers changed"
    assert internals.raw(message)["headers"] | {} == {
        "id": "t",
        "task": "shop.fresh",
        keys.UNKNOWN: 1,
        keys.UNKNOWN_SINCE: 1000.0,
    }
    consumer.timer.run()
    assert (offered, writer.parked) == (["t"], [])

    now[0] += 3600.0
    tasks.received(message, KeyError("shop.fresh"))
    ((seconds, _),) = consumer.timer.entries
    assert seconds == 0.0
    consumer.timer.run()
    (letter,) = writer.parked
    assert (letter["reason"], letter["since"]) == (UNKNOWN, 1000.0)
    assert "it was fetched 2 times within 3600 s" in letter["detail"]


class Nothing:
    """A client that must not be used."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NOTHING = Nothing()


def test_a_task_that_is_known_again_loses_its_headers() -> None:
    marks = {keys.UNKNOWN: 3, keys.UNKNOWN_SINCE: 1.0}
    known, other = Message(**marks), Message(task="shop.fresh", **marks)
    for message in (known, other):
        unknown.clear_if_known(message, {"shop.add": None})
    assert keys.UNKNOWN not in known.headers
    assert keys.UNKNOWN_SINCE not in known.headers
    assert other.headers[keys.UNKNOWN] == 3


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what happens to requests whose process died."""
    seen: list[str] = []
    monkeypatch.setattr(internals, "carry_header", lambda *_: None)
    monkeypatch.setattr(internals, "succeeded", lambda request: request.succeeded)
    monkeypatch.setattr(internals, "fail", lambda *_: seen.append("failed"))
    monkeypatch.setattr(internals, "taken_over", lambda _: seen.append("taken over"))
    monkeypatch.setattr(internals, "instead_of_ack", lambda *_: seen.append("ack replaced"))
    monkeypatch.setattr(deaths, "_note", lambda _, number: seen.append(f"noted {number:g}"))
    return seen


@pytest.mark.parametrize(
    ("before", "acknowledged", "held", "succeeded", "seen", "tag"),
    [
        (1, False, True, False, ["noted 2"], "not parked"),
        (2, False, True, False, ["taken over"], None),
        (2, True, False, False, ["taken over"], ""),
        # Celery has scheduled the acknowledgement, and not sent it yet.
        (2, True, True, False, ["ack replaced", "taken over"], None),
        (1, True, True, False, [], "not parked"),
        (2, False, True, True, [], "not parked"),
        (1, True, False, False, [], "not parked"),
    ],
)
def test_the_third_death_of_a_task_parks_it(
    dying: list[str],
    before: int,
    acknowledged: bool,
    held: bool,
    succeeded: bool,
    seen: list[str],
    tag: str | None,
) -> None:
    writer = Writer()
    counted = deaths.Deaths(OPTIONS, writer, waiting.Waiting(Consumer()))
    message = Message(**{keys.DEATHS: before})
    message.held = held
    request = SimpleNamespace(
        message=message, acknowledged=acknowledged, succeeded=succeeded, chord=None
    )
    is_the_end = counted.count(request, RuntimeError("killed"), None)
    assert internals.raw(message)["headers"][keys.DEATHS] == before + 1
    assert dying == seen
    assert is_the_end is (tag != "not parked")
    assert [(one["reason"], one["tag"]) for one in writer.parked] == (
        [(POISON, tag)] if is_the_end else []
    )


class Member:
    """A member of a chord that has succeeded."""

    acknowledged = False
    succeeded = True
    chord: Any = {"task": "shop.body"}  # noqa: RUF012  # as Celery has it
    id, name, worker_pid = "t", "shop.add", None
    _already_revoked = _already_cancelled = False

    def __init__(self, message: Message, task: Any) -> None:
        self.message = message
        self.task = task
        self.done: list[str] = []

    def on_failure(self, *_: Any) -> None:
        self.done.append("celery's turn")

    def acknowledge(self) -> None:
        self.done.append("acknowledged")

    def reject(self, requeue: bool = False) -> None:
        self.done.append("put back" if requeue else "rejected")

    def send_event(self, kind: str, **_: Any) -> None:
        self.done.append(kind)


def test_a_chords_member_that_dies_after_its_success_runs_again_until_the_third_time(
    monkeypatch: pytest.MonkeyPatch, dying: list[str]
) -> None:
    monkeypatch.setattr(internals.worker_state, "task_ready", lambda _: None)
    writer = Writer()
    counted = deaths.Deaths(OPTIONS, writer, waiting.Waiting(Consumer()))
    task = SimpleNamespace(Request=Member, acks_late=True)
    internals.use_request(task, counted.count)
    message, done = Message(), []
    for _ in range(3):
        request = task.Request(message, task)
        request.on_failure(SimpleNamespace(exception=WorkerLostError("killed")))
        done += request.done
    assert done == ["put back"] * 2
    assert dying == ["noted 1", "noted 2", "taken over"]
    (letter,) = writer.parked
    assert letter["reason"] == POISON
    assert "3 processes died of it after it had succeeded" in letter["detail"]
    # Its success is not stored as a failure, which its chord would count as well.
    letter["after"]()
    assert (request.done, "failed" in dying) == (["task-rejected"], False)


def test_a_death_that_can_not_be_counted_is_left_to_celery(
    dying: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    counted = deaths.Deaths(OPTIONS, Writer(), waiting.Waiting(Consumer()))
    assert counted.count(SimpleNamespace(message=None), RuntimeError("killed"), None) is False
    assert "could not be counted" in caplog.text


def test_two_suspects_never_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[SimpleNamespace] = []
    monkeypatch.setattr(deaths.outage, "running", lambda: running)
    suspect = Message(**{keys.CRASHES: keys.SUSPECT})
    assert not deaths.would_run_beside_another(suspect)
    running.append(SimpleNamespace(message=Message(**{keys.CRASHES: keys.SUSPECT - 1})))
    assert not deaths.would_run_beside_another(suspect)
    running.append(SimpleNamespace(message=Message(**{keys.CRASHES: keys.SUSPECT})))
    assert deaths.would_run_beside_another(suspect)
    assert not deaths.would_run_beside_another(Message())


def test_a_suspect_that_waits_too_long_is_offered_to_other_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = SimpleNamespace(message=Message("other", **{keys.CRASHES: keys.SUSPECT}))
    running, offered, now = [other], [], [100.0]
    monkeypatch.setattr(deaths.outage, "running", lambda: running)
    monkeypatch.setattr(parking.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(parking, "put_back", lambda *call: offered.append(call))
    consumer, _ = made(OPTIONS)
    take = consumer.create_task_handler()
    suspect = Message("suspect", **{keys.CRASHES: keys.SUSPECT})
    take(suspect)
    consumer.timer.run()
    assert (offered, consumer.qos.raised) == ([], 1), "it goes back before another turn"
    now[0] += parking.OFFER * parking.AROUND[1]
    consumer.timer.run()
    assert (offered, consumer.qos.raised) == ([(suspect, parking.HEAD)], 0)

    take(suspect)
    running.clear()
    consumer.timer.run()
    assert (len(offered), consumer.stock) == (1, ["suspect"])


@pytest.mark.parametrize(
    ("there", "held", "error", "kept", "rejected"),
    [
        (0, True, None, True, []),
        (9, True, None, True, []),
        (10, True, None, False, []),
        (0, False, None, True, [{"requeue": True}]),
        (0, True, redis_errors.ConnectionError("away"), True, [{"requeue": True}]),
        # A shortage of this worker may end, and then the task is kept.
        (0, True, OSError(errno.EMFILE, "Too many open files"), True, [{"requeue": True}]),
    ],
)
def test_a_failed_task_is_kept_while_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: int,
    held: bool,
    error: Exception | None,
    kept: bool,
    rejected: list[Any],
) -> None:
    broker = SimpleNamespace(zcard={keys.DEAD_LETTERS_INDEX: there}.__getitem__)
    monkeypatch.setattr(internals, "client", lambda _: nullcontext(broker))
    actions: list[Callable[[Any], bool]] = []
    monkeypatch.setattr(internals, "instead_of_ack", lambda _, action: actions.append(action))
    writer, message = Writer(), Message()
    if error is not None:
        writer.fails, writer.error = 1, error
    message.held = held
    tasks = failed.FailedTasks(Consumer(), Options(dead_letters=True, failed=10), writer)
    tasks.failed(SimpleNamespace(message=message), ValueError("no"))
    assert actions[0](message) is kept
    assert message.rejected == rejected
    expected = [] if rejected or not kept else [(FAILED, "ValueError: no")]
    assert [(one["reason"], one["detail"]) for one in writer.parked] == expected
    assert ("is not kept: there are 10 dead letters" in caplog.text) is not kept


def test_what_follows_parking_only_happens_if_the_message_was_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [[1, 4, b"7"], [0, 0, b""]]
    monkeypatch.setattr(internals, "client", lambda _: NOTHING)
    monkeypatch.setattr(internals, "item_of", lambda _: "{}")
    monkeypatch.setattr(
        internals, "places", lambda _: SimpleNamespace(unacked="u", unacked_index="i")
    )
    monkeypatch.setattr(internals, "forget", lambda _: None)
    monkeypatch.setattr(letter_writer.dead_letters, "park_call", lambda *_, **__: ([], []))
    monkeypatch.setattr(letter_writer, "run", lambda *_: answers.pop(0))
    writer, followed = letter_writer.LetterWriter(OPTIONS, "mail@host"), []
    for name in ("ours", "another's"):
        writer.park(Message(), MALFORMED, "bad", lambda name=name: followed.append(name))
    assert writer.close(5.0)
    assert followed == ["ours"]
    assert "dead letter (malformed): shop.add[7] of mail: bad" in caplog.text
    assert "the oldest 4 dead letters were dropped" in caplog.text
    assert "is no longer held by this worker" in caplog.text


def made(options: Options) -> tuple[Any, Writer]:
    """Return a consumer as `install` makes it, based on the one above."""
    consumer: Any = type("ParkingConsumer", (parking.Parking, Consumer), {"delivery": options})()
    consumer._writer = writer = Writer()
    return consumer, writer


def test_the_consumer_only_parks_messages_that_it_holds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumer, writer = made(OPTIONS)
    assert HOOKS.park_raw is not None
    consumer.on_unknown_message(None, Message("ours"))
    other = Message("no_ack")
    other.held = False
    consumer.on_unknown_message(None, other)
    assert [(one["tag"], one["reason"]) for one in writer.parked] == [("ours", MALFORMED)]
    assert consumer.stock == ["unknown message"]

    consumer, writer = made(Options())
    assert HOOKS.park_raw is not None, "the hook of the previous consumer is gone"
    consumer.on_unknown_message(None, Message("ours"))
    assert (writer.parked, consumer.stock) == ([], ["unknown message"])


def test_a_message_that_calls_no_task_ends_no_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crashed = SimpleNamespace(message=Message(**{keys.CRASHES: 9}))
    monkeypatch.setattr(deaths.outage, "running", lambda: [crashed])
    monkeypatch.setattr(internals, "rejected", lambda *_: None)
    consumer, writer = made(OPTIONS)
    take = consumer.create_task_handler()
    take(Message("well"))
    bad = Message("bad")
    bad.payload = (7, {}, {})
    take(bad)
    take(Message("suspect", **{keys.CRASHES: 2}))
    assert consumer.stock == ["well"]
    assert [one["tag"] for one in writer.parked] == ["bad"]
    ((seconds, _),) = consumer.timer.entries
    assert seconds == parking.TURN
    assert [one.delivery_tag for one in consumer.take_held()] == ["suspect"]

    with caplog.at_level(logging.ERROR):
        consumer, writer = made(Options())
        consumer.create_task_handler()(bad)
    assert writer.parked == []
    assert bad.rejected == [{}]
    assert "malformed message of task shop.add[bad] dropped" in caplog.text


class FailingRequest:
    """A request for which Celery can't handle the end of its task."""

    acknowledged = False
    chord = None
    id, name, worker_pid = "t", "shop.add", None
    _already_revoked = _already_cancelled = False

    def __init__(self, task: Any) -> None:
        self.task = task
        self.done: list[str] = []

    def on_failure(self, *_: Any) -> None:
        raise ConnectionError("the result store does not answer")

    on_timeout = _announce_revoked = on_failure

    def acknowledge(self) -> None:
        self.done.append("acknowledged")

    def reject(self, requeue: bool = False) -> None:
        self.done.append("put back" if requeue else "rejected")


@pytest.mark.parametrize(
    ("error", "late", "ends", "done"),
    [
        (ValueError("x"), True, True, ["acknowledged"]),
        (ValueError("x"), True, False, ["rejected"]),
        (ValueError("x"), False, True, []),
        (Reject("x", requeue=False), True, True, ["rejected"]),
        (Reject("x", requeue=True), True, True, ["put back"]),
        (TimeLimitExceeded(1), True, True, ["acknowledged"]),
        (TimeLimitExceeded(1), True, False, ["put back"]),
        (WorkerLostError("killed"), True, True, ["put back"]),
    ],
)
def test_a_message_leaves_the_worker_even_if_its_failure_can_not_be_handled(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    late: bool,
    ends: bool,
    done: list[str],
) -> None:
    monkeypatch.setattr(internals.minors.celery, "retry_lost", lambda *_: False)
    task = SimpleNamespace(
        Request=FailingRequest, acks_late=late, acks_on_failure=ends, acks_on_timeout=ends
    )
    internals.use_request(task, deaths.not_counted)
    request = task.Request(task)
    request.on_failure(SimpleNamespace(exception=error))
    assert request.done == done
    assert "the result store does not answer" in caplog.text
    if isinstance(error, TimeLimitExceeded):
        request.done.clear()
        request.on_timeout(False, 1)  # what threads and greenlets have
        assert request.done == done


@pytest.mark.parametrize("late", [True, False])
def test_a_revoked_or_expired_task_waits_for_the_result_store_in_its_queue(
    caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    """Celery has not acknowledged it yet."""
    task = SimpleNamespace(
        Request=FailingRequest, acks_late=late, acks_on_failure=True, acks_on_timeout=True
    )
    internals.use_request(task, deaths.not_counted)
    request = task.Request(task)
    request._announce_revoked("expired", False, None, True)
    assert request.done == ["put back"]
    assert "the result store does not answer" in caplog.text


def test_a_retry_that_fails_after_it_was_sent_is_logged_and_runs_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def retry_lost(request: Any, *_: Any) -> bool:
        request.acknowledge()
        request.acknowledged = True
        raise ConnectionError("the result store does not answer")

    monkeypatch.setattr(internals.minors.celery, "retry_lost", retry_lost)
    task = SimpleNamespace(
        Request=FailingRequest, acks_late=True, acks_on_failure=True, acks_on_timeout=True
    )
    internals.use_request(task, deaths.not_counted)
    request = task.Request(task)
    assert request.on_failure(SimpleNamespace(exception=WorkerLostError("killed"))) is None
    assert request.done == ["acknowledged"]
    assert "the result store does not answer" in caplog.text


class OldRequest(FailingRequest):
    """A request before Celery 5.7, which neither rejects a timeout nor takes an announced exit for a loss."""

    def on_failure(self, exc_info: Any, *_: Any) -> None:
        self.done.append(type(exc_info.exception).__name__)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft and self.task.acks_on_timeout:
            self.acknowledge()
            self.acknowledged = True


@pytest.mark.parametrize(
    ("late", "ends", "done"),
    [(True, False, ["put back"]), (True, True, ["acknowledged"]), (False, False, [])],
)
def test_a_hard_limit_that_acknowledges_nothing_puts_the_task_back(
    late: bool, ends: bool, done: list[str]
) -> None:
    """Threads and greenlets only report the time limit. Before Celery 5.7, it left the message in `unacked`."""
    task = SimpleNamespace(
        Request=OldRequest, acks_late=late, acks_on_failure=True, acks_on_timeout=ends
    )
    internals.use_request(task, deaths.not_counted)
    request = task.Request(task)
    request.on_timeout(False, 1)
    assert request.done == done
    request.on_timeout(True, 1)
    assert request.done == done


def test_an_announced_exit_reaches_an_older_celery_as_a_loss_and_other_errors_as_exceptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(internals.minors, "celery", celery56)
    monkeypatch.setattr(celery56, "retry_lost", lambda *_: False)
    task = SimpleNamespace(Request=OldRequest, acks_late=True)
    internals.use_request(task, deaths.not_counted)
    request = task.Request(task)
    request.on_failure(SimpleNamespace(exception=SystemExit(1)))
    request.on_failure(SimpleNamespace(exception=ValueError("x")))
    assert request.done == ["WorkerLostError", "ValueError"]
    cancelled = SimpleNamespace(exception=asyncio.CancelledError())
    request.on_failure(cancelled)
    assert request.done[2:] == ["CancelledError"]
    assert isinstance(cancelled.exception, Exception), "an older Celery would not store it"
