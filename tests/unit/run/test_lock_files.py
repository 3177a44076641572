"""Locks of uv, Poetry and PDM as requirements, with a stand-in for uv."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import requirements_file
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lock_files
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.requirements import read

from tests.unit.run.locks import packed, source

FILES = {"app.py": "x = 1\n", "pyproject.toml": "", "lib/pyproject.toml": ""}
HASHED = "celery==5.5.0 \\\n    --hash=sha256:aa\n"


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


@pytest.mark.parametrize(
    ("lock", "pyproject", "named"),
    [
        ("pdm.lock", "[tool.pdm.scripts]\npre_invoke = 'x'", "tool.pdm.scripts.pre_invoke"),
        ("pdm.lock", "[tool.pdm]\noptions = {export = ['-o', 'x']}", "tool.pdm.options.export"),
        ("uv.lock", "[build-system]\nbackend-path = ['./x.zip']", "build-system.backend-path"),
    ],
)
def test_settings_that_run_code_are_refused(
    tmp_path: Path, lock: str, pyproject: str, named: str
) -> None:
    files = {**FILES, lock: "", "lib/pyproject.toml": pyproject}
    with pytest.raises(UserError, match=r"lib/pyproject\.toml") as caught:
        packed(source(tmp_path / "app", files), requirements=lock)
    assert named in str(caught.value)


def test_other_scripts_of_a_project_and_settings_of_another_tool_stay(tool: Path) -> None:
    text = "[tool.pdm.scripts]\npre_invoke = 'x'\n[build-system]\nbackend-path = ['build']\n"
    assert packed(
        source(tool / "app", {"pyproject.toml": text, "uv.lock": ""}), requirements="uv.lock"
    )
    assert (
        lock_files.TOOLS["pdm.lock"].code({"tool": {"pdm": {"scripts": {"post_install": "x"}}}})
        == []
    )


def test_a_template_of_a_project_is_left_out(tool: Path) -> None:
    (tool / "bin/uv").write_text(f'#!/bin/sh\nfind . -name "*.toml" | sort > {tool}/called\n')
    files = {**FILES, "uv.lock": "", "templates/new/pyproject.toml": "{% if celery %}"}
    packed(source(tool / "app", files), requirements="uv.lock")
    assert (tool / "called").read_text().split() == ["./lib/pyproject.toml", "./pyproject.toml"]


@pytest.mark.parametrize("lock", ["uv.lock", "pdm.lock"])
def test_a_project_that_is_no_toml_is_refused(tmp_path: Path, lock: str) -> None:
    root = source(tmp_path / "app", {lock: "", "pyproject.toml": "[tool.pdm"})
    with pytest.raises(UserError, match=r": pyproject\.toml is not valid TOML"):
        packed(root, requirements=lock)


def test_poetry_gets_templates_and_no_link_stops_a_run(tool: Path) -> None:
    (tool / "bin/poetry").write_text(f"#!/bin/sh\nfind . | sort > {tool}/called\n")
    (tool / "bin/poetry").chmod(0o755)
    root = source(tool / "app", {**FILES, "poetry.lock": "", "t/pyproject.toml": "{%"})
    (root / "loop").symlink_to("loop")
    packed(root, requirements="poetry.lock")
    assert {"./t/pyproject.toml"} < set((tool / "called").read_text().split())


def test_links_of_a_source_lead_to_the_files_that_are_copied(tool: Path) -> None:
    """A link out of the copy would show the tool files that must not be copied."""
    (tool / "bin/uv").write_text(
        f'#!/bin/sh\ncd ../..\nfind -L . -name "*.toml" -o -name ".py*" | sort > {tool}/called\n'
    )
    shop = "apps/shop/"
    files = {"lib/pyproject.toml": "", "lib/.python-version": "", f"{shop}uv.lock": ""}
    root = source(tool / "app", {**files, f"{shop}project.cfg": ""})
    for name, target in (
        ("pyproject.toml", "project.cfg"),
        ("lib", "../../lib"),
        ("absolute", str(root / "lib")),
        ("climbs", f"../../../../../../../../../../../../..{root / 'lib'}"),
        ("outside", "../../../outside"),
        ("loop", "loop"),
    ):
        (root / shop / name).symlink_to(target)
    source(tool / "outside", {"pyproject.toml": ""})
    packed(root, requirements="uv.lock", directory="apps/shop")
    assert (tool / "called").read_text().split() == [
        "./apps/shop/lib/pyproject.toml",
        "./apps/shop/pyproject.toml",
        "./lib/pyproject.toml",
    ]


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
