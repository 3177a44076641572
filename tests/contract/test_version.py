"""Which version this is: it stands in one place, and CHANGELOG.md and the runtime on the hosts say the same."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import celery_fleet

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)
PART = re.compile(r"^### (.+)$", re.MULTILINE)
# Those of Keep a Changelog.
PARTS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def sections() -> list[tuple[str, str]]:
    """The versions of the changelog with their dates, the first one first."""
    return HEADING.findall((ROOT / "CHANGELOG.md").read_text())


def test_changelog_ends_in_this_version() -> None:
    (unreleased, undated), (newest, day), *_ = sections()
    assert (unreleased, undated) == ("Unreleased", "")
    assert newest == celery_fleet.__version__
    assert date.fromisoformat(day)


def test_versions_fall_and_are_semantic() -> None:
    versions = [name for name, _ in sections()[1:]]
    numbers = [tuple(map(int, re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", v).groups())) for v in versions]  # type: ignore[union-attr]  # one that is none fails here
    assert numbers == sorted(set(numbers), reverse=True)


def test_changelog_has_the_usual_parts_each_once() -> None:
    for text in HEADING.split((ROOT / "CHANGELOG.md").read_text())[3::3]:
        found = PART.findall(text)
        assert set(found) <= set(PARTS)
        assert len(found) == len(set(found))


def test_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "celery_fleet.__version__"


def test_what_is_upgraded_from_is_named_by_whole_ids() -> None:
    """That history has them is for the scenario to see: a clone may be a shallow one."""
    lines = (ROOT / "tests/upgrade_from").read_text().splitlines()
    commits = [line for line in lines if line and not line.startswith("#")]
    assert commits
    assert len(commits) == len(set(commits))
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in commits)
