"""Conditions under which the delivery has to hold: late replies, a full disk, a wrong clock, other workers beside."""

from __future__ import annotations

import json
import random
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from deaths import (
    HOST_LOST,
    LEASE,
    PAUSE,
    Recoveries,
    kill_clients,
    kill_worker,
    unit_of,
    wait_until_active,
)
from faults import bring_back, docker
from ground import FLEET, Case, Ground, end_of, playbook
from support import resp
from support.deliveries import held
from support.inventory import ROOT
from support.waiting import wait_for

PROXY = ROOT / "tests" / "tcp_proxy.py"
#: On a host, gone with its next boot.
LATE = "/run/late"

#: What is noted of replies that were kept back for less and for more than a lease that was just about to be renewed.
LATE_REPLIES = "its replies came late"
NO_REPLIES = "its replies stayed away for longer than its lease"
KILLED = "Redis was killed"
DISK_FULL = "Redis's disk was full"
STOPPED = "Redis was stopped"
MOVED = "Redis's clock was moved"

#: By how much Redis's clock is wrong.
CLOCK = "/run/redis-clock"


# --- units -----------------------------------------------------------------------------------------


@contextmanager
def drop_in(ground: Ground, host: str, unit: str, text: str) -> Iterator[None]:
    """Lines of a unit's service, or of all instances of one (`name@.service`), until the block or the host ends."""
    directory = f"/run/systemd/system/{unit}.d"
    path = shlex.quote(f"{directory}/95-condition.conf")
    ground.fleet.must(
        host,
        f"mkdir -p {shlex.quote(directory)} && cat > {path} && systemctl daemon-reload",
        f"[Service]\n{text}",
    )
    try:
        yield
    finally:
        ground.fleet.must(host, f"rm -f {path} && systemctl daemon-reload")


def start_of(ground: Ground, host: str, unit: str) -> str:
    """The command line with which a unit starts its process."""
    shown = ground.fleet.must(host, ["systemctl", "show", "--property=ExecStart", unit])
    command = re.search(r"argv\[\]=(.*?) ;", shown)
    assert command is not None, shown
    return command[1]


def restart_workers(ground: Ground, host: str) -> None:
    """All of a host, in order and at once."""
    ground.fleet.must(host, ["systemctl", "restart", *ground.units(FLEET)])


# --- Redis -----------------------------------------------------------------------------------------


def broker(ground: Ground) -> tuple[str, str]:
    """The host and the unit of the broker."""
    app = ground.fleet.of("redis")["celery_app_name"]
    return ground.fleet.one("redis"), f"redis@{app}-broker.service"


def setting(ground: Ground, name: str) -> str:
    """What the broker has for one of its directives."""
    with resp.session(ground.fleet, "broker", "admin") as admin:
        return str(admin.send("CONFIG", "GET", name)[1])


def kill_broker(ground: Ground, case: Case, number: int) -> None:
    """SIGKILL, so many times; systemd starts it again each time."""
    host, unit = broker(ground)
    for _ in range(number):
        wait_until_active(ground, host, unit)
        case.mark(KILLED)
        ground.fleet.must(host, ["systemctl", "kill", "--signal=KILL", unit])
        ground.sleep(6)


@contextmanager
def stopped_redis(ground: Ground, case: Case) -> Iterator[None]:
    """The broker is not there, and refuses connections."""
    host, unit = broker(ground)
    with case.lasting(STOPPED):
        ground.fleet.must(host, ["systemctl", "stop", unit])
        try:
            yield
        finally:
            ground.fleet.must(host, ["systemctl", "start", unit])


@contextmanager
def synced_always(ground: Ground) -> Iterator[None]:
    """The broker writes to its disk before it confirms: `appendfsync always`, which the roles have no variable for."""
    host, unit = broker(ground)
    text = f"ExecStart=\nExecStart={start_of(ground, host, unit)} --appendfsync always\n"
    with drop_in(ground, host, unit, text):
        ground.fleet.must(host, ["systemctl", "restart", unit])
        assert setting(ground, "appendfsync") == "always"
        yield
    ground.fleet.must(host, ["systemctl", "restart", unit])


