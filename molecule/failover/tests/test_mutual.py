"""Three hosts of Redis ask all clients for certificates, lose their primary, and stop asking; only in the soak."""

from __future__ import annotations

import time
from ssl import SSLError

import pytest
from deaths import wait_until_active
from ground import Ground
from replicas import RECOVERY, unit, wait_until_whole
from support import resp, units
from support.waiting import wait_for

pytestmark = pytest.mark.soak

KINDS = ("broker", "results")


def primary(ground: Ground) -> str:
    """Return the host of the broker's primary. Sentinels never ask for a certificate, which these tests don't have."""
    with resp.session(ground.fleet, "sentinel", "admin", "redis1") as sentinel:
        return str(sentinel.send("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "load-broker")[0])


def replicas(ground: Ground, kind: str) -> int:
    """Return how many replicas the primary of an instance has, as an operator asks it."""
    asked = f"celery-fleet redis {kind} -- info replication"
    return ground.fleet.must("redis1", asked).count("state=online")


def processes(ground: Ground) -> dict[tuple[str, str], str]:
    """Return the main process of each instance on each host."""
    return {
        (host, kind): units.state(ground.fleet, host, unit(kind))["MainPID"]
        for host in ground.fleet.hosts("redis")
        for kind in KINDS
    }


def test_several_hosts_ask_for_certificates_and_stop_asking(ground: Ground) -> None:
    hosts = ground.fleet.hosts("redis")
    ground.site(ground.results / "deploy.log")
    wait_until_whole(ground)
    before = processes(ground)
    ground.site(ground.results / "mutual.log", variables={"pki_mode": "mutual"})
    try:
        for host in hosts:
            for kind in KINDS:
                # The server says what is missing, or has already closed the connection.
                with (
                    resp.connect(ground.fleet, kind, host=host) as client,
                    pytest.raises((SSLError, ConnectionError)),
                ):
                    client.send("PING")
        assert {kind: replicas(ground, kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)
        assert processes(ground) == before

        lost = primary(ground)
        began = time.monotonic()
        ground.fleet.must(lost, ["systemctl", "kill", "--signal=KILL", unit("broker")])
        wait_for("another host has the primary", RECOVERY, lambda: primary(ground) != lost)
        wait_until_active(ground, lost, unit("broker"))
        wait_for("it has both replicas", 60, lambda: replicas(ground, "broker") == 2)
        assert time.monotonic() - began < 60
        everybody = ground.fleet.must(ground.workers[0], "celery-fleet inspect ping")
        assert everybody.count("@") >= len(ground.workers) * len(ground.instances)
        for host in ground.fleet.hosts("fleet"):
            ground.fleet.must(host, "celery-fleet health --now")
        before = processes(ground)
    finally:
        ground.site(ground.results / "server.log")
    assert processes(ground) == before
    wait_until_whole(ground)
    rest = "ls /etc/celery-fleet/load/pki/client.key"
    assert [ground.fleet.execute(host, rest).status == 0 for host in hosts] == [False] * len(hosts)
