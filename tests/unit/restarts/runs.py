"""Kept runs, and the checkouts that they come from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from scripts.restarts.measure import Series
from scripts.restarts.summary import RestartSummary


def summary(name: str, way: str = "fleet", **changed: Any) -> RestartSummary:
    values: dict[str, Any] = {
        "name": name,
        "way": way,
        "seed": 20,
        "sent": 5000,
        "done": 5000,
        "refused": 0,
        "lost": 0,
        "lost_causes": {},
        "doubled": 0,
        "doubled_causes": {},
        "waits": {"p50": 0.1, "p99": 1.0, "longest": 2.0},
        "restart": (20.0, 80.0),
        "fewest": {},
        "roll": None,
        "critical": None,
        "series": Series(0, [], []),
        "report": {},
    }
    return RestartSummary(**{**values, **changed})


class Checkout:
    """A git repository with a file of each kind."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet")
        for name in (
            "src/a.py",
            "docs/page.md",
            "molecule/delivery/tests/test_a.py",
            "molecule/other/a",
        ):
            self.write(name, "first\n")
        self.commit()

    def git(self, *words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=some")
        return self.git("rev-parse", "HEAD")

    def run(
        self, name: str = "workers killed", way: str = "fleet", **changed: Any
    ) -> RestartSummary:
        """Return a run of this commit whose test has passed."""
        values: dict[str, Any] = {
            "commit": self.git("rev-parse", "HEAD"),
            "made": "2026-11-22T10:00:00+00:00",
            "scenario": "delivery",
            "command": "make soak-delivery",
            "tests": {"test_a": "passed"},
        }
        return summary(name, way, **{**values, **changed})