@contextmanager
def small_disk(ground: Ground, size: str = "64m") -> Iterator[str]:
    """The broker's data on a file system of its own, which is small; its directory."""
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


@contextmanager
def full_disk(ground: Ground, case: Case, path: str) -> Iterator[None]:
    """Nothing more can be written there, and Redis has noticed."""
    host, _ = broker(ground)
    fill = f'fallocate -l "$(df --output=avail --block-size=1 {path} | tail -n 1)" {path}/ballast'

    def is_noticed() -> bool:
        # Whatever was freed since the last time, or was too much because the file of appends grew meanwhile.
        ground.fleet.execute(host, f"rm -f {path}/ballast; {fill}")
        with resp.session(ground.fleet, "broker", "admin") as admin:
            return "aof_last_write_status:err" in str(admin.send("INFO", "persistence"))

    with case.lasting(DISK_FULL):
        try:
            wait_for("Redis can't write", 30, is_noticed)
            yield
        finally:
            ground.fleet.must(host, ["rm", "-f", f"{path}/ballast"])


# --- the network -----------------------------------------------------------------------------------


@contextmanager
def behind_proxies(ground: Ground, case: Case) -> Iterator[None]:
    """All workers speak to Redis through a proxy on their own host, which passes TLS on as it is."""
    variables = ground.fleet.of("redis")
    name, address = ground.fleet.one("redis"), variables["ansible_host"]
    try:
        for host in ground.workers:
            ground.fleet.must(
                host, f"mkdir -p {LATE} && cat > {LATE}/tcp_proxy.py", PROXY.read_text()
            )
            for kind in ("broker", "results"):
                port = str(resp.port_of(ground.fleet, kind))
                program = ["python3", f"{LATE}/tcp_proxy.py", port, address, port, f"{LATE}/{kind}"]
                ground.fleet.must(
                    host, ["systemd-run", "--quiet", "--collect", f"--unit=late-{kind}", *program]
                )
            ready = ["test", "-e", f"{LATE}/broker", "-a", "-e", f"{LATE}/results"]
            wait_for(
                f"the proxies of {host} listen",
                30,
                lambda: ground.fleet.execute(host, ready).status == 0,  # noqa: B023  # called at once
            )
            # In place: Docker has mounted the file.
            ground.fleet.must(host, f"echo '127.0.0.1 {name}' >> /etc/hosts")
        kill_clients(ground, case)
        for host in ground.workers:
            wait_for(f"{host} goes through its proxy", 30, lambda: proxied(ground, host))  # noqa: B023  # called at once
        yield
    finally:
        for host in ground.workers:
            ground.fleet.must(
                host,
                f"mkdir -p {LATE}; grep -v '^127.0.0.1 {name}$' /etc/hosts > {LATE}/hosts; "
                f"cat {LATE}/hosts > /etc/hosts; systemctl stop late-broker late-results; rm -r {LATE}",
            )
        kill_clients(ground, case)


def proxied(ground: Ground, host: str) -> bool:
    """Whether a host's connections to the broker are those of its proxy alone, and there are some."""
    port = resp.port_of(ground.fleet, "broker")
    out = ["ss", "-Htnp", "state", "established", f"dport = :{port}"]
    lines = ground.fleet.must(host, out).splitlines()
    address = ground.fleet.of("redis")["ansible_host"]
    own = [line for line in lines if f"{address}:{port}" not in line]
    return bool(own) and all("python3" in line for line in lines if line not in own)


def hold_replies(ground: Ground, case: Case, host: str, seconds: float) -> None:
    """Keep back what Redis tells a host; its requests arrive."""
    # A lease that was renewed a moment ago lasts for so long; one renewed with its request on the way, a third longer.
    what = LATE_REPLIES if seconds <= LEASE * 2 / 3 else NO_REPLIES
    with case.lasting(what, host):
        ground.fleet.must(host, f"echo hold > {LATE}/broker")
        ground.sleep(seconds)
        ground.fleet.must(host, f"echo pass > {LATE}/broker")


