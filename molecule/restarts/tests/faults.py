"""Break something during a restart: cut off hosts, restart Redis, keep workers from starting."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ground import Case, Ground
from support import units
from support.waiting import wait_for

HOST_LOST = "its host was lost"
REDIS_RESTARTED = "Redis was restarted"
DROPPED = 10.0  # seconds for which a host answers nothing before it is gone


def lose_host(ground: Ground, case: Case, name: str) -> None:
    """Cut a host off in both directions; then cut its power."""
    case.mark(HOST_LOST, host=name, fatal=True)
    ground.fleet.must(name, ["ip", "link", "set", "eth0", "down"])
    time.sleep(DROPPED)
    docker("kill", ground.fleet.containers[name])


def bring_back(ground: Ground, name: str) -> None:
    """Switch a host on again, and wait until its workers consume."""
    docker("start", ground.fleet.containers[name])
    wanted = ground.fleet.expected[name]["units"]
    wait_for(
        f"{name} is up",
        90,
        lambda: all(
            found.get("ActiveState") == "active"
            for found in units.states(ground.fleet, name, wanted).values()
        ),
        pause=1,
    )


def restart_redis(ground: Ground, case: Case) -> None:
    """Restart both instances of Redis."""
    case.mark(REDIS_RESTARTED)
    app = ground.fleet.of("redis")["celery_app_name"]
    both = [f"redis@{app}-broker.service", f"redis@{app}-results.service"]
    ground.fleet.must(ground.fleet.one("redis"), ["systemctl", "restart", *both])


@contextmanager
def broken(ground: Ground, name: str, unit: str) -> Iterator[None]:
    """Keep a worker from starting, by a drop-in, until the block ends."""
    directory = f"/etc/systemd/system/{unit}.service.d"
    drop_in = f"{directory}/90-broken.conf"
    text = "[Service]\nExecStartPre=/bin/false\n"
    ground.fleet.must(
        name, f"mkdir -p {directory} && cat > {drop_in} && systemctl daemon-reload", text
    )
    try:
        yield
    finally:
        ground.fleet.must(name, f"rm {drop_in} && systemctl daemon-reload")


def docker(*words: str) -> None:
    """Call the docker client."""
    subprocess.run(["docker", *words], check=True, stdout=subprocess.DEVNULL)
