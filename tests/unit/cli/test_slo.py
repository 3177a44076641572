"""What `celery-fleet status` says of SLOs."""

from __future__ import annotations

from typing import Any

import pytest

from celery_fleet.cli import slo
from celery_fleet.cli.exporter.table import BOUNDS
from celery_fleet.worker.task_counts import LastHour, Totals

WAIT = {"kind": "wait", "budget": 0.01, "seconds": 30, "words": "99 % start within 30s"}
FAILURES = {"kind": "failures", "budget": 0.05, "seconds": 0, "words": "at most 5 % fail"}


def hour(good: int, late: int, failed: int = 0, seconds: int = 3600) -> dict[str, Any]:
    waits = [0] * (len(BOUNDS) + 1)
    waits[BOUNDS.index(30.0)], waits[BOUNDS.index(60.0)] = good, late
    return {
        "last_hour": {"seconds": seconds, "waits": waits, "ended": good + late, "failed": failed}
    }


@pytest.mark.parametrize(
    ("nodes", "wait", "failures"),
    [
        ({"mail@a": hour(99, 1, 5)}, True, True),
        ({"mail@a": hour(98, 2, 6)}, False, False),
        # Both hosts together.
        ({"mail@a": hour(98, 2, 6), "mail@b": hour(100, 0, 0)}, True, True),
        # The second instance of a worker that restarts.
        ({"mail.next@a": hour(98, 2, 6)}, False, False),
        ({"mail.next@a": hour(100, 0, 0), "mail@a": hour(98, 2, 6)}, True, True),
        # Workers of other names don't count, and too few tasks prove nothing.
        ({"mail@a": hour(0, 9, 9), "bulk@a": hour(0, 1000, 1000)}, True, True),
    ],
)
def test_slos_are_kept_or_broken(nodes: dict[str, Any], wait: bool, failures: bool) -> None:
    found = list(slo.kept({"mail": (WAIT, FAILURES)}, nodes))
    assert [one.well for one in found] == [wait, failures]


def test_the_text_of_an_slo() -> None:
    (found,) = slo.kept(
        {"mail": (WAIT,)}, {"mail@a": hour(98, 2), "mail@b": {"state": "no answer"}}
    )
    assert found.text == "2 of 100 tasks started later (2 %), in 60 min"
    assert found.as_dict() == {
        "worker": "mail",
        "slo": "99 % start within 30s",
        "tasks": 100,
        "wrong": 2,
        "minutes": 60,
        "ok": False,
    }


def test_workers_of_another_version_do_not_count() -> None:
    assert list(slo.kept({"mail": (WAIT,)}, {"mail@a": {"last_hour": None}})) == []


def test_the_last_hour_forgets_what_is_older() -> None:
    kept = LastHour()
    for minute in range(200):
        kept.keep(minute * 60.0, Totals((minute, 2 * minute), minute, minute // 10))
        kept.keep(minute * 60.0 + 30, Totals((9999, 9999), 0, 0))
    found = kept.since(199 * 60.0, Totals((200, 400), 200, 20))
    assert found == {"seconds": 3600, "waits": [61, 122], "ended": 61, "failed": 7}


def test_a_worker_that_has_just_started_has_counted_nothing() -> None:
    totals = Totals((5, 5), 10, 1)
    assert LastHour().since(7.0, totals) == {"seconds": 0, "waits": [0, 0], "ended": 0, "failed": 0}
