"""Locks of uv, Poetry and PDM as requirements, exported by the real tools, which pip installs once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from scripts.testhosts.fleet import cache_directory, pip_cache
from tests.unit.run.locks import packed, source

LIBRARY = """\
[project]
name = "small"
version = "1"
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""
PROJECT = """\
[project]
name = "shop"
version = "0.1"
requires-python = ">=3.11,<4"
"""
#: As PDM writes it.
ROOT = "file:" + "///${PROJECT_ROOT}"
UV = f'{PROJECT}dependencies = ["small"]\n[tool.uv.sources]\nsmall = {{path = "lib"}}\n'
POETRY = (
    f'{PROJECT}dynamic = ["dependencies"]\n[tool.poetry]\npackage-mode = false\n'
    '[tool.poetry.dependencies]\nsmall = {path = "lib"}\n'
)
PDM = f'{PROJECT}dependencies = ["small @ {ROOT}/lib"]\n[tool.pdm]\ndistribution = false\n'
PDM_LOCK = """\
[metadata]
groups = ["default"]
strategy = ["inherit_metadata"]
lock_version = "4.5.0"
content_hash = "sha256:{}"

[[metadata.targets]]
requires_python = ">=3.11,<4"

[[package]]
name = "small"
version = "1"
path = "./lib"
summary = ""
groups = ["default"]
"""
#: PDM 2.29 does not start with hishel 2.
INSTALLED = ("uv", "poetry", "poetry-plugin-export", "pdm", "hishel[httpx]<2")


@pytest.fixture(scope="session")
def installed() -> Path:
    """The directory with the tools."""
    made = cache_directory() / "lock-tools"
    if not (made / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", made], check=True, timeout=120)
        install = ["install", "--quiet", "--cache-dir", pip_cache(), *INSTALLED]
        subprocess.run([made / "bin/python", "-m", "pip", *install], check=True, timeout=600)
        (made / "complete").touch()
    return made / "bin"


@pytest.fixture
def programs(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where a run finds the tools."""
    monkeypatch.setenv("PATH", f"{installed}:{os.environ['PATH']}")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return installed


def locked(programs: Path, root: Path, lock: str) -> None:
    """Write the lock as a user would; PDM's by hand, because PDM asks the index even for nothing."""
    if lock == "pdm.lock":
        script = (
            "from pdm.core import Core; "
            "print(Core().create_project('.').pyproject.content_hash('sha256'))"
        )
        run = [programs / "python", "-c", script]
        done = subprocess.run(
            run, cwd=root, capture_output=True, text=True, check=True, timeout=120
        )
        (root / lock).write_text(PDM_LOCK.format(done.stdout.split()[-1]))
        return
    offline = ["--offline"] if lock == "uv.lock" else []
    command = [programs / lock.removesuffix(".lock"), "lock", *offline]
    subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=120)


@pytest.mark.long
@pytest.mark.parametrize(
    ("lock", "project"), [("uv.lock", UV), ("poetry.lock", POETRY), ("pdm.lock", PDM)]
)
def test_the_real_tool(tmp_path: Path, programs: Path, lock: str, project: str) -> None:
    files = {"app.py": "", "pyproject.toml": project, "lib/pyproject.toml": LIBRARY}
    root = source(tmp_path / "app", {**files, "lib/small.py": "x = 1\n"})
    locked(programs, root, lock)
    before = sorted(root.rglob("*"))
    _, added = packed(root, requirements=lock)
    # Where the source was while it was packed is nowhere on a host.
    assert str(tmp_path) not in str(added)
    (line,) = added[".celery-fleet/projects.txt"].splitlines()
    assert "lib" in line
    assert sorted(root.rglob("*")) == before
    # pip understands it.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--requirement",
            "/dev/stdin",
        ],
        cwd=root,
        env={**os.environ, "PROJECT_ROOT": str(root)},
        input=line,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Would install small-1" in done.stdout, done.stderr
    # One that no longer matches.
    stale = project.replace('">=3.11,<4"', '">=3.12,<4"')
    (root / "pyproject.toml").write_text(stale)
    with pytest.raises(UserError, match="If the lock does not match"):
        packed(root, requirements=lock)


#: A build backend in the source, and an interpreter.
EVIL = "import pathlib\npathlib.Path({!r}).touch()\n"
BACKEND = '[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n'


@pytest.mark.long
@pytest.mark.parametrize(
    ("lock", "project"), [("uv.lock", UV), ("poetry.lock", POETRY), ("pdm.lock", PDM)]
)
def test_the_real_tool_runs_no_code_of_the_application(
    tmp_path: Path, programs: Path, lock: str, project: str
) -> None:
    files = {"app.py": "", "pyproject.toml": project, "lib/pyproject.toml": LIBRARY}
    root = source(tmp_path / "app", files)
    locked(programs, root, lock)
    ran = tmp_path / "ran"
    interpreter = f'#!/bin/sh\ntouch {ran}\nexec {sys.executable} "$@"\n'
    backend = LIBRARY.partition("[build-system]")[0].replace(
        'version = "1"', 'dynamic = ["version"]'
    )
    added = {
        "evil": interpreter,
        ".python-version": "./evil\n",
        ".pdm-python": f"{root}/evil\n",
        ".pdm.toml": f'[python]\npath = "{root}/evil"\n',
        **{f"{venv}/bin/python": interpreter for venv in (".venv", "venv", "env")},
        **{f"{venv}/pyvenv.cfg": "home = /usr/bin\n" for venv in (".venv", "venv", "env")},
        "lib/evil.py": EVIL.format(str(ran)),
        "lib/pyproject.toml": backend + BACKEND,
    }
    source(root, added)
    for path in (root / "evil", *root.glob("*/bin/python"), *root.glob(".venv/bin/python")):
        path.chmod(0o755)
    # uv refuses it, as it would have to build `lib`. For the others, it is a path like any other.
    with contextlib.suppress(UserError):
        packed(root, requirements=lock)
    assert not ran.exists()


@pytest.mark.long
@pytest.mark.parametrize("root_is_project", [False, True])
def test_the_real_uv_exports_a_member_of_a_workspace(
    tmp_path: Path, programs: Path, root_is_project: bool
) -> None:
    workspace = '[tool.uv.workspace]\nmembers = ["apps/*", "libs/*"]\n'
    library = LIBRARY.replace('version = "1"', 'version = "1"\nrequires-python = ">=3.11,<4"')
    shop = f"{PROJECT}dependencies = ['small', 'near']\n"
    files = {
        "pyproject.toml": (PROJECT.replace("shop", "root") if root_is_project else "") + workspace,
        "apps/shop/pyproject.toml": shop
        + "[tool.uv.sources]\nsmall = {workspace = true}\nnear = {path = '../../near'}\n",
        "apps/shop/app.py": "",
        "apps/mail/pyproject.toml": library.replace("small", "mail"),
        "libs/small/pyproject.toml": library,
        "libs/small/small.py": "",
        "near/pyproject.toml": library.replace("small", "near"),
        "near/near.py": "",
    }
    root = source(tmp_path / "app", files)
    locked(programs, root, "uv.lock")
    _, added = packed(root, requirements="uv.lock", directory="apps/shop")
    assert sorted(added[".celery-fleet/projects.txt"].splitlines()) == ["./libs/small", "./near"]
    # The build runs pip beside the lock.
    assert all((root / line).is_dir() for line in added[".celery-fleet/projects.txt"].split())
