"""Helpers of this scenario, in addition to `support`: the operator's command in JSON, SQL, health, open ports."""

from __future__ import annotations

import json
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from support import fleets, units
from support.inventory import Fleet
from support.waiting import wait_for

T = TypeVar("T")

# --- the operator's command ------------------------------------------------------------------------


def ask(fleet: Fleet, host: str, words: str | Sequence[str], status: int = 0) -> Any:
    """Return a celery-fleet command's answer in JSON; raise AssertionError if its exit status is another one."""
    listed = shlex.split(words) if isinstance(words, str) else list(words)
    done = fleets.call(fleet, host, ["--format", "json", *listed])
    assert done.status == status, f"{listed}: status {done.status}: {done.text[-3000:]}"
    return json.loads(done.output)


def ask_any(fleet: Fleet, host: str, words: str) -> Any:
    """Return the answer, with any exit status."""
    done = fleets.call(fleet, host, ["--format", "json", *shlex.split(words)])
    return json.loads(done.output)


def run(fleet: Fleet, task: str, *args: Any, **kwargs: Any) -> Any:
    """Send a task by `celery-fleet run` and wait until it succeeds; return the answer in JSON."""
    words = ["run", task, "--args", json.dumps(args), "--kwargs", json.dumps(kwargs)]
    return ask(fleet, fleet.one("celery_producers"), [*words, "--timeout", "60"])


def redis(fleet: Fleet, *words: str) -> str:
    """Return the broker's answer, by the operator's command on its own host: the firewall keeps the tests out."""
    done = fleets.must(fleet, fleet.one("redis"), ["redis", "--", *words])
    return done.output.strip()


def waiting(fleet: Fleet, queue: str) -> int:
    """Return the number of messages in a queue."""
    return int(redis(fleet, "llen", queue))


def broker(fleet: Fleet) -> fleets.Unit:
    """Return host and unit of an application's broker."""
    return fleet.one("redis"), f"redis@{fleets.app_of(fleet)}-broker.service"


@contextmanager
def hanging(fleet: Fleet) -> Iterator[None]:
    """Freeze the broker while the block runs: it accepts connections and answers nothing."""
    host, unit = broker(fleet)
    fleet.must(host, ["systemctl", "kill", "--kill-whom=main", "--signal=STOP", unit])
    try:
        yield
    finally:
        fleet.must(host, ["systemctl", "kill", "--kill-whom=main", "--signal=CONT", unit])
        # This includes workers that were replaced in the meantime.
        units.wait_until_up(fleet, 120)


def at_once(*jobs: Callable[[], T]) -> list[T]:
    """Run all jobs at the same time; return their results, or raise the first exception."""
    found: dict[int, T] = {}
    failed: list[BaseException] = []

    def work(number: int, job: Callable[[], T]) -> None:
        try:
            found[number] = job()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the test's own thread
            failed.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
    return [found[number] for number in range(len(jobs))]


# --- SQL -------------------------------------------------------------------------------------------


def psql(fleet: Fleet, database: str, text: str) -> str:
    """Return what psql prints for a script, as PostgreSQL's superuser."""
    command = ["runuser", "-u", "postgres", "--", "psql", "-X", "-qAt", "-v", "ON_ERROR_STOP=1"]
    return fleet.must(fleet.one("postgresql"), [*command, "-d", database, "-f", "-"], text)


def rows(fleet: Fleet, database: str, query: str) -> list[Any]:
    """Return the rows of a SELECT in any database of the server."""
    text = f"SELECT coalesce(json_agg(q), '[]') FROM ({query}) AS q;\n"  # noqa: S608  # the tests' own text
    found: list[Any] = json.loads(psql(fleet, database, text))
    return found


# --- health ----------------------------------------------------------------------------------------


def health_unit(fleet: Fleet) -> str:
    """Return the unit that the timer starts."""
    return f"{fleets.app_of(fleet)}-health.service"


def check(fleet: Fleet, host: str) -> dict[str, Any]:
    """Run a health check by its unit, as the timer does, and return its result, which the unit's must match."""
    started = fleet.execute(host, ["systemctl", "start", health_unit(fleet)])
    found = result(fleet, host)
    assert (found["state"] == "bad") == (started.status != 0), (found, started.errors)
    failed = fleet.execute(host, ["systemctl", "is-failed", "--quiet", health_unit(fleet)])
    assert (failed.status == 0) == (found["state"] == "bad"), found
    return found


def result(fleet: Fleet, host: str) -> dict[str, Any]:
    """Return the last result, from its file."""
    path = f"/var/lib/celery-fleet/health/{fleets.app_of(fleet)}.json"
    found: dict[str, Any] = json.loads(fleet.must(host, ["cat", path]))
    return found


def states(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the state of each check."""
    return {name: one["state"] for name, one in found["checks"].items()}


def wait_until_good(fleet: Fleet, host: str, name: str, seconds: float = 60) -> None:
    """Wait until a check is good again."""
    wait_for(
        f"{name} is good again on {host}",
        seconds,
        lambda: check(fleet, host)["checks"][name]["state"] == "good",
        pause=2,
    )


# --- ports -----------------------------------------------------------------------------------------

_KNOCK = """
import json, socket, sys
found = []
for address, port in json.load(sys.stdin):
    try:
        socket.create_connection((address, port), 3).close()
        found.append(True)
    except OSError:
        found.append(False)
print(json.dumps(found))
"""
Door = tuple[str, int]  # address and port


def open_to_strangers(door: Door) -> bool:
    """Return whether this machine can connect: its address on the test network belongs to no host of the fleet."""
    try:
        socket.create_connection(door, 2).close()
    except OSError:
        return False
    return True


def open_from(fleet: Fleet, host: str, doors: Sequence[Door]) -> list[bool]:
    """Return the ports to which a host can connect."""
    found: list[bool] = json.loads(fleet.must(host, ["python3", "-c", _KNOCK], json.dumps(doors)))
    return found
