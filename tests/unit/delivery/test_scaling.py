"""A real worker grows and shrinks: under a burst by its option `autoscale`, and because an operator says so."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common.pool_sizes import PoolSize
from celery_fleet.config.settings import parse
from celery_fleet.delivery.keys import POOL_SIZES, SENT
from celery_fleet.ops import pool_sizes as answers
from celery_fleet.ops import replies
from celery_fleet.ops.app import make_app
from tests.unit.delivery.pools import ATOMIC, NOTHING, SLOTS, Shop, Worker, shop, until
from tests.unit.delivery.test_drain_pools import control

NODE = "w@test"
#: At most SHOP_FORKS processes start, and none while there is a file `refused`, which counts the attempts.
LIMITED = """
forks, fork = [], os.fork
def limited_fork():
    if os.path.exists("refused"):
        with open("refused", "a") as file:
            file.write("!")
    elif len(forks) < int(os.environ["SHOP_FORKS"]):
        forks.append(fork())
        return forks[-1]
    raise OSError(int(os.environ["SHOP_ERRNO"]), "no fork")
os.fork = limited_fork
# On a busy machine Celery would replace processes that take long to start.
app.conf.worker_proc_alive_timeout = 60
"""
AUTOSCALE = {"CELERY_FLEET_AUTOSCALE": json.dumps({"min": SLOTS, "max": 6, "wait": 1})}
#: Both ways of fetching; only `make test-all` has both.
DELIVERIES = pytest.mark.parametrize(
    "delivery", [pytest.param(None, marks=pytest.mark.long), ATOMIC], ids=["stock", "atomic"]
)
BUSY = r"at most \d were busy in the last 10 s"
RESIZED = re.compile(r"pool (\d+) → (\d+) processes: (.*)")


def stats(made: Shop) -> dict[str, Any]:
    """What the worker says of itself; on a busy machine an answer may be late."""
    answers: list[Any] = []
    with control(made) as remote:
        asked = remote.inspect([NODE], timeout=5)
        until(lambda: answers.append(asked.stats()) or answers[-1])
    return dict(answers[-1][NODE])


def resized(log: str) -> list[tuple[int, int, str]]:
    return [(int(before), int(after), why) for before, after, why in RESIZED.findall(log)]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer may be late."""
    monkeypatch.setattr(replies, "WAIT", 10.0)


@pytest.mark.slow
@DELIVERIES
def test_a_burst_is_worked_off_by_more_processes_which_end_afterwards(
    tmp_path: Path, delivery: dict[str, Any] | None
) -> None:
    with shop(tmp_path, delivery) as made:
        worker = made.worker("prefork", SHOP_LATE="yes", SHOP_MULTIPLIER="1", **AUTOSCALE)
        kinds = [("held", 0.0)] * 6 + [("work", 0.5)] * 144
        sent = [made.send(*kind, headers={SENT: time.time()}) for kind in kinds]
        until(lambda: len(resized(worker.log)) == 3)
        found = stats(made)
        assert found["pool"]["max-concurrency"] == len(found["pool"]["processes"]) == 6
        assert found["prefetch_count"] == 6
        made.go()
        until(lambda: len(made.ledger.ended) == len(sent))

        until(lambda: resized(worker.log)[-1][1] == SLOTS)
        steps = resized(worker.log)
        assert [step[:2] for step in steps[:3]] == [(2, 3), (3, 5), (5, 6)]
        assert all(re.fullmatch(r"the oldest task has waited \d+ s", step[2]) for step in steps[:3])
        # To what its last tasks need, then to the least.
        assert len(steps) <= 5
        assert all(re.fullmatch(BUSY, after) and to < was for was, to, after in steps[3:])
        until(lambda: len(stats(made)["pool"]["processes"]) == SLOTS)
        assert stats(made)["prefetch_count"] == SLOTS
        sent += [made.send() for _ in range(20)]
        until(lambda: len(made.ledger.ended) == len(sent))
        assert made.account(sent) == NOTHING, worker.log
        assert "Traceback" not in worker.log
        assert made.fleet.refused() == []


class Scaler:
    """Whoever scales the worker, with the operator's rights."""

    def __init__(self, made: Shop) -> None:
        self._app = make_app(parse(made.fleet.settings("operator"), "settings"))
        self._made = made

    def __call__(self, do: str, processes: int | None = None) -> dict[str, Any]:
        request = {"do": do, "processes": processes, "by": "ana", "why": "tests"}
        return answers.answer(self._app, {**request, "nodes": [NODE], "expected": [NODE]})

    def close(self) -> None:
        self._app.close()

    def until(self, processes: int) -> None:
        until(lambda: len(stats(self._made)["pool"]["processes"]) == processes)


