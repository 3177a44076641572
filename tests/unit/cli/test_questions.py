"""The answers of the release's Python to the operator's command."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celery_fleet.cli.commands import results
from celery_fleet.cli.commands.inspect import METHODS
from celery_fleet.common.errors import FleetError
from celery_fleet.ops import questions
from celery_fleet.supervision import broker
from tests.support.redis_server import redis_server
from tests.unit.cli import host


class Inspect:
    """Workers that answer from a table in order, like replies in Celery's mailbox."""

    def __init__(self, replies: dict[str, dict[str, Any]], seen: list[dict[str, Any]]) -> None:
        self._replies = replies
        self._seen = seen
        self.taken: list[str] = []

    def __call__(self, **options: Any) -> Inspect:
        self._seen.append(options)
        return self

    def __getattr__(self, method: str) -> Any:
        options = self._seen[-1]

        def asked(*_: str) -> dict[str, Any]:
            nodes = options["destination"]
            found = {
                node: reply
                for node, reply in self._replies[method].items()
                if nodes is None or node in nodes
            }
            found = dict(list(found.items())[: options.get("limit")])
            for node, reply in found.items():
                self.taken.append(node)
                if "callback" in options:
                    options["callback"]({node: reply})
            return found

        return asked


class App:
    def __init__(self, **replies: dict[str, Any]) -> None:
        self.seen: list[dict[str, Any]] = []
        self.control = self
        self.inspect = Inspect(replies, self.seen)


def test_the_wait_ends_when_all_expected_workers_have_answered() -> None:
    pong = {"ok": "pong"}
    app = App(ping={"a@h": pong, "b@h": pong, "late@h": pong})
    found = questions.inspect(app, {"method": "ping", "expected": ["a@h", "b@h"], "wait": 1})
    assert found == {"a@h": pong, "b@h": pong}
    assert app.inspect.taken == ["a@h", "b@h"]
    found = questions.inspect(app, {"method": "ping", "nodes": ["b@h"], "expected": ["a@h", "b@h"]})
    assert found == {"b@h": pong}
    for asked in app.seen:
        asked.pop("callback")
    assert app.seen == [
        {"destination": None, "timeout": 1.0},
        {"destination": ["b@h"], "timeout": 2.0},
    ]


def test_the_answer_of_a_second_instance_does_not_end_the_wait() -> None:
    app = App(ping={"a.next@h": 1, "b.next@h": 2, "a@h": 3, "b@h": 4})
    found = questions.inspect(app, {"method": "ping", "expected": ["a@h", "b@h"]})
    assert set(found) == {"a@h", "b@h", "a.next@h", "b.next@h"}
    silent = questions.inspect(app, {"method": "ping", "expected": ["a@h", "gone@h"]})
    assert "gone@h" not in silent


def test_the_answer_about_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "lengths", lambda app, queues: dict.fromkeys(queues, 7))
    app = App(
        stats={
            "a@h": {
                "pid": 5,
                "pool": {"max-concurrency": 4},
                "uptime": 9,
                "fleet": {"state": "consuming", "queues": ["mail", "a@h.dq2"]},
                "fleet_last_hour": {"ended": 3},
            }
        },
        active={"a@h": [{"id": "1"}, {"id": "2"}]},
        # A solo worker that has begun a task answers no further question.
        active_queues={},
    )
    assert questions.workers(app, {"queues": ["mail"]}) == {
        "workers": {
            "a@h": {
                "state": "consuming",
                "queues": ["mail"],
                "processes": 4,
                "running": 2,
                "pid": 5,
                "uptime": 9,
                "last_hour": {"ended": 3},
            }
        },
        "queues": {"mail": 7},
        "pauses": None,
        "pool_sizes": None,
    }


