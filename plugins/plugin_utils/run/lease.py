"""Lets one run at a time change a fleet: the control node's part of the lease, which is kept on one of the hosts.

A run acquires the lease before it changes anything. A separate process, detached from Ansible's, renews it and returns
it when the run ends for any reason. So it only goes silent if the whole control node or its network is down. A lease
that was not renewed for `TTL` seconds has expired.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

# Seconds between renewals, until a lease expires, and until its own run stops relying on it. A renewal has taken half
# a minute on a host with one slow processor that was compiling a virtualenv.
INTERVAL = 5.0
TTL = 60.0
_DOUBT = TTL - INTERVAL
# Seconds between checks whether a killed run's processes have ended.
_LOOK = 0.2

DIRECTORY = "/run/celery-fleet"
# What was deployed and which release the fleet holds; on the lease's host for runs, on the others for operators.
RECORDS = "/var/lib/celery-fleet/releases"

# This clock keeps running while a machine sleeps, like leases. On systems without it, CLOCK_MONOTONIC does the same.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Answer = Mapping[str, Any]
Do = Literal["acquire", "renew", "release", "look"]


def now() -> float:
    """Return the time, in seconds, by which the control node judges its lease."""
    return time.clock_gettime(_CLOCK)


def owner(process: int) -> str:
    """Return a description of this run, for the message to a run that is refused."""
    return f"{getpass.getuser()} on {socket.gethostname()}, process {process}"


def request(app: str, do: Do, token: str, who: str = "") -> dict[str, Any]:
    """Return the input of the script `lease`."""
    return {
        "directory": DIRECTORY,
        "app": app,
        "do": do,
        "token": token,
        "owner": who,
        "ttl": TTL,
        "record": f"{RECORDS}/{app}.json",
    }


class LeaseHeld(UserError):  # noqa: N818 - not an error of ours: another run is at work
    """Another run has the lease. The message says which one and what to do."""


@dataclass
class HolderWatch:
    """Compares answers about a lease to tell a working run from one that has gone silent."""

    app: str
    host: str
    _first: Answer | None = None

    def waiting_line(self, answer: Answer) -> str:
        """Return an empty string if the lease is ours, else a line to show while waiting for a silent holder.

        Raises:
            LeaseHeld: Another run is renewing the lease.
        """
        if answer["state"] == "ours":
            return ""
        first = self._first or answer
        self._first = first
        if (first["token_id"], first["renewed"]) != (answer["token_id"], answer["renewed"]):
            raise LeaseHeld(self._refusal(answer))
        left = max(0.0, TTL - float(answer["age"]))
        return (
            f"{self._holder(answer)}. If it stays silent, this run goes on in {left:.0f} s"
            if answer["age"] > 2 * INTERVAL
            else f"{self._holder(answer)}. Checking whether that run is still there"
        )

    def _holder(self, answer: Answer) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(answer["since"]))
        return (
            f"{self.app} is being changed by {answer['owner']}, since {since}, last heard of "
            f"{answer['age']:.0f} s ago"
        )

    def _refusal(self, answer: Answer) -> str:
        return (
            f"{self._holder(answer)} (its lease is on {self.host}). Nothing was changed. Wait for its end and run "
            f"again. If it hangs, end it there; {TTL:.0f} s later at the latest this fleet is free"
        )


# -- the directory of a run ----------------------------------------------------------------------------------


def make_directory() -> Path:
    """Create a run's directory on the control node that only its user can enter."""
    return Path(tempfile.mkdtemp(prefix="celery-fleet-"))


def note(directory: Path, **what: Any) -> None:
    """Record values about the run's lease, each in a file of its name."""
    for name, value in what.items():
        fresh = directory / f".{name}"
        fresh.write_text(json.dumps(value))
        os.replace(fresh, directory / name)


def noted(directory: Path, name: str) -> Any:
    """Return a recorded value; None if there is none."""
    try:
        return json.loads((directory / name).read_text())
    except FileNotFoundError:
        return None


def trouble(directory: Path) -> str:
    """Return why the run can't rely on the lease any more; empty if it can."""
    lost = noted(directory, "lost")
    if lost:
        return str(lost)
    renewed = noted(directory, "renewed")
    if renewed is None:
        return "no lease was taken"
    silent = now() - float(renewed)
    return f"the lease was not renewed for {silent:.0f} s" if silent > _DOUBT else ""


