"""Change passwords, keys and certificates of the replicated Redis while tasks run."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ground import QUICK, Case, Ground, end_of, playbook
from replicas import run, wait_until_whole
from support import resp
from support.inventory import inventory_sources

REVOKED = "passwords were revoked"
ROTATED = "passwords were rotated"
RENEWED = "keys and certificates were rotated"


def passwords(ground: Ground) -> dict[str, str]:
    """Return the passwords of the inventory."""
    return dict(ground.fleet.of("redis")["redis_passwords"])


def takes(ground: Ground, host: str, user: str, password: str) -> bool:
    """Return whether a host's broker accepts a login."""
    with resp.connect(ground.fleet, "broker", host=host) as client, suppress(resp.Refused):
        return bool(client.send("AUTH", user, password) == "OK")
    return False


def rotate_passwords(ground: Ground, case: Case) -> None:
    """Give all users but the operators' other passwords: the old ones end at once. Then give them back in order."""
    old = passwords(ground)
    new = {
        user: word if user in ("admin", "operator") else f"{word}{int(time.time())}"
        for user, word in old.items()
    }
    with case.lasting(REVOKED):
        given = {"redis_passwords": new, "redis_revoke_at_once": True}
        status = run(case, "site.yml", sources=inventory_sources(), variables=given)
        assert status == 0, end_of(case.log)
    for host in ground.fleet.hosts("redis"):
        assert takes(ground, host, "worker", new["worker"])
        assert not takes(ground, host, "worker", old["worker"])
    wait_until_whole(ground)
    forget_refusals(ground)
    with case.lasting(ROTATED):
        ground.site(case.log)
    for host in ground.fleet.hosts("redis"):
        assert takes(ground, host, "worker", old["worker"])
        assert not takes(ground, host, "worker", new["worker"])
    wait_until_whole(ground)
    forget_refusals(ground)


def forget_refusals(ground: Ground) -> None:
    """Clear the log of what was refused: only logins with revoked passwords, also by the sender of this load."""
    for host in ground.fleet.hosts("redis"):
        for kind in ("broker", "results", "sentinel"):
            found = resp.acl_log(ground.fleet, kind, host)
            assert {entry["reason"] for entry in found} <= {"auth"}, found
            with resp.session(ground.fleet, kind, "admin", host) as admin:
                admin.send("ACL", "LOG", "RESET")


def replace_authority(ground: Ground, log: Path, generation: int) -> None:
    """Replace the authority at once, as after its key was stolen.

    A server that has restarted trusts no other one until all have.
    """
    shutil.rmtree(Path(ground.fleet.of("redis")["pki_directory"]) / "hosts")
    given = ("-e", json.dumps({**QUICK, "pki_ca_generation": generation}))
    with playbook("site.yml", *given, log=log, sources=inventory_sources()) as process:
        status = process.wait()
    assert status == 0, end_of(log)
    for kind in ("broker", "results"):
        asked = ["celery-fleet", "redis", "--as", "admin", kind, "--", "info", "replication"]
        said = ground.fleet.must("redis1", asked)
        assert said.count("state=online") == len(ground.fleet.hosts("redis")) - 1, said


def rotate_certificates(ground: Ground, case: Case) -> None:
    """Give all hosts new keys and certificates."""
    hosts = ground.fleet.hosts("redis")
    directory = "/etc/celery-fleet/load/pki"
    files = f"sha256sum {directory}/host.key {directory}/host.crt"
    before = [ground.fleet.must(host, files).split()[::2] for host in hosts]
    with case.lasting(RENEWED):
        given = {"pki_renew_older_than": datetime.now(UTC).isoformat()}
        status = run(case, "site.yml", sources=inventory_sources(), variables=given)
        assert status == 0, end_of(case.log)
    after = [ground.fleet.must(host, files).split()[::2] for host in hosts]
    for old, new in zip(before, after, strict=True):
        assert not set(old) & set(new)
    wait_until_whole(ground)
