"""Redis is backed up to a directory and to another host by SSH; its data is lost, and a backup brings it back.

The queue is paused and has tasks meanwhile. After the restore each of them runs once.
"""

from __future__ import annotations

import base64
import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import database, plays, resp, tasks
from support.change import Done, Fleets
from support.plays import Run

REDIS, WORKER, TARGET = "redis1", "worker1", "control1"
QUEUE = "discounts"
PLACE = "/mnt/backup"
KEEPER = "keeper"
HOME = "/srv/keeper"
REMOTE = f"{HOME}/backups"
# As the test hosts' sshd wants it.
KEYS = f"/etc/ssh/authorized_keys/{KEEPER}"
PASSWORD = "another-password-of-the-backup"
NUMBER = 30


@dataclass(frozen=True)
class BackedUp:
    """What was done.

    Attributes:
        label: Of the tasks that wait.
        done: The run that set the backups up.
        pids: All main processes before and after it.
        name: The backup in the directory.
        path: A copy of it on this machine.
        before: What Redis had.
        empty: What it had after the loss.
        refused: The restore while it has data.
        restored: The restore.
        after: What Redis has then.
    """

    label: str
    done: Done
    pids: tuple[Any, Any]
    name: str
    path: Path
    before: dict[str, Any]
    empty: dict[str, Any]
    refused: Run
    restored: Run
    after: dict[str, Any]


def data(changes: Fleets) -> dict[str, Any]:
    """Return what both instances have of the tasks."""
    with resp.session(changes.fleet, "broker", "operator") as client:
        lists = {
            f"{QUEUE}{end}": client.send("LRANGE", f"{QUEUE}{end}", 0, -1)
            for end in ("", *(f"\x06\x16{step}" for step in (3, 6, 9)))
        }
        letters = client.send("ZRANGE", "fleet:dead-letters:index", 0, -1, "WITHSCORES")
        pauses = client.send("HGETALL", "fleet:pauses")
    return {"lists": lists, "letters": letters, "pauses": pauses}


def make_backup(changes: Fleets) -> str:
    """Make a backup now; return the record's name of it.

    A restart also ends a backup that the timer has started before its directory was made.
    """
    changes.fleet.must(REDIS, ["systemctl", "restart", f"{changes.app}-backup.service"])
    record = json.loads(
        changes.fleet.must(REDIS, ["cat", f"/var/lib/{changes.app}-backup/last.json"])
    )
    assert (record["error"], record["tried"]) == ("", record["succeeded"])
    return str(record["name"])


def fetch(changes: Fleets, host: str, source: str, directory: Path) -> Path:
    """Copy a backup to this machine."""
    path = directory / Path(source).name
    path.mkdir(parents=True)
    for name in changes.fleet.must(host, ["ls", source]).split():
        text = changes.fleet.must(host, ["base64", "--wrap=0", f"{source}/{name}"])
        (path / name).write_bytes(base64.b64decode(text))
    return path


def restore(changes: Fleets, title: str, backup: Path, *more: str) -> Run:
    words = [f"--extra-vars=backup={backup}", *more]
    return plays.play(changes.fleet, title, *words, playbook="playbooks/restore_redis.yml")


