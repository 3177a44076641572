"""Write the table of docs/schedules.md."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import redis

from scripts.beat_faults.beats import BEGIN, SCHEDULERS, ZONE, database, policy
from scripts.beat_faults.simulation import FAULTS, HOSTS, Simulation
from scripts.beat_faults.verdict import Judge, RunCount
from scripts.clock_changes import DATABASE, ENTRIES, ROOT, slots
from scripts.ports import free_port, listens
from scripts.restarts.origin import commit_of
from scripts.restarts.report import table, write_or_check

PAGE = ROOT / "docs/schedules.md"

#: What marks the place of the table in the page.
MARKS = "<!-- faults: begin -->", "<!-- faults: end -->"

SEED = 20
END = BEGIN.replace(year=2029)

HEADINGS = (
    *("Entry", "Schedule", "`missed`", "Sent"),
    *("Doubled", "Missed while a host was up", "Missed while none was"),
)


@contextmanager
def serving(directory: Path) -> Iterator[redis.Redis]:
    """Run a Redis without data on disk."""
    port = free_port()
    argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with subprocess.Popen([*argv, "--dir", str(directory)], stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port)
        try:
            while not listens(port):
                time.sleep(0.05)
            yield client
        finally:
            client.close()
            server.terminate()


def simulate(
    kind: str, end: datetime = END, seed: int = SEED
) -> tuple[Counter[str], dict[str, RunCount]]:
    """Return the faults of a simulation from `BEGIN` on, and how each entry was sent.

    Args:
        kind: Where the schedule is: `FILE`, `DATABASE` or `REDBEAT`.
        end: The end of the simulation.
        seed: For all random choices.
    """
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as client:
        simulation = Simulation(Path(name), client, kind, seed)
        with database(simulation.shown) if kind == DATABASE else nullcontext():
            simulation.run(end)
    judge = Judge([period for host in simulation.hosts for period in host.up])
    found = {}
    for entry in ENTRIES:
        sent = simulation.sent[entry.name]
        if entry.fields:
            due = slots(entry, ZONE, BEGIN, end)
            found[entry.name] = judge.crontab(sent, due, policy(entry.name), end)
        else:
            found[entry.name] = judge.interval(sent, entry.interval)
    return simulation.faults, found


def section() -> str:
    """Return the table, and a sentence about the faults."""
    faults: Counter[str] = Counter()
    lines = []
    for kind in SCHEDULERS:
        happened, verdicts = simulate(kind)
        faults += happened
        for name, one in verdicts.items():
            counts = (one.sent, one.doubled, one.missed, one.excused)
            lines.append([name, kind, policy(name), *(f"{count:,}" for count in counts)])
    months = (END.year - BEGIN.year) * 12
    what = ", ".join(f"{name} {faults[name]:,}" for name in FAULTS)
    revision = commit_of(["src", "scripts/beat_faults"])
    # A full id is 40 digits, and changes that are not committed add a word.
    when = f"Commit `{revision[:7]}{revision[40:]}`, {time.strftime('%Y-%m-%d', time.gmtime())}"
    runs = f"{HOSTS} hosts, zone {ZONE}, {months} months with each schedule"
    return "\n\n".join(
        (
            f"{when}: {runs}, {sum(faults.values()):,} faults: {what}.",
            table(HEADINGS, lines),
        )
    )


def main(argv: Sequence[str] = ()) -> int:
    """Write or check the table."""
    # What a beat says when it is no longer the leader.
    logging.getLogger("celery_fleet.beat").setLevel(logging.CRITICAL + 1)
    return write_or_check(PAGE, section(), argv, *MARKS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