def test_only_a_worker_without_the_fleets_loader_is_asked_for_its_queues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(questions, "lengths", lambda app, queues: {})
    ours = {"fleet": {"state": "consuming", "queues": ["mail"]}}
    app = App(
        stats={"a@h": ours, "b@h": {}, "c@h": {}},
        active={},
        active_queues={
            "a@h": [{"name": "not asked"}],
            "b@h": [{"name": "bulk"}, {"name": "b@h.dq2"}],
        },
    )
    found = questions.workers(app, {})["workers"]
    assert {node: (one["state"], one["queues"]) for node, one in found.items()} == {
        "a@h": ("consuming", ["mail"]),
        "b@h": ("consuming", ["bulk"]),
        "c@h": ("not consuming", []),
    }
    assert [asked["destination"] for asked in app.seen] == [
        None,
        ["a@h", "b@h", "c@h"],
        ["b@h", "c@h"],
    ]


def test_the_answer_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "lengths", lambda app, queues: {})
    assert questions.workers(App(stats={}), {}) == {
        "workers": {},
        "queues": {},
        "pauses": None,
        "pool_sizes": None,
    }


def test_the_command_and_the_release_know_the_same_questions() -> None:
    assert METHODS == questions.METHODS


def ask(request: object) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "celery_fleet.ops.questions"],
        input=json.dumps(request),
        env={"PYTHONPATH": str(host.SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["ok"] else 1)
    assert host.PASSWORD not in done.stdout + done.stderr
    return answer, time.monotonic() - began


@pytest.mark.parametrize(
    ("type_", "args", "line", "text"),
    [
        (
            "FileNotFoundError",
            [2, "No such file or directory"],
            "FileNotFoundError: [Errno 2] No such file or directory: '/srv/report.csv'",
            "FileNotFoundError: [Errno 2] No such file or directory: '/srv/report.csv'",
        ),
        ("ValueError", ["no stock"], "ValueError: no stock", "ValueError: no stock"),
        ("KeyError", [], "KeyError", "KeyError"),
    ],
)
def test_the_error_of_a_task_names_the_file(
    type_: str, args: list[Any], line: str, text: str
) -> None:
    """Celery stores the arguments of the exception, which do not include the file's name."""
    stored = {
        "status": "FAILURE",
        "result": {"exc_type": type_, "exc_message": args, "exc_module": "builtins"},
        "traceback": f'Traceback (most recent call last):\n  File "tasks.py", line 1, in x\n{line}\n',
    }

    class Backend:
        def get_key_for_task(self, identity: str) -> str:
            return identity

        def get(self, key: str) -> str:
            return key

        def decode(self, raw: str) -> dict[str, Any]:
            return stored

    assert questions.stored(Backend(), "1")["error"] == text


def test_a_result_in_another_format_is_left_to_the_application() -> None:
    """The operator's own application knows only the inventory's settings. The history does not need the result."""
    backend = Celery(backend="cache+memory://").backend
    backend.set(backend.get_key_for_task("1"), "status: SUCCESS\n")
    with pytest.raises(FleetError, match="celery-fleet exec -- celery result 1"):
        questions.stored(backend, "1")


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("2026-01-02T03:00:00.123456-05:00", "2026-01-02 08:00:00 UTC"),
        ("2026-01-02T03:00:00", "2026-01-02 03:00:00 UTC"),
        ("soon", "soon"),
    ],
)
def test_when_a_task_ended_is_in_utc(stored: str, shown: str) -> None:
    assert results.done_at(stored) == shown


#: Data that looks like logins in URLs.
DATA = {
    "image_url": "https://cdn.example.com/a@2x.png",
    "note": "http://shop:8080/u?mail=foo@bar.com",
}


def answered(monkeypatch: pytest.MonkeyPatch, **request: Any) -> Any:
    """Return the answer to a question that needs no server, with the password in its settings."""
    monkeypatch.setattr(questions, "_trouble", lambda *_: (None, False))
    found = questions.answer({"settings": host.settings(), **request})
    assert found["ok"], found
    return found["answer"]


