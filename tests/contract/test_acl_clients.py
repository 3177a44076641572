"""Clients outside the fleet may do what they need, and no more, on real servers and a real worker.

They use plain Celery, without the fleet's loader and settings.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fleet import NODE, Fleet, printed, running, wait_for

pytestmark = pytest.mark.slow

CLIENTS: dict[str, Any] = {
    "sender": {"queues": ["mail"]},
    "reader": {"queues": ["mail"], "results": True},
    "boss": {"queues": ["mail"], "results": True, "control": True},
    "partner": {"queues": ["mail"], "consume": ["letters"], "results": True},
}

MORE = """
from shop import app

@app.task(name="shop.total")
def total(numbers):
    return sum(numbers)
"""

OUTSIDE = """
import json, sys
from celery import Celery, chord, group
from celery.result import GroupResult
from outside_settings import SETTINGS
app = Celery("outside")
app.conf.update(SETTINGS)
app.conf.task_routes = {"shop.*": {"queue": "mail"}, "outside.*": {"queue": "letters"}}

@app.task(name="outside.answer", bind=True, acks_late=True)
def answer(self, number):
    app.signature("shop.note", (number,)).delay()
    return number + 1

def add(*args):
    return app.signature("shop.add", args)

def kept(result):
    result.save()
    found = GroupResult.restore(result.id)
    numbers = found.get(timeout=20)
    result.delete()
    return numbers

if __name__ == "__main__":
    print(json.dumps(eval(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("clients")
    (directory / "more.py").write_text(MORE)
    with running(directory, "-I", "more", clients=CLIENTS) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_refused(fleet: Fleet) -> Iterator[None]:
    yield
    assert fleet.refused() == []


def settings(fleet: Fleet, name: str) -> dict[str, Any]:
    """Return the settings that docs/clients.md tells a client to have."""
    url = f"redis://{name}:pw-of-{name}@127.0.0.1:{{}}/0"
    found: dict[str, Any] = {"broker_url": url.format(fleet.ports["broker"])}
    if CLIENTS[name].get("results"):
        found["result_backend"] = url.format(fleet.ports["results"])
    if CLIENTS[name].get("control"):
        found["broker_transport_options"] = {"visibility_timeout": 3_153_600_000}
    if CLIENTS[name].get("consume"):
        keys = ("unacked_key", "unacked_index_key", "unacked_mutex_key")
        found["broker_transport_options"] = {
            key: f"{name}:{key.removesuffix('_key')}" for key in keys
        }
        found["worker_enable_remote_control"] = False
    return found


def prepared(fleet: Fleet, name: str) -> Path:
    own = fleet.directory / name
    own.mkdir(exist_ok=True)
    (own / "outside.py").write_text(OUTSIDE)
    (own / "outside_settings.py").write_text(f"SETTINGS = {settings(fleet, name)!r}\n")
    return own


def said(fleet: Fleet, name: str, expression: str) -> Any:
    directory = prepared(fleet, name)
    return printed(
        directory, {"PATH": os.environ["PATH"]}, sys.executable, "outside.py", expression
    )


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_sends_a_task(fleet: Fleet, name: str) -> None:
    before = fleet.ledger().count(3)
    assert said(fleet, name, "bool(app.send_task('shop.note', (3,), priority=9))")
    wait_for(lambda: fleet.ledger().count(3) == before + 1)


@pytest.mark.parametrize("name", ["reader", "boss", "partner"])
def test_a_client_reads_results(fleet: Fleet, name: str) -> None:
    results = {
        "add(1, 2).delay().get(timeout=20)": 3,
        "kept(group(add(1, 2), add(3, 4)).apply_async())": [3, 7],
        "chord([add(1, 2), add(3, 4)], app.signature('shop.total'))().get(timeout=20)": 10,
    }
    assert said(fleet, name, f"[{', '.join(results)}]") == [*results.values()]


def test_a_client_controls_workers_if_it_may(fleet: Fleet) -> None:
    # Without a destination it waits to the end, and kombu looks for overdue tasks while it waits.
    assert said(fleet, "boss", "app.control.ping(timeout=10)") == [{NODE: {"ok": "pong"}}]
    revoked = "(r := add(1, 2).apply_async(countdown=12)).revoke() or r.get(60, propagate=False)"
    assert said(fleet, "boss", f"repr({revoked})").startswith("TaskRevokedError")


def test_a_worker_outside_consumes_an_external_queue(fleet: Fleet) -> None:
    options = ("-Q", "letters", "--without-gossip", "--without-mingle", "--without-heartbeat")
    with (fleet.directory / "partner.log").open("wb") as log:
        worker = subprocess.Popen(
            [*(sys.executable, "-m", "celery", "-A", "outside", "worker"), *options, "-c", "1"],
            cwd=prepared(fleet, "partner"),
            env={"PATH": os.environ["PATH"]},
            stdout=log,
            stderr=log,
        )
    try:
        assert said(fleet, "partner", "answer.delay(8).get(timeout=40)") == 9
        wait_for(lambda: 8 in fleet.ledger())
    finally:
        worker.terminate()
        worker.wait(20)
    assert "Traceback" not in (fleet.directory / "partner.log").read_text()


@pytest.mark.parametrize(
    ("kind", "name", "command"),
    [
        ("broker", "sender", ("LPUSH", "bulk", "x")),
        ("broker", "sender", ("BRPOP", "mail", "1")),
        ("broker", "sender", ("PUBLISH", "/0.celery.pidbox", "{}")),
        ("broker", "sender", ("SMEMBERS", "_kombu.binding.bulk")),
        ("broker", "boss", ("DEL", "mail")),
        ("broker", "partner", ("BRPOP", "mail", "1")),
        ("broker", "partner", ("DEL", "mail")),
        ("broker", "partner", ("HGET", "unacked", "t")),
        # The exchange would also deliver copies of what is sent to bulk.
        ("broker", "partner", ("SADD", "_kombu.binding.bulk", "bulk\x06\x16\x06\x16letters")),
        ("broker", "partner", ("SADD", "_kombu.binding_permanent.bulk", "x")),
        ("broker", "partner", ("PUBLISH", "/0.celery.pidbox", "{}")),
        ("results", "reader", ("SET", "celery-task-meta-x", "{}")),
        ("results", "reader", ("PUBLISH", "celery-task-meta-x", "{}")),
        ("results", "reader", ("DEL", "celery-task-meta-x")),
    ],
)
def test_a_client_may_do_no_more(
    fleet: Fleet, kind: str, name: str, command: tuple[str, ...]
) -> None:
    with (
        redis.Redis(port=fleet.ports[kind], username=name, password=f"pw-of-{name}") as client,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        client.execute_command(*command)
    assert len(fleet.refused()) == 1


def test_a_client_without_results_has_no_user_there(fleet: Fleet) -> None:
    port = fleet.ports["results"]
    with (
        redis.Redis(port=port, username="sender", password="pw-of-sender") as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()
    assert len(fleet.refused()) == 1
