"""The project's commands work, and its inventory agrees with its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.unit.aiecommerce.conftest import Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "commands",
    [
        ["migrate --noinput", "loaddata demo"],
        ["collectstatic --noinput"],
    ],
    ids=lambda commands: str(commands[-1]),
)
def test_commands(run: Run, commands: list[str]) -> None:
    for command in commands:
        done = run("manage.py", *command.split(), DEBUG="1")
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_release_has_its_own_static_files(run: Run, tmp_path: Path) -> None:
    """The previous release still serves its files, with the sizes that it read at its start."""
    for release in ("first", "second"):
        root = {"STATIC_ROOT": str(tmp_path), "CELERY_FLEET_RELEASE": release}
        done = run("manage.py", "collectstatic", "--noinput", DEBUG="1", **root)
        assert done.returncode == 0, done.stderr
        if release == "first":
            (tmp_path / "first/admin/css/base.css").write_text("the first's own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert (tmp_path / "first/admin/css/base.css").read_text() == "the first's own"
    assert (tmp_path / "second/admin/css/base.css").stat().st_size > 1000


def test_the_inventory_adds_no_schedule(project: Path) -> None:
    """Only config/celery.py has it, as in the document."""
    inventory = project.parents[1] / "inventories" / "aiecommerce"
    for path in inventory.rglob("*.yml"):
        assert "celery_beat_schedule" not in (yaml.safe_load(path.read_text()) or {}), path