@contextmanager
def scaling(made: Shop) -> Iterator[Scaler]:
    scaler = Scaler(made)
    yield scaler
    scaler.close()


@pytest.mark.slow
@DELIVERIES
def test_a_worker_with_running_tasks_is_scaled_and_stays_so(
    tmp_path: Path, delivery: dict[str, Any] | None
) -> None:
    with shop(tmp_path, delivery) as made, scaling(made) as scale:
        worker = made.worker("prefork", SHOP_LATE="yes")
        sent = [made.send("held") for _ in range(9)]
        until(lambda: made.ledger.begun)
        found = scale("set", 5)
        assert found["refused"] == {}
        assert found["before"][NODE]["processes"] == SLOTS
        scale.until(5)
        (kept,) = found["sizes"]
        assert (kept["inventory"], kept["by"], kept["why"]) == (str(SLOTS), "ana", "tests")
        until(lambda: len(made.ledger.begun) - len(made.ledger.ended) == 5)
        # Five tasks run, and one process stays.
        reply = scale("set", 1)["workers"][NODE]
        assert (reply["inventory"], reply["ordered"]) == (str(SLOTS), 1)
        until(lambda: "pool 5 → 1 processes: 1 is allowed" in worker.log)
        made.go()
        scale.until(1)
        sent += [made.send() for _ in range(5)]
        until(lambda: len(made.ledger.ended) == len(sent))
        assert made.account(sent) == NOTHING, worker.log
        assert "scaled to 5 by ana since " in worker.log
        worker.terminate()
        assert worker.wait() == 0

        again = made.worker("prefork", again=True)
        scale.until(1)
        found = scale("reset")
        assert (found["changed"], found["sizes"]) == ([NODE], [])
        scale.until(SLOTS)
        assert "it was reset" in again.log
        assert scale("reset")["changed"] == []
        for log in (worker.log, again.log):
            assert "Traceback" not in log
            assert "exited with" not in log
        assert made.fleet.refused() == []


@pytest.mark.slow
def test_a_worker_that_autoscales_is_scaled_too(tmp_path: Path) -> None:
    with shop(tmp_path, ATOMIC) as made, scaling(made) as scale:
        made.worker("prefork", **AUTOSCALE)
        found = scale("set", 4)
        assert found["sizes"][0]["inventory"] == "2 to 6"
        scale.until(4)
        # Calm for longer than after which it would shrink.
        time.sleep(12)
        scale.until(4)
        assert scale("reset")["workers"][NODE]["highest"] == 6


@pytest.mark.slow
def test_a_change_of_the_inventory_ends_it(tmp_path: Path) -> None:
    with shop(tmp_path, ATOMIC) as made:
        size = PoolSize(NODE, 5, "3", time.time(), "ana")
        made.witness.hset(POOL_SIZES, *size.entry)
        other = PoolSize("w@other", 5, "3", time.time(), "ana")
        made.witness.hset(POOL_SIZES, *other.entry)
        worker = made.worker("prefork")
        assert f"no longer {size.words}: the inventory says {SLOTS} now" in worker.log
        assert made.witness.hkeys(POOL_SIZES) == [b"w@other"]
        assert len(stats(made)["pool"]["processes"]) == SLOTS


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_are_refused(tmp_path: Path, pool: str) -> None:
    with shop(tmp_path, ATOMIC) as made, scaling(made) as scale:
        made.worker(pool)
        stats(made)  # gevent's worker logs that it is ready before it hears remote control
        found = scale("set", 5)
        why = f"its pool is {pool}, and only prefork can start and end processes"
        assert found["refused"] == {NODE: why}
        assert (found["changed"], found["sizes"]) == ([], [])


@pytest.mark.slow
def test_a_worker_without_an_answer_or_a_right_is_refused(tmp_path: Path) -> None:
    with shop(tmp_path, ATOMIC) as made, scaling(made) as scale:
        assert scale("set", 5)["refused"] == {NODE: "it does not answer"}
        made.witness.execute_command("ACL", "SETUSER", "worker", "-hgetall")
        made.witness.execute_command("ACL", "SETUSER", "worker", "-lrange")
        worker = made.worker("prefork", **AUTOSCALE)
        why = scale("set", 5)["refused"][NODE]
        assert why.startswith("the pool sizes can't be read: ")
        until(lambda: "the wait of the oldest task is not known" in worker.log)
        sent = made.send()
        until(lambda: made.ledger.ended[sent])
        assert "Traceback" not in worker.log


