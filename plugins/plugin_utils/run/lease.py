"""One run at a time: the control side of a fleet's lease, which lies on one of its hosts.

A run acquires it before it changes anything. A process of its own, detached from Ansible's, renews it and gives it
back when the run ends, however that is: so it is silent only where the whole control side or its network went away.
What is silent for `TTL` seconds is gone.
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

# Seconds between two renewals, after which a lease is gone, and after which its own run stops relying on it.
# A renewal has taken half a minute on a host with one slow processor that was compiling a virtualenv.
INTERVAL = 5.0
TTL = 60.0
_DOUBT = TTL - INTERVAL
# Seconds between two looks whether a killed run's processes have ended.
_LOOK = 0.2

DIRECTORY = "/run/celery-fleet"

# It goes on while a machine sleeps, and so do leases; what lacks this name counts such time in the other one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

Answer = Mapping[str, Any]
Do = Literal["acquire", "renew", "release"]


def now() -> float:
    """Seconds on the clock by which this side judges whether its lease still holds."""
    return time.clock_gettime(_CLOCK)


def owner(process: int) -> str:
    """Who asks, for the person who is refused."""
    return f"{getpass.getuser()} on {socket.gethostname()}, process {process}"


def request(app: str, do: Do, token: str, who: str = "") -> dict[str, Any]:
    """What the script `lease` is asked."""
    return {
        "directory": DIRECTORY,
        "app": app,
        "do": do,
        "token": token,
        "owner": who,
        "ttl": TTL,
    }


class Held(UserError):  # noqa: N818 - not an error of ours: another run is at work
    """Another run has the lease; the message says whose it is and what to do."""


@dataclass
class Watch:
    """Tells a run that is at work from one that has gone silent, from one answer to the next."""

    app: str
    host: str
    _first: Answer | None = None

    def judge(self, answer: Answer) -> str:
        """Empty where the lease is ours, else a line to say while waiting for what may be silent.

        Raises:
            Held: It is renewed: another run is at work.
        """
        if answer["state"] == "ours":
            return ""
        first = self._first or answer
        self._first = first
        if (first["token_id"], first["renewed"]) != (answer["token_id"], answer["renewed"]):
            raise Held(self._refusal(answer))
        left = max(0.0, TTL - float(answer["age"]))
        return (
            f"{self._holder(answer)}. If it stays silent, this run goes on in {left:.0f} s"
            if answer["age"] > 2 * INTERVAL
            else f"{self._holder(answer)}. Looking whether that run is still there"
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
            f"again. Should it hang, end it there; {TTL:.0f} s later at the latest this fleet is free"
        )


# -- the directory of a run ----------------------------------------------------------------------------------


def make_directory() -> Path:
    """A place of one run on the control side, nobody else's to enter."""
    return Path(tempfile.mkdtemp(prefix="celery-fleet-"))


def note(directory: Path, **what: Any) -> None:
    """Write down which lease the run holds, or that it was given back."""
    for name, value in what.items():
        fresh = directory / f".{name}"
        fresh.write_text(json.dumps(value))
        os.replace(fresh, directory / name)


def noted(directory: Path, name: str) -> Any:
    """What was written down; None where nothing was."""
    try:
        return json.loads((directory / name).read_text())
    except FileNotFoundError:
        return None


def trouble(directory: Path) -> str:
    """Why the lease is not to be relied on any more; empty where it is still ours."""
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
    """A process of the run acts on hosts meanwhile: should the run be killed, its lease is kept until that is over."""
    with open(directory / "work", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


class LostError(UserError):
    """Another run may have begun: this one must not go on."""


@contextlib.contextmanager
def held(variables: Mapping[str, Any], *, check: bool) -> Iterator[None]:
    """Act on a host only while the lease is this run's; without one, as for a role by itself, in any case.

    Args:
        variables: The task's, of which `__fleet_lease` is read.
        check: Nothing is changed.

    Raises:
        LostError: With what to do.
    """
    place = str((variables.get("__fleet_lease") or {}).get("directory") or "")
    if check or not place:
        yield
        return
    lost = trouble(Path(place))
    if lost:
        raise LostError(f"{lost}: another run may have begun. Run the same command again.")
    with at_work(Path(place)):
        yield


def _idle_hands(directory: Path) -> bool:
    """Whether no process of the run acts on a host."""
    with open(directory / "work", "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# -- the process that renews ---------------------------------------------------------------------------------


def detach(task: Callable[[], None]) -> None:
    """Run a task in a process that has nothing of this one: no terminal, no open file, no parent that waits for it."""
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
        # Nothing of Ansible's is to be done a second time at this process's end.
        os._exit(0)


def _close_everything() -> None:
    os.closerange(0, 65536)
    for _ in range(3):
        # The lowest numbers are free: standard input, output and error.
        os.open(os.devnull, os.O_RDWR)


class Renewer:
    """Holds a lease as long as a process lives, and gives it back when that ends.

    Args:
        directory: Of the run; it is removed at the end.
        ask: Asks the lease's host; raises whatever the connection does.
        process: Ansible's main process.

    What the run itself has to know lies in its directory: `renewed` (when), `lost` (why), `released`.
    """

    def __init__(self, directory: Path, ask: Callable[[Do], Answer], process: int) -> None:
        self._directory = directory
        self._ask = ask
        self._process = _Process(process)
        self._tried = now()

    def run(self) -> None:
        """Renew until the process has ended; then give it back, once nobody acts any more whom that process left."""
        while not self._process.ended(self._pause()):
            if not self._idle():
                self._renew()
        # It is not renewed any more, so it is gone after that time anyway.
        deadline = now() + TTL
        while not _idle_hands(self._directory) and now() < deadline:
            time.sleep(_LOOK)
        if not self._idle():
            with contextlib.suppress(Exception):
                self._ask("release")
        shutil.rmtree(self._directory, ignore_errors=True)

    def _idle(self) -> bool:
        """Whether there is no lease to renew any more: it was given back, or lost."""
        return any((self._directory / name).exists() for name in ("released", "lost"))

    def _pause(self) -> float:
        return 60.0 if self._idle() else max(0.0, self._tried + INTERVAL - now())

    def _renew(self) -> None:
        self._tried = begin = now()
        try:
            answer = self._ask("renew")
        except Exception:  # noqa: BLE001 - whatever the connection raises, the lease was not renewed
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
    """Another process, watched by a descriptor where the system has such: a number may become another's."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._handle: int | None = None
        self._gone = False
        with contextlib.suppress(AttributeError, OSError):
            self._handle = os.pidfd_open(number)

    def ended(self, seconds: float) -> bool:
        """Wait that long for its end; whether it has come."""
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
