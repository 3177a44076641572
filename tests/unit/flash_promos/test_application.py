"""The application's own tests pass, and its files are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.django_example import skipped
from tests.unit.flash_promos.conftest import Run

pytestmark = pytest.mark.slow

# What SQLite skips. molecule/fleets/tests/test_own_tests.py runs all tests on a host with PostgreSQL, and refuses a
# skipped one.
ON_HOSTS = {"promotions.tests.test_services.TwiceAtOnce.test_everything_is_done_once"}


def test_its_own_tests_pass(run: Run) -> None:
    done = run("manage.py", "test", "--noinput", "--verbosity", "2")
    assert done.returncode == 0, done.stderr
    # Task bodies, repeated and in all orders.
    counted = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) >= 30
    assert skipped(done.stderr) == ON_HOSTS
    assert f"\nOK (skipped={len(ON_HOSTS)})\n" in done.stderr


def test_models_and_migrations_agree(run: Run) -> None:
    done = run("manage.py", "makemigrations", "--check", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No changes detected" in done.stdout


def test_a_developer_needs_no_environment(run: Run) -> None:
    done = run("manage.py", "check", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


def test_the_lock_satisfies_the_requirements(example: Path) -> None:
    asked = re.findall(r"^([\w-]+)", (example / "requirements.in").read_text(), re.MULTILINE)
    lock = (example / "requirements.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    assert set(asked) <= set(pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert pins["django"].startswith("5.2.")
    assert pins["celery"].startswith("5.7.")


def test_the_demo_has_a_promotion_of_each_kind(example: Path) -> None:
    rows = json.loads((example / "promotions/fixtures/demo.json").read_text())
    ends = sorted(
        row["fields"]["ends_at"] for row in rows if row["model"] == "promotions.promotion"
    )
    assert [end[:4] for end in ends] == ["2024", "2099", "2100"]
