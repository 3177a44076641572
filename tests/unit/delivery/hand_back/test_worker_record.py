"""What a worker records for the hand-back; recording it never harms the worker."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import signals
from celery.worker.request import Request

from celery_fleet.compat import tasks
from celery_fleet.delivery import tags
from celery_fleet.delivery.hand_back import worker_record, worker_side
from celery_fleet.delivery.hand_back.worker_record import StartedTasks, WorkerRecord
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.options import Options
from celery_fleet.delivery.tags import Tags
from celery_fleet.system import stop

OWNER = Owner("mail@host")
OPTIONS = Options(profile="at_least_once", fetch="atomic", hand_back=True)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[StartedTasks]:
    opened = StartedTasks(OWNER, tmp_path / worker_record.BEGUN)
    yield opened
    opened.close()


def test_only_tasks_that_have_begun_and_not_ended_are_recorded(
    made: StartedTasks, tmp_path: Path
) -> None:
    tags = Tags(OWNER)
    given = [tags.next() for _ in range(300)]
    for tag in given:
        made.note(tag)
        made.note(tag)
    for tag in given[:255]:
        made.forget(tag)
        made.forget(tag)
    assert worker_record.read_begun(tmp_path) == set(range(256, 301))


def test_the_file_has_one_slot_for_each_process(made: StartedTasks, tmp_path: Path) -> None:
    tags = Tags(OWNER)
    running = [tags.next() for _ in range(4)]
    for tag in running:
        made.note(tag)
    for _ in range(1000):
        made.forget(running.pop(0))
        running.append(tags.next())
        made.note(running[-1])
    assert (tmp_path / worker_record.BEGUN).stat().st_size == 4 * worker_record.SLOT
    assert worker_record.read_begun(tmp_path) == {1001, 1002, 1003, 1004}


def test_tags_of_other_owners_are_ignored(made: StartedTasks, tmp_path: Path) -> None:
    for tag in ("52a5ba6c-6ad2-4b78-a7ba-3c62f4f4f4f4", Tags(Owner("mail@host")).next()):
        made.note(tag)
        made.forget(tag)
    assert worker_record.read_begun(tmp_path) == frozenset()


def test_threads_get_separate_slots(made: StartedTasks, tmp_path: Path) -> None:
    tags = Tags(OWNER)
    given = [[tags.next() for _ in range(500)] for _ in range(8)]
    left: list[str] = []

    def work(mine: list[str]) -> None:
        for number, tag in enumerate(mine):
            made.note(tag)
            if number % 10:
                made.forget(tag)
            else:
                left.append(tag)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in given]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker_record.read_begun(tmp_path) == {int(tag.rpartition("/")[2], 16) for tag in left}


WRITER = """
import sys
from pathlib import Path
from celery_fleet.delivery.hand_back.worker_record import StartedTasks
from celery_fleet.delivery.messages import Owner
from celery_fleet.delivery.tags import Tags
owner = Owner("mail@host")
notes, tags, running = StartedTasks(owner, Path(sys.argv[1])), Tags(owner), []
print(flush=True)
while True:
    running.append(tags.next())
    notes.note(running[-1])
    if len(running) == 4:
        notes.forget(running.pop(0))
