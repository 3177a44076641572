"""Write the table of faults on hosts into docs/delivery-proof.md: `make report-delivery`.

It reads the results of `make soak-delivery` in .state/results/delivery and measures nothing itself. A new run of the
scenario, or of one of its tests, replaces the previous results. Stale runs, and runs with a failed test, are refused.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import origin
from .origin import ORIGINS, ReportError, require_sound, table_of_origins
from .report import between, causes_text, run, seconds_text, table
from .summary import RestartSummary

ROOT = Path(__file__).resolve().parents[2]
RESULTS = origin.RESULTS / "delivery"
PAGE = ROOT / "docs" / "delivery-proof.md"

WAYS = {"fleet": "Celery Fleet", "stock": "stock Celery, late acknowledgement"}
#: Cases in the order of the table, each with a description of the fault. Other cases follow, sorted by name.
FAULTS = {
    "workers killed": "`kill -9` of a worker, or of it and all its processes",
    "processes of pools killed": "`kill -9` of one process of a pool",
    "all connections cut": "`CLIENT KILL` of all workers' connections",
    "drains killed": "`SIGTERM`, and `SIGKILL` at some moment of the drain",
    "workers killed under every kind of message": (
        "`kill -9` of workers, with bodies of 1 kB and 1 MB, priorities, rate limits, revokes, events"
    ),
    "clocks 60 s off": "one host's clock 60 s ahead, one's 60 s behind, and `kill -9` of workers",
    "Redis restarted": "Redis is restarted",
    "Redis frozen": "Redis hangs (`SIGSTOP`) for 0.5 to 60 s",
    "Redis full": "Redis is at `maxmemory`",
    "disk of Redis full": "Redis's disk is full",
    "Redis killed with appendfsync always": "`kill -9` of Redis, with `appendfsync always`",
    "replies that come late": "Redis's replies to a host come 1 to 30 s late",
    "hosts lost": "a host of workers loses its power",
    "a host lost with a lease of 300 s": "the same, with the lease that is the default",
    "a host cut off beyond its lease": "a host is cut off for longer than its lease",
    "from atomic to stock workers": "change from the atomic fetch to stock's, and `kill -9` of atomic workers",
    "from stock to atomic workers": "change from stock's fetch to the atomic one, and `kill -9` of atomic workers",
    "workers of all kinds killed": (
        "`kill -9` of workers with threads, greenlets, processes of one task each, and at most once"
    ),
    "Redis stopped for 12 and 40 s": "Redis is stopped while workers of other kinds retry tasks and continue chains",
    "Redis frozen for 12 and 40 s": "the same, and it hangs",
    "Redis's clock moved by an hour": "Redis's clock is moved by an hour, ahead and behind",
    "drains behind named exchanges": "workers with the stock fetch drain, behind named exchanges",
}
#: Cases that are also measured with stock Celery: without that comparison, our results would prove nothing.
STOCK = ("workers killed", "all connections cut")
#: Cases that are measured although the fleet promises nothing for them.
APART = {
    "Redis killed with appendfsync everysec": "`kill -9` of Redis, with `appendfsync everysec`"
}
HEADINGS = (
    *("fault", "times", "run by", "sent", "done", "**lost**", "by", "**doubled**", "by"),
    *("back after, p50", "longest"),
)


@dataclass(frozen=True)
class Recovery:
    """How long messages of dead workers took to come back: number of deaths, and seconds."""

    count: int
    p50: float
    longest: float


@dataclass(frozen=True)
class Result:
    """The last run of one case, with its recoveries if there were deaths."""

    summary: RestartSummary
    recovery: Recovery | None = None


def load(directory: Path) -> dict[tuple[str, str], Result]:
    """Return every kept run by case and way."""
    found = {}
    for path in sorted(directory.glob("*.summary.json")):
        summary = RestartSummary.read(path)
        beside = path.with_name(path.name.replace(".summary.json", ".recovery.json"))
        recovery = None
        if beside.exists():
            kept = json.loads(beside.read_text())
            recovery = Recovery(int(kept["count"]), float(kept["p50"]), float(kept["max"]))
        found[summary.name, summary.way] = Result(summary, recovery)
    return found


def _line(case: str, result: Result) -> list[str]:
    one, recovery = result.summary, result.recovery or Recovery(0, math.nan, math.nan)
    done = f"{one.done:,}"
    if one.revoked:
        done += f", {one.revoked} of them revoked"
    if one.dropped:
        done += f"; dropped, as `at_most_once` allows: {causes_text(one.dropped)}"
    if one.unheeded:
        done += f"; {causes_text(one.unheeded)}"
    sent = f"{one.sent:,}"
    if one.refused:
        sent += f", {one.refused:,} more refused"
    return [
        *(case, str(one.faults), WAYS.get(one.way, one.way), sent, done),
        *(f"**{one.lost}**", causes_text(one.lost_causes)),
        *(f"**{one.doubled}**", causes_text(one.doubled_causes)),
        *(seconds_text(recovery.p50), seconds_text(recovery.longest)),
    ]


def _ordered(
    found: Mapping[tuple[str, str], Result], faults: Mapping[str, str]
) -> list[tuple[str, Result]]:
    """Return the results of a table with their titles, in the order of the table; the fleet comes before stock."""
    return [
        (title, found[name, way])
        for name, title in faults.items()
        for way in WAYS
        if (name, way) in found
    ]


def figures(found: Mapping[tuple[str, str], Result], about: Mapping[str, str]) -> str:
    """Return both tables, with the broker and the commits that they were measured on.

    Raises:
        ReportError: There is nothing to show.
    """
    if not found:
        raise ReportError(f"{RESULTS.relative_to(ROOT)} has no run; run `make soak-delivery` first")
    others = {name: name for name, _ in sorted(found) if name not in FAULTS and name not in APART}
    text = f"The broker was {about.get('broker', 'a Redis of unknown version')}."
    lines = [_line(title, result) for title, result in _ordered(found, {**FAULTS, **others})]
    if lines:
        text += "\n\n" + table(HEADINGS, lines)
    apart = [_line(title, result) for title, result in _ordered(found, APART)]
    if apart:
        text += "\n\nMeasured, and not promised:\n\n" + table(HEADINGS, apart)
    missing = [title for name, title in {**FAULTS, **APART}.items() if (name, "fleet") not in found]
    if missing:
        text += "\n\nNo passing run yet: " + "; ".join(missing) + "."
    origins = table_of_origins([result.summary for result in found.values()])
    return f"{text}\n\nMeasured by:\n\n{table(ORIGINS, origins)}"


def require_publishable(found: Mapping[tuple[str, str], Result], root: Path = ROOT) -> None:
    """Refuse runs that must not be published: failed, stale, or without the comparison with stock Celery.

    Raises:
        ReportError: Lists each such run and the command that measures it again.
    """
    missing = [
        f"{name} (stock)"
        for name in STOCK
        if (name, "fleet") in found and (name, "stock") not in found
    ]
    require_sound("delivery", [result.summary for result in found.values()], missing, root)


def main(arguments: Sequence[str] = ()) -> None:
    """Read the runs and write the page; `--print` shows the tables instead."""
    about_path = RESULTS / "about.json"
    about = json.loads(about_path.read_text()) if about_path.exists() else {}
    found = load(RESULTS)
    require_publishable(found)
    text = figures(found, about)
    if list(arguments) == ["--print"]:
        print(text)
        return
    PAGE.write_text(between(PAGE.read_text(), text, PAGE))
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
