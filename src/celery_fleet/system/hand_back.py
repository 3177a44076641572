"""ExecStopPost of a worker's unit: return the tasks that its process held when it ended, for any reason.

    /usr/bin/python3 -S -I hand_back.py --settings FILE --directory DIRECTORY --user USER

It starts as root and outside of the unit's sandbox, because the unit has lost its credentials by now. As root it
only reads the broker's address from the settings file; then it becomes the worker's user. The runtime directory holds
the files that :mod:`celery_fleet.delivery.hand_back.worker_record` describes. It exists until the unit's commands have
ended, even if a restart follows.

A worker that has drained leaves nothing, which takes a single look into Redis. The program never takes longer than
:data:`BOUND` seconds, and its status is always 0. What it could not return waits until the lease expires; then any
worker of the application puts it back. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import signal
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

if __name__ == "__main__":
    # Run as a file by `python3 -I`, which leaves its directory out of the path; the package is above it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.common.redis_client import RedisError, Server, server_of
from celery_fleet.common.text import count
from celery_fleet.delivery.hand_back import worker_record as begun
from celery_fleet.delivery.hand_back.put_back import Client, Outcome, Return, context_of
from celery_fleet.delivery.hand_back.worker_record import Estate

#: Seconds for the whole program; the unit's TimeoutStopSec= is longer.
BOUND = 10.0

#: Seconds for a connection and for each answer; seconds between two attempts.
ANSWER, AGAIN = 3.0, 0.2

#: Seconds until the last process of the pool must be gone. systemd has killed them before.
GONE = 1.0

#: Errors of a Redis that will soon answer differently.
_SOON = ("LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "READONLY")

#: Errors that would repeat at the next attempt: an untrusted certificate, a missing or unreadable file.
_FOR_GOOD = (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError)

# Prefixes for the journal's log levels (sd-daemon(3)).
_WARNING, _INFO, _DEBUG = "<4>", "<6>", "<7>"


class OutOfTimeError(Exception):
    """The program has taken too long."""


@dataclass(frozen=True)
class Broker:
    """The Redis servers that hold the messages."""

    servers: tuple[Server, ...]
    databases: tuple[int, ...]
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Created while we are root, if the broker asks for a client certificate: only root may read its key.
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Broker:
        """Read the broker from a component's settings file.

        Raises:
            FleetError: The file names no Redis broker.
        """
        try:
            celery = json.loads(path.read_bytes())["celery"]
            given = celery["broker_url"]
            tls = celery.get("broker_use_ssl")
            urls = given.split(";") if isinstance(given, str) else list(given)
            servers = tuple(
                server_of(url, tls if isinstance(tls, Mapping) else None) for url in urls
            )
            databases = tuple(int(urlsplit(url).path.strip("/") or 0) for url in urls)
            if not servers:
                raise ValueError("no address")
        except OSError as error:
            raise FleetError(f"{path} can't be read ({error.strerror})") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # The error's text may quote a URL.
            raise FleetError(f"{path} names no Redis as broker ({type(error).__name__})") from error
        secured = tls if isinstance(tls, Mapping) else {}
        # Like kombu: options for TLS turn it on with any scheme.
        over_tls = bool(secured) or any(urlsplit(url).scheme == "rediss" for url in urls)
        context = None
        if secured.get("ssl_certfile"):
            # A file that can't be read is reported when a connection needs it.
            with suppress(OSError):
                context = context_of(secured)
        return cls(servers, databases, secured if over_tls else None, context)

    @contextmanager
    def connection(self, number: int) -> Iterator[Client]:
        """Connect to one of the servers; increasing numbers go round all of them.

        Raises:
            OSError, RedisError: The server does not answer or refuses the login.
        """
        number %= len(self.servers)
        context = self.context
        if context is None and self.tls is not None:
            context = context_of(self.tls)
        with Client(self.servers[number], ANSWER, context) as client:
            if self.databases[number]:
                client.ask("SELECT", str(self.databases[number]))
            yield client


def become(user: str) -> None:
    """Become this user for good; do nothing if we are not root.

    Raises:
        FleetError: There is no such user.
    """
    if os.geteuid() != 0:
        return
    try:
        found = pwd.getpwnam(user)
    except KeyError as error:
        raise FleetError(f"there is no user {user}") from error
    os.initgroups(user, found.pw_gid)
    os.setgid(found.pw_gid)
    os.setuid(found.pw_uid)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block if it takes longer, no matter what it waits for."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def lines(outcome: Outcome, estate: Estate) -> list[str]:
    """Return the lines for the journal."""
    said = []
    if outcome.returned:
        said.append(
            f"{_INFO}handed back {count(outcome.returned, 'task')}, {outcome.begun or 'none'} of them had begun"
        )
    if outcome.acknowledged:
        said.append(f"{_INFO}acknowledged {count(outcome.acknowledged, 'task')} that had ended")
    if outcome.parked:
        said.append(
            f"{_WARNING}{count(outcome.parked, 'task')} moved to the dead letters, because the worker kept dying while"
            " they ran: celery-fleet dead-letters list --reason poison"
        )
    troubles = [outcome.trouble] if outcome.trouble else []
    if outcome.left:
        troubles.append(
            f"{count(outcome.left, 'message')} could not be handed back ({outcome.why})"
        )
    if troubles:
        said.append(
            f"{_WARNING}{redact(one_line('; '.join(troubles)))}; what is left waits until its lease expires, after"
            f" {estate.lease:.0f} s"
        )
    return said or [f"{_DEBUG}nothing was left to hand back"]


def hand_back(broker: Broker, directory: Path, seconds: float | None = None) -> list[str]:
    """Hand back the tasks of the directory's process within :data:`BOUND`; return the lines for the journal.

    Raises:
        FleetError, OSError: The process's files can't be read.
    """
    seconds = BOUND if seconds is None else seconds
    estate = None
    outcome = Outcome()
    try:
        # The bound covers reading too: the files belong to the process, and one may be a pipe without a writer.
        with bounded(seconds):
            estate = Estate.read(directory)
            if estate is None:
                return [f"{_DEBUG}no process has taken tasks"]
            # A worker that was told to stop was killed because it took too long, which is not its tasks' fault.
            to_blame = not (directory / begun.STOPPING).exists()
            try:
                lock = begun.nobody_holds(directory, wait=GONE)
            except TimeoutError:
                outcome.trouble = (
                    f"a process of {estate.node} is still alive: nothing is handed back"
                )
            else:
                with os.fdopen(lock):
                    work = Return(
                        estate,
                        begun.read_begun(directory) if to_blame else frozenset(),
                        begun.read_pending(directory, estate.owner),
                        outcome,
                    )
                    _carry_out(broker, work, outcome)
    except OutOfTimeError:
        if estate is None:
            raise FleetError(
                f"{directory / begun.ESTATE} can't be read: not done within {seconds:.0f} s"
            ) from None
        why = outcome.trouble or "Redis or its files are slow"
        outcome.trouble = f"it was not done within {seconds:.0f} s: {why}"
    return lines(outcome, estate)


def _carry_out(broker: Broker, work: Return, outcome: Outcome) -> None:
    """Try until it is done or another attempt is useless; ``outcome.trouble`` says why it failed."""
    number = 0
    while True:
        address = broker.servers[number % len(broker.servers)].address
        try:
            with broker.connection(number) as client:
                work.attempt(client)
        except (OSError, RedisError) as error:
            outcome.trouble = f"Redis at {address}: {one_line(error)}"
            if isinstance(error, _FOR_GOOD) or (
                isinstance(error, RedisError) and not str(error).startswith(_SOON)
            ):
                return
        else:
            outcome.trouble = ""
            return
        number += 1
        time.sleep(AGAIN)


def main(argv: Sequence[str] | None = None) -> int:
    """Hand back and write to the journal; always return 0, since this must not change the unit's result."""
    parser = argparse.ArgumentParser(prog="hand_back.py")
    parser.add_argument("--settings", type=Path, required=True, help="the worker's settings file")
    parser.add_argument(
        "--directory", type=Path, required=True, help="the unit's runtime directory"
    )
    parser.add_argument("--user", required=True, help="who the worker runs as")
    options = parser.parse_args(argv)
    try:
        broker = Broker.read(options.settings)
        become(options.user)
        said = hand_back(broker, options.directory)
    except (FleetError, OSError) as error:
        why = redact(one_line(error))
        said = [f"{_WARNING}nothing is handed back: {why}; what is left waits for its lease"]
    except Exception as error:  # noqa: BLE001  # the unit must not fail for it, and a traceback may quote secrets
        said = [
            f"{_WARNING}nothing more is handed back: {type(error).__name__}: {redact(one_line(error))}"
        ]
    for line in said:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