@contextlib.contextmanager
def at_work(directory: Path) -> Iterator[None]:
    """Mark that this process acts on hosts. If the run is killed, its lease is kept until that is over."""
    with open(directory / "work", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


class LeaseLostError(UserError):
    """Another run may have begun, so this one must stop."""


@contextlib.contextmanager
def held(variables: Mapping[str, Any], *, check: bool) -> Iterator[None]:
    """Act on a host only while this run has the lease. A run without a lease, such as of a single role, may always act.

    Args:
        variables: Variables of the task; `__fleet_lease` is read.
        check: Whether the task runs in check mode.

    Raises:
        LeaseLostError: The lease was lost; the message says what to do.
    """
    place = str((variables.get("__fleet_lease") or {}).get("directory") or "")
    if check or not place:
        yield
        return
    lost = trouble(Path(place))
    if lost:
        raise LeaseLostError(f"{lost}: another run may have begun. Run the same command again.")
    with at_work(Path(place)):
        yield


def _is_idle(directory: Path) -> bool:
    """Return whether no process of the run acts on a host."""
    with open(directory / "work", "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- the process that renews ---------------------------------------------------------------------------------


def detach(task: Callable[[], None]) -> None:
    """Run a task in a detached process: without terminal, open files, or a parent that waits for it."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _close_everything()
            task()
    finally:
        # Skip Ansible's exit handlers, which must not run a second time in this process.
        os._exit(0)


def _close_everything() -> None:
    os.closerange(0, 65536)
    for _ in range(3):
        # The lowest descriptors are free now: standard input, output and error.
        os.open(os.devnull, os.O_RDWR)


class LeaseRenewer:
    """Renews a lease as long as a process lives, and returns it when the process ends.

    Args:
        directory: Directory of the run; it is removed at the end.
        ask: Sends a request to the lease's host; raises what the connection raises.
        process: Ansible's main process.

    The run reads its state from the directory: `renewed` (when), `lost` (why), `released`.
    """

    def __init__(self, directory: Path, ask: Callable[[Do], Answer], process: int) -> None:
        self._directory = directory
        self._ask = ask
        self._process = _Process(process)
        self._tried = now()

    def run(self) -> None:
        """Renew until the process has ended. Then return the lease, once no process that it left acts on a host."""
        while not self._process.ended(self._pause()):
            if not self._idle():
                self._renew()
        # It is not renewed any more, so it expires after that time anyway.
        deadline = now() + TTL
        while not _is_idle(self._directory) and now() < deadline:
            time.sleep(_LOOK)
        if not self._idle():
            with contextlib.suppress(Exception):
                self._ask("release")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _idle(self) -> bool:
        """Return whether there is no lease to renew: it was returned, or lost."""
        return any((self._directory / name).exists() for name in ("released", "lost"))

    def _pause(self) -> float:
        return 60.0 if self._idle() else max(0.0, self._tried + INTERVAL - now())

    def _renew(self) -> None:
        self._tried = begin = now()
        try:
            answer = self._ask("renew")
        except Exception:  # noqa: BLE001 - any error of the connection means that the lease was not renewed
            silent = now() - float(noted(self._directory, "renewed"))
            if silent > _DOUBT:
                self._lose(f"its host could not be reached for {silent:.0f} s")
            return
        if answer["state"] == "ours":
            note(self._directory, renewed=begin)
        elif not self._idle():
            taken = f"{answer['owner']} has taken it over" if "owner" in answer else "it is gone"
            self._lose(taken)

    def _lose(self, why: str) -> None:
        note(self._directory, lost=f"the lease of this run was lost: {why}")


class _Process:
    """Another process, watched by a pidfd if the system supports it, because a pid may be reused."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._handle: int | None = None
        self._gone = False
        with contextlib.suppress(AttributeError, OSError):
            self._handle = os.pidfd_open(number)

    def ended(self, seconds: float) -> bool:
        """Wait up to this long for its end; return whether it has ended."""
        if self._handle is not None:
            return bool(select.select([self._handle], [], [], seconds)[0])
        deadline = time.monotonic() + seconds
        while not self._gone:
            try:
                os.kill(self._number, 0)
            except ProcessLookupError:
                self._gone = True
            if time.monotonic() >= deadline:
                break
            time.sleep(min(0.5, seconds))
        return self._gone
