"""Locks of uv, Poetry and PDM as requirements; the long tests run the real tools, which pip installs once."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import requirements_file
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lock_files
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.requirements import read
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import Packed, pack

from scripts.testhosts.fleet import cache_directory, pip_cache

FILES = {"app.py": "x = 1\n", "pyproject.toml": "", "lib/pyproject.toml": ""}
HASHED = "celery==5.5.0 \\\n    --hash=sha256:aa\n"


def source(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed(root: Path, **wanted: Any) -> tuple[Packed, dict[str, str]]:
    """The packed source, and what was added to its files."""
    scratch = root.parent / f"scratch{len(list(root.parent.iterdir()))}"
    scratch.mkdir()
    made = pack({"path": str(root), **wanted}, root, scratch, "")
    with tarfile.open(fileobj=BytesIO(made.archive)) as opened:
        added = {
            member.name: stream.read().decode()
            for member in opened
            if ".celery-fleet" in member.name and (stream := opened.extractfile(member))
        }
    return made, added


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `uv` that notes how it was called, and prints what is in `answer`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "uv"
    program.write_text(
        f'#!/bin/sh\necho "$PWD $*" >> {tmp_path}/called\ntouch written\ncat {tmp_path}/answer\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "answer").write_text(HASHED)
    return tmp_path


def test_a_lock_is_exported_beside_it(tool: Path) -> None:
    root = source(tool / "app", {**FILES, "uv.lock": "version = 1\n"})
    made, added = packed(root, requirements="uv.lock", extras=["web"], groups=["prod"])
    assert added == {".celery-fleet/requirements.txt": HASHED}
    called = (tool / "called").read_text()
    assert " export --locked --offline --no-dev " in called
    assert called.rstrip().endswith("--extra web --group prod")
    needs = read(made.directory, {"requirements": "uv.lock"}, made.exported)
    assert (needs.file, needs.local) == (".celery-fleet/requirements.txt", False)
    # A tool may write into the project in which it runs.
    assert not (root / "written").exists()


def test_projects_of_the_source_are_a_file_of_their_own(tool: Path) -> None:
    """pip takes hashes for all requirements of a call or for none."""
    (tool / "answer").write_text(f".\n./lib\n{HASHED}")
    root = source(tool / "app", {**FILES, "uv.lock": ""})
    made, added = packed(root, requirements="uv.lock")
    assert added == {
        ".celery-fleet/requirements.txt": HASHED,
        ".celery-fleet/projects.txt": ".\n./lib\n",
    }
    assert read(made.directory, {"requirements": "uv.lock"}, made.exported).local


def test_a_lock_stands_beside_the_code_or_above_it(tool: Path) -> None:
    root = source(tool / "app", {"back/app.py": "", "back/uv.lock": "", "uv.lock": ""})
    assert list(packed(root, requirements="uv.lock", directory="back")[1]) == [
        "back/.celery-fleet/requirements.txt"
    ]
    (root / "back/uv.lock").unlink()
    assert list(packed(root, requirements="uv.lock", directory="back")[1]) == [
        ".celery-fleet/requirements.txt"
    ]


def test_of_a_workspace_the_member_with_the_code_is_exported(tool: Path) -> None:
    lock = """\
