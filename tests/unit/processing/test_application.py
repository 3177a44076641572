"""The application's own tests pass, and its files are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.processing.conftest import LOCAL, Run

pytestmark = pytest.mark.slow


def test_its_own_tests_pass(run: Run, place: dict[str, str]) -> None:
    """They cover the status flow in both ways, deliveries, the clean-ups, the API, awkward values and the commands."""
    done = run("manage.py", "test", "--noinput", **place)
    assert done.returncode == 0, done.stderr
    counted = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    # The test runner also succeeds if it finds no test.
    assert counted is not None
    assert int(counted[1]) >= 50
    assert re.search(r"^OK$", done.stderr, re.MULTILINE), done.stderr


def test_models_and_migrations_agree(run: Run, place: dict[str, str]) -> None:
    done = run("manage.py", "makemigrations", "--check", "--dry-run", **place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No changes detected" in done.stdout


def test_a_developer_needs_one_variable(run: Run) -> None:
    done = run("manage.py", "check", "--fail-level", "WARNING", DJANGO_SETTINGS_MODULE=LOCAL)
    assert done.returncode == 0, done.stderr


def test_the_lock_satisfies_the_requirements(example: Path) -> None:
    asked = re.findall(r"^([\w-]+)", (example / "requirements.in").read_text(), re.MULTILINE)
    assert "django-celery-beat" in asked
    lock = (example / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert set(asked) <= set(pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert not re.search(r"https?:|file:|^-", lock, re.MULTILINE)
    assert pins["django"].startswith("5.2.")
    assert pins["celery"].startswith("5.7.")