@pytest.mark.parametrize(
    ("request_", "of_tasks"),
    [
        ({"question": "result"}, True),
        ({"question": "task"}, True),
        ({"question": "dead_letters"}, True),
        *(
            (
                {"question": "inspect", "method": method},
                method in ("active", "query_task", "reserved", "scheduled"),
            )
            for method in METHODS
        ),
        ({"question": "workers"}, False),
    ],
)
def test_data_of_tasks_is_passed_on_unchanged(
    monkeypatch: pytest.MonkeyPatch, request_: dict[str, str], of_tasks: bool
) -> None:
    found = {"kwargs": DATA, "error": f"{DATA['note']} said {host.PASSWORD}"}
    monkeypatch.setattr(
        questions, "QUESTIONS", dict.fromkeys(questions.QUESTIONS, lambda *_: found)
    )
    shown = answered(monkeypatch, **request_)
    assert (shown == found) is of_tasks
    assert (host.PASSWORD in json.dumps(shown)) is of_tasks


def test_a_broker_that_is_down() -> None:
    answer, _ = ask({"question": "workers", "settings": host.settings(), "timeout": 60})
    assert answer["error"].startswith("the broker can't be asked: 127.0.0.1:1: ")


@pytest.mark.slow
def test_a_broker_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = host.settings(port=server.getsockname()[1])
        answer, _ = ask({"question": "workers", "settings": settings, "timeout": 60})
        assert answer["error"].startswith("the broker can't be asked: 127.0.0.1:"), answer
        # It is only asked once, so the error is known within the usual limit.
        assert broker.TIMEOUT < questions.TIMEOUT - 2
        server.setblocking(False)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (None, "no worker had been asked yet"),
        ("the broker redis1:6379 had not answered yet", "the broker redis1:6379 had not"),
    ],
)
@pytest.mark.parametrize(
    ("load", "busy"), [(17.2, "this host is busy (load 17 on 2 processors); "), (1.5, "")]
)
def test_a_late_answer_is_not_blamed_on_the_broker(
    monkeypatch: pytest.MonkeyPatch, stage: str | None, words: str, load: float, busy: str
) -> None:
    ended = threading.Event()

    def slow(raw: object, note: Callable[[str], None]) -> dict[str, Any]:
        if stage is not None:
            note(stage)
        ended.wait(60)
        return {}

    monkeypatch.setattr(questions, "answer", slow)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    error = questions.run({"timeout": 0.5})["error"]
    ended.set()
    assert error.startswith(f"no answer within 0.5 s; {words}")
    assert error.endswith(f"; {busy}--timeout 30 waits longer")


def fill(client: Any) -> None:
    for _ in range(10_000):
        try:
            client.lpush("mail", "x" * 1000)
        except redis.OutOfMemoryError:
            return
    raise AssertionError("it is not full")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[int]:
    """Return the port of a Redis that has no memory left, with tasks in the queue mail."""
    users = f"user operator on >{host.PASSWORD} ~* &* +@all\n"
    with redis_server(tmp_path, "--maxmemory", "3mb", users=users) as server:
        # The memory of a connection would be free again when it ends, so this one stays.
        fill(server.client)
        yield server.port


@pytest.mark.slow
def test_a_broker_that_is_full_still_says_how_long_its_queues_are(full: int) -> None:
    request = {"settings": host.settings(port=full), "queues": ["mail", "bulk"], "timeout": 60}
    answer, _ = ask({"question": "workers", **request})
    assert answer["ok"], answer
    found = answer["answer"]
    assert (found["workers"], found["queues"]["bulk"]) == ({}, 0)
    assert found["queues"]["mail"] > 100
    assert found["full"].startswith(
        "the broker is full, so nothing can be sent and no worker can be asked"
    )
    answer, _ = ask({"question": "inspect", "method": "ping", **request})
    assert answer["error"].startswith("the broker is full")
    answer, _ = ask({"question": "lengths", **request})
    waiting = answer["answer"]["mail"]
    answer, _ = ask({"question": "purge", "queue": "mail", **request})
    assert answer["answer"] == {"purged": waiting}
    answer, _ = ask({"question": "lengths", **request})
    assert answer["answer"]["mail"] == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"question": "frob"}, "must have a question"),
        ({"question": "inspect", "settings": {"format": 9}}, "has format 9"),
    ],
)
def test_malformed_requests_are_refused(request_: object, words: str) -> None:
    assert words in ask(request_)[0]["error"]