[manifest]
members = ["mail", "root", "shop"]
[[package]]
name = "root"
source = { virtual = "." }
[[package]]
name = "shop"
source = { editable = "apps/shop" }
[[package]]
name = "mail"
source = { directory = "apps/mail" }
[[package]]
name = "outside"
source = { editable = "outside" }
[[package]]
name = "celery"
source = { registry = "https://pypi.org/simple" }
"""
    names = ("apps/shop/src/app.py", "apps/mail/app.py", "outside/app.py")
    root = source(tool / "app", {"uv.lock": lock, **dict.fromkeys(names, "")})
    wanted = {
        "apps/shop": "shop",
        "apps/shop/src": "shop",
        "./apps//mail": "mail",
        "outside": "root",
        ".": "root",
    }
    for directory, member in wanted.items():
        _, added = packed(root, requirements="uv.lock", directory=directory, extras=["web"])
        # `./lib` and the like are relative to the lock, and so is what the build reads.
        assert list(added) == [".celery-fleet/requirements.txt"]
        where, _, arguments = (tool / "called").read_text().splitlines()[-1].partition(" ")
        assert where.endswith("/locked")
        assert arguments.endswith(f" --package {member} --extra web"), directory
    # The root is not a project, and the code is in none of the members.
    (root / "uv.lock").write_text(lock.replace('virtual = "."', 'editable = "base"'))
    packed(root, requirements="uv.lock", directory="outside")
    assert "--package" not in (tool / "called").read_text().splitlines()[-1]


@pytest.mark.parametrize("lock", ["version = 1\n", "<<<<<<< HEAD\n"])
def test_without_a_workspace_uv_decides_what_is_exported(tool: Path, lock: str) -> None:
    root = source(tool / "app", {"back/app.py": "", "uv.lock": lock})
    packed(root, requirements="uv.lock", directory="back")
    assert "--package" not in (tool / "called").read_text()


def test_another_answer_is_another_release(tool: Path) -> None:
    root = source(tool / "app", {**FILES, "uv.lock": ""})
    first, _ = packed(root, requirements="uv.lock")
    assert packed(root, requirements="uv.lock")[0].id == first.id
    (tool / "answer").write_text(HASHED.replace("aa", "bb"))
    second, _ = packed(root, requirements="uv.lock")
    assert second.id != first.id
    wanted = {"requirements": "uv.lock"}
    one, two = (read(made.directory, wanted, made.exported) for made in (first, second))
    assert one.digest != two.digest


def test_a_requirements_file_needs_no_tool(tool: Path) -> None:
    root = source(tool / "app", {**FILES, "requirements.txt": "celery\n", "uv.lock": ""})
    assert packed(root)[1] == {}
    assert not (tool / "called").exists()


def test_each_lock_that_preflight_takes_has_a_tool() -> None:
    assert tuple(lock_files.TOOLS) == requirements_file.LOCKS


def test_a_tool_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = source(tmp_path / "app", {**FILES, "poetry.lock": ""})
    monkeypatch.setattr(lock_files.shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        packed(root, requirements="poetry.lock")
    assert "poetry, which exports poetry.lock, is not on the control node" in str(caught.value)
    assert f"{sys.executable} -m pip install poetry poetry-plugin-export" in str(caught.value)


def test_a_tool_that_refuses(tool: Path) -> None:
    program = tool / "bin/uv"
    program.write_text("#!/bin/sh\necho 'error: the lock is stale' >&2\nexit 2\n")
    root = source(tool / "app", {**FILES, "uv.lock": ""})
    with pytest.raises(UserError) as caught:
        packed(root, requirements="uv.lock")
    assert "uv can't export uv.lock:\n  error: the lock is stale\n" in str(caught.value)
    assert "type `uv lock` and commit the result" in str(caught.value)


# --- the real tools -----------------------------------------------------------------------------------------

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
def programs() -> Path:
    """The directory with the tools."""
    made = cache_directory() / "lock-tools"
    if not (made / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", made], check=True, timeout=120)
        install = ["install", "--quiet", "--cache-dir", pip_cache(), *INSTALLED]
        subprocess.run([made / "bin/python", "-m", "pip", *install], check=True, timeout=600)
        (made / "complete").touch()
    return made / "bin"


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
def test_the_real_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Path, lock: str, project: str
) -> None:
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
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


@pytest.mark.long
@pytest.mark.parametrize("root_is_project", [False, True])
def test_the_real_uv_exports_a_member_of_a_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Path, root_is_project: bool
) -> None:
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
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


# --- a project without a lock ----------------------------------------------------------------------------


@pytest.mark.parametrize(("extras", "line"), [([], ".\n"), (["web", "mail"], ".[web,mail]\n")])
def test_a_project_without_lock_is_installed_with_its_extras(
    tmp_path: Path, extras: list[str], line: str
) -> None:
    root = source(tmp_path / "shop", FILES)
    wanted = {"requirements": "pyproject.toml", "extras": extras}
    made, added = packed(root, **wanted)
    assert added == {".celery-fleet/requirements.txt": line}
    needed = read(made.directory, wanted, made.exported)
    # So each release has its own virtualenv.
    assert (needed.file, needed.local) == (".celery-fleet/requirements.txt", True)
