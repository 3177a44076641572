"""Install the hosts of Redis again, one after another, with another Debian release and another server."""

from __future__ import annotations

from faults import docker
from ground import Case, Ground, end_of
from replicas import install_again, primary, run, wait_until_whole
from support import resp
from support.inventory import inventory_sources

#: An inventory in which redis1 comes last, because the first host must have data.
REDIS1_LAST = "molecule/failover/tests/inventory/redis1_last.yml"


def changed(flavor: str) -> str:
    """Return what a change to this server is called."""
    return f"hosts changed to {flavor}"


def change(ground: Ground, case: Case, flavor: str) -> None:
    """Give each host of Redis Debian 13 and this server, its replicas first, as docs/redis.md describes."""
    hosts = ground.fleet.hosts("redis")
    hosts.sort(key=lambda host: host == primary(ground))
    done: list[str] = []
    for host in hosts:
        done.append(host)
        # A host's own variable in an inventory.
        before = {"valkey": "redis", "redis": "valkey"}[flavor]
        server = f"{{{{ '{flavor}' if inventory_hostname in {done} else '{before}' }}}}"
        sources = inventory_sources()
        with case.lasting(changed(flavor)):
            docker("stop", "--time=60", ground.fleet.containers[host])
            install_again(ground, host, "trixie")
            status = run(
                case,
                "site.yml",
                sources=(REDIS1_LAST, *sources) if host == "redis1" else sources,
                variables={"redis_flavor": server},
            )
        assert status == 0, end_of(case.log)
        wait_until_whole(ground)
    for host in hosts:
        with resp.session(ground.fleet, "broker", "admin", host) as admin:
            assert f"{flavor}_version:" in admin.send("INFO", "server"), host
