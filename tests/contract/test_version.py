"""The version is written in one place, and CHANGELOG.md and the runtime on the hosts agree with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.control import (
    ANSIBLE_BELOW,
    ANSIBLE_FROM,
)

import celery_fleet
from celery_fleet.compat import versions

ROOT = Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)
PART = re.compile(r"^### (.+)$", re.MULTILINE)
# The headings of Keep a Changelog.
PARTS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def sections() -> list[tuple[str, str]]:
    """Return the versions in the changelog with their dates, in the file's order."""
    return HEADING.findall((ROOT / "CHANGELOG.md").read_text())


def test_the_newest_version_in_the_changelog_is_this_one() -> None:
    (unreleased, undated), (newest, day), *_ = sections()
    assert (unreleased, undated) == ("Unreleased", "")
    assert newest == celery_fleet.__version__
    assert date.fromisoformat(day)


def test_versions_are_semantic_and_in_descending_order() -> None:
    versions = [name for name, _ in sections()[1:]]
    numbers = [tuple(map(int, re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", v).groups())) for v in versions]  # type: ignore[union-attr]  # one that is none fails here
    assert numbers == sorted(set(numbers), reverse=True)


def test_changelog_has_the_usual_parts_each_once() -> None:
    for text in HEADING.split((ROOT / "CHANGELOG.md").read_text())[3::3]:
        found = PART.findall(text)
        assert set(found) <= set(PARTS)
        assert len(found) == len(set(found))


def test_the_version_is_written_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "celery_fleet.__version__"


def test_the_collection_has_the_same_version() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["version"] == celery_fleet.__version__


def test_commits_to_upgrade_from_are_named_by_full_ids() -> None:
    """The scenario checks that git's history has them, because a clone may be shallow."""
    lines = (ROOT / "tests/upgrade_from").read_text().splitlines()
    commits = [line for line in lines if line and not line.startswith("#")]
    assert commits
    assert len(commits) == len(set(commits))
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in commits)


@pytest.mark.slow
def test_upgrade_refuses_a_history_without_the_older_version(tmp_path: Path) -> None:
    """A shallow clone is refused before anything is deployed, with the remedy."""
    older = "0123456789abcdef0123456789abcdef01234567"
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/upgrade_from").write_text(f"# A reason.\n\n{older}\n")
    scenario = ROOT / "molecule/upgrade"
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={scenario}/inventory",
            str(scenario / "converge.yml"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "CELERY_FLEET_UPGRADE_FROM": "",
            "MOLECULE_PROJECT_DIRECTORY": str(tmp_path),
            "MOLECULE_SCENARIO_DIRECTORY": str(scenario),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stdout
    said = " ".join(done.stdout.split()) + done.stderr
    assert f"The commit {older}" in said
    assert "git fetch --unshallow" in said
    assert "Deploy by it" not in said


def test_the_readme_names_the_versions_that_preflight_and_the_runtime_accept() -> None:
    text = (ROOT / "README.md").read_text()
    major, minor = ANSIBLE_FROM
    tested = " or ".join(f"{major}.{number}" for number in range(minor, ANSIBLE_BELOW[1]))
    assert f"ansible-core {tested} |" in text
    assert f"Celery {versions.CELERY[-1]} to {versions.CELERY[0]} " in text
