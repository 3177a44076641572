from __future__ import annotations

import os
import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from celery_fleet.supervision.notify import Notifier
from tests.unit.runtime.conftest import Manager


def test_the_address_is_removed_from_the_environment(manager: Manager) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
    }

    notifier = Notifier.take(environ)

    assert environ == {}
    assert notifier.watchdog == 30.0
    assert notifier.connected
    assert notifier._spare is not None
    notifier._spare.close()


def test_the_watchdog_of_another_process_is_ignored() -> None:
    assert Notifier.take({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog is None
    assert Notifier.take({"WATCHDOG_USEC": "soon"}).watchdog is None


def test_messages_arrive(manager: Manager) -> None:
    notifier = Notifier(manager.address)

    notifier.ready("up")
    notifier.feed()
    notifier.stopping("going")

    assert manager.heard() == ["READY=1\nSTATUS=up", "WATCHDOG=1", "STOPPING=1\nSTATUS=going"]


def test_a_status_is_sent_when_it_changes_and_in_one_line(manager: Manager) -> None:
    notifier = Notifier(manager.address)

    notifier.status("a")
    notifier.status("a")
    notifier.status("b\nREADY=1")

    assert manager.heard() == ["STATUS=a", "STATUS=b READY=1"]


def test_a_status_that_could_not_be_sent_is_sent_again(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "notify"))
    assert notifier.status("a") is False
    manager = Manager(str(tmp_path / "notify"))
    try:
        assert notifier.status("a") is True
        assert manager.heard() == ["STATUS=a"]
    finally:
        manager.close()


def test_a_long_status_does_not_keep_systemd_from_reading_the_message(manager: Manager) -> None:
    queues = ", ".join(f"kunde-{number:06}.aufträge" for number in range(300))

    Notifier(manager.address).ready(f"consuming {queues}")

    (message,) = manager.heard()
    assert message.startswith("READY=1\nSTATUS=consuming kunde-000000.aufträge, ")
    # systemd.git, src/core/manager.c: NOTIFY_BUFFER_MAX is PIPE_BUF.
    assert 3990 < len(message.encode()) < 4096


def test_an_abstract_socket_can_be_used() -> None:
    listener = Manager(f"@fleet-{uuid.uuid4()}")
    try:
        assert Notifier(listener.address).feed()
        assert listener.heard() == ["WATCHDOG=1"]
    finally:
        listener.close()


def test_without_a_manager_nothing_happens() -> None:
    assert Notifier(None).feed() is False
    assert Notifier("/nonexistent/notify").feed() is False


@contextmanager
def no_more_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))  # only the standard input
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_that_can_open_no_more_files_feeds_its_watchdog(manager: Manager) -> None:
    notifier = Notifier.take({"NOTIFY_SOCKET": manager.address})
    with no_more_files():
        fed = notifier.feed()
    assert fed
    assert manager.heard() == ["WATCHDOG=1"]

    # A task may close all files of its process.
    assert notifier._spare is not None
    notifier._spare.close()
    assert notifier.feed()
    assert manager.heard() == ["WATCHDOG=1"]


def test_the_first_failure_is_logged(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(manager.address)
    with no_more_files():
        fed = [notifier.feed(), notifier.feed()]
    assert fed == [False, False]
    assert [record.message for record in caplog.records] == [
        "systemd can't be told anything: [Errno 24] Too many open files"
    ]


def test_a_forked_child_sends_nothing(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    child = os.fork()
    if child == 0:
        os._exit(1 if notifier.feed() else 0)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert manager.heard() == []
