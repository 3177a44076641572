"""Real workers that are killed, and the program of their unit after them."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters import letters as dead_letters
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.delivery.hand_back.worker_record import WorkerRecord
from celery_fleet.system import hand_back
from scripts.restarts import origin
from tests.fleet import Fleet, client, running, wait_for

PROGRAM = Path(hand_back.__file__)
QUEUE = "bulk"

LEDGER = """
import os, time
from pathlib import Path
from celery import Celery

app = Celery("shop")

def write(text):
    # One write, so that lines of several processes don't mix.
    file = os.open("ledger.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{text}\\n".encode())
    os.close(file)

@app.task(name="note")
def note(number, seconds):
    write(f"begin {number}")
    time.sleep(seconds)
    write(f"end {number}")

@app.task(name="hold")
def hold(name):
    write(f"begin {name}")
    while not Path("release").exists():
        time.sleep(0.02)
    write(f"end {name}")

@app.task(name="early", acks_late=False)
def early(name):
    hold(name)

@app.task(name="poison")
def poison():
    os.kill(os.getpid(), 9)

@app.task(name="kills_worker")
def kills_worker(in_child):
    write("begin poison")
    time.sleep(0.5)
    os.kill(os.getppid() if in_child else os.getpid(), 9)
"""

DELIVERY: dict[str, Any] = {
    "profile": "at_least_once",
    "fetch": "atomic",
    "hand_back": True,
    "dead_letters": True,
    # The task at the head of its queue may run at each of the kills below.
    "deaths": 100,
}
SETTINGS: dict[str, Any] = {
    "task_acks_late": True,
    "worker_prefetch_multiplier": 4,
    "task_ignore_result": True,
}


class Workers:
    """Workers of the test's application, one after another, as a unit would start them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.runs = Path(tempfile.mkdtemp(dir=fleet.directory))
        self.started: list[subprocess.Popen[bytes]] = []
        self.broker = client(fleet.ports["broker"], "worker")
        self.app = fleet.app()

    def clear(self) -> None:
        for name in ("ledger.txt", "release"):
            (self.fleet.directory / name).unlink(missing_ok=True)
        self.broker.delete(
            *(QUEUE, "unacked", "unacked_index", keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX)
        )

    def start(self, *options: str, there: bool = True) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a worker; return it with its runtime directory, which was emptied."""
        directory = self.runs / str(len(self.started))
        if there:
            directory.mkdir()
        argv = ("-A", "ledger", "worker", "-n", "bulk@test", "-Q", QUEUE, "-l", "WARNING")
        worker = self.fleet.start(
            "celery", *argv, "--without-mingle", *options, RUNTIME_DIRECTORY=str(directory)
        )
        self.started.append(worker)
        return worker, directory

    def kill(self, worker: subprocess.Popen[bytes], directory: Path) -> None:
        """Kill a worker, and wait until its pool has ended, too: on a busy machine that takes longer than GONE."""
        worker.kill()
        worker.wait(30)
        os.close(worker_record.hold_exclusively(directory, wait=60))

    def hand_back(self, directory: Path) -> str:
        """Run the unit's ExecStopPost= and return its output."""
        done = subprocess.run(
            [
                *("/usr/bin/python3", "-S", "-I", str(PROGRAM), "--user", "root"),
                *("--settings", str(self.fleet.directory / "worker.json")),
                *("--directory", str(directory)),
                *("--counts", str(self.runs / "counts.json")),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def send(self, task: str, *args: Any) -> None:
        self.app.send_task(task, args, queue=QUEUE, ignore_result=True)

    def ledger(self, what: str) -> list[str]:
        path = self.fleet.directory / "ledger.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]

    def queued(self) -> int:
        return int(self.broker.llen(QUEUE))

    def held(self) -> list[str]:
        """Return the tags that workers of the test hold."""
        tags = [tag.decode() for tag in self.broker.zrange("unacked_index", 0, -1)]
        return [tag for tag in tags if tag.startswith("bulk@test/")]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Run a fleet whose own worker consumes another queue."""
    directory = tmp_path_factory.mktemp("fleet")
    (directory / "ledger.py").write_text(LEDGER)
    with running(directory, delivery=dict(DELIVERY), celery=SETTINGS) as made:
        yield made


@pytest.fixture
def bulk(fleet: Fleet) -> Iterator[Workers]:
    made = Workers(fleet)
    try:
        yield made
    finally:
        for worker in made.started:
            if worker.poll() is None:
                worker.kill()
            worker.wait(30)
        made.clear()
    assert fleet.refused() == []


@pytest.mark.slow
def test_killed_at_random_moments_under_load_nothing_is_lost(bulk: Workers) -> None:
    chance = random.Random(20)  # noqa: S311  # no secret
    sent = 0
    seconds: list[float] = []
    handed = 0
    for _ in range(6 if origin.is_soak() else 3):
        before = len(bulk.ledger("begin"))
        worker, directory = bulk.start("-P", "prefork", "-c", "2")
        for _ in range(40):
            bulk.send("note", sent, chance.choice((0.0, 0.01, 0.05, 0.2)))
            sent += 1
        wait_for(lambda before=before: len(bulk.ledger("begin")) > before, 60)
        time.sleep(chance.uniform(0, 1))
        killed = time.monotonic()
        bulk.kill(worker, directory)
        said = bulk.hand_back(directory)
        seconds.append(time.monotonic() - killed)
        assert bulk.held() == [], said
        # All tasks that have not ended are in the queue, and no task is anywhere else.
        missing = {str(n) for n in range(sent)} - set(bulk.ledger("end"))
        assert bulk.queued() >= len(missing)
        handed += "handed back" in said
    print("from kill to back in the queue:", sorted(round(one, 3) for one in seconds))
    assert handed
    assert max(seconds) < 20

    worker, directory = bulk.start("-P", "prefork", "-c", "4")
    wait_for(lambda: not bulk.queued() and not bulk.held(), 120)
    worker.terminate()
    worker.wait(60)

    ends = Counter(bulk.ledger("end"))
    assert set(ends) == {str(number) for number in range(sent)}
    # Tasks may run twice if they ended and their process died before the acknowledgement: at most two at each kill.
    assert sum(ends.values()) - len(ends) <= 2 * 6
    assert bulk.hand_back(directory) == "<7>nothing was left to hand back\n"


@pytest.mark.long
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_each_pool_records_begun_tasks_and_removes_ended_ones(bulk: Workers, pool: str) -> None:
    worker, directory = bulk.start("-P", pool, "-c", "2")
    bulk.send("note", "first", 0)
    wait_for(lambda: "first" in bulk.ledger("end"), 60)
    # Its acknowledgement frees its slot.
    wait_for(lambda: not bulk.held() and not worker_record.read_begun(directory))
    bulk.send("hold", "second")
    wait_for(lambda: "second" in bulk.ledger("begin"), 60)
    record = WorkerRecord.read(directory)
    assert record is not None
    assert (record.node, record.lease, record.deaths) == ("bulk@test", 3600, 100)
    (tag,) = wait_for_one(bulk)
    assert record.owner.holds(tag)
    wait_for(lambda: worker_record.read_begun(directory) == {int(tag.rpartition("/")[2], 16)})
    assert (directory / worker_record.BEGUN).stat().st_size == worker_record.SLOT

    bulk.kill(worker, directory)
    assert bulk.hand_back(directory) == "<6>handed back 1 task, 1 of them had begun\n"

    (bulk.fleet.directory / "release").touch()
    worker, directory = bulk.start("-P", pool, "-c", "2")
    wait_for(lambda: bulk.ledger("end") == ["first", "second"], 60)
    wait_for(lambda: not bulk.held())
    wait_for(lambda: worker_record.read_begun(directory) == frozenset())
    worker.terminate()
    worker.wait(60)
    assert bulk.hand_back(directory) == "<7>nothing was left to hand back\n"


def wait_for_one(bulk: Workers) -> list[str]:
    wait_for(lambda: len(bulk.held()) == 1, 30)
    return bulk.held()


@pytest.mark.long
def test_a_task_that_is_acknowledged_before_it_runs_is_not_recorded(bulk: Workers) -> None:
    worker, directory = bulk.start("-P", "threads", "-c", "2")
    bulk.send("early", "one")
    wait_for(lambda: bulk.ledger("begin") == ["one"], 60)
    wait_for(lambda: not bulk.held())
    assert worker_record.read_begun(directory) == frozenset()
    bulk.kill(worker, directory)
    assert bulk.hand_back(directory) == "<7>nothing was left to hand back\n"


@pytest.mark.long
def test_a_child_of_the_pool_also_holds_the_workers_lock(bulk: Workers) -> None:
    worker, directory = bulk.start("-P", "prefork", "-c", "1")
    bulk.send("hold", "one")
    wait_for(lambda: bulk.ledger("begin") == ["one"], 60)
    with pytest.raises(TimeoutError):
        worker_record.hold_exclusively(directory, wait=0)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    assert children
    lock = str(directory / worker_record.LOCK)
    for child in children:
        files = [os.readlink(one) for one in Path(f"/proc/{child}/fd").iterdir()]
        assert lock in files
    (bulk.fleet.directory / "release").touch()
    assert "is still alive" in bulk.hand_back(directory)
    assert len(bulk.held()) <= 1

    # The kernel ends the child with its parent; that frees the lock.
    bulk.kill(worker, directory)
    assert "is still alive" not in bulk.hand_back(directory)


@pytest.mark.long
def test_a_task_that_kills_its_worker_becomes_a_dead_letter(
    bulk: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk.fleet, "delivery", {**DELIVERY, "deaths": 2})
    bulk.send("poison")
    bulk.send("note", "after", 0)
    said = []
    for _ in range(2):
        worker, directory = bulk.start("-P", "threads", "-c", "1")
        assert worker.wait(60) == -9
        said.append(bulk.hand_back(directory))
    assert "1 of them had begun" in said[0]
    assert (
        "1 task moved to the dead letters, because the worker kept dying while they ran" in said[1]
    )
    (text,) = bulk.broker.execute_command("ZRANGE", keys.DEAD_LETTERS_INDEX, 0, -1)
    letter = dead_letters.DeadLetter.parse(bulk.broker.hget(keys.DEAD_LETTERS, text.decode()))
    assert (letter.task, letter.queue, letter.reason) == ("poison", QUEUE, "poison")

    bulk.start("-P", "threads", "-c", "1")
    wait_for(lambda: bulk.ledger("end") == ["after"], 60)


POOLS = [
    pytest.param("threads", "4", marks=pytest.mark.slow),
    pytest.param("prefork", "4", marks=pytest.mark.long),
    pytest.param("solo", "1", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("pool", "width"), POOLS)
def test_only_the_task_that_kills_its_worker_becomes_a_dead_letter(
    bulk: Workers, monkeypatch: pytest.MonkeyPatch, pool: str, width: str
) -> None:
    monkeypatch.setattr(bulk.fleet, "delivery", {**DELIVERY, "deaths": 3})
    innocents = {str(number) for number in range(6)}
    # Three of them run whenever the fourth kills their worker.
    for number in range(3):
        bulk.send("note", number, 4)
    bulk.send("kills_worker", pool == "prefork")
    for number in range(3, 6):
        bulk.send("note", number, 4)

    def over(worker: subprocess.Popen[bytes]) -> bool:
        return worker.poll() is not None or done()

    def done() -> bool:
        return set(bulk.ledger("end")) >= innocents and not bulk.held() and not bulk.queued()

    starts = 0
    while not done():
        starts += 1
        assert starts <= 8
        worker, directory = bulk.start("-P", pool, "-c", width)
        wait_for(lambda worker=worker: over(worker), 90)
        if worker.poll() is None:
            worker.terminate()
            worker.wait(60)
        # Its pool may still be ending.
        os.close(worker_record.hold_exclusively(directory, wait=60))
        bulk.hand_back(directory)
    (identity,) = bulk.broker.zrange(keys.DEAD_LETTERS_INDEX, 0, -1)
    letter = dead_letters.DeadLetter.parse(bulk.broker.hget(keys.DEAD_LETTERS, identity))
    assert letter.task == "kills_worker"
    assert bulk.ledger("begin").count("poison") <= 5


@pytest.mark.parametrize(("pool", "width"), POOLS)
def test_no_task_becomes_a_dead_letter_because_its_workers_are_killed(
    bulk: Workers, monkeypatch: pytest.MonkeyPatch, pool: str, width: str
) -> None:
    monkeypatch.setattr(bulk.fleet, "delivery", {**DELIVERY, "deaths": 3})
    for number in range(120):
        bulk.send("note", number, 0.2)
    for _ in range(8):
        worker, directory = bulk.start("-P", pool, "-c", width)
        before = len(bulk.ledger("end"))
        wait_for(lambda before=before: len(bulk.ledger("end")) > before + 1, 60)
        bulk.kill(worker, directory)
        said = bulk.hand_back(directory)
        assert "dead letters" not in said
    worker, _ = bulk.start("-P", pool, "-c", width)
    wait_for(lambda: len(set(bulk.ledger("end"))) == 120, 90)
    assert bulk.broker.hlen(keys.DEAD_LETTERS) == 0
    worker.terminate()
    worker.wait(60)


@pytest.mark.long
def test_without_a_writable_directory_there_is_no_hand_back_and_tasks_run(
    bulk: Workers,
) -> None:
    worker, _ = bulk.start("-P", "threads", "-c", "1", there=False)
    bulk.send("note", "one", 0)
    wait_for(lambda: bulk.ledger("end") == ["one"], 60)
    assert "no hand-back: " in bulk.fleet.log()
    worker.terminate()
    worker.wait(60)


@pytest.mark.long
def test_a_worker_and_its_second_instance_only_hand_back_their_own_messages(bulk: Workers) -> None:
    """Both run on one host with separate runtime directories; here with the same node name, the harder case."""
    first, own = bulk.start("-P", "threads", "-c", "1")
    bulk.send("hold", "first")
    wait_for(lambda: bulk.ledger("begin") == ["first"], 60)
    _, other = bulk.start("-P", "threads", "-c", "1")
    first.kill()
    first.wait(30)
    assert "handed back 1 task, 1 of them had begun" in bulk.hand_back(own)
    # The other instance lives, and fetches it.
    wait_for(lambda: bulk.ledger("begin") == ["first", "first"], 60)
    assert "is still alive" in bulk.hand_back(other)
    (tag,) = wait_for_one(bulk)
    record = WorkerRecord.read(other)
    assert record is not None
    assert record.owner.holds(tag)
