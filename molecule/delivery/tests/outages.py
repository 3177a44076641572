"""Restart, kill, stop or freeze Redis, fill its memory or disk, or move its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from conditions import drop_in, faketime, start_of
from deaths import wait_until_active
from faults import REDIS_RESTARTED
from ground import Case, Ground
from support import resp
from support.waiting import wait_for

KILLED = "Redis was killed"
STOPPED = "Redis was stopped"
FROZEN = "Redis was frozen"
FULL = "Redis was full"
DISK_FULL = "Redis's disk was full"
MOVED = "Redis's clock was moved"

#: Seconds by which Redis's clock is wrong.
CLOCK = "/run/redis-clock"


def broker(ground: Ground) -> tuple[str, str]:
    """Return the host and the unit of the broker."""
    app = ground.fleet.of("redis")["celery_app_name"]
    return ground.fleet.one("redis"), f"redis@{app}-broker.service"


def setting(ground: Ground, name: str) -> str:
    """Return the broker's value of a directive."""
    with resp.session(ground.fleet, "broker", "admin") as admin:
        return str(admin.send("CONFIG", "GET", name)[1])


@contextmanager
def configured(ground: Ground, name: str, value: str) -> Iterator[None]:
    """Give the broker another value for a directive until the block ends."""
    before = setting(ground, name)
    with resp.session(ground.fleet, "broker", "admin") as admin:
        admin.send("CONFIG", "SET", name, value)
    try:
        yield
    finally:
        with resp.session(ground.fleet, "broker", "admin") as admin:
            admin.send("CONFIG", "SET", name, before)


# --- the process -----------------------------------------------------------------------------------


def restart_broker(ground: Ground, case: Case, number: int) -> None:
    """Restart the broker this many times. It stops in order, so it saves all its data."""
    host, unit = broker(ground)
    for _ in range(number):
        case.mark(REDIS_RESTARTED)
        ground.fleet.must(host, ["systemctl", "restart", unit])
        ground.sleep(6)


def kill_broker(ground: Ground, case: Case, number: int) -> None:
    """Send SIGKILL to the broker this many times; systemd starts it again each time."""
    host, unit = broker(ground)
    for _ in range(number):
        wait_until_active(ground, host, unit)
        case.mark(KILLED)
        ground.fleet.must(host, ["systemctl", "kill", "--signal=KILL", unit])
        ground.sleep(6)


def stop_broker(ground: Ground, case: Case, lengths: Sequence[float], pause: float) -> None:
    """Stop the broker for these numbers of seconds; connections are refused meanwhile."""
    host, unit = broker(ground)
    for length in lengths:
        with case.lasting(STOPPED):
            ground.fleet.must(host, ["systemctl", "stop", unit])
            try:
                ground.sleep(length)
            finally:
                ground.fleet.must(host, ["systemctl", "start", unit])
        ground.sleep(pause)


def freeze_broker(ground: Ground, case: Case, lengths: Sequence[float], pause: float) -> None:
    """Freeze the broker's process, as on a host that swaps; its connections stay open."""
    host, unit = broker(ground)
    kill = ["systemctl", "kill", "--kill-whom=main", unit]
    for length in lengths:
        with case.lasting(FROZEN):
            ground.fleet.must(host, [*kill, "--signal=STOP"])
            try:
                ground.sleep(length)
            finally:
                ground.fleet.must(host, [*kill, "--signal=CONT"])
        ground.sleep(pause)


@contextmanager
def synced_always(ground: Ground) -> Iterator[None]:
    """Have the broker write to its disk before it confirms: `appendfsync always`, for which the roles have no variable.

    It does so after its next start, which must happen in the block; a restart only for this would be another fault.
    """
    host, unit = broker(ground)
    text = f"ExecStart=\nExecStart={start_of(ground, host, unit)} --appendfsync always\n"
    with drop_in(ground, host, unit, text), configured(ground, "appendfsync", "always"):
        yield
        assert setting(ground, "appendfsync") == "always"


# --- memory and disk -------------------------------------------------------------------------------


@contextmanager
def refusing(ground: Ground, case: Case, what: str) -> Iterator[None]:
    """Do something that makes Redis refuse the load's sender; raise AssertionError if Redis refused nothing."""
    before = ground.refused(case)
    with case.lasting(what):
        yield
    wait_for(f"the sender is refused, as {what}", 10, lambda: ground.refused(case) > before)