@pytest.fixture(scope="module")
def backed_up(changes: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackedUp]:
    fleet, app = changes.fleet, changes.app
    label = uuid.uuid4().hex[:12]
    passwords = {**fleet.of("redis")["redis_passwords"], "backup": PASSWORD}
    options = {"to": PLACE, "every": "30min", "keep": 2}
    given = changes.variables(redis_backup=options, redis_passwords=passwords)
    pids = changes.pids()
    done = changes.site("backup", *given)
    assert done.run.status == 0, done.run.end
    after_run = changes.pids()
    try:
        make = ["install", "--directory", f"--owner={app}-backup", "--mode=0700", PLACE]
        fleet.must(REDIS, make)
        # At the full hour beat sends a task to this queue, too.
        tasks.wait_until_none_is_due(fleet, "app.tasks.recompute_", minutes=4)
        fleet.must(
            WORKER, ["celery-fleet", "pause", f"--queue={QUEUE}", "--why=backup", "--wait=60"]
        )
        wait = [tasks.tracer(f"{label}-{n:02d}", QUEUE, 0.1) for n in range(NUMBER)]
        tasks.send(fleet, wait)
        before = data(changes)
        name = make_backup(changes)
        path = fetch(changes, REDIS, f"{PLACE}/{name}", tmp_path_factory.mktemp("fetched"))
        refused = restore(changes, "restore-refused", path, *given)
        units = [f"redis@{app}-{kind}.service" for kind in ("broker", "results")]
        fleet.must(REDIS, ["systemctl", "stop", *units])
        fleet.must(REDIS, ["find", "/var/lib/celery-fleet-redis", "-mindepth", "2", "-delete"])
        fleet.must(REDIS, ["systemctl", "start", *units])
        empty = data(changes)
        # Workers have connected again, so the broker is no longer quite empty.
        overwrite = "--extra-vars=redis_restore_overwrite=true"
        restored = restore(changes, "restore", path, overwrite, *given)
        after = data(changes)
        yield BackedUp(
            *(label, done, (pids, after_run), name, path, before, empty, refused, restored, after)
        )
    finally:
        fleet.execute(WORKER, f"celery-fleet resume --queue={QUEUE}")
        back = changes.site("backup-off")
        assert back.run.status == 0, back.run.end
        left = f"systemctl list-unit-files --no-legend '{app}-backup*'"
        assert fleet.execute(REDIS, left).output == ""
        fleet.must(REDIS, ["rm", "-rf", PLACE])
        fleet.execute(REDIS, "rm -rf /var/lib/celery-fleet-redis/*.before-*")


def test_setting_it_up_restarts_nothing(changes: Fleets, backed_up: BackedUp) -> None:
    before, after = backed_up.pids
    assert before == after
    assert backed_up.done.of("restart") == set()
    with resp.session(changes.fleet, "broker", "admin") as admin:
        assert "backup" in admin.send("ACL", "USERS")


def test_a_backup_is_whole_and_only_its_user_can_read_it(
    changes: Fleets, backed_up: BackedUp
) -> None:
    place = f"{PLACE}/{backed_up.name}"
    listed = changes.fleet.must(REDIS, ["find", place, "-printf", "%f %m %u\\n"]).splitlines()
    user = f"{changes.app}-backup"
    assert sorted(listed) == sorted(
        [f"{backed_up.name} 700 {user}"]
        + [f"{name} 600 {user}" for name in ("SHA256SUMS", "broker.rdb", "results.rdb")]
    )
    check = f"cd {place} && sha256sum --check --quiet SHA256SUMS && redis-check-rdb broker.rdb"
    changes.fleet.must(REDIS, ["sh", "-c", check])


def test_a_redis_with_data_is_not_overwritten(backed_up: BackedUp) -> None:
    text = " ".join(backed_up.refused.text.split())
    assert backed_up.refused.status != 0
    assert "redis_restore_overwrite=true" in text
    assert "has data" in text


def test_a_restore_brings_everything_back(backed_up: BackedUp) -> None:
    assert backed_up.restored.status == 0, backed_up.restored.end
    waiting = backed_up.before["lists"][QUEUE]
    assert len(waiting) == NUMBER
    assert backed_up.empty["lists"][QUEUE] == []
    assert backed_up.after == backed_up.before


def test_restored_tasks_run_once(changes: Fleets, backed_up: BackedUp) -> None:
    changes.fleet.must(WORKER, ["celery-fleet", "resume", f"--queue={QUEUE}"])
    database.assert_ran_once(changes.fleet, backed_up.label, NUMBER, 90)


def test_the_data_from_before_is_kept(changes: Fleets, backed_up: BackedUp) -> None:
    kept = changes.fleet.must(REDIS, ["ls", "/var/lib/celery-fleet-redis"]).split()
    assert [name for name in kept if name.startswith(f"{changes.app}-broker.before-")]
    assert [name for name in kept if name.endswith(".restore")] == []


