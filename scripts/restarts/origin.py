"""Where a kept run comes from: its commit, and whether what it measured has changed since."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .summary import Summary

ROOT = Path(__file__).resolve().parents[2]

#: What the hosts run.
PRODUCT = ("src", "plugins", "roles", "templates")
#: What every scenario with this load shares: the load, and how its record is read.
SHARED = (
    "molecule/restarts",
    "molecule/restarts-faults/tests/faults.py",
    "scripts/restarts/judge.py",
    "scripts/restarts/record.py",
)
DIRTY = "-dirty"
#: Set by `make soak` and `make soak-…`: more faults, for which `make test-…` has no time.
SOAK = "CELERY_FLEET_SOAK"


class ReportError(Exception):
    """What stops a report, in words for the person who asked for it."""


def is_soak() -> bool:
    """Tell whether more faults are wanted than `make test-…` has time for."""
    return bool(os.environ.get(SOAK))


def command_of(scenario: str) -> str:
    """Return the command that runs a scenario as this process does."""
    return f"make {'soak' if is_soak() else 'test'}-{scenario}"


def paths_of(scenario: str) -> Sequence[str]:
    """Return the paths whose changes make the figures of a scenario stale."""
    delivery = ("molecule/delivery",) if scenario.startswith("delivery") else ()
    return (*PRODUCT, *SHARED, *delivery, f"molecule/{scenario}")


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)


def commit(scenario: str, root: Path = ROOT) -> str:
    """Return the commit of the checkout, with `-dirty` if it has changes to what a scenario measures.

    Raises:
        ReportError: It is no checkout.
    """
    head = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--", *paths_of(scenario))
    if head.returncode or status.returncode:
        raise ReportError(f"{root} is no git checkout: {(head.stderr or status.stderr).strip()}")
    return head.stdout.strip() + (DIRTY if status.stdout else "")


def objection(summary: Summary, root: Path = ROOT) -> str:
    """Say why a run must not be published; empty if it may be.

    Raises:
        ReportError: It is no checkout.
    """
    if not (summary.commit and summary.made and summary.tests):
        return "no test has judged it"
    failed = [name for name, outcome in summary.tests.items() if outcome != "passed"]
    if failed:
        return f"its test failed: {', '.join(failed)}"
    if summary.commit.endswith(DIRTY):
        return f"it was measured with uncommitted changes to {summary.commit[:7]}"
    difference = _git(
        root, "diff", "--name-only", summary.commit, "HEAD", "--", *paths_of(summary.scenario)
    )
    if difference.returncode:
        return f"its commit {summary.commit[:7]} is unknown here"
    changed = difference.stdout.split()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more} changed since its commit {summary.commit[:7]}"
    return ""


def require_sound(
    found: Sequence[Summary], missing: Sequence[tuple[str, str]] = (), root: Path = ROOT
) -> None:
    """Refuse runs that failed, were not judged, or are stale.

    Args:
        found: The runs to be published.
        missing: Runs that have to be there and are not, each with its scenario.
        root: The checkout.

    Raises:
        ReportError: With each of them, and the commands that measure them again.
    """
    lines = []
    again = set()
    for what, scenario in missing:
        lines.append(f"{what}: it was not run")
        again.add(f"make test-{scenario}")
    for one in found:
        why = objection(one, root)
        if why:
            lines.append(f"{one.name} ({one.way}): {why}")
            again.add(one.command or "the scenario that has it")
    if lines:
        raise ReportError(
            "\n  ".join(["these runs can't be published:", *lines])
            + "\nrun again: "
            + ", ".join(sorted(again))
        )


def table_of_origins(found: Sequence[Summary]) -> Sequence[Sequence[str]]:
    """Return the lines of a table: each command with its commit, its day and its runs."""
    groups: dict[tuple[str, str], list[Summary]] = {}
    for one in found:
        groups.setdefault((one.command, one.commit[:7]), []).append(one)
    return [
        [f"`{command}`", f"`{commit_}`", _days(runs), str(len(runs))]
        for (command, commit_), runs in groups.items()
    ]


ORIGINS = ("command", "commit", "date (UTC)", "rows")


def _days(runs: Sequence[Summary]) -> str:
    days = sorted({run.made[:10] for run in runs})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