def said(ground: Ground, host: str, text: str, since: float) -> bool:
    """Whether a worker of a host has written a text to its journal since a moment."""
    journal = ["journalctl", "--no-pager", "--quiet", "--output=cat", f"--since=@{int(since)}"]
    return text in ground.fleet.must(host, [*journal, "--unit=load-worker@*"])


# --- clocks ----------------------------------------------------------------------------------------


#: libfaketime takes the deadline of a sleep, which Python counts by the monotonic clock, for a time of day. So
#: Python's processes that have it sleep in another way.
SLEEP = (
    'import os, select, time; "FAKETIME" in os.environ and '
    'setattr(time, "sleep", lambda seconds, select=select: (select.select([], [], [], seconds), None)[1])\n'
)


def faketime(ground: Ground, host: str) -> str:
    """Install libfaketime; the path of what is to be loaded before a program."""
    installed = ground.fleet.execute(
        host, "apt-get -qq update && apt-get -qq install --yes libfaketime", timeout=300
    )
    assert installed.status == 0, installed.errors
    listed = ground.fleet.must(host, ["dpkg", "--listfiles", "libfaketime"]).split()
    (library,) = [path for path in listed if path.endswith("/libfaketimeMT.so.1")]
    return library


@contextmanager
def movable_clock(ground: Ground) -> Iterator[Callable[[int], None]]:
    """Redis's time of day can be moved; gives what moves it to so many seconds ahead, or behind."""
    host, unit = broker(ground)
    values = {
        # Redis's own allocator asks for the time before libfaketime can tell it, so it gets the C library's.
        "LD_PRELOAD": f"{faketime(ground, host)}:libc.so.6",
        "FAKETIME_TIMESTAMP_FILE": CLOCK,
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }

    def write(seconds: int) -> None:
        # In one step: Redis may read it at any moment.
        ground.fleet.must(
            host,
            f"cat > {CLOCK}.new && chmod 0644 {CLOCK}.new && mv {CLOCK}.new {CLOCK}",
            f"{seconds:+d}\n",
        )

    def is_ahead(seconds: int) -> bool:
        with resp.session(ground.fleet, "broker", "worker") as client:
            return abs(float(client.send("TIME")[0]) - time.time() - seconds) < 5

    def move(seconds: int) -> None:
        write(seconds)
        wait_for(f"Redis's clock is {seconds:+d} s off", 20, lambda: is_ahead(seconds), pause=0.2)

    write(0)
    words = " ".join(f"{key}={value}" for key, value in values.items())
    text = f"ExecStart=\nExecStart=/usr/bin/env {words} {start_of(ground, host, unit)}\n"
    try:
        with drop_in(ground, host, unit, text):
            ground.fleet.must(host, ["systemctl", "restart", unit])
            yield move
    finally:
        ground.fleet.must(host, f"systemctl restart {unit} && rm {CLOCK}")


@contextmanager
def wrong_clock(ground: Ground, host: str, seconds: int) -> Iterator[None]:
    """The workers of a host live so many seconds ahead, or behind; only the time of day, as a wrong clock has it.

    That is their own processes: what their units run to stop them and to hand back has the host's clock.
    """
    library = faketime(ground, host)
    values = {
        "LD_PRELOAD": library,
        "FAKETIME": f"{seconds:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Processes need not agree on more than the offset.
        "FAKETIME_DISABLE_SHM": "1",
        # For the record, which is to have the right time: all containers share this machine's monotonic clock.
        "LOAD_MONOTONIC_OFFSET": str(time.time() - time.monotonic()),
    }
    words = " ".join(f"{key}={value}" for key, value in values.items())
    root = ground.fleet.expected[host]["celery_app_root"]
    packages = ground.fleet.must(host, f"ls -d {root}/current/venv/lib/python3*/site-packages")
    hook = f"{packages.strip()}/wrong_clock.pth"
    ground.fleet.must(host, f"cat > {hook} && chmod 0644 {hook}", SLEEP)
    with ExitStack() as stack:
        stack.callback(restart_workers, ground, host)
        stack.callback(ground.fleet.must, host, ["rm", hook])
        for unit in ground.units(FLEET):
            command = start_of(ground, host, unit)
            text = f"ExecStart=\nExecStart=/usr/bin/env {words} {command}\n"
            stack.enter_context(drop_in(ground, host, f"{unit}.service", text))
        restart_workers(ground, host)
        yield


