"""Redis lets applications do everything they do with Celery: real servers, a real worker and a real producer.

Redis logs what it refuses, and that log must stay empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.fleet import NODE, Fleet, client, printed, running, wait_for

pytestmark = pytest.mark.slow

MORE = """
from celery import chord, group
from celery.result import GroupResult
from shop import add, app, fail, note

app.conf.beat_enable_remote_control = True
app.conf.beat_schedule = {"often": {"task": "shop.note", "schedule": 1, "args": [5]}}
app.conf.task_queues = {
    "mail": {"exchange": "letters", "exchange_type": "direct", "routing_key": "letter"},
    "bulk": {"exchange": "media", "exchange_type": "topic", "routing_key": "media.#"},
}


@app.task(name="shop.total")
def total(numbers):
    return sum(numbers)


@app.task(name="shop.grow", bind=True)
def grow(self):
    self.add_to_chord(add.si(1, 1))
    return 1


@app.task(name="shop.replaced", bind=True)
def replaced(self):
    raise self.replace(chord([add.si(1, 2), add.si(3, 4)], total.s()))


@app.task(name="shop.keeps")
def keeps():
    result = group(add.si(1, 2), add.si(3, 4)).apply_async()
    result.save()
    found = GroupResult.restore(result.id)
    found.forget()
    result.delete()
    return len(found)


def kept(result):
    result.save()
    found = GroupResult.restore(result.id)
    numbers = found.get(timeout=20)
    found.forget()
    result.delete()
    return [numbers, GroupResult.restore(result.id)]


@app.task(name="shop.again", bind=True, max_retries=1, default_retry_delay=0)
def again(self):
    if not self.request.retries:
        raise self.retry()
    return self.request.retries


@app.task(name="shop.asks")
def asks():
    app.control.revoke("0b0e7ca5-0000-4000-8000-000000000000")
    return app.control.ping(["w@test"], timeout=15)
"""


#: For tests without chords.
ONE_FLEET = pytest.mark.parametrize("fleet", [True], indirect=True, ids=["ordered"])


@pytest.fixture(scope="module", params=[True, False], ids=["ordered", "unordered"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("application")
    (directory / "more.py").write_text(MORE)
    options = {
        "result_backend_transport_options": {"result_chord_ordered": request.param},
        # A connection with a name sends CLIENT SETNAME.
        "redis_client_name": "shop",
    }
    with running(directory, "-I", "more", "-Q", "mail,bulk", celery=options) as made:
        yield made


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a fleet whose producers have remote control."""
    directory = tmp_path_factory.mktemp("controlled")
    (directory / "more.py").write_text(MORE)
    with running(directory, "-I", "more", remote_control=True) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_refused(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"fleet", "controlled"} & set(request.fixturenames):
        assert request.getfixturevalue(name).refused() == []


def sent(fleet: Fleet, expression: str, user: str = "producer") -> Any:
    """Return an expression's value in a process of the application with a user's settings."""
    code = (
        "import json; from celery import chord, group; from more import *;"
        f"print(json.dumps({expression}))"
    )
    return printed(fleet.directory, fleet.environment(user), fleet.python, "-c", code)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("chord([grow.si(), add.si(3, 4)], total.s())()", 10),
        ("chord([add.si(5, 6), group(add.si(1, 2), add.si(3, 4)) | total.s()], total.s())()", 21),
        ("replaced.delay()", 10),
        ("keeps.delay()", 2),
        ("again.delay()", 1),
        ("asks.delay()", [{NODE: {"ok": "pong"}}]),
    ],
)
def test_workflows_run(fleet: Fleet, expression: str, value: Any) -> None:
    assert sent(fleet, f"{expression}.get(timeout=20)") == value


def test_a_chord_whose_part_fails_calls_its_errback(fleet: Fleet) -> None:
    body = "total.s().on_error(note.si(7))"
    assert sent(fleet, f"bool(chord([fail.si('no'), add.si(3, 4)], {body})())")
    wait_for(lambda: 7 in fleet.ledger())


