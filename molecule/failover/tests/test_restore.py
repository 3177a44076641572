"""A backup is restored to three hosts of Redis, while another one than the first has the primary; only in the soak."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from deaths import wait_until_active
from ground import FLEET, Ground, end_of, playbook
from replicas import primary, unit, wait_for_another, wait_until_whole
from support import resp
from support.waiting import wait_for

pytestmark = pytest.mark.soak

PLACE = "/mnt/backup"


@pytest.fixture(scope="module", autouse=True)
def three(ground: Ground) -> None:
    """Deploy three hosts of Redis with backups to a directory, and stop all workers."""
    passwords = {**ground.fleet.of("redis")["redis_passwords"], "backup": "of-the-tests-backups"}
    ground.site(ground.results / "deploy.log")
    ground.deploy(
        variables={"redis_backup": {"to": PLACE, "every": "1d"}, "redis_passwords": passwords}
    )
    make = ["install", "--directory", "--owner=load-backup", "--mode=0700", PLACE]
    ground.fleet.must("redis1", make)
    wait_until_whole(ground)


def back_up(ground: Ground, directory: Path) -> Path:
    """Make a backup now, and copy it to this machine."""
    ground.fleet.must("redis1", ["systemctl", "restart", "load-backup.service"])
    name = ground.fleet.must("redis1", ["ls", PLACE]).split()[-1]
    path = directory / name
    path.mkdir()
    for file in ground.fleet.must("redis1", ["ls", f"{PLACE}/{name}"]).split():
        text = ground.fleet.must("redis1", ["base64", "--wrap=0", f"{PLACE}/{name}/{file}"])
        (path / file).write_bytes(base64.b64decode(text))
    return path


def restore(ground: Ground, log: Path, backup: Path, *more: str) -> int:
    """Run the playbook; return its exit status."""
    words = ("-e", f"backup={backup}", *more, "playbooks/restore_redis.yml")
    with playbook(*words, log=log) as process:
        return process.wait()


def sizes(ground: Ground) -> set[int]:
    """Return how many keys each host's broker has."""
    found = set()
    for host in ground.fleet.hosts("redis"):
        with resp.session(ground.fleet, "broker", "admin", host) as client:
            found.add(int(client.send("DBSIZE")))
    return found


def test_a_backup_is_restored_to_all_hosts(ground: Ground, tmp_path: Path) -> None:
    log = tmp_path / "restore.log"
    stop = ["systemctl", "stop", "load-worker@*.service"]
    ground.everywhere(lambda name: ground.fleet.must(name, stop))
    run = f"restored-{int(time.time())}"
    ground.start_load(run, 10)
    ground.sleep(12)
    ground.stop_load(run)
    before = ground.waiting()
    assert before > 100
    backup = back_up(ground, tmp_path)

    start = ["systemctl", "start", *ground.units(FLEET)]
    ground.everywhere(lambda name: ground.fleet.must(name, start))
    wait_for("all tasks have run", 180, lambda: ground.waiting() == 0, pause=2)
    ground.everywhere(lambda name: ground.fleet.must(name, stop))

    # The restore makes redis1 the primary, so another one must be it before.
    if primary(ground) == "redis1":
        ground.fleet.must("redis1", ["systemctl", "kill", "--signal=KILL", unit("broker")])
        wait_for_another(ground, "redis1")
        wait_until_active(ground, "redis1", unit("broker"))
        wait_until_whole(ground)

    assert restore(ground, log, backup) != 0
    assert "redis_restore_overwrite=true" in log.read_text(), end_of(log)
    assert primary(ground) != "redis1"
    assert restore(ground, log, backup, "-e", "redis_restore_overwrite=true") == 0, end_of(log)
    wait_until_whole(ground)
    assert primary(ground) == primary(ground, "results") == "redis1"
    assert ground.waiting() == before
    (number,) = sizes(ground)
    assert number > 0
