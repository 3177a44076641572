"""The last backup of Redis in `celery-fleet status`."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest

from celery_fleet.cli import backups
from celery_fleet.common import backup_record
from celery_fleet.common.backup_record import BackupRecord
from tests.unit.cli import host
from tests.unit.cli.conftest import Call


@pytest.fixture
def redis_host(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host of Redis that makes a backup each hour; the record's path."""
    monkeypatch.setattr(backups, "ROOT", place)
    document = host.document(place, host="redis1", backup=3600)
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    path = backup_record.path_of("shop", place)
    path.parent.mkdir(parents=True)
    return path


def test_its_age_is_shown(redis_host: Path, call: Call) -> None:
    now = time.time()
    backup_record.write(redis_host, BackupRecord(now, now - 720, "shop-x", 10))
    said = call("status").output
    assert "Last good backup of Redis: shop-x, 12 min ago" in said
    assert "Problem" not in said
    backup_record.write(redis_host, BackupRecord(now, now - 720, "shop-x", 10, "full"))
    assert "shop-x, 12 min ago; the last one failed" in call("status").output
    found = json.loads(call("status", "--format", "json").output)["backup"]
    assert (found["name"], found["error"], found["tried"]) == ("shop-x", "full", now)


def test_an_old_one_is_a_problem(redis_host: Path, call: Call) -> None:
    now = time.time()
    backup_record.write(redis_host, BackupRecord(now, now - 7300, "shop-x", 10, "full"))
    done = call("status")
    assert done.exit_code == 1
    assert "Problem: the last good backup of Redis is too old: full" in done.output
    backup_record.write(redis_host, BackupRecord(now, error="full"))
    assert "Problem: there is no good backup of Redis: full" in call("status").output
    backup_record.write(redis_host, BackupRecord(now, now + 7300, "shop-x", 10, "full"))
    said = call("status").output
    assert "Last good backup of Redis: shop-x, dated in the future; the last one failed" in said
    assert "Problem: the time of the last good backup of Redis is ahead of the clock: full" in said
    for damaged in ("{", "[]"):
        redis_host.write_text(damaged)
        assert "Problem: the last backup of Redis is unknown" in call("status").output
    whole = {"format": 1, "tried": 1, "succeeded": 1, "name": "x", "bytes": 1, "error": ""}
    for name, value in (("succeeded", 1e20), ("tried", math.nan), ("bytes", math.inf)):
        redis_host.write_text(json.dumps({**whole, name: value}))
        assert "Problem: the last backup of Redis is unknown" in call("status").output


def test_before_the_first_one_nothing_is_wrong(redis_host: Path, call: Call) -> None:
    done = call("status")
    assert done.exit_code == 0
    assert "Last good backup of Redis: none was tried yet" in done.output


def test_other_hosts_say_nothing(place: Path, call: Call) -> None:
    document = host.document(place, host="redis1")
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    assert "ackup" not in call("status").output
    assert json.loads(call("status", "--format", "json").output)["backup"] is None
