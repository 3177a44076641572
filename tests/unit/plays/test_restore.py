"""restore_redis.yml in real runs, with a real copy of the files: the order of its steps."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible, prepare
from tests.unit.plays.conftest import STAND_INS

pytestmark = pytest.mark.slow

#: The application's own Redis; so the host redis1 of the inventory runs Flower.
OWN_REDIS = {
    "fleet_groups": {"redis": "elsewhere", "flower": "redis"},
    "celery_app_broker_url": "rediss://shop:c0ffee5a1ad@redis.example.com/0",
    "celery_app_results_url": "rediss://shop:c0ffee5a1ad@redis.example.com/1",
    "celery_app_lease_host": "control1",
}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    path = tmp_path / "flexiprice-20260102T030000Z"
    path.mkdir()
    lines = []
    for kind in ("broker", "results"):
        (path / f"{kind}.rdb").write_bytes(kind.encode())
        lines.append(f"{hashlib.sha256(kind.encode()).hexdigest()}  {kind}.rdb\n")
    (path / "SHA256SUMS").write_text("".join(lines))
    return path


def run(
    tmp_path: Path, *options: str, refuses: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Run the playbook; return how it ended, and the calls in their order."""
    given = {
        "__redis_data": str(tmp_path / "data"),
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    made = prepare("local", tmp_path, given)
    calls = tmp_path / "calls"
    for path in (calls, tmp_path / "data"):
        path.mkdir()
    done = ansible(
        "ansible-playbook",
        *made.options,
        *options,
        "celery_fleet.core.restore_redis",
        ANSIBLE_COLLECTIONS_PATH=replaced(tmp_path, parts=STAND_INS),
        PYTHONPATH=str(ROOT),
        CALLS=str(calls),
        REFUSES=refuses,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    ordered = sorted(calls.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return done, [json.loads(path.read_text()) for path in ordered]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--limit=worker1",), "redis1 must take part in the restore"),
        (("-e", json.dumps(OWN_REDIS)), "the group redis has no host"),
    ],
)
def test_a_run_without_a_host_of_redis_is_refused(
    tmp_path: Path, backup: Path, options: tuple[str, ...], reason: str
) -> None:
    """Ansible would skip the play, and end with status 0."""
    done, calls = run(tmp_path, "-e", f"backup={backup}", *options)
    assert done.returncode == 2, done.stdout
    assert reason in " ".join(done.stdout.split())
    assert "run_lease" not in {call["action"] for call in calls}


def test_workers_pause_only_around_the_change(tmp_path: Path, backup: Path) -> None:
    done, calls = run(tmp_path, "-e", f"backup={backup}", "-e", "redis_restore_overwrite=true")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = [
        (call["action"], call["args"].get("do") or call["args"].get("state"))
        for call in calls
        if call["action"] in ("run_lease", "redis_restore", "pause_workers")
    ]
    assert steps == [
        *(("run_lease", "present"), ("redis_restore", "read"), ("redis_restore", "room")),
        *(("redis_restore", "prepare"), ("pause_workers", "paused"), ("redis_restore", "begin")),
        ("redis_restore", "restore"),
        *(("pause_workers", "resumed"), ("redis_restore", "finish"), ("run_lease", "absent")),
    ]
    (change,) = (call for call in calls if call["args"].get("do") == "restore")
    assert (change["host"], change["args"]["overwrite"]) == ("redis1", True)
    broker, results = change["args"]["instances"]
    prepared = next(call for call in calls if call["args"].get("do") == "prepare")
    assert prepared["args"]["kept"] == []
    assert (broker["name"], broker["appendonly"]) == ("flexiprice-broker", True)
    assert (results["name"], results["appendonly"]) == ("flexiprice-results", False)
    assert broker["sha256"] == hashlib.sha256(b"broker").hexdigest()
    assert broker["access"]["user"] == "admin"
    for kind in ("broker", "results"):
        staging = tmp_path / f"data/flexiprice-{kind}.restore"
        assert staging.stat().st_mode & 0o777 == 0o700
        assert (staging / "snapshot.rdb").read_bytes() == kind.encode()
        assert (staging / "snapshot.rdb").stat().st_mode & 0o777 == 0o600
    said = " ".join(done.stdout.split())
    assert (
        "flexiprice-broker: 7 keys; the data from before is in /flexiprice-broker.before." in said
    )


def test_a_backup_of_only_the_broker_leaves_the_results(tmp_path: Path, backup: Path) -> None:
    """As docs/backup.md says."""
    subprocess.run(["sed", "-i", r"/ broker\.rdb$/!d", backup / "SHA256SUMS"], check=True)
    done, calls = run(tmp_path, "-e", f"backup={backup}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [call["args"] for call in calls if call["args"].get("instances")]
    assert [args["do"] for args in found] == ["room", "prepare", "begin", "restore", "finish"]
    for args in found:
        assert [one["name"] for one in args["instances"]] == ["flexiprice-broker"]
    assert [one["name"] for one in found[1]["kept"]] == ["flexiprice-results"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["flexiprice-broker.restore"]
    assert "flexiprice-broker: 7 keys" in done.stdout
    assert "flexiprice-results: " not in done.stdout


@pytest.mark.parametrize("damage", ["damaged", "unnamed"])
def test_a_backup_that_can_not_be_used_changes_nothing(
    tmp_path: Path, backup: Path, damage: str
) -> None:
    (backup / "broker.rdb").write_bytes(b"other")
    done, calls = run(tmp_path, *(["-e", f"backup={backup}"] if damage == "damaged" else []))
    assert done.returncode != 0
    acted = {call["action"] for call in calls} - {"host_facts", "run_lease"}
    assert acted == {"redis_restore"}
    assert not any((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("refuses", "last"),
    [
        ("room", ["discard"]),
        ("prepare", ["discard"]),
        ("begin", ["paused", "begin", "resumed", "discard"]),
        # What has begun is finished by the next run.
        ("restore", ["restore", "resumed"]),
    ],
)
def test_a_restore_that_has_not_begun_leaves_no_snapshot(
    tmp_path: Path, backup: Path, refuses: str, last: list[str]
) -> None:
    done, calls = run(tmp_path, "-e", f"backup={backup}", refuses=refuses)
    assert done.returncode != 0
    assert "it is refused" in done.stdout
    steps = [
        call["args"].get("do") or call["args"].get("state")
        for call in calls
        if call["action"] in ("redis_restore", "pause_workers")
    ]
    assert steps[-len(last) :] == last


def test_a_dry_run_changes_nothing(tmp_path: Path, backup: Path) -> None:
    done, calls = run(tmp_path, "--check", "-e", f"backup={backup}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = [call["args"]["do"] for call in calls if call["action"] == "redis_restore"]
    assert steps == ["read", "room"]
    assert not any((tmp_path / "data").iterdir())
