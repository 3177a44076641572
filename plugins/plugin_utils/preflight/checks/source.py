"""Checks the source of the application's code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ...desired.application_options import SHA256
from ...desired.requirements_file import LOCKS, NAME, PROJECT, lines, places
from ..model.inventory import UNKNOWN, Model, Problem, Severity, as_mapping, as_text, dotted
from ..model.paths import never_a_source
from ..model.report import with_hosts

_KINDS: Final = ("path", "git", "archive", "pip")
# Keys that only some kinds have.
_ONLY: Final = {
    "directory": ("path", "git", "archive"),
    "groups": ("path", "git", "archive"),
    "sha256": ("archive",),
    "version": ("path", "git"),
}
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GIT = re.compile(r"(https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+|/\S+")
# The user of an SSH URL is not a secret login: it is the same for everyone, and needs a key.
_LOGIN = re.compile(r"ssh://[^/@]*:[^/]*@.*|(?!ssh:)[a-z]+://[^/]*@.*", re.IGNORECASE)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+@^~-]*")
_NAME: Final = "celery_app_source"
FIND_LOGIN: Final = "git finds it by an SSH key, or by the credential helper or ~/.netrc of the user who runs Ansible"


def check_source(model: Model) -> Iterator[Problem]:
    """Check that there is exactly one kind of source, and that its parts exist, as far as this can be checked here."""
    hosts_that_build = model.hosts_of_role("celery_release") if model.control.needs_source else ()
    for value, hosts in model.distinct(_NAME, hosts_that_build):
        if isinstance(value, Mapping):
            yield from with_hosts(hosts, _source(model, as_mapping(value), hosts))


def _source(
    model: Model, source: Mapping[str, object], hosts: tuple[str, ...]
) -> Iterator[Problem]:
    kinds = [kind for kind in _KINDS if kind in source and source[kind] is not None]
    if len(kinds) != 1:
        yield Problem(
            _NAME,
            f"has {' and '.join(kinds)}" if kinds else "has none of path, git, archive and pip",
            "give exactly one of path, git, archive and pip",
            value=model.show((_NAME,), source),
        )
        return
    kind = kinds[0]
    if source[kind] is UNKNOWN:
        return
    for key, those in _ONLY.items():
        if source.get(key) and kind not in those:
            yield Problem(
                dotted((_NAME, key)),
                f"has no effect with {kind}",
                "remove it",
                value=model.show((_NAME, key), source[key]),
            )
    if kind == "pip":
        yield from _package(model, source)
        return
    for key in ("directory", "requirements"):
        text = as_text(source.get(key))
        if text is not None and (Path(text).is_absolute() or ".." in Path(text).parts):
            yield Problem(
                dotted((_NAME, key)),
                "leads outside the source",
                "write a path below the source's root, without ..",
                value=model.show((_NAME, key), text),
            )
            return
    name = as_text(source.get("requirements")) or NAME
    for key, names in (("extras", (*LOCKS, PROJECT)), ("groups", LOCKS)):
        if source.get(key) and PurePosixPath(name).name not in names:
            yield Problem(
                dotted((_NAME, key)),
                f"has no effect, because {name} is not a lock",
                f"remove it, or name {', '.join(names[:-1])} or {names[-1]} in {_NAME}.requirements",
                value=model.show((_NAME, key), source[key]),
            )
    if kind == "git":
        yield from _git(model, source)
    elif kind == "archive":
        yield from _archive(model, source)
    else:
        yield from _path(model, source, hosts)


def _package(model: Model, source: Mapping[str, object]) -> Iterator[Problem]:
    shown = model.show((_NAME, "pip"), source["pip"])
    try:
        wanted = Requirement(str(source["pip"]))
    except InvalidRequirement:
        wanted = None
    if wanted is None or wanted.url or wanted.marker:
        yield Problem(
            dotted((_NAME, "pip")),
            "is not the name of a package with its version",
            "write it as in shop==1.2",
            value=shown,
        )
    elif not any(one.operator == "==" and "*" not in one.version for one in wanted.specifier):
        yield Problem(
            dotted((_NAME, "pip")),
            "leaves the version open, so a new version of the package makes no new release",
            f"write the exact version, as in {wanted.name}==1.2",
            value=shown,
            severity=Severity.WARNING,
        )
    text = as_text(source.get("requirements"))
    if text is not None and not is_file(model.control.base_dir / expand_home(text)):
        yield Problem(
            dotted((_NAME, "requirements")),
            "does not exist on the control node",
            f"with pip, write the path of a file there; relative paths start from {model.control.base_dir}",
            value=model.show((_NAME, "requirements"), text),
        )


def _archive(model: Model, source: Mapping[str, object]) -> Iterator[Problem]:
    text = source["archive"]
    shown = model.show((_NAME, "archive"), text)
    digest = as_text(source.get("sha256"))
    if not isinstance(text, str):
        return  # another check reports the type
    if has_login(text):
        yield Problem(
            dotted((_NAME, "archive")),
            "contains a login",
            "remove it from the URL, and write it into ~/.netrc of the user who runs Ansible",
            value=shown,
        )
    elif "://" in text and not text.startswith(("http://", "https://")):
        yield Problem(
            dotted((_NAME, "archive")),
            "is neither the URL of an HTTP server nor a file",
            "write it as in https://packages.example.org/app-1.2.tar.gz, or name a file on the control node",
            value=shown,
        )
    elif "://" in text and digest is None:
        yield Problem(
            dotted((_NAME, "sha256")),
            "is not set, so the server could send a different archive",
            "write the SHA-256 of the archive, which `sha256sum` prints",
        )
    elif "://" not in text and not is_file(model.control.base_dir / expand_home(text)):
        yield Problem(
            dotted((_NAME, "archive")),
            "is not a file on the control node",
            f"name a tar or zip archive; relative paths start from {model.control.base_dir}",
            value=shown,
        )
    if digest is not None and not SHA256.fullmatch(digest):
        yield Problem(
            dotted((_NAME, "sha256")),
            "is not a SHA-256",
            "write the 64 hexadecimal digits that `sha256sum` prints for the archive, in quotes",
            value=model.show((_NAME, "sha256"), digest),
        )


def _git(model: Model, source: Mapping[str, object]) -> Iterator[Problem]:
    address = source["git"]
    # git would read a hyphen at the start as an option.
    if isinstance(address, str) and not _GIT.fullmatch(address):
        yield Problem(
            dotted((_NAME, "git")),
            "is not the address of a git repository",
            "write it as in https://git.example.org/team/app.git or git@git.example.org:team/app.git",
            value=model.show((_NAME, "git"), address),
        )
    elif isinstance(address, str) and has_login(address):
        yield Problem(
            dotted((_NAME, "git")),
            "contains a login, which every user of the control node could see in git's command line",
            f"remove it from the address; {FIND_LOGIN}",
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
            "is a number, but YAML changes numbers: 1.10 becomes 1.1, and 0123 becomes 83",
            "put the version in quotes",
            value=model.show((_NAME, "version"), version),
        )
    if isinstance(version, str) and not _VERSION.fullmatch(version):
        yield Problem(
            dotted((_NAME, "version")),
            "is not a branch, tag or commit",
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
    root = model.control.base_dir / expand_home(text)
    shown = model.show((_NAME, "path"), text)
    if not is_dir(root):
        yield Problem(
            dotted((_NAME, "path")),
            "is a file, not a directory" if is_file(root) else "does not exist on the control node",
            f"write the directory of the code; relative paths start from {model.control.base_dir}",
            value=shown,
        )
        return
    if what := never_a_source(root):
        yield Problem(
            dotted((_NAME, "path")),
            f"is {what}, and a release would take all of its files to the hosts",
            f"write the directory of the code; relative paths start from {model.control.base_dir}",
            value=shown,
        )
        return
    directory = root / (as_text(source.get("directory")) or ".")
    if not is_dir(directory):
        yield Problem(
            dotted((_NAME, "directory")),
            "is not a directory of the source",
            f"write one of its directories: {_listing(root)}",
            value=model.show((_NAME, "directory"), source.get("directory")),
        )
        return
    file = next((path for path in places(source, root) if is_file(path)), None)
    if file is None:
        yield Problem(
            dotted((_NAME, "requirements")),
            "is a file that the source does not have",
            f"write it below {directory}, or name the one that is there{_instead(directory, root)}",
            value=model.show((_NAME, "requirements"), source.get("requirements") or NAME),
        )
    for module in {str(model.value(host, "celery_app_module")): None for host in hosts}:
        if module != str(UNKNOWN) and not find_module(directory, module):
            if in_package(directory, module) and file is not None and _lists(file, module):
                continue
            yield _no_module(model, directory, module)


def _lists(file: Path, module: str) -> bool:
    """Return whether a requirements file lists a package with the first name of a module."""
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return False
    names = (_PACKAGE.match(line.text) for line in lines(text))
    first = module.partition(":")[0].split(".")[0]
    return any(canonicalize_name(name[0]) == canonicalize_name(first) for name in names if name)


def _no_module(model: Model, directory: Path, module: str) -> Problem:
    shown = model.show(("celery_app_module",), module)
    elsewhere = "write it relative to that, or set celery_app_source.directory to the directory it is imported from"
    if in_package(directory, module):
        return Problem(
            "celery_app_module",
            f"is a module that is not below {directory}, so a package in the requirements must provide it",
            f"if none does, {elsewhere}",
            value=shown,
            severity=Severity.WARNING,
        )
    return Problem(
        "celery_app_module",
        f"is a module that is not below {directory}",
        elsewhere,
        value=shown,
    )


def _instead(*directories: Path) -> str:
    """Return the end of a message with a file to name instead of a missing one; empty if there is none."""
    there = requirements_in(*directories)
    return f", such as {there}" if there else ""


def requirements_in(*directories: Path) -> str:
    """Return the name of the file with the requirements that one of these directories has; empty if none has any."""
    names = (NAME, *LOCKS, PROJECT)
    return next((name for name in names if any(is_file(one / name) for one in directories)), "")


def is_default(requirements: str) -> bool:
    """Return whether a requirements file need not be named in `celery_app_source`."""
    return requirements in ("", NAME)


def address_fits(address: str) -> bool:
    """Return whether git reads an address as a repository, and not as an option."""
    return _GIT.fullmatch(address) is not None


def has_login(address: str) -> bool:
    """Return whether an address contains a password, or a token, which may be written instead of a user."""
    return _LOGIN.fullmatch(address) is not None


def version_fits(version: str) -> bool:
    """Return whether a text can be a branch, a tag or a commit."""
    return _VERSION.fullmatch(version) is not None


def find_module(directory: Path, module: str) -> bool:
    """Return whether a module of `celery -A` has a file: `a.b`, `a.b:app`, or `a.b` with b in a.py."""
    parts = module.partition(":")[0].split(".")
    if not all(part.isidentifier() for part in parts):
        return True  # its name is reported by another check
    target = directory.joinpath(*parts)
    files = [target.with_name(target.name + ".py"), target / "__init__.py", target / "celery.py"]
    if len(parts) > 1:
        files.append(target.parent.with_name(target.parent.name + ".py"))
    return any(is_file(file) for file in files)


def in_package(directory: Path, module: str) -> bool:
    """Return whether a missing module may be in an installed package: its top-level name is not in the source."""
    first = directory / module.partition(":")[0].split(".")[0]
    return not is_dir(first) and not is_file(first.with_name(f"{first.name}.py"))


def expand_home(text: str) -> Path:
    """Return a path with its ~ expanded, unless it names an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_dir(path: Path) -> bool:
    """Return whether a directory exists; False if the name is invalid or we have no permission to see it."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a file exists; False if the name is invalid or we have no permission to see it."""
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
        return "(they can't be listed)"
    return ", ".join(names[:10]) or "(none)"