def clock_of(ground: Ground, host: str) -> float:
    """Seconds by which a host's worker is ahead: the time in the last line of its log against that of the journal."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=short-unix", "--lines=200"]
    lines = ground.fleet.must(host, [*command, "--unit=load-worker@fast"])
    own = re.findall(r"^([\d.]+) .*?\[([\d-]+ [\d:]+),\d+: ", lines, re.MULTILINE)
    assert own, lines
    right, said_by_worker = own[-1]
    return datetime.fromisoformat(f"{said_by_worker}+00:00").timestamp() - float(right)


# --- other workers ---------------------------------------------------------------------------------


def deploy(ground: Ground, log: Path, **variables: object) -> None:
    """`site.yml` with some variables other than the inventory's; its workers restart in few steps."""
    quick = {"celery_restart_batch": 9, "celery_restart_min_capacity": 30}
    words = ["-e", json.dumps(quick | variables), "site.yml"]
    with playbook(*words, log=log) as process:
        assert process.wait() == 0, end_of(log)


def takes(ground: Ground, seconds: float = 10) -> Mapping[str, int]:
    """Deliveries that were seen in some seconds, by how they were taken: `atomic` names its owner, `stock` does not."""
    seen: set[str] = set()
    until = time.monotonic() + seconds
    with resp.session(ground.fleet, "broker", "worker") as broker:
        while time.monotonic() < until:
            seen |= set(broker.send("ZRANGE", "unacked_index", 0, -1))
            time.sleep(0.2)
    atomic = sum("/" in tag for tag in seen)
    return {"atomic": atomic, "stock": len(seen) - atomic}


def kill_on(
    ground: Ground, case: Case, hosts: Sequence[str], number: int, numbers: random.Random
) -> Recoveries:
    """SIGKILL to so many workers of some hosts, which take atomically; how long what they held was away."""
    found = Recoveries()
    for count in range(number):
        host = hosts[count % len(hosts)]
        worker = numbers.choice(list(ground.instances))
        wait_until_active(ground, host, unit_of(FLEET, worker))
        before = held(ground.fleet, f"{worker}@{host}")
        kill_worker(ground, case, FLEET, host, worker, "main")
        began = time.monotonic()
        if before:
            wait_until_back(ground, before, LEASE + 10, pause=0.02)
            found.seconds.append(time.monotonic() - began)
        ground.sleep(PAUSE)
    return found


def wait_until_back(ground: Ground, before: set[str], seconds: float, pause: float = 0.5) -> None:
    """Wait until none of some deliveries is held any more."""
    owners = sorted({tag.partition("/")[0] for tag in before})
    wait_for(
        f"what {', '.join(owners)} held is back",
        seconds,
        lambda: not before & {tag for node in owners for tag in held(ground.fleet, node)},
        pause=pause,
    )


# --- hosts -----------------------------------------------------------------------------------------


def lose_for(ground: Ground, case: Case, host: str, seconds: float) -> float:
    """Take a host's power until what it held is back, and give it again; how long that was."""
    before = {tag for worker in ground.instances for tag in held(ground.fleet, f"{worker}@{host}")}
    assert before, f"the workers of {host} held nothing"
    case.mark(HOST_LOST, host=host, fatal=True)
    ground.fleet.must(host, ["ip", "link", "set", "eth0", "down"])
    docker("kill", ground.fleet.containers[host])
    began = time.monotonic()
    try:
        wait_until_back(ground, before, seconds)
        return time.monotonic() - began
    finally:
        bring_back(ground, host)
