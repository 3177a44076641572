"""The action `release_source`: which archives it leaves on the control node."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.plugins.test_action_remedies import action

DAY = 24 * 3600


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/celery-fleet/releases"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/app.py").touch()
    (tmp_path / "source/requirements.txt").write_text("celery\n")
    return tmp_path / "source"


def packed(source: Path, *, check: bool = False, **variables: Any) -> dict[str, Any]:
    made = action("release_source", {"source": {"path": str(source)}})
    made._task.check_mode = check
    made._templar = SimpleNamespace(template=lambda value: value)
    return dict(made.run(task_vars=variables))


def test_the_runs_own_inventory_is_left_out(cache: Path, source: Path) -> None:
    alone = packed(source)["id"]
    (source / "production/group_vars").mkdir(parents=True)
    (source / "production/.vault-password").touch()
    given = [f"{source}/../source/production", ",".join(f"worker{n}" for n in range(99))]
    (source / "plan.json").touch()
    variables = {"ansible_inventory_sources": given, "fleet_plan_json": str(source / "plan.json")}
    assert packed(source, **variables)["id"] == alone
    assert packed(source)["id"] != alone
    assert cache.is_dir()


def test_a_dry_run_packs_and_writes_nothing(cache: Path, source: Path) -> None:
    found = packed(source, check=True)
    assert not cache.parent.exists()
    assert found == packed(source)
    assert os.listdir(cache) == [f"{found['id']}.tar.gz"]


def test_an_archive_is_deleted_a_week_after_its_last_use(cache: Path, source: Path) -> None:
    first = Path(packed(source)["archive"])
    (source / "app.py").write_text("x = 1\n")
    second = Path(packed(source)["archive"])
    (cache / "tmpleft").touch()
    for path in (first, second, cache / "tmpleft"):
        os.utime(path, (time.time() - 8 * DAY,) * 2)
    # It is needed again.
    assert Path(packed(source)["archive"]) == second
    assert set(cache.iterdir()) == {second}
    os.utime(second, (time.time() - 6 * DAY,) * 2)
    (source / "app.py").write_text("")
    assert Path(packed(source)["archive"]) == first
    assert set(cache.iterdir()) == {first, second}
