"""Since when the oldest message of some lists waits, from the heads of the lists."""

from __future__ import annotations

from celery_fleet.worker.backlog import oldest


def test_the_oldest_head_counts() -> None:
    heads = {"mail": b"100.5", "mail3": b"90", "empty": None}
    emptied: dict[str, float] = {}
    assert oldest(heads, emptied, now=120.0, began=50.0) == 90.0
    assert emptied == {"empty": 120.0}


def test_nothing_waits() -> None:
    assert oldest({"mail": None}, {}, now=120.0, began=50.0) == 0.0


def test_a_message_that_was_handed_back_waits_since_the_list_was_empty() -> None:
    emptied = {"mail": 115.0}
    assert oldest({"mail": b"20"}, emptied, now=120.0, began=50.0) == 115.0
    assert oldest({"mail": b"118"}, emptied, now=120.0, began=50.0) == 118.0


def test_a_message_without_a_time_waits_since_the_list_was_empty_or_the_first_look() -> None:
    assert oldest({"mail": b""}, {}, now=120.0, began=50.0) == 50.0
    assert oldest({"mail": b""}, {"mail": 119.0}, now=120.0, began=50.0) == 119.0
