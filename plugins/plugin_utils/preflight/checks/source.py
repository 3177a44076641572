"""Where the application's code comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    Severity,
    as_mapping,
    as_text,
    dotted,
)

_KINDS: Final = ("path", "git", "archive", "pip")
_GIT = re.compile(r"(https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+|/\S+")
# By SSH a user is none: it is the same for everybody, and a key belongs to it.
_LOGIN = re.compile(r"ssh://[^/@]*:[^/]*@.*|(?!ssh:)[a-z]+://[^/]*@.*", re.IGNORECASE)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@^~-]*")
_NAME: Final = "celery_app_source"
FIND_LOGIN: Final = "git finds it by an SSH key, or by the credential helper or ~/.netrc of the user who runs Ansible"
PYTHON: Final = "celery_release_python"
ANOTHER_PYTHON: Final = (
    "name an interpreter that all users can run, such as /usr/bin/python3 or one below /opt"
)
# By ProtectHome= and PrivateTmp= of templates/systemd/_service.j2.
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # none is written to


def check_source(model: Model) -> Iterator[Problem]:
    """Exactly one kind of source, and what can be seen of it from here is there."""
    hosts_that_build = model.hosts_of_role("celery_release")
    for value, hosts in model.distinct(_NAME, hosts_that_build):
        if not isinstance(value, Mapping):
            continue
        for problem in _source(model, as_mapping(value), hosts):
            yield replace(problem, hosts=hosts)


def _source(
    model: Model, source: Mapping[str, object], hosts: tuple[str, ...]
) -> Iterator[Problem]:
    kinds = [kind for kind in _KINDS if kind in source and source[kind] is not None]
    if len(kinds) != 1:
        yield Problem(
            _NAME,
            f"has {' and '.join(kinds)}" if kinds else "has none of path, git, archive and pip",
            "give exactly one of path and git",
            value=model.show((_NAME,), source),
        )
        return
    kind = kinds[0]
    if source[kind] is UNKNOWN:
        return
    if kind in ("archive", "pip"):
        yield Problem(
            dotted((_NAME, kind)),
            "is a kind of source that is not supported yet",
            "use path (a directory on the control side) or git",
            value=model.show((_NAME, kind), source[kind]),
        )
        return
    for key in ("directory", "requirements"):
        text = as_text(source.get(key))
        if text is not None and (Path(text).is_absolute() or ".." in Path(text).parts):
            yield Problem(
                dotted((_NAME, key)),
                "leads out of the source",
                "write a path below the source's root, without ..",
                value=model.show((_NAME, key), text),
            )
            return
    if kind == "git":
        yield from _git(model, source)
    else:
        yield from _path(model, source, hosts)


def check_interpreter(model: Model) -> Iterator[Problem]:
    """An interpreter that the units' sandbox hides would build a release that can't start."""
    for value, hosts in model.distinct(PYTHON, model.hosts_of_role("celery_release")):
        if value is UNKNOWN:
            continue
        # 3.12 is a number to YAML.
        path = PurePosixPath(os.path.normpath(str(value)))
        message = hidden(path)
        if not message and path.is_absolute():
            continue
        yield Problem(
            PYTHON,
            f"is {message}" if message else "is no absolute path",
            ANOTHER_PYTHON,
            value=model.show((PYTHON,), value),
            hosts=hosts,
        )


def hidden(path: PurePosixPath) -> str:
    """Return where a path lies, and why that does not do, if the units' sandbox hides it."""
    place = next((place for place in HIDDEN if path.is_relative_to(place)), None)
    return (
        f"below {place}, which no process of the fleet sees: its units have ProtectHome= and PrivateTmp="
        if place
        else ""
    )


