"""Real workers and a beat of each minor of Celery, with the rights that the roles give them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.settings import (
    KNOWN,
)
from celery import chord

from celery_fleet.compat import versions
from celery_fleet.config.settings import parse
from celery_fleet.ops.monitoring import Listener, Tally
from tests.fleet import NODE, ROOT, Fleet, client, running, wait_for
from tests.follow_ups import survives
from tests.unit.delivery import counting
from tests.unit.delivery.worker_group import message
from tests.unit.delivery.workers import working

from .environments import Environment, here, interpreter, made, missing, wanted

#: Seconds that an event may take on a busy machine.
PATIENCE = 120.0

DELIVERY = {
    "profile": "at_least_once",
    **dict.fromkeys(("lease", "hand_back", "carry", "outage", "dead_letters"), True),
    "fetch": "atomic",
}
#: Options as the roles write them with that promise.
PROMISED = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "task_retry_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
}
#: Tasks in addition to those of all tests.
MORE = """
import os
from pathlib import Path
from shop import add, app

@app.task(name="shop.grow", bind=True)
def grow(self):
    self.add_to_chord(add.si(1, 1))
    return 1

@app.task(name="shop.total")
def total(numbers):
    return sum(numbers)

@app.task(name="shop.deadly_once", default_retry_delay=0)
def deadly_once(name):
    first = not Path(name).exists()
    with open(name, "a") as file:
        file.write("begun\\n")
    if first:
        os.kill(os.getpid(), 9)
    return "lives"
"""

#: A scheduler with entries of which the next run can't be calculated; prints what it did in a few seconds.
TICKS = """
import logging
import time
from celery import Celery
from celery.beat import Scheduler
from celery.schedules import crontab, schedule
from celery_fleet.beat import steps
from celery_fleet.supervision.notify import Notifier

logging.basicConfig()

class Never(crontab):
    def remaining_estimate(self, last_run_at):
        raise RuntimeError("unable to rollover to time metadata")

app = Celery("shop", broker="memory://", set_as_current=False)
times = {"often": schedule(1), "never": Never(), "long": schedule(3_000_000 * 86_400), "rare": schedule(3)}
app.conf.beat_schedule = {name: {"task": "t", "schedule": time} for name, time in times.items()}
steps.install(app, Notifier(None), print)
scheduler = Scheduler(app, max_interval=2)
sent = []
scheduler.apply_entry = lambda entry, **_: sent.append(entry.name)
began, waited = time.monotonic(), 0.0
# A pause counts as it was asked for, however much longer it is on a busy machine.
while waited < 8:
    pause = max(0, scheduler.tick())
    time.sleep(pause)
    waited += pause
