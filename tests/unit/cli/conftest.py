"""A host in a directory, and the command line on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from celery_fleet.cli import application, units
from celery_fleet.cli.main import cli
from celery_fleet.health import in_release
from tests.unit.cli import host

Call = Callable[..., Result]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a host whose only application is `shop`."""
    monkeypatch.setattr(application, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(in_release, "as_user", lambda name: {})
    monkeypatch.setattr(units, "show", lambda names: [unit(name) for name in names])
    host.install(tmp_path)
    return tmp_path


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands wait for minutes: a busy machine needs longer than their usual limit to import Celery."""
    monkeypatch.setenv("CELERY_FLEET_TIMEOUT", "120")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    def called(*argv: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["celery-fleet", *argv])
        done = CliRunner().invoke(cli, argv, prog_name="celery-fleet")
        unexpected = done.exception
        assert unexpected is None or isinstance(unexpected, SystemExit), repr(unexpected)
        assert host.PASSWORD not in done.output
        return done

    return called


def unit(name: str, active: str = "active") -> units.UnitStatus:
    return units.UnitStatus(name, active, "running", "consuming mail", None, 0)
