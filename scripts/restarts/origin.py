"""Find the commit of a kept run, and check whether the measured files have changed since then."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .summary import RestartSummary

ROOT = Path(__file__).resolve().parents[2]
#: Results of `make soak-…`. Other runs are kept in a separate directory, and never published.
RESULTS = ROOT / ".state" / "results"

#: The code that the hosts run, and the runs that put it there.
PRODUCT = ("src", "plugins", "playbooks", "roles", "templates")
#: Files shared by all scenarios with this load: the load, and how its record is read.
SHARED = (
    "molecule/restarts",
    *(f"scripts/restarts/{name}.py" for name in ("judge", "measure", "record", "summary")),
)
#: Of a scenario whose tests use another one's: the directory of the latter.
USES = {"failover": "molecule/delivery"}
DIRTY = "-dirty"
#: Set by `make soak` and `make soak-…`: run every case separately, with as many faults as the pages need.
SOAK = "CELERY_FLEET_SOAK"


class ReportError(Exception):
    """A reason why a report can't be written; the message is for users."""


def is_soak() -> bool:
    """Return whether this process makes the runs that the pages show."""
    return bool(os.environ.get(SOAK))


def command_of(scenario: str) -> str:
    """Return the command that runs a scenario as this process does: as a soak or as a test."""
    return f"make {'soak' if is_soak() else 'test'}-{scenario}"


def results(family: str = "") -> Path:
    """Return the directory in which this process keeps its runs; `family` is a directory in it, such as `delivery`."""
    return RESULTS / ("" if is_soak() else "short") / family


def paths_of(scenario: str) -> Sequence[str]:
    """Return the paths that affect a scenario; a change in one of them makes its figures stale."""
    used = [USES[scenario]] if scenario in USES else []
    return (*PRODUCT, *SHARED, *used, f"molecule/{scenario}")


def _git(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)


def commit(scenario: str, root: Path = ROOT) -> str:
    """Return the commit of the checkout, with `-dirty` if a path of the scenario has uncommitted changes.

    Raises:
        ReportError: It is not a checkout.
    """
    return commit_of(paths_of(scenario), root)


def commit_of(paths: Sequence[str], root: Path = ROOT) -> str:
    """Return the commit of the checkout, with `-dirty` if any of the paths has uncommitted changes.

    Raises:
        ReportError: It is not a checkout.
    """
    head = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--", *paths)
    if head.returncode or status.returncode:
        raise ReportError(f"{root} is not a git checkout: {(head.stderr or status.stderr).strip()}")
    return head.stdout.strip() + (DIRTY if status.stdout else "")


def changes_since(
    revision: str, root: Path = ROOT, paths: Sequence[str] = PRODUCT
) -> list[str] | None:
    """Return the files in `paths` that differ from those of a commit; None if the checkout has no such commit."""
    found = _git(root, "diff", "--name-only", revision, "--", *paths)
    return None if found.returncode else found.stdout.split()


def objection(summary: RestartSummary, root: Path = ROOT) -> str:
    """Say why a run must not be published; empty if it may be.

    Raises:
        ReportError: It is not a checkout.
    """
    if not (summary.commit and summary.made and summary.tests):
        return "no test has judged it"
    failed = [name for name, outcome in summary.tests.items() if outcome != "passed"]
    if failed:
        return f"its test failed: {', '.join(failed)}"
    if not summary.command.startswith("make soak-"):
        return f"it was made by {summary.command}, which makes few faults"
    if summary.commit.endswith(DIRTY):
        return f"it was measured with uncommitted changes to {summary.commit[:7]}"
    changed = changes_since(summary.commit, root, paths_of(summary.scenario))
    if changed is None:
        return f"its commit {summary.commit[:7]} is unknown here"
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        return f"{changed[0]}{more} changed since its commit {summary.commit[:7]}"
    return ""


def require_sound(
    scenario: str, found: Sequence[RestartSummary], missing: Sequence[str] = (), root: Path = ROOT
) -> None:
    """Refuse runs that failed, were not judged, have few faults, or are stale.

    Args:
        scenario: The scenario that makes them.
        found: The runs to be published.
        missing: Required runs that do not exist.
        root: The checkout.

    Raises:
        ReportError: Lists each of them, and the command that measures them again.
    """
    objections = [(f"{one.name} ({one.way})", objection(one, root)) for one in found]
    lines = [f"{what}: it was not run" for what in missing]
    lines += [f"{what}: {why}" for what, why in objections if why]
    if lines:
        raise ReportError(
            "\n  ".join(["these runs can't be published:", *lines])
            + f"\nrun again: make soak-{scenario}"
        )


def table_of_origins(found: Sequence[RestartSummary]) -> Sequence[Sequence[str]]:
    """Return the lines of a table: each command with its commit, its day and its runs."""
    groups: dict[tuple[str, str], list[RestartSummary]] = {}
    for one in found:
        groups.setdefault((one.command, one.commit[:7]), []).append(one)
    return [
        [f"`{command}`", f"`{commit_}`", _days(runs), str(len(runs))]
        for (command, commit_), runs in groups.items()
    ]


ORIGINS = ("command", "commit", "date (UTC)", "rows")


def _days(runs: Sequence[RestartSummary]) -> str:
    days = sorted({run.made[:10] for run in runs})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
