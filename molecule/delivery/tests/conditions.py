"""Make conditions under which the delivery has to hold: late replies, wrong clocks, other workers at the same time."""

from __future__ import annotations

import random
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from deaths import GAP, LEASE, kill_clients
from ground import FLEET, Case, Ground
from support import resp
from support.waiting import wait_for

PROXY = Path(__file__).with_name("tcp_proxy.py")
#: The directory of the proxy on a host, which the host's next boot removes.
LATE = "/run/late"

#: How replies are marked that were held back for less, and for more, than the lease that remains just before a renewal.
LATE_REPLIES = "its replies came late"
NO_REPLIES = "its replies stayed away for longer than its lease"
#: Seconds that remain of a lease just before it is renewed; if the request is on its way, it lasts a third longer.
LEAST_LEASE = LEASE * 2 / 3

#: Variables that enable events: senders and workers report what tasks do as it happens.
EVENTS: Mapping[str, object] = {
    "celery_app_settings": {
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "task_track_started": True,
    }
}


# --- units -----------------------------------------------------------------------------------------


@contextmanager
def drop_in(ground: Ground, host: str, unit: str, text: str) -> Iterator[None]:
    """Add lines to a service, or to all instances of one (`name@.service`), until the block or the host ends."""
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
    """Return the command line with which a unit starts its process."""
    shown = ground.fleet.must(host, ["systemctl", "show", "--property=ExecStart", unit])
    command = re.search(r"argv\[\]=(.*?) ;", shown)
    assert command is not None, shown
    return command[1]


def restart_workers(ground: Ground, hosts: Sequence[str]) -> None:
    """Restart all workers of some hosts at the same time, with an orderly stop."""
    restart = ["systemctl", "restart", *ground.units(FLEET)]
    ground.everywhere(lambda host: ground.fleet.must(host, restart), hosts)


# --- the network -----------------------------------------------------------------------------------


@contextmanager
def behind_proxies(ground: Ground, case: Case) -> Iterator[None]:
    """Have all workers connect to Redis through a proxy on their own host, which passes TLS through."""
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
            # The file is changed in place, because Docker has mounted it.
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
    """Return whether a host has connections to the broker, and all of them are its proxy's."""
    port = resp.port_of(ground.fleet, "broker")
    out = ["ss", "-Htnp", "state", "established", f"dport = :{port}"]
    lines = ground.fleet.must(host, out).splitlines()
    address = ground.fleet.of("redis")["ansible_host"]
    own = [line for line in lines if f"{address}:{port}" not in line]
    return bool(own) and all("python3" in line for line in lines if line not in own)


def hold_replies(ground: Ground, case: Case, host: str, seconds: float) -> None:
    """Hold back Redis's replies to a host; its requests arrive."""
    with case.lasting(LATE_REPLIES if seconds <= LEAST_LEASE else NO_REPLIES, host):
        ground.fleet.must(host, f"echo hold > {LATE}/broker")
        ground.sleep(seconds)
        ground.fleet.must(host, f"echo pass > {LATE}/broker")


def late_replies(
    ground: Ground, case: Case, lengths: Sequence[float], numbers: random.Random
) -> None:
    """Hold replies to randomly chosen hosts for these numbers of seconds, one after the other; a worker must notice."""
    since = time.time()
    with behind_proxies(ground, case):
        # A repeat after a long hold is attributed to that hold, not to the ones before and after it.
        pauses = [3.0 if length <= LEAST_LEASE else GAP for length in lengths]
        for length, before, after in zip(lengths, [0.0, *pauses], pauses, strict=False):
            ground.sleep(max(before, after))
            hold_replies(ground, case, numbers.choice(ground.workers), length)
        ground.sleep(pauses[-1])
    text = "the broker does not answer"
    assert any(said(ground, host, text, since) for host in ground.workers), "none noticed it"


def said(ground: Ground, host: str, text: str, since: float) -> bool:
    """Return whether a worker of a host has written a text to its journal since a time."""
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
    """Install libfaketime; return the path of the library that programs have to load first."""
    installed = ground.fleet.execute(
        host, "apt-get -qq update && apt-get -qq install --yes libfaketime", timeout=300
    )
    assert installed.status == 0, installed.errors
    listed = ground.fleet.must(host, ["dpkg", "--listfiles", "libfaketime"]).split()
    (library,) = [path for path in listed if path.endswith("/libfaketimeMT.so.1")]
    return library


@contextmanager
def wrong_clocks(ground: Ground, offsets: Mapping[str, int]) -> Iterator[None]:
    """Move the clock of some hosts' workers by these numbers of seconds; only the time of day, as with a wrong clock.

    Only their own processes have it: the programs that stop them and hand back have the host's clock.
    """
    values = {
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Processes need only agree on the offset.
        "FAKETIME_DISABLE_SHM": "1",
        # The record needs the right time: all containers share this machine's monotonic clock.
        "LOAD_MONOTONIC_OFFSET": str(time.time() - time.monotonic()),
    }
    hosts = list(offsets)
    with ExitStack() as stack:
        stack.callback(restart_workers, ground, hosts)

        def install(host: str) -> None:
            own = {"LD_PRELOAD": faketime(ground, host), "FAKETIME": f"{offsets[host]:+d}"}
            words = " ".join(f"{key}={value}" for key, value in {**values, **own}.items())
            root = ground.fleet.expected[host]["celery_app_root"]
            found = ground.fleet.must(host, f"ls -d {root}/current/venv/lib/python3*/site-packages")
            hook = f"{found.strip()}/wrong_clock.pth"
            ground.fleet.must(host, f"cat > {hook} && chmod 0644 {hook}", SLEEP)
            stack.callback(ground.fleet.must, host, ["rm", hook])
            for unit in ground.units(FLEET):
                command = start_of(ground, host, unit)
                text = f"ExecStart=\nExecStart=/usr/bin/env {words} {command}\n"
                stack.enter_context(drop_in(ground, host, f"{unit}.service", text))

        ground.everywhere(install, hosts)
        restart_workers(ground, hosts)
        for host, offset in offsets.items():
            assert abs(clock_of(ground, host) - offset) < 10
        yield


def clock_of(ground: Ground, host: str) -> float:
    """Return by how many seconds a host's worker is ahead: the time in its log's last line minus the journal's."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=short-unix", "--lines=200"]
    lines = ground.fleet.must(host, [*command, "--unit=load-worker@fast"])
    own = re.findall(r"^([\d.]+) .*?\[([\d-]+ [\d:]+),\d+: ", lines, re.MULTILINE)
    assert own, lines
    right, said_by_worker = own[-1]
    return datetime.fromisoformat(f"{said_by_worker}+00:00").timestamp() - float(right)


# --- other workers ---------------------------------------------------------------------------------


def takes(ground: Ground, seconds: float = 5) -> Mapping[str, int]:
    """Count deliveries for some seconds by the way of fetching: `atomic` ones name their owner, `stock` ones don't."""
    seen: set[str] = set()
    until = time.monotonic() + seconds
    with resp.session(ground.fleet, "broker", "worker") as broker:
        while time.monotonic() < until:
            seen |= set(broker.send("ZRANGE", "unacked_index", 0, -1))
            time.sleep(0.2)
    atomic = sum("/" in tag for tag in seen)
    return {"atomic": atomic, "stock": len(seen) - atomic}
