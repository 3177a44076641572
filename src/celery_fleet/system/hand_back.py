"""ExecStopPost of a worker's unit: hand back what its process held when it ended, however it did.

    /usr/bin/python3 -S -I hand_back.py --settings FILE --directory DIRECTORY --user USER

Run as root, outside of the unit's sandbox: by now the unit has no credentials any more. Root reads the
settings file for the broker's address and nothing else, and then becomes the user whose process it was. The
runtime directory, in which that process has left what :mod:`celery_fleet.delivery.hand_back.worker_record` describes,
stands until the unit's commands have ended, also where a restart follows.

A worker that has drained leaves nothing, which costs one look into Redis. It never takes longer than
:data:`BOUND` seconds, and its status is always 0: what it does not manage waits for the lease to run out, and
then any worker of the application puts it back. Standard library alone.
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
    # Run as a file by `python3 -I`, which leaves its directory out of the path; the package is beside it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.common.redis_client import RedisError, Server, server_of
from celery_fleet.common.text import count
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.delivery.hand_back.put_back import Client, Outcome, Return, context_of
from celery_fleet.delivery.hand_back.worker_record import WorkerRecord

#: Seconds for all of it; the unit's TimeoutStopSec= is longer.
BOUND = 10.0

#: Seconds for a connection and for each answer, and between two attempts.
ANSWER, AGAIN = 3.0, 0.2

#: Seconds until the last of the pool's processes has to be gone. systemd has killed them before.
GONE = 1.0

#: What a Redis says that will soon say something else.
_SOON = ("LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "READONLY")

#: What will be the same at the next attempt: a certificate that is not the CA's, a file that is not there.
_FOR_GOOD = (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError)

# Where the journal's levels are read from, at the beginning of a line (sd-daemon(3)).
_WARNING, _INFO, _DEBUG = "<4>", "<6>", "<7>"


class OutOfTimeError(Exception):
    """It has taken too long."""


@dataclass(frozen=True)
class Broker:
    """Where the messages are."""

    servers: tuple[Server, ...]
    databases: tuple[int, ...]
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    #: Made while we are root, where the broker is shown a certificate: its key is nobody else's to read.
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Broker:
        """That of a component's settings file.

        Raises:
            FleetError: There is none in it that we could speak to.
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
        # As kombu has it: options for TLS are TLS, whatever the scheme.
        over_tls = bool(secured) or any(urlsplit(url).scheme == "rediss" for url in urls)
        context = None
        if secured.get("ssl_certfile"):
            # What can't be read is said when it is needed.
            with suppress(OSError):
                context = context_of(secured)
        return cls(servers, databases, secured if over_tls else None, context)

    @contextmanager
    def connection(self, number: int) -> Iterator[Client]:
        """To one of the servers, the attempts going round.

        Raises:
            OSError, RedisError: It does not answer, or lets nobody in.
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
    """Be this user from now on, for good; nothing where we are no root.

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
    """Raise OutOfTimeError in the block when it takes longer, whatever it waits for."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def lines(outcome: Outcome, record: WorkerRecord) -> list[str]:
    """What goes to the journal."""
    said = []
    if outcome.returned:
        said.append(
            f"{_INFO}handed back {count(outcome.returned, 'task')}, {outcome.begun or 'none'} of them had begun"
        )
    if outcome.acknowledged:
        said.append(f"{_INFO}acknowledged {count(outcome.acknowledged, 'task')} that had ended")
    if outcome.parked:
        said.append(
            f"{_WARNING}{count(outcome.parked, 'task')} put to the dead letters, since the worker kept dying while"
            " they ran: celery-fleet dead-letters list --reason poison"
        )
    troubles = [outcome.trouble] if outcome.trouble else []
    if outcome.left:
        troubles.append(
            f"{count(outcome.left, 'message')} could not be handed back ({outcome.why})"
        )
    if troubles:
        said.append(
            f"{_WARNING}{redact(one_line('; '.join(troubles)))}; what is left waits until its lease runs out, after"
            f" {record.lease:.0f} s"
        )
    return said or [f"{_DEBUG}nothing was left to hand back"]


def hand_back(broker: Broker, directory: Path, seconds: float | None = None) -> list[str]:
    """Hand back what the directory's process held, within :data:`BOUND`; the lines for the journal.

    Raises:
        FleetError, OSError: What the process has left can't be read.
    """
    seconds = BOUND if seconds is None else seconds
    record = None
    outcome = Outcome()
    try:
        # All of it: the files are the process's own, and one may be a pipe to which nobody writes.
        with bounded(seconds):
            record = WorkerRecord.read(directory)
            if record is None:
                return [f"{_DEBUG}no process has taken tasks"]
            # Who was told to stop was killed for what ran too long, and not by what ran.
            to_blame = not (directory / worker_record.STOPPING).exists()
            try:
                lock = worker_record.nobody_holds(directory, wait=GONE)
            except TimeoutError:
                outcome.trouble = f"a process of {record.node} lives still: nothing is handed back"
            else:
                with os.fdopen(lock):
                    work = Return(
                        record,
                        worker_record.read_begun(directory) if to_blame else frozenset(),
                        worker_record.read_pending(directory, record.owner),
                        outcome,
                    )
                    _carry_out(broker, work, outcome)
    except OutOfTimeError:
        if record is None:
            raise FleetError(
                f"{directory / worker_record.RECORD} can't be read: not done within {seconds:.0f} s"
            ) from None
        why = outcome.trouble or "Redis or its files are slow"
        outcome.trouble = f"it was not done within {seconds:.0f} s: {why}"
    return lines(outcome, record)


def _carry_out(broker: Broker, work: Return, outcome: Outcome) -> None:
    """Try until it is done or is no use; ``outcome.trouble`` says why it is not."""
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
    """Do it and tell the journal; always 0, since the unit has ended as it has ended."""
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
