"""Messages that a task sends at its end while Redis is away: real workers, in processes that have never published."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu import Connection, Producer, Queue
from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel
from redis import exceptions as redis_errors
from redis.connection import DefaultParser

from celery_fleet.common import identity
from celery_fleet.delivery.outage import sending
from celery_fleet.delivery.outage.away import is_away
from celery_fleet.delivery.outage.breaker import BrokerAwayError
from celery_fleet.delivery.outage.results import ShutdownDeadline
from celery_fleet.delivery.outage.sending import PatientProducer
from celery_fleet.delivery.outage.shared_memory import PREFIX
from scripts.ports import free_port
from scripts.restarts import origin
from tests import outage
from tests.follow_ups import DELIVERY, SHOP, away, send, settled, survives
from tests.outage import ROOT, Server, Worker, wait_for, working

POOLS = {
    "cold": ("-P", "prefork", "-c", "10", "--max-tasks-per-child", "1"),
    "warm": ("-P", "prefork", "-c", "10"),
    "threads": ("-P", "threads", "-c", "10"),
    "gevent": ("-P", "gevent", "-c", "10"),
}
#: How Redis is away, and for how many seconds. Only a soak has the longest one with each fault and pool.
OUTAGES = [
    (pool, fault, seconds)
    for pool in POOLS
    for fault in ("killed", "frozen", "loading")
    for seconds in (5, 30, 120)
    if seconds < 120 or (pool, fault) == ("cold", "frozen") or origin.is_soak()
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "fault"),
    [
        ("cold", "killed"),
        pytest.param("cold", "frozen", marks=pytest.mark.long),
        pytest.param("cold", "loading", marks=pytest.mark.long),
        pytest.param("threads", "killed", marks=pytest.mark.long),
    ],
)
def test_follow_ups_survive_an_outage(tmp_path: Path, pool: str, fault: str) -> None:
    survives(tmp_path, fault, 12, *POOLS[pool])


@pytest.mark.long
@pytest.mark.parametrize(("pool", "fault", "seconds"), OUTAGES)
def test_follow_ups_survive_any_outage(
    tmp_path: Path, pool: str, fault: str, seconds: float
) -> None:
    survives(tmp_path, fault, seconds, *POOLS[pool], store=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "fault", "dead_letters", "pool"),
    [
        ("soft", "killed", True, "prefork"),
        pytest.param("soft", "killed", False, "prefork", marks=pytest.mark.long),
        pytest.param("hard", "killed", True, "prefork", marks=pytest.mark.long),
        pytest.param("hard", "full", True, "prefork", marks=pytest.mark.long),
        ("hard", "killed", True, "gevent"),
    ],
)
def test_a_time_limit_that_passes_meanwhile_puts_the_task_back(
    tmp_path: Path, limit: str, fault: str, dead_letters: bool, pool: str
) -> None:
    put_back_at_the_limit(tmp_path, limit, fault, dead_letters, pool)


@pytest.mark.slow
def test_a_time_limit_puts_the_task_of_a_spawned_process_back(tmp_path: Path) -> None:
    """Only Celery 5.7 has the option."""
    put_back_at_the_limit(tmp_path, "hard", "killed", True, "spawn")


def put_back_at_the_limit(
    tmp_path: Path, limit: str, fault: str, dead_letters: bool, pool: str
) -> None:
    delivery = {**DELIVERY, "dead_letters": dead_letters}
    # On a busy machine a process that replaces a stopped one needs longer than Celery's 4 s.
    conf = {"worker_proc_alive_timeout": 60}
    results = Server(tmp_path / "results")
    with ExitStack() as stack:
        stack.callback(results.end)
        worker = stack.enter_context(
            working(
                tmp_path, *outage.pool(pool), "-c", "1", delivery=delivery, conf=conf, shop=SHOP
            )
        )
        send(worker, results, limit)
        worker.done([0], "start")
        away(worker.server, fault, 20, (tmp_path / "outage").touch)
        worker.done([0])
        settled(worker)
    # A full Redis still delivers it again at once.
    assert 2 <= worker.times("start")[0] <= (2 if fault == "killed" else 4)
    assert worker.times("end")[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("conf", [{}, {"broker_pool_limit": 10}], ids=["default", "pinned"])
def test_more_greenlets_than_celery_has_producers_can_wait(
    tmp_path: Path, conf: dict[str, int]
) -> None:
    results = Server(tmp_path / "results")
    with ExitStack() as stack:
        stack.callback(results.end)
        options = (*outage.pool("gevent"), "-c", "40")
        worker = stack.enter_context(
            working(tmp_path, *options, delivery=DELIVERY, conf=conf, shop=SHOP)
        )
        send(worker, results, "many hard")
        worker.done(list(range(40)), "start")
        away(worker.server, "killed", 20, (tmp_path / "outage").touch)
        worker.done(list(range(40)))
        settled(worker)
    assert worker.times("end") == dict.fromkeys(range(40), 1)


@pytest.fixture
def main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a worker's main process during the test."""
    for name in (identity.VARIABLE, f"{PREFIX}WAITING", f"{PREFIX}DEADLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(identity, "_main", None)
    identity.remember()
    sending._attempts.cache_clear()
    sending._attempts()


#: What a process does that a pool has started by spawn: wait, say so, and go on when it is told to.
SPAWNED = """
import os
from celery_fleet.common import identity
from celery_fleet.delivery.outage import results, sending

identity.remember()
with sending._Attempts(waiting=True):
    print(os.getpid(), flush=True)
    input()
print(results.ShutdownDeadline(after=0).over)
"""


@pytest.mark.usefixtures("main_process")
def test_the_main_process_and_a_spawned_one_share_memory() -> None:
    deadline = ShutdownDeadline()
    # billiard starts a new interpreter, too, with the environment of the main process.
    with subprocess.Popen(
        [sys.executable, "-c", SPAWNED],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert sending.was_waiting(pid)
        assert not sending.was_waiting(pid)
        deadline.give()
        assert child.communicate("\n") == ("True\n", None)
    assert child.returncode == 0


@pytest.mark.usefixtures("main_process")
def test_only_attempts_that_take_long_or_fail_count_as_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sending._Attempts(waiting=False) as attempts:
        assert not attempts.are_waiting()
        assert not sending.was_waiting(os.getpid())
    with sending._Attempts(waiting=False) as attempts:
        attempts.wait()
        assert attempts.are_waiting()
        with sending._Attempts(waiting=False):  # the task sends while it counts for its chord
            assert sending.was_waiting(os.getpid())
    monkeypatch.setattr(sending, "SLOW", 0)
    with sending._Attempts(waiting=False) as attempts:
        assert attempts.are_waiting()
        assert sending.was_waiting(os.getpid())
    assert not sending.was_waiting(os.getpid())


#: A task that does nothing but send until its time limit, to a Redis that works.
SENDER = """
@app.task(time_limit=3)
def sender(number, seconds):
    write("ledger", f"start {number}")
    while True:
        work.apply_async((number,), queue="aside")
"""


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_task_that_sends_much_fails_at_its_time_limit(tmp_path: Path, pool: str) -> None:
    shop = outage.SHOP + SENDER
    with working(tmp_path, "-P", pool, "-c", "1", delivery=DELIVERY, shop=shop) as worker:
        worker.send(1, 0, task="sender")
        wait_for(lambda: "Hard time limit (3" in worker.log, "the limit")
        settled(worker)
        assert worker.times("start") == {0: 1}


@contextmanager
def one_process(directory: Path) -> Iterator[tuple[Worker, Server]]:
    """Run a worker with one process, whose results are in another Redis than its messages."""
    results = Server(directory / "results")
    conf = {"result_backend": f"redis://127.0.0.1:{results.port}/0"}
    options = ("-P", "prefork", "-c", "1")
    with ExitStack() as stack:
        stack.callback(results.end)
        worker = stack.enter_context(
            working(directory, *options, delivery=DELIVERY, conf=conf, shop=SHOP)
        )
        yield worker, results


@pytest.mark.slow
def test_a_soft_limit_that_passes_before_a_callback_is_sent_is_no_failure(tmp_path: Path) -> None:
    with one_process(tmp_path) as (worker, results):
        send(worker, results, "soft chain")
        worker.done([0], "start")
        away(worker.server, "killed", 16, (tmp_path / "outage").touch)
        worker.done([0])
        settled(worker)
    assert worker.times("start") == {0: 2}
    assert worker.times("end") == {0: 1}
    assert "outside body" not in worker.log
    assert "raised unexpected" not in worker.log


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", pytest.param("full", marks=pytest.mark.long)])
def test_follow_ups_that_need_the_result_store_wait_for_it(tmp_path: Path, fault: str) -> None:
    with ExitStack() as stack:
        conf = {"result_backend_transport_options": {"retry_policy": {"max_retries": 1}}}
        server = Server(tmp_path / "redis")
        stack.callback(server.end)
        conf["result_backend"] = f"redis://127.0.0.1:{server.port}/0"
        worker = Worker(tmp_path, server, *POOLS["warm"], delivery=DELIVERY, conf=conf, shop=SHOP)
        stack.callback(worker.stop)
        worker.start()
        worker.ready()
        send(worker, server, "late")
        worker.done([0, 1, 2, 3, 4], "start")
        wait_for(lambda: worker.times("start")[4] == 2, "both tasks of the chord")
        away(server, fault, 18, (tmp_path / "outage").touch)
        worker.done([0, 1, 2, 3, 4])
        settled(worker)
        assert server.client.hlen("fleet:dead-letters") == 0
        assert worker.log.count("Failed operation") == 0
    assert worker.times("end") == dict.fromkeys(range(5), 1)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
@pytest.mark.parametrize("fault", ["full", "down"])
def test_tasks_run_although_the_result_store_does_not_note_that_they_start(
    tmp_path: Path, fault: str, pool: str
) -> None:
    """Celery takes an error there for the end of the task, and acknowledges it."""
    with ExitStack() as stack:
        results = Server(tmp_path / "results")
        stack.callback(results.end)
        conf = {
            "result_backend": f"redis://127.0.0.1:{results.port}/0",
            "result_backend_transport_options": {"retry_policy": {"max_retries": 1}},
            "result_backend_always_retry": True,
            "result_backend_max_retries": 1,
            "task_track_started": True,
        }
        worker = stack.enter_context(
            working(tmp_path, "-P", pool, "-c", "2", delivery=DELIVERY, conf=conf)
        )
        if fault == "full":
            results.client.config_set("maxmemory", 1)
        else:
            results.kill()
        numbers = worker.send(4, 0.1)
        worker.done(numbers)
        settled(worker)
    assert worker.times("end") == dict.fromkeys(numbers, 1)


LIMITED = (
    SHOP
    + """

@app.task(soft_time_limit=2)
def limited(number):
    write(f"end {number}")
"""
)


@pytest.mark.slow
def test_a_soft_limit_that_passes_before_a_task_begins_puts_it_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        results = Server(tmp_path / "results")
        stack.callback(results.end)
        conf = {
            "result_backend": f"redis://127.0.0.1:{results.port}/0",
            "redis_socket_timeout": 5,
            "task_track_started": True,
        }
        worker = stack.enter_context(
            working(
                tmp_path, "-P", "prefork", "-c", "1", delivery=DELIVERY, conf=conf, shop=LIMITED
            )
        )
        worker.send(1, 0, task="limited")
        worker.done([0])
        results.signal(signal.SIGSTOP)
        worker.send(1, 0, first=1, task="limited")
        wait_for(lambda: "Soft time limit (2s) exceeded" in worker.log, "the limit has passed")
        results.signal(signal.SIGCONT)
        worker.done([1])
        settled(worker)
    assert worker.times("end") == {0: 1, 1: 1}


class DatabaseError(Exception):
    """The error of a result store that is no Redis."""


def test_a_chords_member_outlasts_an_error_of_a_database_for_results(
    monkeypatch: pytest.MonkeyPatch, in_a_task: SimpleNamespace
) -> None:
    """Celery's own retries are the only ones for such a store."""
    request = SimpleNamespace(id="1", chord="c", errbacks=None)
    in_a_task.request = request
    app = Celery("shop", set_as_current=False, backend="cache+memory://")
    app.conf.update(
        result_backend_always_retry=True, result_backend_base_sleep_between_retries_ms=1
    )
    backend = app.backend
    errors: list[Exception] = [DatabaseError("gone away"), redis_errors.ConnectionError("refused")]
    stored = []

    def store(*args: object, **_: object) -> None:
        if errors:
            raise errors.pop(0)
        stored.append(args)

    monkeypatch.setattr(backend, "_store_result", store)
    monkeypatch.setattr(backend, "exception_safe_to_retry", lambda exc: True)
    sending._patient_backend(backend).store_result("1", 4, "SUCCESS", request=request)
    assert errors == []
    assert [args[:2] for args in stored] == [("1", 4)]


def test_an_attempt_does_not_wait_for_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu would try for 6 s with pauses of up to 4 s, and the broker may only be up in one of these pauses."""
    monkeypatch.setattr(sending, "patiently", lambda attempt, *_: attempt())
    with Connection(f"redis://127.0.0.1:{free_port()}") as connection:
        began = time.monotonic()
        with pytest.raises(OperationalError):
            PatientProducer(Producer(connection), "t").publish("body", routing_key="mail")
    assert time.monotonic() - began < 4


@pytest.mark.usefixtures("in_a_task")
def test_the_next_of_several_brokers_is_tried(tmp_path: Path) -> None:
    server = Server(tmp_path / "redis")
    urls = [f"redis://127.0.0.1:{port}" for port in (free_port(), server.port)]
    try:
        with Connection(";".join(urls)) as connection:
            producer = PatientProducer(Producer(connection), "t")
            producer.publish("body", routing_key="mail", declare=[Queue("mail")])
        assert server.client.llen("mail") == 1
    finally:
        server.end()


@pytest.mark.usefixtures("in_a_task")
def test_a_process_without_file_descriptors_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError("the task waits, although no broker is away")

    server = Server(tmp_path / "redis")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with Connection(f"redis://127.0.0.1:{server.port}") as connection:
            producer = PatientProducer(Producer(connection), "t")
            producer.publish("body", routing_key="mail")
            connection.collect()
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            with monkeypatch.context() as patch:
                patch.setattr(time, "sleep", wait)
                with pytest.raises(OperationalError, match="Too many open files"):
                    producer.publish("body", routing_key="mail")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.end()


@pytest.mark.usefixtures("in_a_task")
def test_a_lost_connection_while_a_queue_is_declared_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path / "redis")
    sizes = Channel._size
    failures = [redis_errors.ConnectionError("reset")]

    def size(self: Channel, queue: str) -> int:
        if failures:
            raise failures.pop()
        return int(sizes(self, queue))

    monkeypatch.setattr(Channel, "_size", size)
    try:
        with Connection(f"redis://127.0.0.1:{server.port}") as connection:
            producer = PatientProducer(Producer(connection), "t")
            producer.publish("body", routing_key="mail", declare=[Queue("mail")])
        assert server.client.llen("mail") == 1
    finally:
        server.end()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["by its time limit", "by SIGKILL"])
def test_a_chord_that_a_process_claimed_before_it_was_killed_gets_its_body(
    tmp_path: Path, end: str
) -> None:
    """In Celery 5.7 a claim outlives its process: here for 20 s, by default for two minutes."""
    results = Server(tmp_path / "results")
    conf = {
        "result_backend": f"redis://127.0.0.1:{results.port}/0",
        "broker_connection_timeout": 1,
        "result_chord_join_timeout": 10,
        "task_publish_retry_policy": {"max_retries": 1},
    }
    options = ("-P", "prefork", "-c", "1")
    with ExitStack() as stack:
        stack.callback(results.end)
        worker = stack.enter_context(
            working(tmp_path, *options, delivery=DELIVERY, conf=conf, shop=SHOP)
        )
        send(worker, results, "chord")
        worker.done([0], "start")

        def begun() -> None:
            (tmp_path / "outage").touch()
            if end == "by SIGKILL":
                wait_for(lambda: "waits for the broker" in worker.log, "the chord is claimed")
                assert worker.process is not None
                main = worker.process.pid
                (child,) = Path(f"/proc/{main}/task/{main}/children").read_text().split()
                os.kill(int(child), signal.SIGKILL)

        # The limit passes meanwhile. Of a killed process the claim of the chord has not expired when Redis is back.
        away(worker.server, "killed", 14 if end == "by its time limit" else 6, begun)
        worker.done([0])
        settled(worker)
    assert worker.times("end") == {0: 1}


@pytest.mark.slow
def test_a_task_that_raises_memory_error_fails_by_itself(tmp_path: Path) -> None:
    with one_process(tmp_path) as (worker, results):
        send(worker, results, "greedy")
        send(worker, results, "ending")
        worker.done([0])
        settled(worker)
        assert worker.process is not None
        assert worker.process.poll() is None
        assert worker.times("start")[0] == 1
        found = [results.client.get(key) for key in results.client.keys("*")]
        states = {json.loads(text)["status"] for text in found}
        assert states == {"SUCCESS", "FAILURE"}


def caused(exc: Exception, cause: Exception) -> Exception:
    exc.__cause__ = cause
    return exc


def during(exc: Exception, *handled: Exception) -> Exception:
    """Return an error that was raised while others were handled, each of which was raised in the same way."""
    for outer, inner in zip((exc, *handled), handled, strict=False):
        outer.__context__ = inner
    return exc


def shortage(number: int = errno.EMFILE) -> Exception:
    """Return the error of redis-py in a process that has no file descriptors left."""
    return during(
        redis_errors.ConnectionError("Error 24 connecting to redis:6379."),
        OSError(number, os.strerror(number)),
    )


def said(reply: str) -> Exception:
    """Return the error that redis-py makes of a reply."""
    error: Exception = DefaultParser.parse_error(reply)
    return error


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (OperationalError("refused"), False),
        (caused(OperationalError("x"), redis_errors.ConnectionError("refused")), True),
        (caused(OperationalError("x"), redis_errors.TimeoutError("slow")), True),
        (caused(OperationalError("x"), redis_errors.BusyLoadingError("loading")), True),
        (caused(OperationalError("x"), redis_errors.OutOfMemoryError("full")), True),
        (caused(OperationalError("x"), redis_errors.ReadOnlyError("replica")), True),
        # Of these some have classes, which redis-py makes without the code; 5.2 has none for the first two.
        (said("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is 'no'."), True),
        (said("TRYAGAIN Multiple keys request during rehashing of slot"), True),
        (said("MISCONF Redis can't write"), True),
        (said("BUSY Redis is busy running a script."), True),
        # Redis 6.2.
        (
            said(
                "ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed"
            ),
            True,
        ),
        (
            said("ERR Error running script (call to f_1): @user_script:1: -WRONGTYPE Operation"),
            False,
        ),
        (said("NOREPLICAS Not enough good replicas to write."), True),
        (redis_errors.ResponseError("MASTERDOWN Link with MASTER is down"), True),
        # A password that was revoked: the worker gets the new one when it restarts.
        (caused(OperationalError("x"), redis_errors.AuthenticationError("who?")), True),
        (BrokerAwayError("away"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
        (OSError(errno.EHOSTUNREACH, "No route to host"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), True),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), True),
        # The task retries because of a shortage, while the broker is away.
        (
            during(
                redis_errors.ConnectionError("refused"),
                ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
                OSError(errno.EMFILE, "Too many open files"),
            ),
            True,
        ),
        # The task retries because a service did not answer, and its arguments can't be encoded.
        (during(ValueError("not JSON"), ConnectionResetError()), False),
        # A process without file descriptors never gets any.
        (shortage(), False),
        (shortage(errno.ENOMEM), False),
        (caused(OperationalError("x"), shortage()), False),
        (OSError(errno.EMFILE, "Too many open files"), False),
        # A result store in files.
        (OSError(errno.EROFS, "Read-only file system"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        # These errors don't go away, however long a task waits.
        (caused(OperationalError("x"), redis_errors.NoPermissionError("NOPERM")), False),
        (caused(OperationalError("x"), redis_errors.AuthorizationError("not you")), False),
        (said("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (ValueError("not sent"), False),
    ],
)
def test_errors_that_count_as_an_outage(exc: Exception, expected: bool) -> None:
    assert is_away(exc) is expected
