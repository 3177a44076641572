"""What applications do with Celery is granted on Redis: against real servers, a real worker and a real producer.

Redis logs what it refuses; that log has to stay empty.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fleet import NODE, Fleet, running, wait_for

pytestmark = pytest.mark.slow

MORE = """
from celery import chord, group
from celery.result import GroupResult
from shop import add, app, fail, note

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
    return app.control.ping(timeout=1)
"""


@pytest.fixture(scope="module", params=[True, False], ids=["ordered", "unordered"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("application")
    (directory / "more.py").write_text(MORE)
    options = {"result_backend_transport_options": {"result_chord_ordered": request.param}}
    with running(directory, "-I", "more", "-Q", "mail,bulk", celery=options) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_refused(fleet: Fleet) -> Iterator[None]:
    yield
    assert fleet.refused() == []


def sent(fleet: Fleet, expression: str, user: str = "producer") -> Any:
    """What an expression is in a process of the application that has a user's settings."""
    code = (
        "import json; from celery import chord, group; from more import *;"
        f"print(json.dumps({expression}))"
    )
    done = subprocess.run(
        [fleet.python, "-c", code],
        cwd=fleet.directory,
        env=fleet.environment(user),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
def test_a_workflow(fleet: Fleet, expression: str, value: Any) -> None:
    assert sent(fleet, f"{expression}.get(timeout=20)") == value


def test_a_chord_whose_part_fails_calls_its_errback(fleet: Fleet) -> None:
    body = "total.s().on_error(note.si(7))"
    assert sent(fleet, f"bool(chord([fail.si('no'), add.si(3, 4)], {body})())")
    wait_for(lambda: 7 in fleet.ledger())


def test_a_producer_keeps_and_forgets_results(fleet: Fleet) -> None:
    assert sent(fleet, "kept(group(add.si(1, 2), add.si(3, 4)).apply_async())") == [[3, 7], None]


@pytest.mark.parametrize("user", ["producer", "beat", "worker"])
@pytest.mark.parametrize(
    "options",
    [
        {"queue": "mail"},
        {"queue": "bulk"},
        {"queue": "bulk", "routing_key": "media.film"},
        {"exchange": "letters", "routing_key": "letter"},
        {"queue": "bulk", "exchange": "letters", "routing_key": "letter"},
    ],
    ids=json.dumps,
)
def test_a_route_by_an_exchange(fleet: Fleet, user: str, options: dict[str, str]) -> None:
    before = fleet.ledger().count(9)
    assert sent(fleet, f"bool(note.apply_async((9,), **{options}))", user)
    wait_for(lambda: fleet.ledger().count(9) == before + 1)
