"""The action `release_source`: which archives it leaves on the control node."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible import context
from ansible.errors import AnsibleError

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
    return run({"source": {"path": str(source)}}, check=check, **variables)


def run(args: dict[str, Any], *, check: bool = False, **variables: Any) -> dict[str, Any]:
    made = action("release_source", args)
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


class _Undefined(dict[str, str]):
    """A host with a key whose name can't be rendered."""

    def get(self, *_: Any) -> str:
        raise AnsibleError("'nothing' is undefined")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("in_git", [True, False])
def test_files_with_secrets_of_the_run_are_left_out(
    source: Path, monkeypatch: pytest.MonkeyPatch, in_git: bool
) -> None:
    if in_git:
        subprocess.run(["git", "init", "--quiet", source], check=True)
    # With `prompt` in place of a file, Ansible asks; an application may have a file of this name.
    (source / "prompt").touch()
    alone = packed(source)["id"]
    names = ("id", "more", "by-option", "password", "key", "host-key", "sudo", "login", "vars")
    for name in names:
        (source / f"{name}.txt").touch()
    assert packed(source)["id"] != alone
    monkeypatch.chdir(source)
    monkeypatch.setenv("ANSIBLE_VAULT_IDENTITY_LIST", f"shop@{source}/id.txt, more.txt, x@prompt")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "password.txt")
    monkeypatch.setenv("ANSIBLE_PRIVATE_KEY_FILE", str(source / "key.txt"))
    monkeypatch.setenv("ANSIBLE_BECOME_PASSWORD_FILE", str(source / "sudo.txt"))
    options = {"vault_ids": ["prod@by-option.txt"], "connection_password_file": "login.txt"}
    options["extra_vars"] = ("a=b", "@vars.txt")
    monkeypatch.setattr(context, "CLIARGS", options)
    hostvars = {
        "one": {"ansible_ssh_private_key_file": "host-key.txt"},
        "two": {"ansible_private_key_file": str(source)},
        "three": _Undefined(),
    }
    assert packed(source, hostvars=hostvars)["id"] == alone


@pytest.mark.usefixtures("cache")
def test_a_relative_path_does_not_start_at_a_users_own_configuration(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As preflight reads it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(source)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/requirements.txt").touch()
    config = str(tmp_path / "home/.ansible.cfg")
    assert packed(Path(), ansible_config_file=config)["id"] == packed(source)["id"]
    config = str(tmp_path / "ansible.cfg")
    assert packed(Path("source"), ansible_config_file=config)["id"] == packed(source)["id"]


def test_a_dry_run_packs_and_writes_nothing(cache: Path, source: Path) -> None:
    found = packed(source, check=True)
    assert not cache.parent.exists()
    assert found == packed(source)
    assert set(os.listdir(cache)) == {f"{found['id']}.tar.gz", f"{found['id']}.json"}


def test_files_are_deleted_a_week_after_their_last_use(cache: Path, source: Path) -> None:
    def files(found: dict[str, Any]) -> set[Path]:
        return {Path(found["archive"]), cache / f"{found['id']}.json"}

    first = packed(source)
    (source / "app.py").write_text("x = 1\n")
    second = packed(source)
    (cache / "tmpleft").touch()
    for path in (*files(first), *files(second), cache / "tmpleft"):
        os.utime(path, (time.time() - 8 * DAY,) * 2)
    # It is needed again.
    assert packed(source) == second
    assert set(cache.iterdir()) == files(second)
    for path in files(second):
        os.utime(path, (time.time() - 6 * DAY,) * 2)
    (source / "app.py").write_text("")
    assert packed(source) == first
    assert set(cache.iterdir()) == files(first) | files(second)


@pytest.mark.usefixtures("cache")
def test_a_release_that_hosts_keep_is_found_if_the_inventory_names_other_files(
    source: Path,
) -> None:
    (source / "away").symlink_to("/usr/share/zoneinfo")
    found = packed(source)
    (source / "requirements.txt").unlink()
    now = {"path": str(source), "directory": "backend", "requirements": "requirements/prod.txt"}
    kept = run({"source": now, "kept": found["id"]})
    assert kept["archive"] == found["archive"]
    assert kept["requirements"] == {**found["requirements"], "pins": []}


def test_an_archive_without_its_requirements_counts_as_missing(cache: Path, source: Path) -> None:
    """Earlier versions have written such archives."""
    found = packed(source)
    (cache / f"{found['id']}.json").unlink()
    kept = run({"source": {"path": str(source)}, "kept": found["id"]})
    assert (kept["archive"], kept["requirements"]) == ("", {})
