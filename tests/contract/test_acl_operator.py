"""Redis lets operators do what they do by hand, and no more, on real servers and a real worker.

There is no TLS, which does not affect rights. Redis logs what it refuses, and that log must stay empty.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from tests.fleet import NODE, QUEUES, ROOT, Fleet, client, running, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("operator"), "-E") as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_refused(fleet: Fleet) -> Iterator[None]:
    yield
    assert fleet.refused() == []


def test_a_question_does_not_put_overdue_tasks_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kombu makes every consumer put overdue tasks back, even one that waits for replies, and an operator may not."""
    monkeypatch.setattr(fleet, "visibility_timeout", 60)
    worker = client(fleet.ports["broker"], "worker")
    message = {"body": "", "headers": {}, "properties": {"delivery_info": {}, "delivery_tag": "t"}}
    worker.hset("unacked", "t", json.dumps([message, "", "bulk"]))
    # The worker started before the change, so it has an hour.
    worker.zadd("unacked_index", {"t": time.time() - 600})
    assert NODE in fleet.celery("inspect", "--timeout=10", "ping")
    assert worker.hexists("unacked", "t")
    worker.zrem("unacked_index", "t")
    worker.hdel("unacked", "t")


@pytest.mark.parametrize(
    "question",
    ["active", "scheduled", "registered", "conf"],
)
def test_an_operator_may_use_celerys_inspect(fleet: Fleet, question: str) -> None:
    assert NODE in fleet.told("inspect", question)


def test_flower_revokes_and_does_not_send(fleet: Fleet) -> None:
    """As docs/operations.md says: with Flower's password you can't have tasks run, not even by a retry."""
    # Long enough for a celery command to start on a busy machine: a worker checks for revokes when the task is due.
    sent = fleet.app().send_task("shop.add", (1, 2), countdown=20)
    # It waits to the end, and kombu looks for overdue tasks while it waits.
    fleet.celery("control", "--timeout=5", "revoke", sent.id, user="flower")
    wait_for(lambda: sent.state == "REVOKED", 60)
    assert fleet.refused() == []
    flower = Celery("shop", set_as_current=False)
    flower.conf.update(fleet.settings("flower")["celery"])
    with pytest.raises(Exception, match=r"(?i)permission"):
        flower.send_task("shop.add", (1, 2), queue="mail", retry=False, ignore_result=True)
    assert fleet.refused() != []


def test_an_operator_may_use_the_commands_questions(fleet: Fleet) -> None:
    patience = {"wait": 30, "timeout": 60}
    for request in (
        {"question": "workers", "queues": QUEUES, "expected": [NODE]},
        {"question": "inspect", "method": "ping", "expected": [NODE]},
    ):
        done = subprocess.run(
            [sys.executable, "-m", "celery_fleet.ops.questions"],
            input=json.dumps({**request, **patience, "settings": fleet.settings("operator")}),
            env={"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        answer = json.loads(done.stdout)
        assert answer["ok"], answer
        if request["question"] == "workers":
            assert answer["answer"]["workers"][NODE]["queues"] == ["mail"]
            assert answer["answer"]["queues"] == {"mail": 0, "bulk": 0}


def test_an_operator_may_use_the_commands_monitor(fleet: Fleet) -> None:
    """The test ends the monitor when it has counted the task, because how long that takes depends on the machine."""
    request = {"settings": fleet.settings("operator"), "queues": QUEUES, "expected": [NODE]}
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_fleet.ops.monitoring"],
        env={"PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({**request, "duration": 60, "interval": 0.5}))
    process.stdin.close()
    assert process.stdout is not None
    counts: Counter[str] = Counter()
    with process.stdout as output:
        first = json.loads(output.readline())
        assert first["workers"] == {NODE: {"online": True, "source": "events"}}
        # It reports readiness before its queue for events is bound.
        wait_for(fleet.listeners)
        fleet.celery("call", "shop.add", "--args=[2, 3]", "--queue=mail", user="producer")
        for line in output:
            counts.update(json.loads(line)["counts"])
            if counts["succeeded"]:
                process.terminate()
    assert process.wait(10) == 0
    assert counts == {**counts, "received": 1, "started": 1, "succeeded": 1, "failed": 0}
    assert fleet.listeners() == set(), "left on the broker"


def test_an_operator_may_control_workers(fleet: Fleet) -> None:
    fleet.told("control", "rate_limit", "shop.add", "10/m")
    fleet.told("control", "add_consumer", "bulk")
    fleet.told("control", "cancel_consumer", "bulk")
    fleet.told("control", "revoke", "0b0e7ca5-0000-4000-8000-000000000000")
    fleet.told("control", "enable_events")


def test_a_task_is_called_and_its_result_read(fleet: Fleet) -> None:
    task = fleet.celery("call", "shop.add", "--args=[2, 3]", "--queue=mail").strip()
    wait_for(lambda: fleet.celery("result", task).strip() == "5")


def test_an_operator_may_purge_queues(fleet: Fleet) -> None:
    fleet.celery("call", "shop.add", "--args=[2, 3]", "--queue=bulk", user="producer")
    assert "1 message" in fleet.celery("purge", "-f", "-Q", "bulk")


@pytest.mark.parametrize("kind", ["broker", "results"])
def test_an_operator_may_read_redis(fleet: Fleet, kind: str) -> None:
    operator = client(fleet.ports[kind], "operator")
    assert operator.ping()
    assert operator.info("memory")["used_memory"] > 0
    if kind == "broker":
        assert operator.llen("mail") == 0


@pytest.mark.parametrize(
    "words",
    [
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("SET", "elsewhere", "x"),
        ("EVAL", "return 1", "0"),
        ("MONITOR",),
        ("SHUTDOWN",),
    ],
)
def test_an_operator_may_do_nothing_else(fleet: Fleet, words: tuple[str, ...]) -> None:
    for port in fleet.ports.values():
        with pytest.raises(redis.exceptions.NoPermissionError):
            client(port, "operator").execute_command(*words)
    # This refusal is intended, so the check after each test must not find it.
    assert len(fleet.refused()) == 2