print(*(sent.count(name) for name in times), time.monotonic() - began)
"""

long = pytest.mark.long
each = pytest.mark.parametrize("environment", here(), ids=str)


def test_every_minor_is_tested_and_a_missing_python_is_reported() -> None:
    assert {one.celery for one in wanted()} == set(versions.CELERY)
    absent = {one.python for one in wanted() if interpreter(one.python) is None}
    assert len(missing()) == len(absent)
    assert {str(one) for one in here()} == {
        str(one) for one in wanted() if one.python not in absent
    }


@long
@each
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_what_tasks_send_survives_an_outage(
    tmp_path: Path, environment: Environment, fault: str
) -> None:
    cold = ("-P", "prefork", "-c", "10", "--max-tasks-per-child", "1")
    survives(tmp_path, fault, 12, *cold, store=True, python=str(made(environment)))


@contextmanager
def fleet(
    directory: Path, environment: Environment, *more: str, **delivery: Any
) -> Iterator[Fleet]:
    (directory / "more.py").write_text(MORE)
    options = ("-P", "prefork", "-l", "INFO", "-Q", f"mail,{NODE}.dq2", "-I", "more", *more)
    python = str(made(environment))
    settings = {**PROMISED, "task_track_started": True}
    with running(
        directory,
        *options,
        delivery=delivery,
        celery=settings,
        python=python,
        remote_control=True,
    ) as one:
        wait_for(lambda: "ready." in one.log(), PATIENCE)
        yield one


def installed(python: Path) -> dict[str, str]:
    code = "import json; from celery_fleet.compat import versions; print(json.dumps(versions.installed()))"
    done = subprocess.run(
        [str(python), "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def probed(one: Fleet) -> dict[str, Any]:
    """Return the answer to the roles' own probe of the worker."""
    request = {
        "settings": one.settings("operator"),
        "nodes": {NODE: {"queues": ["mail"], "pid": one.processes["worker"].pid}},
        "timeout": 60,
    }
    done = subprocess.run(
        [one.python, "-m", "celery_fleet.ops.probe"],
        cwd=one.directory,
        env={**one.environment("operator"), "CELERY_FLEET_SETTINGS": ""},
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@long
@each
def test_preflight_knows_its_settings(environment: Environment) -> None:
    """The newest minor knows all settings, so no setting of an older one is refused."""
    code = "import json; from celery.app.defaults import DEFAULTS; print(json.dumps([*DEFAULTS]))"
    done = subprocess.run(
        [str(made(environment)), "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert set(json.loads(done.stdout)) <= set(KNOWN)


@long
@each
def test_beat_goes_on_without_an_entry_that_fails(environment: Environment) -> None:
    done = subprocess.run(
        [str(made(environment)), "-c", TICKS],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *counts, seconds = done.stdout.split()
    often, never, too_long, rare = map(int, counts)
    assert often >= 6
    assert rare >= 2
    assert never == too_long == 0
    # It tries them again every two seconds, and sleeps in between.
    tries = done.stderr.count("Cannot calculate the next run of")
    assert 8 <= tries <= 2 * (float(seconds) / 2 + 2)


@long
@each
def test_a_fleet_with_this_celery_works(tmp_path: Path, environment: Environment) -> None:
    """Tasks, results, a canary, a beat, a retry after a death, lost connections, a warm stop; each right is used."""
    found = installed(made(environment))
    assert versions.minor(found["celery"]) == environment.celery
    assert found["python"].startswith(f"{environment.python}.")
    assert versions.problems(dict(found)) == []
    with fleet(tmp_path, environment, **DELIVERY) as one:
        app = one.app()
        assert "delivery at_least_once: atomic fetch" in one.log()
        assert "as in stock Celery" not in one.log()
        assert app.send_task("shop.add", (2, 3)).get(timeout=PATIENCE) == 5

        parts = [
            app.signature("shop.grow", immutable=True),
            app.signature("shop.add", args=(3, 4), immutable=True),
        ]
        grown = chord(parts, app.signature("shop.total"), app=app).apply_async()
        assert grown.get(timeout=PATIENCE) == 10

        for user in ("operator", "producer"):
            assert "OK" in one.told("inspect", "ping", user=user)
        answer = probed(one)
        assert answer["ok"] is True, answer

        lost = app.send_task("shop.deadly_once", (str(tmp_path / "deadly"),))
        assert lost.get(timeout=PATIENCE) == "lives"
        assert (tmp_path / "deadly").read_text() == "begun\n" * 2

        client(one.ports["broker"], "admin").execute_command("CLIENT", "KILL", "USER", "worker")
        assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 9

        document = one.settings("beat")
        document["celery"]["beat_schedule"] = {
            "often": {"task": "shop.note", "interval": 1, "args": [7]}
        }
        (tmp_path / "own-beat.json").write_text(json.dumps(document))
        beat = one.start(
            *("celery", "-A", "shop", "beat", "-s", str(tmp_path / "schedule"), "-l", "INFO"),
            user="beat",
            CELERY_FLEET_SETTINGS=str(tmp_path / "own-beat.json"),
        )
        try:
            wait_for(lambda: one.ledger().count(7) >= 2, PATIENCE)
        finally:
            beat.terminate()
            assert beat.wait(PATIENCE) == 0, one.log("beat")

        # The task must have begun: tasks that have not are handed back to the next worker.
        last = app.send_task("shop.until", (str(tmp_path / "go"),))
        wait_for(lambda: last.state == "STARTED", PATIENCE)
        worker = one.processes["worker"]
        worker.send_signal(signal.SIGTERM)
        wait_for(lambda: "drain: 1 tasks running" in one.log(), PATIENCE)
        (tmp_path / "go").touch()
        assert worker.wait(PATIENCE) == 0, one.log()
        assert last.get(timeout=5) is None
        assert one.refused() == []


class Heard(Tally):
    """Counts all events of tasks by type, and notes that any event has come."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: Counter[str] = Counter()
        self.any = threading.Event()

    def event(self, event: Mapping[str, Any]) -> None:
        self.any.set()
        if event["type"].startswith("task-"):
            self.tasks[event["type"]] += 1


@long
@each
def test_task_events_arrive(tmp_path: Path, environment: Environment) -> None:
    """The test listens like `celery-fleet monitor` and Flower."""
    heard = Heard()
    with fleet(tmp_path, environment, "-E", **DELIVERY) as one:
        listener = Listener(parse(one.settings("operator"), "operator"), heard)
        listener.start()
        try:
            assert heard.any.wait(PATIENCE)  # a worker's heartbeat
            for number in range(20):
                one.app().send_task("shop.note", (number,), ignore_result=True)
            expected = dict.fromkeys(("task-received", "task-started", "task-succeeded"), 20)
            wait_for(lambda: heard.tasks == expected, PATIENCE)
        finally:
            listener.stop()


@long
@each
@pytest.mark.parametrize("events", [(), ("-E",)], ids=["no-events", "events"])
def test_its_workers_count_every_end_of_a_task(
    tmp_path: Path, environment: Environment, events: tuple[str, ...]
) -> None:
    with working(tmp_path, str(made(environment))) as workers:
        found = counting.run_everything(workers, "-P", "prefork", "-c", "4", *events)
    counting.check(found, prefork=True)


@long
@each
def test_its_workers_report_what_they_hold(tmp_path: Path, environment: Environment) -> None:
    with working(tmp_path, str(made(environment))) as workers:
        counting.hold(workers)


@long
@each
def test_the_stock_fetch_works(tmp_path: Path, environment: Environment) -> None:
    """It needs rights for its own commands: minors look for overdue messages in different ways."""
    with fleet(tmp_path, environment, profile="at_least_once") as one:
        app = one.app()
        assert "delivery at_least_once: stock fetch" in one.log()
        for number, body in enumerate(([[], {}, {}, 1], 7, "text", None, {"args": 5})):
            sent = message(f"bad-{number}", body=b"null" if body is None else body)
            client(one.ports["broker"], "worker").lpush("mail", json.dumps(sent))
        assert app.send_task("shop.add", (2, 3)).get(timeout=PATIENCE) == 5
        lost = app.send_task("shop.deadly_once", (str(tmp_path / "deadly"),))
        assert lost.get(timeout=PATIENCE) == "lives"
        client(one.ports["broker"], "admin").execute_command("CLIENT", "KILL", "USER", "worker")
        assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 9
        assert "malformed message of task shop.add[bad-0] dropped" in one.log()
        assert one.processes["worker"].poll() is None
        assert one.refused() == []


#: Tests that are also run with each Celery. They are about what minors do in different ways: lost connections, kills,
#: time limits, and messages that wait for their time, for a process or for Redis.
ALSO = (
    "fetch/test_workers.py::test_lost_connections_lose_nothing",
    "fetch/test_workers.py::test_a_worker_that_is_killed_loses_nothing",
    "fetch/test_at_most_once.py::test_a_stop_loses_no_task_that_waits_in_the_pool",
    "fetch/test_at_most_once.py::test_a_task_whose_acknowledgement_is_refused_begins_later",
    "fetch/test_at_most_once.py::test_a_lost_connection_drops_no_task_that_waits_in_the_pool",
    "outage/test_workers.py::test_a_result_arrives_although_the_connection_is_lost_in_the_middle_of_it",
    "outage/test_workers.py::test_a_task_with_an_eta_comes_back_at_once_and_runs_once",
    "outage/test_workers.py::test_without_carry_time_limits_outlast_a_lost_connection",
    "outage/test_workers.py::test_without_carry_time_limits_hold_while_the_broker_is_away",
    "outage/test_sending.py::test_a_time_limit_that_passes_meanwhile_puts_the_task_back",
    "outage/test_sending.py::test_a_soft_limit_that_passes_before_a_callback_is_sent_is_no_failure",
    "outage/test_sending.py::test_follow_ups_that_need_the_result_store_wait_for_it",
    "outage/test_sending.py::test_a_chord_that_a_process_claimed_before_it_was_killed_gets_its_body",
    "test_drain_pools.py::test_a_task_whose_time_comes_after_it_went_back_does_not_run",
)


@long
@each
@pytest.mark.parametrize("test", ALSO, ids=lambda test: test.partition("::test_")[2])
def test_what_minors_do_in_different_ways(environment: Environment, test: str) -> None:
    done = subprocess.run(
        [
            *(str(made(environment)), "-m", "pytest", "-q", "--tb=native"),
            *("-p", "no:cacheprovider"),
            *("-o", "addopts=--import-mode=importlib", f"tests/unit/delivery/{test}"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "skipped" not in done.stdout


RETURNING = """
from celery_fleet.compat import redis_pools
from redis import ConnectionPool

for _ in range(2):
    redis_pools.install()
pool = ConnectionPool()
# As the garbage collector does while a connection is made.
with pool._lock:
    pool.release(pool.make_connection())
"""


@long
@each
def test_a_pool_takes_a_connection_back_while_it_makes_one(environment: Environment) -> None:
    subprocess.run(
        [str(made(environment)), "-c", RETURNING],
        env={"PYTHONPATH": str(ROOT / "src")},
        timeout=60,
        check=True,
    )