"""


def test_a_process_that_is_killed_at_any_moment_leaves_its_begun_tasks(tmp_path: Path) -> None:
    chance = random.Random(3)  # noqa: S311  # no secret
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / worker_record.BEGUN)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(Path(worker_record.__file__).parents[3])},
        ) as process_:
            assert process_.stdout is not None
            process_.stdout.readline()
            threading.Event().wait(chance.uniform(0, 0.05))
            process_.send_signal(signal.SIGKILL)
        found = sorted(worker_record.read_begun(tmp_path))
        # There are three or four consecutive numbers, or fewer if it had just begun.
        assert len(found) <= 4
        assert not found or found == list(range(found[0], found[-1] + 1))


def test_a_truncated_file_is_read_as_far_as_possible(tmp_path: Path) -> None:
    content = (7).to_bytes(8, sys.byteorder) + bytes(8) + b"\x01\x02\x03"
    (tmp_path / worker_record.BEGUN).write_bytes(content)
    assert worker_record.read_begun(tmp_path) == {7}
    assert worker_record.read_begun(tmp_path / "elsewhere") == frozenset()


def test_a_full_disk_is_logged_once(
    made: StartedTasks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    tags = Tags(OWNER)
    for _ in range(3):
        tag = tags.next()
        made.note(tag)
        made.forget(tag)
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()


# --- the record ---------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    transport = {
        "visibility_timeout": 15,
        "sep": ":",
        "priority_steps": range(3),
        "unacked_key": "u",
        "unacked_index_key": "i",
    }
    options = Options(fetch="atomic", hand_back=True, dead_letters=True, deaths=5, keep=7)
    record = WorkerRecord.of(OWNER, transport, options)
    record.write(tmp_path)
    assert WorkerRecord.read(tmp_path) == record
    assert record == WorkerRecord("mail@host", OWNER.start, 15, 5, 7, "u", "i", ":", (0, 1, 2))
    assert record.owner == OWNER
    assert [path.name for path in tmp_path.iterdir()] == [worker_record.RECORD]


def test_its_default_names_are_kombus() -> None:
    from kombu.transport.redis import Channel

    record = WorkerRecord.of(OWNER, {}, OPTIONS)
    assert record.deaths is None
    assert (record.unacked, record.index, record.separator, list(record.steps), record.lease) == (
        *(Channel.unacked_key, Channel.unacked_index_key),
        *(Channel.sep, Channel.priority_steps, Channel.visibility_timeout),
    )


# --- in the worker ------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Any:
    return SimpleNamespace(conf=SimpleNamespace(broker_transport_options=None))


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {name: getattr(Request, name) for name in ("on_accepted", "acknowledge", "reject")}
    monkeypatch.setattr(tags, "_own", None)
    monkeypatch.setattr(worker_side, "_held", held := [])
    yield
    for name, function in before.items():
        setattr(Request, name, function)
    for file in held:
        os.close(file)
    signals.celeryd_after_setup.disconnect(dispatch_uid="celery_fleet.hand_back")


def request(tag: str, *, acks_late: bool = True, fails: bool = False) -> Any:
    made: Any = object.__new__(Request)
    made._message = SimpleNamespace(delivery_tag=tag)
    made._task = SimpleNamespace(acks_late=acks_late)
    made._connection_errors = ()
    made.name, made.id = "task", "id"

    def answer(*_: object) -> None:
        if fails:
            raise ConnectionError

    made._on_ack = made._on_reject = answer
    made.send_event = lambda *_, **__: None
    return made


def accept(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.worker import request as module

    monkeypatch.setattr(module, "task_accepted", lambda _: None)
    one._terminate_on_ack = None
    one.on_accepted(1, 1.0)


def test_nothing_is_recorded_if_the_hand_back_is_off(app: Any, tmp_path: Path) -> None:
    worker_side.install(app, Options(), {worker_record.DIRECTORY_VARIABLE: str(tmp_path)})
    signals.celeryd_after_setup.send(sender="mail@host")
    assert list(tmp_path.iterdir()) == []


def test_a_starting_worker_writes_a_new_record(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory may still have files of an earlier process."""
    WorkerRecord.of(Owner("old"), {}, OPTIONS).write(tmp_path)
    (tmp_path / worker_record.STOPPING).touch()
    (tmp_path / worker_record.BEGUN).write_bytes(b"\1" * 16)
    owner = tags.begin("mail@host")
    worker_side.install(app, OPTIONS, {worker_record.DIRECTORY_VARIABLE: f"{tmp_path}:/run/other"})
    signals.celeryd_after_setup.send(sender="mail@host")

    record = WorkerRecord.read(tmp_path)
    assert record is not None
    assert record.owner == owner
    names = {worker_record.LOCK, worker_record.RECORD, worker_record.BEGUN}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(TimeoutError):
        worker_record.hold_exclusively(tmp_path, wait=0)
    # Another process of the worker may also hold it.
    os.close(worker_record.hold(tmp_path, wait=0))

    late, rejected, early, failed = (tags.own().next() for _ in range(4))
    one, two, three = request(late), request(rejected), request(failed, fails=True)
    for each in (one, two, three, request(early, acks_late=False)):
        accept(each, monkeypatch)
    assert worker_record.read_begun(tmp_path) == {1, 2, 4}
    one.acknowledge()
    two.reject(requeue=True)
    with pytest.raises(ConnectionError):
        three.acknowledge()
    assert worker_record.read_begun(tmp_path) == {4}


def test_a_record_that_can_not_be_written_does_not_end_the_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: str) -> None:
        raise RuntimeError

    undo = tasks.on_tasks(broken, broken)
    one = request("tag")
    one.acknowledge()
    assert one.acknowledged
    assert "can't be recorded" in caplog.text
    undo()
    caplog.clear()
    request("tag").acknowledge()
    assert caplog.text == ""


@pytest.mark.parametrize("environ", [{}, {worker_record.DIRECTORY_VARIABLE: "/no/such/directory"}])
def test_a_worker_also_runs_without_a_directory(
    app: Any, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert worker_side.prepare(app, OPTIONS, environ) is None
    assert "no hand-back" in caplog.text
    assert "wait until its lease expires" in caplog.text


def test_a_worker_only_waits_for_a_limited_time_for_a_hand_back(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hold = worker_record.hold
    monkeypatch.setattr(worker_record, "hold", lambda directory: hold(directory, wait=0))
    alone = worker_record.hold_exclusively(tmp_path, wait=0)
    assert (
        worker_side.prepare(app, OPTIONS, {worker_record.DIRECTORY_VARIABLE: str(tmp_path)}) is None
    )
    assert "is held by another process" in caplog.text
    os.close(alone)


# --- told to stop -------------------------------------------------------------------------------------


def test_stopping_the_unit_is_recorded_before_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/run/other")
    with subprocess.Popen(["sleep", "60"]) as program:
        assert stop.main([str(program.pid), "--drain", "20"]) == 0
    assert (tmp_path / worker_record.STOPPING).exists()


@pytest.mark.parametrize("directory", ["", "/no/such/directory"])
def test_a_stop_that_can_not_be_recorded_stops_anyway(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", directory)
    with subprocess.Popen(["sleep", "60"]) as program:
        assert stop.main([str(program.pid), "--drain", "20"]) == 0


def test_a_process_that_exits_by_itself_is_not_recorded_as_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert stop.main(["--drain", "1"]) == 0
    assert list(tmp_path.iterdir()) == []