@ONE_FLEET
def test_a_producer_keeps_and_forgets_results(fleet: Fleet) -> None:
    assert sent(fleet, "kept(group(add.si(1, 2), add.si(3, 4)).apply_async())") == [[3, 7], None]


@ONE_FLEET
@pytest.mark.parametrize("user", ["producer", "beat", "worker"])
def test_a_task_can_be_sent_by_an_exchange(fleet: Fleet, user: str) -> None:
    ways: list[dict[str, str]] = [
        {"queue": "mail"},
        {"queue": "bulk"},
        {"queue": "bulk", "routing_key": "media.film"},
        {"exchange": "letters", "routing_key": "letter"},
        {"queue": "bulk", "exchange": "letters", "routing_key": "letter"},
    ]
    before = len(fleet.ledger())
    calls = [f"note.apply_async(({number},), **{way})" for number, way in enumerate(ways, 90)]
    assert sent(fleet, f"len([{', '.join(calls)}])", user) == len(ways)
    wait_for(lambda: sorted(fleet.ledger()[before:]) == [90, 91, 92, 93, 94])


@ONE_FLEET
def test_beat_runs_even_if_the_code_asks_for_remote_control(fleet: Fleet) -> None:
    """Stock beat would log a traceback every 5 s, because Redis refuses its mailbox; the fleet's beat has none."""
    path = str(fleet.directory / "schedule")
    beat = fleet.start("celery", "-A", "more", "beat", "-s", path, "-l", "INFO", user="beat")
    try:
        wait_for(lambda: fleet.ledger().count(5) >= 2, 30)
    finally:
        beat.terminate()
        beat.wait(20)
    assert "pidbox" not in fleet.log("beat")


def test_a_producer_with_remote_control_gets_answers(controlled: Fleet) -> None:
    assert sent(controlled, f"app.control.ping([{NODE!r}], timeout=15)") == [{NODE: {"ok": "pong"}}]
    assert NODE in sent(controlled, f"app.control.inspect([{NODE!r}], timeout=15).active()")
    revoked = "(r := add.apply_async((1, 2), countdown=12)).revoke() or r.get(60, propagate=False)"
    assert sent(controlled, f"repr({revoked})").startswith("TaskRevokedError")


def test_a_producer_with_remote_control_leaves_overdue_tasks_alone(controlled: Fleet) -> None:
    """Kombu makes a process that waits for replies put such tasks back, and a producer may not."""
    worker = client(controlled.ports["broker"], "worker")
    worker.hset("unacked", "t", '[{"properties": {"delivery_info": {}}}, "", "mail"]')
    worker.zadd("unacked_index", {"t": 1})
    try:
        # Without a destination it waits to the end, and overdue tasks are looked for while it waits.
        assert sent(controlled, "app.control.ping(timeout=10)") == [{NODE: {"ok": "pong"}}]
        assert worker.hexists("unacked", "t")
    finally:
        worker.zrem("unacked_index", "t")
        worker.hdel("unacked", "t")
        worker.close()


@pytest.mark.parametrize(
    "command",
    [
        ("DEL", "mail"),
        ("SET", "mail", "x"),
        ("RPOP", "mail"),
        ("BRPOP", "mail", "1"),
        ("HGETALL", "unacked"),
        ("ZREM", "unacked_index", "t"),
        ("SUBSCRIBE", "/0.celery.pidbox"),
        ("KEYS", "*"),
    ],
)
def test_remote_control_gives_no_other_rights(controlled: Fleet, command: tuple[str, ...]) -> None:
    with (
        client(controlled.ports["broker"], "producer") as producer,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        producer.execute_command(*command)
    assert len(controlled.refused()) == 1


@ONE_FLEET
def test_without_remote_control_a_producer_reaches_no_worker(fleet: Fleet) -> None:
    with (
        client(fleet.ports["broker"], "producer") as producer,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        producer.publish("/0.celery.pidbox", "{}")
    assert len(fleet.refused()) == 1
