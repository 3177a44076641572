"""Several beats: which of them sends, and what they have sent."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

from support import resp, units
from support.inventory import Fleet
from support.waiting import wait_for

QUEUE = "ledger"
#: Seconds between two runs of the entry.
EVERY = 2.0
STANDS_BY = "standing by: another beat sends"
#: A header of each message that a process of the fleet sends.
SENT = "x-fleet-sent"


class Beats:
    """The beats of a fleet.

    Args:
        fleet: The hosts under test.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.hosts = fleet.hosts("celery_beat")
        self.unit = f"{fleet.of('celery_beat')['celery_app_name']}-beat.service"

    def states(self) -> dict[str, str]:
        """Return what each beat says of itself; only those that are up."""
        found = {host: units.state(self.fleet, host, self.unit) for host in self.hosts}
        return {
            host: state["StatusText"]
            for host, state in found.items()
            if state.get("ActiveState") == "active"
        }

    def processes(self) -> set[tuple[str, str]]:
        """Return the host and the PID of each beat."""
        return {(host, units.state(self.fleet, host, self.unit)["MainPID"]) for host in self.hosts}

    def sender(self, other_than: str = "") -> str:
        """Wait until every beat is up and one of them sends; return its host.

        Args:
            other_than: A host that does not count.
        """
        hosts = [host for host in self.hosts if host != other_than]

        def one() -> str:
            found = {host: text for host, text in self.states().items() if host in hosts}
            senders = [host for host, text in found.items() if text != STANDS_BY]
            return senders[0] if len(found) == len(hosts) and len(senders) == 1 else ""

        return wait_for("one beat sends", 90, one, pause=0.5)

    def times(self) -> list[float]:
        """Return when each message was sent."""
        with resp.session(self.fleet, "broker", "operator") as operator:
            messages = operator.send("LRANGE", QUEUE, 0, -1)
        return sorted(float(json.loads(message)["headers"][SENT]) for message in messages)

    def wait_for_runs(self, number: int = 3) -> None:
        """Wait until the entry has run so often from now on."""
        before = len(self.times())
        seconds = 60 + number * EVERY

        def sent() -> bool:
            with suppress(OSError, resp.Refused):
                return len(self.times()) >= before + number
            return False

        wait_for(f"{number} runs", seconds, sent, pause=0.5)

    @contextmanager
    def measured(self, longest: float) -> Iterator[None]:
        """Check that all runs in this block have their distance, except for one pause of at most so many seconds."""
        self.wait_for_runs()
        began = time.time()
        yield
        self.wait_for_runs()
        times = [sent for sent in self.times() if sent > began - 2 * EVERY]
        gaps = sorted(after - before for before, after in pairwise(times))
        assert gaps[0] > EVERY / 2, f"a run was sent twice, {gaps[0]:.2f} s apart: {times}"
        assert gaps[-1] < longest + EVERY, f"nothing was sent for {gaps[-1]:.1f} s"

    def kill(self, host: str, signal: str) -> None:
        """Send a signal to a host's beat."""
        command = ["systemctl", "kill", "--kill-whom=main", f"--signal={signal}", self.unit]
        self.fleet.must(host, command)

    def power(self, host: str, on: bool) -> None:
        """Switch a host off, as a power failure does, or on."""
        container = self.fleet.containers[host]
        subprocess.run(
            ["docker", "start" if on else "kill", container], check=True, stdout=subprocess.DEVNULL
        )
