"""No application sees another one's keys, files or credentials, takes over its names, or stops its processes."""

from __future__ import annotations

import itertools
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from support import fleets, resp
from support.search import PLACES, PROCESSES, search
from support.web import authority

if TYPE_CHECKING:
    from support.inventory import Fleet

pytestmark = pytest.mark.stage(4)

PAIRS = list(itertools.permutations(fleets.NAMES, 2))
pairs = pytest.mark.parametrize(("name", "other"), PAIRS)


def users(fleet: Fleet) -> tuple[str, str]:
    """Return the Unix users of an application."""
    return str(fleet.of("fleet")["celery_app_user"]), f"{fleets.app_of(fleet)}-flower"


# Runs as one user and prints which files below these directories it can read, and which directories it can write to.
LOOK = r"""
import json, os, sys
found = []
for root in json.load(sys.stdin):
    for path, directories, names in os.walk(root):
        for name in names:
            whole = os.path.join(path, name)
            if os.access(whole, os.R_OK) and os.path.isfile(whole):
                found.append(whole)
        if os.access(path, os.W_OK):
            found.append(path + " to write")
print(json.dumps(found))
"""


@pairs
def test_no_user_reads_files_of_another_application(name: str, other: str) -> None:
    """It can only read the part of the other's configuration that is meant for all users and has no secret."""
    fleet, theirs = fleets.load(name), fleets.load(other)
    app = fleets.app_of(theirs)
    closed = [
        *(f"/etc/celery-fleet/{app}/{part}" for part in ("credentials", "credentials-nginx")),
        *(f"/opt/{app}/releases", f"/var/lib/{app}", f"/var/lib/{app}-flower", f"/var/log/{app}"),
    ]
    for host in theirs.hosts("celery_workers") + theirs.hosts("celery_beat"):
        for user in users(fleet):
            if fleet.execute(host, ["id", "-u", user]).status != 0:
                continue  # Flower's user only exists on Flower's host.
            command = ["runuser", "-u", user, "--", "python3", "-c", LOOK]
            assert json.loads(fleet.must(host, command, json.dumps(closed))) == [], (host, user)
            key = f"/etc/celery-fleet/{app}/pki/host.key"
            assert fleet.execute(host, ["runuser", "-u", user, "--", "cat", key]).status != 0
        # The same search finds secrets in a place that may have them.
        own = ["runuser", "-u", users(theirs)[0], "--", "python3", "-c", LOOK]
        assert json.loads(theirs.must(host, own, json.dumps([f"/opt/{app}/releases"]))) != []


@pairs
def test_no_user_finds_a_secret_of_another_application(name: str, other: str) -> None:
    """Search processes, their environments, and all files that the user can open."""
    fleet, theirs = fleets.load(name), fleets.load(other)
    for host in theirs.hosts("fleet"):
        user = users(fleet)[0]
        if fleet.execute(host, ["id", "-u", user]).status == 0:
            done = search(theirs, host, user, PROCESSES, PLACES)
            assert (host, done["found"]) == (host, {})
            assert done["size"] > 1000


@pairs
@pytest.mark.parametrize("kind", ["broker", "results"])
def test_no_user_of_redis_is_let_in_elsewhere(name: str, other: str, kind: str) -> None:
    fleet, theirs = fleets.load(name), fleets.load(other)
    passwords = fleet.of("redis")["redis_passwords"]
    with resp.provoked(theirs, kind, *((user, "auth", "AUTH") for user in passwords)):
        for user, password in passwords.items():
            with (
                resp.connect(theirs, kind) as client,
                pytest.raises(resp.Refused, match="WRONGPASS"),
            ):
                client.send("AUTH", user, password)
    # A client of this application would not trust the other's server, either.
    with pytest.raises(ssl.SSLCertVerificationError):
        resp.connect(theirs, kind, cafile=authority(fleet.of("redis")))


@pairs
def test_credentials_of_one_open_no_database_of_another(name: str, other: str) -> None:
    """PostgreSQL itself refuses, on a host that may connect to both."""
    fleet, theirs = fleets.load(name), fleets.load(other)
    variables = fleet.of("postgresql")
    script = """
import os, subprocess, sys
address, database, user = sys.argv[1:]
done = subprocess.run(["psql", "-X", "-c", "SELECT 1", f"host={address} dbname={database} user={user} sslmode=require"],
                      env={**os.environ, "PGPASSWORD": sys.stdin.read()}, capture_output=True, text=True)
print(done.returncode, done.stderr)
"""
    host = fleet.one("postgresql")

    def enter(database: str) -> str:
        words = [variables["ansible_host"], database, variables["postgresql_user"]]
        command = ["python3", "-c", script, *words]
        return fleet.must(host, command, variables["postgresql_password"])

    assert enter(variables["postgresql_database"]).startswith("0 ")
    refused = enter(theirs.of("postgresql")["postgresql_database"])
    assert not refused.startswith("0 ")
    assert "FATAL" in refused


# Application, values that replace its inventory's, and words of the refusal. Names and ports are from the documents.
CLAIMS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "port of a broker": (
        "flash_promos",
        {"celery_app_broker_port": 6381},
        ("6381", "celery_app_broker_port", "aiecommerce"),
    ),
    "port of a web site": (
        "flash_promos",
        {"celery_producer_web_port": 8443},
        ("8443", "celery_producer_web_port", "aiecommerce"),
    ),
    "port of Flower": (
        "flash_promos",
        {"flower_port": 5555},
        ("5555", "flower_port", "flexiprice"),
    ),
    "user": (
        "aiecommerce",
        {"celery_app_user": "flexiprice"},
        ("celery_app_user", "flexiprice"),
    ),
    "name of another inventory's": (
        "flash_promos",
        {"celery_app_name": "aiecommerce"},
        ("celery_app_name", "aiecommerce", "flash_promos"),
    ),
}


@pytest.mark.parametrize("title", CLAIMS)
def test_taking_over_names_of_another_application_is_refused(
    title: str, workshop: fleets.Workshop
) -> None:
    name, wanted, words = CLAIMS[title]
    before = fleets.Look.at(*map(fleets.load, fleets.NAMES))
    run = workshop.site(
        fleets.load(name), f"claims-{title.replace(' ', '-')}", workshop.variables(**wanted)
    )
    assert run.status != 0
    assert [word for word in words if word not in run.text] == [], run.end
    assert "Traceback (most recent call last)" not in run.text, run.end
    assert not any(run.changed.values()), run.end
    before.unchanged()


def test_one_target_stops_one_application(fleet: Fleet, others: tuple[Fleet, ...]) -> None:
    """The other applications on the host do not notice. (All hosts of one application: test_commands.py.)"""
    app, host = fleets.app_of(fleet), fleet.one("celery_workers")
    look = fleets.Look.at(*others)
    with fleets.stopped(fleet, host, f"{app}.target", f"{app}-*.service"):
        assert [unit for name, unit in fleets.pids(fleet) if name == host] == []
        look.unchanged()
        for other in others:
            fleets.must(other, host, "status")
    look.unchanged()