#: The kernel refuses a fork, as at `tasks_max` and without memory.
ERRORS = pytest.mark.parametrize(
    "number", [errno.EAGAIN, errno.ENOMEM], ids=["tasks_max", "memory"]
)


@contextmanager
def limited(directory: Path, number: int, forks: int, more: str) -> Iterator[tuple[Shop, Worker]]:
    with shop(directory, ATOMIC) as made:
        with (directory / "shop.py").open("a") as source:
            source.write(LIMITED + more)
        environ = {"SHOP_FORKS": str(forks), "SHOP_ERRNO": str(number)}
        yield made, made.worker("prefork", SHOP_LATE="yes", **environ)


@pytest.mark.slow
@ERRORS
def test_a_system_that_starts_no_process(tmp_path: Path, number: int) -> None:
    with limited(tmp_path, number, 4, "") as (made, worker), scaling(made) as scale:
        scale("set", 8)
        scale.until(4)
        until(lambda: "the pool could not grow to 8: " in worker.log)
        assert scale("set", 8)["workers"][NODE]["missing"]
        sent = [made.send(seconds=0.1) for _ in range(20)]
        until(lambda: len(made.ledger.ended) == len(sent))
        assert made.account(sent) == NOTHING, worker.log
        # Its answer does not repeat what the earlier size lacked.
        assert scale("set", 1)["workers"][NODE]["processes"] == 1


def pipes(worker: Worker) -> int:
    found = 0
    for opened in Path(f"/proc/{worker.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # just closed
            found += str(opened.readlink()).startswith("pipe:")
    return found


@pytest.mark.slow
@ERRORS
def test_a_process_that_is_not_replaced_ends_no_other_task(tmp_path: Path, number: int) -> None:
    refused = tmp_path / "refused"
    each_once = "app.conf.worker_max_tasks_per_child = 1"
    with limited(tmp_path, number, 99, each_once) as (made, worker):
        held = made.send("held")
        until(lambda: made.ledger.begun[held])
        refused.touch()
        sent = [made.send()]
        until(refused.read_text)
        # It is logged once what the first attempt had opened is closed.
        until(lambda: "and no other starts: " in worker.log)
        opened = pipes(worker)
        # Two more attempts, by the pool's timer.
        until(lambda: len(refused.read_text()) >= 3)
        # The last one may be under way; what one leaves open stays open.
        until(lambda: pipes(worker) <= opened)
        # A new connection looks at all processes of the pool.
        made.witness.execute_command("CLIENT", "KILL", "USER", "worker")
        until(lambda: "connection to broker lost" in worker.log)
        sent += [made.send() for _ in range(5)]
        assert len(stats(made)["pool"]["processes"]) == SLOTS - 1

        refused.unlink()
        until(lambda: len(made.ledger.ended) == len(sent))
        until(lambda: len(stats(made)["pool"]["processes"]) == SLOTS)
        made.go()
        until(lambda: made.ledger.ended[held])
        assert made.account([held, *sent]) == NOTHING, worker.log
        assert worker.log.count("1 of the pool's 2 processes run, and no other starts: ") == 1
        assert worker.log.count("all processes of the pool run again") == 1
        assert worker.log.count("connection to broker lost") == 1
        assert "Traceback" not in worker.log


@pytest.mark.slow
def test_a_worker_whose_pool_stays_empty_ends_and_keeps_its_tasks(tmp_path: Path) -> None:
    more = """
app.conf.worker_max_tasks_per_child = 1
from celery_fleet.compat import pool_size
pool_size.EMPTY = 6
"""
    refused = tmp_path / "refused"
    with limited(tmp_path, errno.EAGAIN, 99, more) as (made, worker):
        refused.touch()
        sent = [made.send(seconds=0.1) for _ in range(10)]
        until(lambda: len(made.ledger.ended) == SLOTS)
        assert worker.wait() == 0, worker.log
        assert "the worker ends, because its pool has no process, and none starts" in worker.log
        # systemd starts it again.
        refused.unlink()
        worker = made.worker("prefork", again=True, SHOP_LATE="yes", SHOP_FORKS="99")
        until(lambda: len(made.ledger.ended) == len(sent))
        assert made.account(sent) == NOTHING, worker.log
