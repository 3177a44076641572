"""The replicated Redis: who is the primary, and what can happen to it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from deaths import wait_until_active
from faults import bring_back, docker
from ground import QUICK, Case, Ground, end_of, playbook
from support import resp
from support.inventory import load_fleet
from support.rebuild import make_hosts
from support.waiting import wait_for

KILLED = "the primary was killed"
FROZEN = "the primary was frozen"
LOST = "the primary's host was lost"
MOVED = "the primary was moved"
GROWN = "one host became three"
ABSENT = "a host of Redis was away"
REBOOTED = "the hosts of Redis rebooted"
REPLACED = "a lost host of Redis was replaced"
TWO_LOST = "two hosts of Redis were lost"
SHRUNK = "three hosts became one"

_HOSTS = "molecule/restarts/inventory/hosts.yml"
#: How to reach the hosts, with the variables beside it.
_CONNECTION = "molecule/failover/inventory/connection.yml"
#: Inventories in which redis4 has replaced redis3, and in which only redis1 is left.
WITH_REDIS4 = (_HOSTS, _CONNECTION, "molecule/failover/tests/inventory/replaced.yml")
WITH_REDIS1_ALONE = (_HOSTS, _CONNECTION, "molecule/failover/tests/inventory/alone.yml")

#: Seconds within which a new primary has to serve, and all workers have to consume from it again.
RECOVERY = 15.0


def unit(kind: str) -> str:
    """Return the unit of an instance."""
    return f"redis@load-{kind}.service"


def primary(ground: Ground, kind: str = "broker") -> str:
    """Return the host of the primary."""
    return resp.primary(ground.fleet, kind)


def wait_for_another(ground: Ground, before: str, kind: str = "broker") -> float:
    """Wait until another host than `before` has the primary; return how many seconds that took."""
    began = time.monotonic()

    def look() -> bool:
        with suppress(OSError, resp.Refused):
            return primary(ground, kind) != before
        return False

    wait_for(f"another host than {before} has the primary of {kind}", 60, look, pause=0.2)
    return time.monotonic() - began


def wait_until_whole(ground: Ground, seconds: float = 60) -> None:
    """Wait until each primary has both replicas, and each Sentinel knows all others."""
    number = len(ground.fleet.hosts("redis")) - 1

    def look() -> bool:
        for kind in ("broker", "results"):
            for host in ground.fleet.hosts("redis"):
                with resp.session(ground.fleet, "sentinel", "admin", host) as sentinel:
                    answer = sentinel.send("SENTINEL", "MASTER", f"load-{kind}")
                    state = dict(zip(answer[::2], answer[1::2], strict=True))
                if (state["num-slaves"], state["num-other-sentinels"]) != (str(number),) * 2:
                    return False
            with resp.session(ground.fleet, kind, "admin") as admin:
                if admin.send("INFO", "replication").count("state=online") != number:
                    return False
        return True

    def quietly() -> bool:
        with suppress(OSError, resp.Refused):
            return look()
        return False

    wait_for("the replication is whole", seconds, quietly, pause=0.5)


def grow(ground: Ground, case: Case) -> None:
    """Deploy three hosts of Redis where there was one."""
    with case.lasting(GROWN):
        ground.site(case.log)
    wait_until_whole(ground)


def kill_primary(ground: Ground, case: Case) -> None:
    """Kill the broker's primary; systemd starts it again, as a primary without replicas or as a replica."""
    host = primary(ground)
    case.mark(KILLED)
    ground.fleet.must(host, ["systemctl", "kill", "--signal=KILL", unit("broker")])
    ground.sleep(RECOVERY)
    wait_until_active(ground, host, unit("broker"))
    wait_until_whole(ground)


def freeze_primary(ground: Ground, case: Case, seconds: float) -> float:
    """Freeze the broker's primary; return how many seconds another host took to be the primary."""
    host = primary(ground)
    kill = ["systemctl", "kill", "--kill-whom=main", unit("broker")]
    with case.lasting(FROZEN):
        ground.fleet.must(host, [*kill, "--signal=STOP"])
        try:
            took = wait_for_another(ground, host)
            ground.sleep(max(0.0, seconds - took))
        finally:
            ground.fleet.must(host, [*kill, "--signal=CONT"])
    wait_until_whole(ground)
    return took


def lose_primary(ground: Ground, case: Case, seconds: float) -> float:
    """Cut the power of the primary's host for some seconds; return how long another host took to be the primary."""
    host = primary(ground)
    with case.lasting(LOST):
        docker("kill", ground.fleet.containers[host])
        took = wait_for_another(ground, host)
        ground.sleep(max(0.0, seconds - took))
        bring_back(ground, host)
    wait_until_whole(ground)
    return took