def test_status_and_health_show_the_age(changes: Fleets, backed_up: BackedUp) -> None:
    found = json.loads(changes.fleet.must(REDIS, ["celery-fleet", "--format", "json", "status"]))
    assert found["backup"]["name"].startswith(f"{changes.app}-")
    changes.fleet.execute(REDIS, "celery-fleet health --now")
    health = json.loads(
        changes.fleet.must(REDIS, ["cat", f"/var/lib/celery-fleet/health/{changes.app}.json"])
    )
    assert health["checks"]["backup"]["state"] == "good"


def test_only_the_newest_stay(changes: Fleets, backed_up: BackedUp) -> None:
    newest = [make_backup(changes) for _ in range(3)][1:]
    assert sorted(changes.fleet.must(REDIS, ["ls", PLACE]).split()) == sorted(newest)


def test_a_full_disk_costs_no_backup(changes: Fleets, backed_up: BackedUp) -> None:
    """A target without room: its filesystem is full."""
    before = changes.fleet.must(REDIS, ["ls", PLACE])
    small = f"mount -t tmpfs -o size=4k,uid=$(id -u {changes.app}-backup),mode=0700 small {PLACE}"
    changes.fleet.must(REDIS, ["sh", "-c", small])
    try:
        done = changes.fleet.execute(REDIS, f"systemctl start {changes.app}-backup.service")
        assert done.status != 0
    finally:
        changes.fleet.must(REDIS, ["umount", PLACE])
    assert changes.fleet.must(REDIS, ["ls", PLACE]) == before
    status = json.loads(
        changes.fleet.must(REDIS, ["cat", f"/var/lib/{changes.app}-backup/last.json"])
    )
    assert "No space left on device" in status["error"]
    assert status["succeeded"]
    make_backup(changes)


def test_rsync_by_ssh_stores_encrypted_backups(
    changes: Fleets, backed_up: BackedUp, tmp_path: Path
) -> None:
    """On another host, with a key that only this fleet has; what arrives can be restored."""
    fleet = changes.fleet
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True
    )
    public = (tmp_path / "key.pub").read_text().strip()
    script = f"""
        set -e
        useradd --create-home --home-dir {HOME} {KEEPER}
        install --directory --owner={KEEPER} --mode=0700 {REMOTE}
        echo '{public}' > {KEYS}
        command -v rsync >/dev/null || apt-get install --yes --quiet rsync
    """
    fleet.must(TARGET, ["sh", "-c", script])
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--batch", "--quiet", "--homedir", str(home), "--pinentry-mode", "loopback"]
    try:
        make = ["--passphrase", "", "--quick-generate-key", "owner", "default", "default", "never"]
        subprocess.run([*gpg, *make], check=True)
        key = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True).stdout
        host_key = fleet.must(TARGET, ["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
        options = {
            "to": f"{KEEPER}@{TARGET}:{REMOTE}",
            "keep": 1,
            "encrypt_for": key.decode(),
            "ssh_key": (tmp_path / "key").read_text(),
            "ssh_known_hosts": f"{TARGET} {host_key}",
        }
        passwords = {**fleet.of("redis")["redis_passwords"], "backup": PASSWORD}
        given = changes.variables(redis_backup=options, redis_passwords=passwords)
        done = changes.site("backup-ssh", *given)
        assert done.run.status == 0, done.run.end
        assert "PRIVATE KEY" not in done.run.text
        make_backup(changes)
        name = make_backup(changes)
        assert fleet.must(TARGET, ["ls", REMOTE]).split() == [name]
        path = fetch(changes, TARGET, f"{REMOTE}/{name}", tmp_path / "fetched")
        assert {one.name for one in path.iterdir()} == {
            *("SHA256SUMS", "broker.rdb.gpg", "results.rdb.gpg")
        }
        refused = restore(changes, "restore-encrypted", path, *given)
        assert "gpg --decrypt-files" in " ".join(refused.text.split())
        files = [str(one) for one in path.glob("*.gpg")]
        subprocess.run([*gpg, "--passphrase", "", "--decrypt-files", *files], check=True)
        overwrite = "--extra-vars=redis_restore_overwrite=true"
        restored = restore(changes, "restore-decrypted", path, overwrite, *given)
        assert restored.status == 0, restored.end
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
        fleet.must(TARGET, ["userdel", "--remove", KEEPER])
        fleet.must(TARGET, ["rm", KEYS])
