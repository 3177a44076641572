"""Where relative paths of an inventory start, and what is never a source."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.paths import (
    base_directory,
    never_a_source,
)

from tests.unit.preflight.inventory import problems, valid


def test_relative_paths_start_at_the_projects_ansible_cfg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    for directory in (home, work):
        directory.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    assert base_directory("/srv/shop/ansible.cfg") == Path("/srv/shop")
    # These belong to no project.
    for config in (None, "", home / ".ansible.cfg", "/etc/ansible/ansible.cfg"):
        assert base_directory(config) == work


def test_the_home_directory_and_the_root_are_never_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = valid(tmp_path / "home")
    (tmp_path / "link").symlink_to("home")
    assert never_a_source(tmp_path / "home") == ""
    assert problems(variables) == []
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in ("~", str(tmp_path / "home"), str(tmp_path / "link/../home/.")):
        variables["celery_app_source"] = {"path": path}
        (problem,) = problems(variables)
        assert problem.variable == "celery_app_source.path"
        assert (
            "is your home directory, and a release would take all of its files" in problem.message
        )
    variables["celery_app_source"] = {"path": "/"}
    assert "is the root of the file system" in problems(variables)[0].message