def fill_memory(ground: Ground, case: Case, seconds: float) -> None:
    """Put the broker at its memory limit for some seconds."""
    with refusing(ground, case, FULL), configured(ground, "maxmemory", "1mb"):
        ground.sleep(seconds)


@contextmanager
def small_disk(ground: Ground, size: str = "256m") -> Iterator[str]:
    """Put the broker's data on a small, separate file system; yield its directory."""
    host, unit = broker(ground)
    path = setting(ground, "dir")
    kept = f"{path}.kept"
    ground.fleet.must(
        host,
        f"set -e; systemctl stop {unit}; cp -a {path} {kept}; mount -t tmpfs -o size={size} tmpfs {path}; "
        f"chown --reference={kept} {path}; chmod --reference={kept} {path}; cp -a {kept}/. {path}; "
        f"rm -r {kept}; systemctl start {unit}",
    )
    try:
        yield path
    finally:
        ground.fleet.must(
            host,
            f"set -e; rm -f {path}/ballast; systemctl stop {unit}; cp -a {path} {kept}; umount {path}; "
            f"rm -r {path}; mv {kept} {path}; systemctl start {unit}",
        )


def fill_disk(ground: Ground, case: Case, path: str, seconds: float) -> None:
    """Fill the disk until this many seconds after Redis has noticed."""
    host, _ = broker(ground)

    def is_noticed() -> bool:
        # Use all free space, including what Redis has freed since the last time. The command fails when the disk is
        # full.
        ground.fleet.execute(host, f"cat /dev/zero >> {path}/ballast")
        with resp.session(ground.fleet, "broker", "admin") as admin:
            return "aof_last_write_status:err" in str(admin.send("INFO", "persistence"))

    with refusing(ground, case, DISK_FULL):
        try:
            wait_for("Redis can't write", 30, is_noticed)
            ground.sleep(seconds)
        finally:
            ground.fleet.must(host, ["rm", "-f", f"{path}/ballast"])


# --- its clock -------------------------------------------------------------------------------------


def set_clock(ground: Ground, host: str, seconds: int) -> None:
    """Set the time of day of a host's processes that `own_clock` started this many seconds ahead, or behind."""
    # The file is replaced in one step, because Redis may read it at any moment.
    ground.fleet.must(
        host,
        f"cat > {CLOCK}.new && chmod 0644 {CLOCK}.new && mv {CLOCK}.new {CLOCK}",
        f"{seconds:+d}\n",
    )


@contextmanager
def own_clock(ground: Ground, host: str, unit: str) -> Iterator[None]:
    """Have a service start with the time of day of `set_clock`, until the block ends."""
    values = {
        # Redis's own allocator asks for the time before libfaketime is ready, so Redis uses the C library's.
        "LD_PRELOAD": f"{faketime(ground, host)}:libc.so.6",
        "FAKETIME_TIMESTAMP_FILE": CLOCK,
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }

    words = " ".join(f"{key}={value}" for key, value in values.items())
    text = f"ExecStart=\nExecStart=/usr/bin/env {words} {start_of(ground, host, unit)}\n"
    with drop_in(ground, host, unit, text):
        yield


def move_clock(ground: Ground, host: str, seconds: int) -> None:
    """Set the clock of a host's broker this many seconds ahead, or behind, and wait until it has noticed."""

    def is_ahead() -> bool:
        with resp.session(ground.fleet, "broker", "worker", host) as client:
            return abs(float(client.send("TIME")[0]) - time.time() - seconds) < 5

    set_clock(ground, host, seconds)
    wait_for(f"Redis's clock is {seconds:+d} s off", 20, is_ahead, pause=0.2)


@contextmanager
def movable_clock(ground: Ground) -> Iterator[Callable[[int], None]]:
    """Make Redis's time of day movable; yield a function that sets it this many seconds ahead, or behind."""
    host, unit = broker(ground)
    set_clock(ground, host, 0)
    try:
        with own_clock(ground, host, unit):
            ground.fleet.must(host, ["systemctl", "restart", unit])
            yield partial(move_clock, ground, host)
    finally:
        ground.fleet.must(host, f"systemctl restart {unit} && rm {CLOCK}")
