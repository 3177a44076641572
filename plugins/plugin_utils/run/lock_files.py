"""Turns a project into requirements files: the lock of uv, Poetry or PDM by the tool that wrote it, or none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from ..desired import requirements_file

#: Where the exported requirements are in a release, beside the lock.
EXPORTED = ".celery-fleet/requirements.txt"

#: The same for projects of the source. They have no hashes, and pip takes hashes for all requirements or none.
PROJECTS = ".celery-fleet/projects.txt"

# Options whose value may be a path: a project, or a directory with archives.
_OPTION = re.compile(r"(?:-e|-f|--editable|--find-links)(?:\s+|=|(?<=-[ef]))")
# What pip takes for an archive.
_ARCHIVE = re.compile(
    r"\.(?:whl|zip|tar|tgz|tbz|txz|tlz|tar\.(?:gz|bz2|xz|lz|lzma))(?:\[[^]]*\])?$", re.IGNORECASE
)

# Tools run what they find in a project, with the rights of the user who runs Ansible: its plugins, interpreter, build
# backend and hooks. So Poetry gets no directory with plugins or a virtualenv, and the others only get these files.
_POETRY_RUNS = (".poetry", ".venv")
_READ = ("pyproject.toml", "uv.lock", "uv.toml", "pdm.lock")

# What PDM runs on each command, from `tool.pdm.scripts`.
_HOOK = re.compile(r"(?:pre|post)_(?:invoke|lock|export|use)")

# Seconds for a tool. It resolves nothing and needs no network.
_TIMEOUT = 120


@dataclass(frozen=True)
class LockTool:
    """A tool that exports its lock.

    Attributes:
        program: Name of the program.
        check: Arguments that fail if the lock does not match `pyproject.toml`; empty if exporting finds that out.
        export: Arguments that print the requirements.
        chosen: Returns arguments for extras and groups.
        remedy: Command that writes a matching lock.
        needs: Returns whether a file is copied for the tool, from the source and its name there.
        code: Returns the settings of a `pyproject.toml` that make the tool run code in spite of that, if there are any.
        plugin: Package that brings the command `export`, if the tool itself does not have it.
        unhashed: Argument that a tool needs for a lock with projects of the source, because these have no hashes.
        member: Option that selects a member of a workspace, if the tool has workspaces.
    """

    program: str
    check: tuple[str, ...]
    export: tuple[str, ...]
    chosen: Callable[[list[str], list[str]], list[str]]
    remedy: str
    needs: Callable[[Path, Path], bool]
    code: Callable[[Mapping[str, Any]], list[str]] | None = None
    plugin: str = ""
    unhashed: str = ""
    member: str = ""


def is_local(line: str) -> bool:
    """Return whether a requirement is built from files rather than fetched: `.`, `-e lib`, `lib @ file:…`, `a.whl`."""
    option = _OPTION.match(line)
    words = line[option.end() if option else 0 :].split()
    # A marker may follow without a blank.
    first = words[0].partition(";")[0] if words else ""
    if "file:" in line or "${PROJECT_ROOT}" in line:
        return True
    if "://" in line or (first.startswith("-") and not option):
        return False
    return (
        bool(option) or first.startswith(".") or "/" in first or _ARCHIVE.search(first) is not None
    )


def _each(flag: str, names: Iterable[str]) -> list[str]:
    return [word for name in names for word in (flag, name)]


def _is_metadata(source: Path, file: Path) -> bool:
    # Through a link to a directory, the tool finds only what is copied.
    is_link = (source / file).is_symlink() and (source / file).is_dir()
    return is_link or file.name in _READ or _ARCHIVE.search(file.name) is not None


def _table(content: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    table: Any = content
    for name in names:
        table = table.get(name) if isinstance(table, Mapping) else None
    return table if isinstance(table, Mapping) else {}


def _archived_backend(content: Mapping[str, Any]) -> list[str]:
    path = _table(content, "build-system").get("backend-path") or ()
    return ["build-system.backend-path"] if any(_ARCHIVE.search(str(each)) for each in path) else []


def _hooks(content: Mapping[str, Any]) -> list[str]:
    scripts = _table(content, "tool", "pdm", "scripts")
    options = _table(content, "tool", "pdm", "options")
    return [
        *(f"tool.pdm.scripts.{name}" for name in scripts if _HOOK.fullmatch(name)),
        *(f"tool.pdm.options.{name}" for name in options if name in ("lock", "export")),
    ]


TOOLS = {
    "uv.lock": LockTool(
        "uv",
        (),
        (
            *("export", "--locked", "--offline", "--no-dev", "--no-editable", "--no-header"),
            *("--no-annotate", "--no-progress", "--quiet", "--format", "requirements-txt"),
            # With its cache, it could get a build backend offline.
            *("--no-build", "--no-cache"),
        ),
        lambda extras, groups: [*_each("--extra", extras), *_each("--group", groups)],
        "uv lock",
        _is_metadata,
        _archived_backend,
        member="--package",
    ),
    "poetry.lock": LockTool(
        "poetry",
        ("check", "--lock", "--no-interaction", "--quiet"),
        ("export", "--no-interaction", "--format", "requirements.txt"),
        lambda extras, groups: [*_each("--extras", extras), *_each("--with", groups)],
        "poetry lock",
        lambda source, file: set(file.parts).isdisjoint(_POETRY_RUNS),
        plugin="poetry-plugin-export",
    ),
    "pdm.lock": LockTool(
        "pdm",
        ("lock", "--check"),
        ("export", "--format", "requirements", "--production"),
        lambda extras, groups: _each("--group", [*extras, *groups]),
        "pdm lock",
        _is_metadata,
        _hooks,
        unhashed="--no-hashes",
    ),
}


def export(
    directory: Path, names: Iterable[Path], source: Mapping[str, Any], scratch: Path
) -> dict[Path, bytes]:
    """Return the requirements of a lock or a project, by their path in the source; empty if the source names none.

    Args:
        directory: Directory with the source.
        names: Its files, relative to it.
        source: celery_app_source.
        scratch: Directory for a copy, in which the tool runs, because some tools write into a project.

    Raises:
        UserError: The tool is missing or refuses the lock.
    """
    files = list(names)
    places = (Path(os.path.normpath(path)) for path in requirements_file.places(source, Path()))
    lock = next((path for path in places if path in files), None)
    if lock is None:
        return {}
    if lock.name == requirements_file.PROJECT:
        # pip builds it as a package, and finds out what it needs.
        extras = ",".join(str(extra) for extra in source.get("extras") or [])
        return {lock.parent / EXPORTED: (f".[{extras}]\n" if extras else ".\n").encode()}
    tool = TOOLS.get(lock.name)
    if tool is None:
        return {}
    copy = scratch / "locked"
    links = []
    for file in files:
        if not tool.needs(directory, file):
            continue
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        original = directory / file
        if original.is_symlink():
            found = Path(os.path.realpath(original))
            # What a link to a file leads to may have a name that is not copied.
            if found.is_file() and found.is_relative_to(os.path.realpath(directory)):
                original = found
        shutil.copy2(original, target, follow_symlinks=False)
        if target.is_symlink():
            links.append(target)
        elif file.name == requirements_file.PROJECT:
            _refuse_code(tool, target, file, lock)
    for link in links:
        if not Path(os.path.realpath(link)).is_relative_to(os.path.realpath(copy)):
            link.unlink()
    project = copy / lock.parent
    chosen = tool.chosen(
        [str(extra) for extra in source.get("extras") or []],
        [str(group) for group in source.get("groups") or []],
    )
    if tool.member and (member := _member(project / lock.name, lock.parent, source)):
        chosen = [tool.member, member, *chosen]
    if tool.check:
        _run(tool, tool.check, project, lock)
    try:
        text = _run(tool, [*tool.export, *chosen], project, lock)
    except UserError as error:
        if not tool.unhashed or tool.unhashed not in str(error):
            raise
        text = _run(tool, [*tool.export, tool.unhashed, *chosen], project, lock)
    # pip reads this variable as the directory in which it runs.
    above = "/.." * len(lock.parent.parts)
    text = text.replace(project.resolve().as_uri(), "file://${PROJECT_ROOT}")
    text = text.replace(copy.resolve().as_uri(), f"file://${{PROJECT_ROOT}}{above}")
    lines = text.splitlines(keepends=True)
    projects = "".join(line for line in lines if is_local(line))
    packages = "".join(line for line in lines if not is_local(line))
    made = {lock.parent / EXPORTED: packages.encode()}
    return made | ({lock.parent / PROJECTS: projects.encode()} if projects else {})


def _refuse_code(tool: LockTool, path: Path, file: Path, lock: Path) -> None:
    """Refuse a `pyproject.toml` that makes the tool run code or take other arguments.

    Args:
        tool: The tool, which will read it.
        path: Where it is.
        file: Its name in the source.
        lock: That of the lock.
    """
    if tool.code is None:
        return
    try:
        names = tool.code(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if file.parent != lock.parent:
            # A template or a test's file. The tool must not read what was not checked.
            path.unlink()
            return
        raise UserError(
            f"celery_app_source.requirements: {file} is not valid TOML: {error}"
        ) from None
    if names:
        raise UserError(
            f"celery_app_source.requirements: {file} sets {', '.join(names)}, with which {tool.program} could run code "
            "of the application on the control node. Remove that, or export a requirements file and name it."
        )


def _member(lock: Path, place: Path, source: Mapping[str, Any]) -> str:
    """Return the member of a uv workspace to which `celery_app_source.directory` belongs; empty if there is none.

    uv runs beside the lock. There it would export the workspace's root, or all members if the root is not a project.

    Args:
        lock: The lock.
        place: Its directory, relative to the source.
        source: celery_app_source.
    """
    code = Path(os.path.normpath(str(source.get("directory") or ".")))
    if not code.is_relative_to(place):
        return ""
    code = code.relative_to(place)
    try:
        content = tomllib.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # uv reports what is wrong
    members = content.get("manifest", {}).get("members", [])
    # A member that is no package is `virtual`. The others are `editable` or, if a source says so, not.
    places = {
        Path(package["source"][kind]): str(package["name"])
        for package in content.get("package", [])
        if package["name"] in members
        for kind in ("editable", "virtual", "directory")
        if kind in package["source"]
    }
    return next((places[path] for path in (code, *code.parents) if path in places), "")


def _run(tool: LockTool, arguments: Iterable[str], project: Path, lock: Path) -> str:
    # Also beside Ansible's own Python, whose virtualenv need not be active.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(tool.program, path=path)
    if program is None:
        packages = f"{tool.program} {tool.plugin}".strip()
        raise UserError(
            f"celery_app_source.requirements: {tool.program}, which exports {lock}, is not on the control node. Type "
            f"`{sys.executable} -m pip install {packages}`, or export a requirements file and name that."
        )
    # Another project's virtualenv means nothing here.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"celery_app_source.requirements: {tool.program} took more than {_TIMEOUT} s to export {lock}"
        ) from None
    if done.returncode != 0:
        words = "\n".join(f"  {line}" for line in (done.stderr or done.stdout).strip().splitlines())
        raise UserError(
            f"celery_app_source.requirements: {tool.program} can't export {lock}:\n{words}\n"
            f"If the lock does not match pyproject.toml, type `{tool.remedy}` and commit the result."
            + (f" `{tool.program} export` is part of {tool.plugin}." if tool.plugin else "")
        )
    return done.stdout
