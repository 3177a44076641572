"""Hand back the messages that a worker's process held when it ended, for any reason: ExecStopPost= of its unit.

    /usr/bin/python3 -S -I hand_back.py --settings FILE --directory DIRECTORY --user USER --counts FILE

It is run as root, outside the unit's sandbox, since by now the unit has no credentials any more. Root only reads the
broker's address from the settings file, and then becomes the process's user. The process has left what
:mod:`celery_fleet.delivery.hand_back.worker_record` describes in the runtime directory, which exists until the unit's
commands have ended, even if a restart follows.

The counters file, ``<state>/metrics/hand-back-<worker>.json``, has the sums over all ends of the worker: ``{"format":
1, "acknowledged": n, "returned": n, "begun": n, "parked": n, "left": n}``. Like the worker's own file, it is the
process's user's.

A worker that has drained leaves nothing, which costs one look into Redis. The program never takes longer than
:data:`BOUND` seconds, and its status is always 0. Messages that it does not hand back wait until the lease runs out,
and then any worker of the application puts them back. Standard library only.
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
    # `python3 -I` leaves the directory of a file that it runs out of the path; the package is beside it.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common import counters
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.common.redis_client import ClientError, Server, server_of
from celery_fleet.common.text import count
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.delivery.hand_back.put_back import MessageClient, Outcome, Return, context_of
from celery_fleet.delivery.hand_back.worker_record import WorkerRecord

#: Seconds for the whole program; the unit's TimeoutStopSec= is longer.
BOUND = 10.0

#: Seconds for a connection and for each answer; seconds between two attempts.
ANSWER, AGAIN = 3.0, 0.2

#: Seconds until the last of the pool's processes must be gone. systemd has already killed them.
GONE = 1.0

#: Errors that will be the same at the next attempt: a certificate that is not the CA's, a file that does not exist.
_FOR_GOOD = (ssl.SSLCertVerificationError, FileNotFoundError, PermissionError)

#: The fields of an outcome that are counted.
COUNTED = ("acknowledged", "returned", "begun", "parked", "left")

# The journal reads a line's level at its beginning (sd-daemon(3)).
_WARNING, _INFO, _DEBUG = "<4>", "<6>", "<7>"


class OutOfTimeError(Exception):
    """The hand-back has taken too long."""


@dataclass(frozen=True)
class BrokerServers:
    """The broker that has the messages."""

    servers: tuple[Server, ...]
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    #: If the broker asks for a certificate: made while we are root, since only root may read the key.
    context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> BrokerServers:
        """Read the broker of a component's settings file.

        Raises:
            FleetError: The file names no broker that we could speak to.
        """
        try:
            celery = json.loads(path.read_bytes())["celery"]
            given = celery["broker_url"]
            tls = celery.get("broker_use_ssl")
            options = celery.get("broker_transport_options")
            urls = given.split(";") if isinstance(given, str) else list(given)
            if urls[0].startswith("sentinel://"):  # they are addresses of one broker
                urls = [";".join(urls)]
            servers = tuple(
                server_of(url, tls if isinstance(tls, Mapping) else None, options) for url in urls
            )
            if not servers:
                raise ValueError("no address")
        except OSError as error:
            raise FleetError(f"{path} can't be read ({error.strerror})") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # The error's text may quote a URL.
            raise FleetError(f"{path} names no Redis as broker ({type(error).__name__})") from error
        secured = tls if isinstance(tls, Mapping) else {}
        # As in kombu, TLS options enable TLS, even if the scheme is redis://.
        over_tls = bool(secured) or any(urlsplit(url).scheme == "rediss" for url in urls)
        context = None
        if secured.get("ssl_certfile"):
            # If the files can't be read, the attempt to connect reports it.
            with suppress(OSError):
                context = context_of(secured)
        return cls(servers, secured if over_tls else None, context)

    def connection(self, number: int) -> MessageClient:
        """Connect to one of the servers, to each in turn.

        Raises:
            OSError, ClientError: The server does not answer, or refuses us.
        """
        context = self.context
        if context is None and self.tls is not None:
            context = context_of(self.tls)
        return MessageClient(self.servers[number % len(self.servers)], ANSWER, context)


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
    """Raise OutOfTimeError in the block if it takes longer, even if it is waiting."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def lines(outcome: Outcome, record: WorkerRecord) -> list[str]:
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
            f" {record.lease:.0f} s"
        )
    return said or [f"{_DEBUG}nothing was left to hand back"]


def hand_back(
    broker: BrokerServers, directory: Path, outcome: Outcome, seconds: float | None = None
) -> list[str]:
    """Hand back what the directory's process held, within :data:`BOUND`; return the lines for the journal.

    ``outcome`` is a new one, which also says in numbers what was done, even if an error ends it.

    Raises:
        FleetError, OSError: The process's files can't be read.
    """
    seconds = BOUND if seconds is None else seconds
    record = None
    try:
        # The files count as well: the process wrote them, and one may be a pipe without a writer.
        with bounded(seconds):
            record = WorkerRecord.read(directory)
            if record is None:
                return [f"{_DEBUG}no process has taken tasks"]
            # A process that was told to stop was killed because tasks took too long, and not by a task.
            to_blame = not (directory / worker_record.STOPPING).exists()
            try:
                lock = worker_record.hold_exclusively(directory, wait=GONE)
            except TimeoutError:
                outcome.trouble = (
                    f"a process of {record.node} is still alive: nothing is handed back"
                )
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


def _carry_out(broker: BrokerServers, work: Return, outcome: Outcome) -> None:
    """Try until it is done or has no chance; ``outcome.trouble`` says why it has none."""
    number = 0
    while True:
        address = broker.servers[number % len(broker.servers)].address
        try:
            with broker.connection(number) as client:
                work.attempt(client)
        except (OSError, ClientError) as error:
            outcome.trouble = f"Redis at {address}: {one_line(error)}"
            if isinstance(error, _FOR_GOOD) or (
                isinstance(error, ClientError) and not error.temporary
            ):
                return
        else:
            outcome.trouble = ""
            return
        number += 1
        time.sleep(AGAIN)


def _count(path: Path, outcome: Outcome) -> None:
    """Add an outcome to the counters; not as root, because the directory is the user's."""
    try:
        counters.add(path, {name: getattr(outcome, name) for name in COUNTED})
    except OSError as error:
        print(f"{_WARNING}this hand-back is not counted: {error}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Hand back and tell the journal; return 0 in any case, since the unit's result is that of its process."""
    parser = argparse.ArgumentParser(prog="hand_back.py")
    parser.add_argument("--settings", type=Path, required=True, help="the worker's settings file")
    parser.add_argument(
        "--directory", type=Path, required=True, help="the unit's runtime directory"
    )
    parser.add_argument("--user", required=True, help="who the worker runs as")
    parser.add_argument("--counts", type=Path, required=True, help="the worker's counters file")
    options = parser.parse_args(argv)
    outcome = Outcome()
    try:
        broker = BrokerServers.read(options.settings)
        become(options.user)
        try:
            said = hand_back(broker, options.directory, outcome)
        finally:
            _count(options.counts, outcome)
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
