"""The check of the last backup of Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import health

from celery_fleet.common import backup_record
from celery_fleet.common.backup_record import BackupRecord
from celery_fleet.health.backup import backup, duration
from celery_fleet.health.result import BAD, GOOD, WARNING, Finding
from celery_fleet.health.setup import Setup

HOUR = 3600.0
NOW = 1767322800.0


def found(root: Path, record: BackupRecord | None) -> Finding:
    setup = Setup(
        app="shop",
        host="redis1",
        user="shop",
        interval=300,
        checks=("backup",),
        thresholds=health.merged({}),
        directory=root,
        root=root,
        runtime=root,
        backup=HOUR,
    )
    if record is not None:
        path = backup_record.path_of("shop", root)
        path.parent.mkdir(parents=True, exist_ok=True)
        backup_record.write(path, record)
    return backup(setup, root, NOW)


@pytest.mark.parametrize(
    ("age", "state", "text"),
    [
        (0, GOOD, "shop-x, 0 s ago"),
        (1.9, GOOD, "shop-x, 114 min ago"),
        (2, WARNING, "shop-x, 2 h ago"),
        (4, BAD, "shop-x, 4 h ago"),
        (72, BAD, "shop-x, 3 days ago"),
    ],
)
def test_its_age_counts_in_intervals(tmp_path: Path, age: float, state: str, text: str) -> None:
    when = NOW - age * HOUR
    one = found(tmp_path, BackupRecord(when, when, "shop-x", 10))
    assert (one.state, one.text) == (state, text)
    assert one.value == {"age_seconds": round(age * HOUR), "name": "shop-x"}


def test_a_failure_is_told_while_the_last_good_one_is_young(tmp_path: Path) -> None:
    one = found(tmp_path, BackupRecord(NOW, NOW - HOUR, "shop-x", 10, "disk full"))
    assert (one.state, one.text) == (GOOD, "shop-x, 60 min ago; the last one failed: disk full")


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(299, GOOD), (301, WARNING), (3.9 * HOUR, WARNING), (4 * HOUR, BAD), (365 * 24 * HOUR, BAD)],
)
def test_a_time_that_is_still_to_come_says_nothing_of_its_age(
    tmp_path: Path, ahead: float, state: str
) -> None:
    one = found(tmp_path, BackupRecord(NOW, NOW + ahead, "shop-x", 10, "full"))
    assert one.state == state
    if state == GOOD:
        assert one.text == "shop-x, 0 s ago; the last one failed: full"
        return
    words = f"the time of shop-x is {duration(ahead)} ahead of the clock, so its age is unknown; "
    assert one.text.startswith(words)
    assert one.text.endswith("systemctl start shop-backup; the last one failed: full")
    assert one.value == {"age_seconds": None, "name": "shop-x"}


def test_without_any_good_one_it_is_bad(tmp_path: Path) -> None:
    assert found(tmp_path, None).state == WARNING
    one = found(tmp_path, BackupRecord(NOW, error="WRONGPASS"))
    assert (one.state, one.text) == (BAD, "there is no good one; the last one failed: WRONGPASS")


def test_durations() -> None:
    assert [duration(n) for n in (119, 120, 7199, 7200, 172799, 172800)] == [
        *("119 s", "2 min", "119 min", "2 h", "47 h", "2 days")
    ]
