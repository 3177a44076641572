"""Tasks that raise what is no Exception, with a real worker of each pool: the same happens to them in all pools."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import wait_for
from tests.unit.delivery.worker_group import PATIENCE, WorkerGroup, is_empty, message, worker_group

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[WorkerGroup]:
    with worker_group(tmp_path) as made:
        yield made
        assert made.refused() == []


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_a_task_that_raises_no_exception_ends(fleet: WorkerGroup, pool: str) -> None:
    worker = fleet.worker("a", "-P", pool, "-c", "1", deaths=2, failed=100)
    fleet.send(
        *(message(name, f"shop.{name}", [[], {}, {}]) for name in ("exits", "cancelled")),
        message("exits_early", "shop.exits_early", [[], {}, {}]),
        message("good"),
    )
    letters = fleet.letters(2)
    fleet.heard("add", "good")
    fleet.heard(
        "signal-failure",
        *("exits WorkerLostError", "exits_early WorkerLostError", "cancelled CancelledError"),
    )
    wait_for(lambda: is_empty(fleet.look, "mail", "unacked", "unacked_index"), PATIENCE)
    # The exit counts as the death of a process, so the task is retried once.
    assert {name: one.reason for name, one in letters.items()} == {
        "exits": "poison",
        "cancelled": "failed",
    }
    assert fleet.said("exits") == ["exits"] * 2
    assert "Worker exited prematurely: exitcode 3" in letters["exits"].detail
    for name in ("exits_early", "cancelled"):
        assert fleet.said(name) == [name]
        assert fleet.result(name)["status"] == "FAILURE"
    wait_for(lambda: fleet.result("exits")["status"] == "FAILURE", PATIENCE)
    # None of them keeps a slot of the pool or the drain from its end.
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert "Traceback" not in fleet.log("a").partition("drain:")[2]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_with_at_most_once_it_runs_once_and_fails(fleet: WorkerGroup, pool: str) -> None:
    late = {"task_acks_late": False, "task_retry_on_worker_lost": False}
    worker = fleet.worker("a", "-P", pool, "-c", "1", profile="at_most_once", celery=late)
    fleet.send(message("exits", "shop.exits", [[], {}, {}]), message("good"))
    fleet.heard("signal-failure", "exits WorkerLostError")
    fleet.heard("add", "good")
    assert fleet.result("exits")["status"] == "FAILURE"
    assert fleet.said("exits") == ["exits"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0
    assert is_empty(fleet.look, "mail", "unacked", "unacked_index")
