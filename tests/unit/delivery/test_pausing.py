"""Real workers of every pool obey the pauses that operators keep on the broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common import pauses
from celery_fleet.config.settings import parse
from celery_fleet.delivery.keys import PAUSES
from celery_fleet.ops import pauses as answers
from celery_fleet.ops import replies
from celery_fleet.ops.app import make_app
from tests.unit.delivery.pools import ATOMIC, NOTHING, POOLS, SLOTS, Shop, shop, until
from tests.unit.delivery.test_drain_pools import control

NODE = "w@test"

#: The pools and ways of fetching that differ most; all of them would take too long.
OFTEN = [("prefork", None), ("prefork", ATOMIC), ("gevent", ATOMIC)]
WAYS = [
    pytest.param(
        *way,
        marks=pytest.mark.slow if way in OFTEN else pytest.mark.long,
        id=f"{way[0]}-{'atomic' if way[1] else 'stock'}",
    )
    for way in ((pool, delivery) for pool in POOLS for delivery in (None, ATOMIC))
]


class Operator:
    """Pauses and resumes queues with the operator's rights."""

    def __init__(self, made: Shop) -> None:
        self._app = make_app(parse(made.fleet.settings("operator"), "settings"))

    def __call__(self, do: str, *targets: str) -> dict[str, Any]:
        why = "tests" if do == "pause" else None
        request = {"do": do, "targets": targets, "by": "ana", "why": why, "expected": [NODE]}
        return answers.answer(self._app, request)

    def close(self) -> None:
        self._app.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer may be late."""
    monkeypatch.setattr(replies, "WAIT", 10.0)


@contextmanager
def operating(made: Shop) -> Iterator[Operator]:
    operator = Operator(made)
    yield operator
    operator.close()


@pytest.mark.parametrize(("pool", "delivery"), WAYS)
def test_a_paused_queue_is_not_fetched_and_waiting_messages_go_back(
    tmp_path: Path, pool: str, delivery: dict[str, Any] | None
) -> None:
    with shop(tmp_path, delivery) as made, operating(made) as operator:
        worker = made.worker(pool, SHOP_LATE="yes")
        sent = [made.send("held") for _ in range(SLOTS)]
        parallel = 1 if pool == "solo" else SLOTS
        until(lambda: len(made.ledger.begun) == parallel)
        sent += [made.send(), made.send(countdown=60), made.send("limited"), made.send("limited")]
        if pool == "solo":  # it receives no command while a task runs
            threading.Timer(1, made.go).start()

        found = operator("pause", "queue:mail")
        assert [pause["target"] for pause in found["pauses"]] == ["queue:mail"]
        if pool != "solo":
            assert found["workers"][NODE] == {"paused": {"mail": SLOTS}}
        made.go()
        until(lambda: operator("ask")["workers"].get(NODE) == {"paused": {"mail": 0}})
        until(lambda: not made.unacked())
        begun = dict(made.ledger.begun)
        sent.append(made.send())
        # Longer than a pending poll of kombu.
        time.sleep(1.5)
        until(lambda: made.queued().keys() == set(sent) - begun.keys())
        assert made.ledger.begun == begun
        assert "queue mail is paused (queue mail) by ana: tests" in worker.log

        assert operator("resume", "queue:mail")["workers"][NODE] == {"paused": {}}
        until(lambda: len(made.ledger.ended) == len(sent) - 1)
        later = made.unacked()  # the one with an ETA
        assert made.account([one for one in sent if one not in later]) == NOTHING, worker.log
        assert made.fleet.refused() == []


@pytest.mark.long
@pytest.mark.parametrize("pool", POOLS)
def test_a_pause_outlasts_the_worker_and_lost_connections(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made, operating(made) as operator:
        operator("pause", "worker:w")
        worker = made.worker(pool)
        sent = made.send()
        for kind in ("normal", "pubsub"):
            made.witness.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        until(lambda: operator("ask")["workers"].get(NODE) == {"paused": {"mail": 0}})
        worker.terminate()
        assert worker.wait() == 0, worker.log

        again = made.worker(pool, again=True)
        time.sleep(1.5)
        assert made.queued().keys() == {sent}
        assert not made.ledger.begun
        operator("resume", "worker:w")
        until(lambda: made.ledger.ended)
        assert "queue mail is consumed again" in again.log


@pytest.mark.long
def test_a_worker_that_missed_the_command_notices(tmp_path: Path) -> None:
    with shop(tmp_path, ATOMIC) as made:
        worker = made.worker("threads")
        made.witness.hset(PAUSES, *pauses.Pause("all", time.time(), "ana", "").entry)
        until(lambda: "queue mail is paused" in worker.log, 45)


@pytest.mark.slow
def test_a_worker_without_the_right_consumes(tmp_path: Path) -> None:
    """Its Redis user has older rights until site.yml has run."""
    with shop(tmp_path, ATOMIC) as made, operating(made) as operator:
        made.witness.execute_command("ACL", "SETUSER", "worker", "-hgetall")
        worker = made.worker("prefork")
        sent = made.send()
        until(lambda: made.ledger.ended[sent])
        assert "the pauses can't be read" in worker.log
        assert "Traceback" not in worker.log
        why_not = operator("pause", "queue:mail")["workers"][NODE]["why_not"]
        assert why_not.startswith("the pauses can't be read: ")


@pytest.mark.slow
def test_damaged_pauses_end_no_worker_and_a_new_queue_is_paused(tmp_path: Path) -> None:
    with shop(tmp_path, ATOMIC) as made, operating(made) as operator:
        made.witness.hset(
            PAUSES, mapping={"queue:bulk": "[" * 100_000, "queue:x": b"\xff", "what": "{}"}
        )
        worker = made.worker("threads")
        assert operator("ask")["workers"][NODE] == {"paused": {}}
        # Adding a queue by remote control does not consider pauses.
        with control(made) as remote:
            remote.add_consumer("bulk", reply=True, timeout=10)
        sent = made.send(queue="bulk")
        time.sleep(1.0)
        assert not made.ledger.begun
        assert operator("resume", "queue:bulk", "queue:x")["pauses"] == []
        until(lambda: made.ledger.ended[sent])
        assert "Traceback" not in worker.log


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_canary_runs_on_a_paused_worker(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made, operating(made) as operator:
        operator("pause", "all")
        made.worker(pool)
        waits = made.send()
        item = json.loads(made.witness.lindex("mail", 0))
        item["headers"].update(task="celery_fleet.canary", id="canary")
        item["properties"].update(correlation_id="canary")
        item["body"] = "W1tdLCB7fSwge31d"  # [[], {}, {}]
        made.witness.lpush(f"{NODE}.dq2", json.dumps(item))
        until(lambda: not made.witness.llen(f"{NODE}.dq2"))
        assert made.queued().keys() == {waits}
