"""The journal's native protocol, JSON, and which handlers use them. A socket of the test replaces journald."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.concurrency import solo

from celery_fleet.supervision import journal

RECEIVED = {"id": "7-7", "name": "shop.pay", "args": "('s3cret',)", "kwargs": "{}"}


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "socket"))
        found.settimeout(5)
        yield found


def fields(datagram: bytes) -> dict[str, str]:
    """Read a datagram as journald does."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


def record(message: str, *args: Any, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    found = logging.LogRecord("shop", level, "/a/b.py", 12, message, args, None, "pay")
    vars(found).update(more)
    return found


def sent(listener: socket.socket, one: logging.LogRecord) -> dict[str, str]:
    with closing(journal.JournalHandler(logging.NullHandler(), path=listener.getsockname())) as to:
        to.emit(one)
    return fields(listener.recv(100_000))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(10, "7"), (20, "6"), (25, "6"), (30, "4"), (40, "3"), (50, "2"), (60, "2")],
)
def test_a_record_has_its_priority_and_origin(
    listener: socket.socket, level: int, priority: str
) -> None:
    found = sent(listener, record("paid %d", 3, level=level))
    assert found["MESSAGE"] == "paid 3"
    assert found["PRIORITY"] == priority
    assert (found["LOGGER"], found["CODE_FILE"], found["CODE_LINE"], found["CODE_FUNC"]) == (
        *("shop", "/a/b.py"),
        *("12", "pay"),
    )
    assert "CELERY_TASK_ID" not in found


@pytest.mark.parametrize("text", ["a\nb\n", "x\nCELERY_TASK_ID=forged", "\n", "ä=\udce4"])
def test_a_message_can_not_become_a_field(listener: socket.socket, text: str) -> None:
    found = sent(listener, record(text))
    assert found["MESSAGE"] == text.encode("utf-8", "backslashreplace").decode()
    assert "CELERY_TASK_ID" not in found


def test_celerys_own_records_name_their_task_without_its_arguments(
    listener: socket.socket,
) -> None:
    message = "Task %(name)s[%(id)s] received"
    found = sent(listener, record(message, RECEIVED, name="celery.worker.strategy", data=RECEIVED))
    assert found["CELERY_TASK"] == "shop.pay"
    assert found["CELERY_TASK_ID"] == "7-7"
    assert "s3cret" not in str(found)


def test_the_applications_own_fields_do_not_name_a_task(listener: socket.socket) -> None:
    found = sent(listener, record("saved", data={"id": "42", "name": "a customer"}))
    assert {"CELERY_TASK", "CELERY_TASK_ID"} & set(found) == set()


def test_a_tasks_log_records_name_the_task(listener: socket.socket) -> None:
    app = Celery("shop", set_as_current=False)
    seen = []

    @app.task(name="shop.pay", bind=True)  # type: ignore[untyped-decorator]  # Celery ships no types
    def pay(self: Any) -> None:
        self.request.delivery_info = {"routing_key": "money"}
        seen.append(sent(listener, record("paid")))

    pay.apply(task_id="8-8")
    (found,) = seen
    assert (found["CELERY_TASK"], found["CELERY_TASK_ID"]) == ("shop.pay", "8-8")
    assert found["CELERY_QUEUE"] == "money"


class Kept(logging.Handler):
    """Records what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


def test_records_that_the_journal_does_not_accept_go_to_the_other_handler(
    tmp_path: Path, listener: socket.socket
) -> None:
    other = Kept()
    with closing(journal.JournalHandler(other, path=str(tmp_path / "none"))) as handler:
        handler.emit(record("lost?"))
    with closing(journal.JournalHandler(other, path=listener.getsockname())) as handler:
        handler.emit(record("x" * 10_000_000))
        number = 0
        while (
            len(other.kept) < 3 and number < 100_000
        ):  # nothing reads the socket, so its queue fills up
            handler.emit(record("more"))
            number += 1
    assert [len(one.getMessage()) for one in other.kept] == [5, 10_000_000, 4]


def test_json_leaves_out_arguments_and_results() -> None:
    formatter = journal.JsonFormatter("shop", "mail")
    context = {**RECEIVED, "runtime": 0.5, "return_value": "'s3cret'"}
    one = record(
        "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s",
        context,
        name="celery.app.trace",
        data=context,
    )
    text = formatter.format(one)
    assert "\n" not in text
    found = json.loads(text)
    assert found.pop("time").endswith("+00:00")
    assert found.pop("host")
    assert found == {
        "level": "INFO",
        "logger": "celery.app.trace",
        "message": "Task shop.pay[7-7] succeeded in 0.5s: …",
        "app": "shop",
        "worker": "mail",
        "task": "shop.pay",
        "task_id": "7-7",
    }


def test_json_has_the_exception_in_the_same_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        one = record("failed", exc_info=sys.exc_info())
    text = journal.JsonFormatter("shop", "").format(one)
    assert "\n" not in text
    assert json.loads(text)["exception"].endswith("ValueError: no")


def test_only_a_process_whose_output_goes_to_the_journal_uses_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        about = os.fstat(stream.fileno())
        right = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        assert journal.connected(right, stream.fileno())
        assert not journal.connected({}, stream.fileno())
        assert not journal.connected({"JOURNAL_STREAM": "1:2"}, stream.fileno())


@pytest.fixture
def installed() -> Iterator[None]:
    both = (signals.after_setup_logger, signals.after_setup_task_logger)
    before = [list(signal.receivers) for signal in both]
    pool = logging.getLogger("celery.pool")
    level = pool.level
    yield
    pool.setLevel(level)
    for signal, receivers in zip(both, before, strict=True):
        signal.receivers = receivers


@pytest.mark.usefixtures("installed")
def test_a_pool_does_not_log_arguments_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    journal.install("shop", "mail", as_json=False, environ={})
    with caplog.at_level(logging.DEBUG):
        pool = solo.TaskPool(1)
        pool.start()
        done = {"accept_callback": lambda *_: None, "callback": lambda _: None}
        pool.apply_async(lambda _: None, ({"card": "s3cret"},), {}, **done)
    assert "s3cret" not in caplog.text


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("in_journal", "as_json", "stream", "file"),
    [
        (True, False, "JournalHandler Formatter", "FileHandler Formatter"),
        (True, True, "JournalHandler JsonFormatter", "FileHandler JsonFormatter"),
        (False, True, "StreamHandler JsonFormatter", "FileHandler JsonFormatter"),
        (False, False, "StreamHandler Formatter", "FileHandler Formatter"),
    ],
)
def test_only_celerys_handler_of_standard_error_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_journal: bool,
    as_json: bool,
    stream: str,
    file: str,
) -> None:
    def connected(environ: Mapping[str, str]) -> bool:
        return in_journal

    monkeypatch.setattr(journal, "connected", connected)
    journal.install("shop", "mail", as_json=as_json, environ={})
    logger = logging.getLogger(str(tmp_path))
    logger.addHandler(logging.StreamHandler(sys.__stderr__))
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter())
    signals.after_setup_logger.send(sender=None, logger=logger)
    assert [
        f"{type(handler).__name__} {type(handler.formatter).__name__}"
        for handler in logger.handlers
    ] == [stream, file]
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
