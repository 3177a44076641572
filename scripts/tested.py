"""Record what `scripts/check.sh` ran, and write docs/tested.md from it.

    python -m scripts.tested record PART JUNIT SECONDS STATUS    after each part, whether it passed or not
    python -m scripts.tested page                                docs/tested.md, from the last run of each part

A record is `.state/tested/<part>.json`. The number of tests comes from the part's JUnit file; `sanity` has none.
The page keeps the row of a part that has no record in this checkout, because it may have run in another one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from scripts.restarts.origin import DIRTY, ReportError, changes_since, commit_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/tested.md"

#: The parts without hosts, and their names on the page.
WITHOUT_HOSTS = {
    "fast": "without hosts",
    "slow": "without hosts, slow",
    "long": "without hosts, long",
    "sanity": "`ansible-test sanity`",
}

#: Parts whose tests are not counted: whether they passed is their command's exit status.
NOT_COUNTED = ("sanity",)

#: Parts that `make soak` runs: the scenarios for the published tables, with more faults, and a host with arm64.
SOAKED = ("arm64", "delivery", "failover", "long", "noon", "restarts")
#: Those that no other command runs.
SOAK_ONLY = ("arm64",)

HEAD = """\
# What was tested

You can see here when each part of the tests last ran, on which commit, and whether it passed. `make test-all` writes
this page at its end. After `make test-<scenario>` has run one scenario again, `make report-tested` updates the page.
The last column says how many files of the product, without tests and pages, had changed since that commit when this
page was written. On a machine without Python 3.13, the long tests try Celery's minors with Python 3.11 only.
[Development](development.md#how-tests-are-built) says what each part shows.

| Part | Result | Tests | Minutes | Commit | Date (UTC) | Changed since |
|---|---|---:|---:|---|---|---|
"""

#: Columns of the page by their number in a row.
MINUTES, COMMIT, CHANGED = 3, 4, 6


@dataclass(frozen=True)
class PartRun:
    """One run of a part.

    Attributes:
        part: `fast`, `slow`, `long`, `sanity`, the name of a Molecule scenario, or `soak-` and the name of one of them.
        passed: Whether its command succeeded.
        tests: Number of tests that ran.
        failed: Number of tests that failed.
        seconds: From start to end, including making and removing hosts.
        commit: Commit of the checkout, with `-dirty` if it had other changes than the page's.
        made: When it ended, as ISO 8601 in UTC.
        processors: Number of processors of the machine.
    """

    part: str
    passed: bool
    tests: int
    failed: int
    seconds: float
    commit: str
    made: str
    processors: int


def counted(junit: Path) -> tuple[int, int]:
    """Return how many tests a JUnit file has and how many of them failed; 0 without a file."""
    try:
        suites = ET.parse(junit).getroot().iter("testsuite")  # noqa: S314  # our own pytest wrote it
        found = [
            (int(one.get("tests", 0)), int(one.get("failures", 0)) + int(one.get("errors", 0)))
            for one in suites
        ]
    except (OSError, ET.ParseError):
        return 0, 0
    return sum(tests for tests, _ in found), sum(failed for _, failed in found)


def record(part: str, junit: Path, seconds: float, status: int, root: Path = ROOT) -> None:
    """Record a run of a part that has just ended.

    Raises:
        ReportError: The project is not a checkout, so its commit is unknown.
    """
    tests, failed = counted(junit)
    run = PartRun(
        part=part,
        # A part that should have run tests and ran none proves nothing.
        passed=status == 0 and not failed and (tests > 0 or part in NOT_COUNTED),
        tests=tests,
        failed=failed,
        seconds=round(seconds, 1),
        commit=commit_of((".", f":!{PAGE}"), root),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        processors=os.cpu_count() or 0,
    )
    path = root / ".state" / "tested" / f"{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run)) + "\n")


def parts(root: Path) -> Sequence[str]:
    """Return every part: the ones without hosts, each scenario, and the ones of `make soak`."""
    found = (path.parent.name for path in root.glob("molecule/*/molecule.yml"))
    scenarios = sorted(name for name in found if name not in SOAK_ONLY)
    return [*WITHOUT_HOSTS, *scenarios, *(f"soak-{name}" for name in SOAKED)]


def read(root: Path) -> Mapping[str, PartRun]:
    """Return the last run of each part that has one."""
    found = {}
    for part in parts(root):
        path = root / ".state" / "tested" / f"{part}.json"
        if path.is_file():
            found[part] = PartRun(**json.loads(path.read_text()))
    return found


def kept(root: Path) -> Mapping[str, Sequence[str]]:
    """Return the rows of the page by the names of their parts, without the last column."""
    path = root / PAGE
    lines = path.read_text().splitlines() if path.exists() else []
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0]: cells[:CHANGED] for cells in found if len(cells) >= CHANGED}


def page(root: Path) -> str:
    """Return the page: a row for each part, and the sum of their minutes."""
    runs, before = read(root), kept(root)
    rows: dict[str, Sequence[str]] = {}
    for part in parts(root):
        name = WITHOUT_HOSTS.get(part, f"`{part}`")
        cells = row(name, runs[part]) if part in runs else before.get(name, not_run(name))
        rows[part] = [*cells, changed(cells[COMMIT], root)]
    usual = [cells[MINUTES] for part, cells in rows.items() if not part.startswith("soak-")]
    minutes = sum(float(cell) for cell in usual if cell)
    machine = " or ".join(map(str, sorted({run.processors for run in runs.values()})))
    where = f" on a machine with {machine} processors" if machine else ""
    total = (
        f"\nAdded up, the parts without `soak` took {minutes:.0f} minutes{where}. `make test-all` takes less,"
        "\nbecause it runs two scenarios at a time.\n"
    )
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows.values()]
    return HEAD + "".join(lines) + (total if minutes else "")


def not_run(name: str) -> Sequence[str]:
    """Return the cells of a part that has never run."""
    return name, "**not run**", "", "", "", ""


def changed(cell: str, root: Path) -> str:
    """Return how many files of the product have changed since the commit in a cell."""
    if not cell:
        return ""
    found = changes_since(cell.split("`")[1], root)
    if found is None:
        return "its commit is unknown"
    return "1 file" if len(found) == 1 else f"{len(found) or 'no'} files"


def row(name: str, run: PartRun) -> Sequence[str]:
    """Return the cells of a part's row, without the last column."""
    result = "passed"
    if not run.passed:
        result = f"**{run.failed} failed**" if run.failed else "**did not end well**"
    dirty = run.commit.endswith(DIRTY)
    return (
        name,
        result,
        "" if run.part in NOT_COUNTED else str(run.tests),
        f"{run.seconds / 60:.1f}",
        f"`{run.commit[:7]}`" + (" and uncommitted changes" if dirty else ""),
        run.made[:16].replace("T", " "),
    )


def main(words: Sequence[str], root: Path = ROOT) -> int:
    """Record a run, or write the page."""
    match words:
        case ["record", part, junit, seconds, status]:
            try:
                record(part, Path(junit), float(seconds), int(status), root)
            except ReportError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
        case ["page"]:
            (root / PAGE).write_text(page(root))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