def move_primaries(ground: Ground, case: Case) -> None:
    """Restart all of Redis by a run, with a new setting that Redis only reads at its start."""
    with case.lasting(MOVED):
        ground.site(case.log, "", {"redis_bind": "*"})
    wait_until_whole(ground)


def deploy_without_a_host(ground: Ground, case: Case) -> None:
    """Deploy a new setting while the host of a replica has no power, and again when the host is back."""
    replicas = [host for host in ground.fleet.hosts("redis")[1:] if host != primary(ground)]
    setting = {"redis_results_maxmemory": "200mb"}
    with case.lasting(ABSENT):
        docker("kill", ground.fleet.containers[replicas[0]])
        ground.site(case.log, "", setting, status=2)
        assert f"{replicas[0]} is left out" in case.log.read_text(), end_of(case.log)
        bring_back(ground, replicas[0])
    wait_until_whole(ground)
    ground.site(case.log, "", setting)
    for host in ground.fleet.hosts("redis"):
        with resp.session(ground.fleet, "results", "admin", host) as admin:
            assert admin.send("CONFIG", "GET", "maxmemory")[1] == str(200 << 20), host


def reboot_hosts(ground: Ground, case: Case) -> None:
    """Reboot the hosts of Redis by the playbook."""
    with (
        case.lasting(REBOOTED),
        playbook(
            *("--limit", "redis", "-e", json.dumps(QUICK), "playbooks/reboot_hosts.yml"),
            log=case.log,
        ) as process,
    ):
        assert process.wait() == 0, end_of(case.log)
    wait_until_whole(ground)


def run(
    case: Case, *arguments: str, sources: Sequence[str], variables: Mapping[str, object] = {}
) -> int:
    """Run a playbook with other inventories; return its exit status."""
    with playbook(
        *("-e", json.dumps({**QUICK, **variables}), *arguments), log=case.log, sources=sources
    ) as process:
        return process.wait()


def suites(ground: Ground) -> dict[str, str]:
    """Return the Debian suite of each host."""
    hosts = json.loads((ground.fleet.state / "fleet.json").read_text())["hosts"]
    # celery-fleet/host:bookworm-…
    return {name: host["image"].partition(":")[2].partition("-")[0] for name, host in hosts.items()}


def install_again(ground: Ground, host: str, suite: str) -> None:
    """Replace a host by a bare one with the same name and address."""
    before = suites(ground)
    docker("rm", "--force", "--volumes", ground.fleet.containers[host])
    make_hosts("failover", {**before, host: suite})


def replace(ground: Ground, case: Case) -> None:
    """Replace redis3 by redis4: not while it runs, and when it is lost for good."""
    assert run(case, "playbooks/preflight.yml", sources=WITH_REDIS4) != 0
    assert "lacks redis3, whose Sentinel still runs" in case.log.read_text(), end_of(case.log)
    with case.lasting(REPLACED):
        docker("kill", ground.fleet.containers["redis3"])
        ground.sleep(RECOVERY)
        assert run(case, "site.yml", sources=WITH_REDIS4) == 0, end_of(case.log)
    ground.fleet = load_fleet(WITH_REDIS4)
    wait_until_whole(ground)


def lose_two(ground: Ground, case: Case) -> None:
    """Lose a replica and then the primary for good; redis1 goes on by itself, and then with two new hosts."""
    if primary(ground) == "redis1":
        kill_primary(ground, case)
    gone = ["redis2", "redis3"] if primary(ground) == "redis3" else ["redis3", "redis2"]
    with case.lasting(TWO_LOST):
        for host in gone:
            docker("kill", ground.fleet.containers[host])
            ground.sleep(RECOVERY)
        assert run(case, "site.yml", sources=WITH_REDIS1_ALONE) == 0, end_of(case.log)
    for host in gone:
        install_again(ground, host, "bookworm")
    grow(ground, case)


def shrink(ground: Ground, case: Case) -> None:
    """Go back to one host of Redis, in the steps of docs/redis.md."""
    alone = {"redis_min_replicas_to_write": 0, "celery_app_wait_replicas": 0}
    with case.lasting(SHRUNK):
        assert run(case, "site.yml", sources=WITH_REDIS4, variables=alone) == 0, end_of(case.log)
        off = ("--limit=redis2,redis4", "-e", "fleet_remove_confirm=load")
        removal = "playbooks/remove_fleet.yml"
        assert run(case, *off, removal, sources=WITH_REDIS4) == 0, end_of(case.log)
        assert run(case, "site.yml", sources=WITH_REDIS1_ALONE) == 0, end_of(case.log)
    ground.fleet = load_fleet(WITH_REDIS1_ALONE)
    # It was lost for good. The tests after this one need it as a bare host.
    install_again(ground, "redis3", "bookworm")
