from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CELERY = [sys.executable, "-m", "celery", "-A", "app.celery_app"]


def test_verbs_are_the_documented_ones(manager: ModuleType) -> None:
    assert list(manager.VERBS) == ["worker", "beat", "flower", "active", "scheduled", "purge"]


@pytest.mark.parametrize(
    ("verb", "options", "arguments"),
    [
        ("worker", [], ["worker", "--loglevel=info", "--concurrency=2"]),
        (
            "worker",
            ["-Q", "discounts"],
            ["worker", "--loglevel=info", "--concurrency=2", "-Q", "discounts"],
        ),
        ("active", [], ["inspect", "active"]),
        ("purge", ["-f"], ["purge", "-f"]),
    ],
)
def test_a_verb_becomes_its_celery_command(
    manager: ModuleType, verb: str, options: list[str], arguments: list[str]
) -> None:
    assert manager.celery_command(verb, options) == [*CELERY, *arguments]


def test_an_unknown_verb_is_refused_with_the_known_ones(backend: Path) -> None:
    script = backend / "scripts" / "celery_manager.py"
    run = subprocess.run(
        [sys.executable, str(script), "nope"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "invalid choice: 'nope' (choose from" in run.stderr
