from __future__ import annotations

from pathlib import Path

import pytest

from celery_fleet.delivery.outage.pending import NAME, Pending

A, B, C = (f"mail@w/0123456789abcdef/{number}" for number in "123")
EARLIER = "mail@w/fedcba9876543210/2a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def test_tags_keep_their_order_without_duplicates(path: Path) -> None:
    pending = Pending(path)
    for tag in (B, A, B, C):
        pending.add(tag)
    assert pending.tags() == [B, A, C]
    assert len(pending) == 3
    assert A in pending
    assert path.read_text().splitlines() == [B, A, C]


def test_the_next_start_reads_the_remaining_tags(path: Path) -> None:
    pending = Pending(path)
    for tag in (EARLIER, A, B):
        pending.add(tag)
    pending.sent([A])
    assert Pending(path).tags() == [EARLIER, B]


def test_sent_tags_are_removed_from_the_file(path: Path) -> None:
    pending = Pending(path)
    pending.add(A)
    pending.sent([A, C])
    assert path.read_text() == ""
    assert not pending


def test_a_truncated_line_is_ignored(path: Path) -> None:
    path.write_text(f"{A}\n{B}"[:-1])
    assert Pending(path).tags() == [A]


def test_a_truncated_line_does_not_merge_with_the_next(path: Path) -> None:
    path.write_text(f"{A}\n{B}"[:-1])
    Pending(path).add(C)
    assert Pending(path).tags() == [A, C]


def test_foreign_lines_are_ignored(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\nno tag\n" + f"{A}\n".encode())
    assert Pending(path).tags() == [A]


def test_without_a_directory_tags_are_kept_in_memory() -> None:
    pending = Pending(None)
    pending.add(A)
    assert pending.tags() == [A]


def test_a_file_that_cannot_be_written_is_logged_once_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pending = Pending(tmp_path / "nowhere" / NAME)
    pending.add(A)
    pending.add(B)
    assert pending.tags() == [A, B]
    assert caplog.text.count("can't be written") == 1


def test_a_file_that_cannot_be_read_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / NAME
    path.mkdir()
    assert Pending(path).tags() == []
    assert "can't be read" in caplog.text