def _git(model: Model, source: Mapping[str, object]) -> Iterator[Problem]:
    address = source["git"]
    # A hyphen at the start would be read as an option by git.
    if isinstance(address, str) and not _GIT.fullmatch(address):
        yield Problem(
            dotted((_NAME, "git")),
            "is no address of a git repository",
            "write it as in https://git.example.org/team/app.git or git@git.example.org:team/app.git",
            value=model.show((_NAME, "git"), address),
        )
    elif isinstance(address, str) and has_login(address):
        yield Problem(
            dotted((_NAME, "git")),
            "has a login in it, which everybody on the control side could see in git's command line",
            f"take it out of the address; {FIND_LOGIN}",
            value=model.show((_NAME, "git"), address),
        )
    version = source.get("version")
    if version is None:
        yield Problem(
            dotted((_NAME, "version")),
            "is not set, so each run deploys what the default branch has at that time",
            "name a branch, a tag or a commit's full id",
            severity=Severity.WARNING,
        )
    if isinstance(version, (int, float)):
        yield Problem(
            dotted((_NAME, "version")),
            "is a number, and YAML changes numbers: 1.10 becomes 1.1, and 0123 becomes 83",
            "put the version in quotes",
            value=model.show((_NAME, "version"), version),
        )
    if isinstance(version, str) and not _VERSION.fullmatch(version):
        yield Problem(
            dotted((_NAME, "version")),
            "is no branch, tag or commit",
            "name a branch, a tag or a commit's full id",
            value=model.show((_NAME, "version"), version),
        )


def _path(model: Model, source: Mapping[str, object], hosts: tuple[str, ...]) -> Iterator[Problem]:
    text = source["path"]
    if not isinstance(text, str) or not text or "\0" in text:
        if text == "":
            yield Problem(
                dotted((_NAME, "path")), "is empty", "write the directory of the code", value='""'
            )
        return
    root = model.control.base_dir / at_home(text)
    shown = model.show((_NAME, "path"), text)
    if not is_dir(root):
        yield Problem(
            dotted((_NAME, "path")),
            "is a file, not a directory" if is_file(root) else "does not exist on the control side",
            f"write the directory of the code; relative paths start from {model.control.base_dir}",
            value=shown,
        )
        return
    directory = root / (as_text(source.get("directory")) or ".")
    if not is_dir(directory):
        yield Problem(
            dotted((_NAME, "directory")),
            "is no directory of the source",
            f"write one of those that it has: {_listing(root)}",
            value=model.show((_NAME, "directory"), source.get("directory")),
        )
        return
    requirements = as_text(source.get("requirements")) or "requirements.txt"
    if not any(is_file(place / requirements) for place in (directory, root)):
        yield Problem(
            dotted((_NAME, "requirements")),
            "is a file that the source does not have",
            f"write it below {directory}, or name the one that is there"
            + (
                "; from a pyproject.toml, `uv export` and `poetry export` make one"
                if any(is_file(place / "pyproject.toml") for place in (directory, root))
                else ""
            ),
            value=model.show((_NAME, "requirements"), requirements),
        )
    for module in {str(model.value(host, "celery_app_module")): None for host in hosts}:
        if module != str(UNKNOWN) and not find_module(directory, module):
            yield Problem(
                "celery_app_module",
                f"is a module that is not below {directory}",
                "write it as seen from there, or set celery_app_source.directory to the directory it is imported from",
                value=model.show(("celery_app_module",), module),
            )


def address_fits(address: str) -> bool:
    """Whether git takes it as the address of a repository, and not as an option."""
    return _GIT.fullmatch(address) is not None


def has_login(address: str) -> bool:
    """Whether an address holds a password or a token, which stands in the place of a user as well."""
    return _LOGIN.fullmatch(address) is not None


def version_fits(version: str) -> bool:
    """Whether it can be a branch, a tag or a commit."""
    return _VERSION.fullmatch(version) is not None


def find_module(directory: Path, module: str) -> bool:
    """Whether a module as `celery -A` takes it has a file: `a.b`, `a.b:app`, or `a.b` with b in a.py."""
    parts = module.partition(":")[0].split(".")
    if not all(part.isidentifier() for part in parts):
        return True  # its name is reported by another check
    target = directory.joinpath(*parts)
    files = [target.with_name(target.name + ".py"), target / "__init__.py", target / "celery.py"]
    if len(parts) > 1:
        files.append(target.parent.with_name(target.parent.name + ".py"))
    return any(is_file(file) for file in files)


def at_home(text: str) -> Path:
    """A path with its ~ resolved; that of a user who is not there leads nowhere."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_dir(path: Path) -> bool:
    """Whether there is such a directory; a name that no file system takes is none, nor what we may not see."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file system takes is none, nor what we may not see."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _listing(root: Path) -> str:
    try:
        names = sorted(
            item.name for item in root.iterdir() if item.is_dir() and item.name[0] not in "._"
        )
    except OSError:
        return "(its list can't be read)"
    return ", ".join(names[:10]) or "(none)"
