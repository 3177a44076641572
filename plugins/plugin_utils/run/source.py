"""Packs an application's source on the control node into an archive named after its content."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from ..desired import requirements_file
from ..preflight.model.paths import never_a_source
from ..preflight.model.report import several
from . import archives, lock_files, requirements

# Files that no release needs, for sources without git.
_LEFT_OUT = {
    ".git",
    ".hg",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}


class SourceError(UserError):
    """The source can't be packed. The message says what is wrong, where, and what to do."""


# As `git rev-parse --local-env-vars` lists them, without those that are configuration.
_OF_HOOKS = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_OBJECT_DIRECTORY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_COMMON_DIR",
    "GIT_QUARANTINE_PATH",
}


def _git(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            # A hook's variables name the hook's own repository, which this must not change.
            env={name: text for name, text in os.environ.items() if name not in _OF_HOOKS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise SourceError("celery_app_source: git is not installed on the control node") from None


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip()


# Beginning and maximum size of a Git LFS pointer, which replaces a file in git.
_POINTER, _LONGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024


def _refuse_pointers(directory: Path, names: Iterable[Path]) -> None:
    """Refuse pointers to files that are still on the Git LFS server.

    Raises:
        SourceError: There are such files.
    """
    found = []
    for name in names:
        path = directory / name
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LONGEST_POINTER:
            with open(path, "rb") as stream:
                found += [str(name)] if stream.read(len(_POINTER)) == _POINTER else []
    if found:
        raise SourceError(
            f"celery_app_source: {several(found, 5)} are pointers of Git LFS, not the files. Install "
            "git-lfs on the control node and type `git lfs install`; for a source by path, also `git lfs pull` in it. "
            "Then run again."
        )


_SUBMODULE = re.compile(r"^\s*path\s*=\s*(.+?)\s*$", re.MULTILINE)


def _empty(directory: Path, path: Path) -> SourceError:
    return SourceError(
        f"celery_app_source: the git submodule {path} of {directory} is empty. Get it, in a clone with `git -C "
        f"{directory} submodule update --init --recursive`, and run again."
    )


def files_of(directory: Path) -> list[Path]:
    """Return the files of a source directory, as sorted relative paths.

    In a git work tree these are the tracked files and the new ones that git does not ignore, so a local `.env` is left
    out. Elsewhere they are all files except caches and virtualenvs.
    """
    if any((place / ".git").exists() for place in (directory, *directory.parents)):
        listed = _git(
            ["ls-files", "--cached", "--others", "--exclude-standard", "-z", "."], directory
        )
        if listed.returncode != 0:
            # Don't take all files instead: that would include files that git ignores.
            raise SourceError(
                f"celery_app_source: git can't list the files of {directory}: {_words(listed)}"
            )
        paths = {Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name}
        found = []
        for path in paths:
            # A deleted file is in git's index until the deletion is committed.
            if (directory / path).is_file() or (directory / path).is_symlink():
                found.append(path)
            # git lists a nested repository, such as a submodule, as a single name.
            elif (directory / path).is_dir():
                if not (directory / path / ".git").exists():
                    raise _empty(directory, path)
                found += [path / inner for inner in files_of(directory / path)]
        return sorted(found)
    return _all_files(directory)


def _all_files(directory: Path) -> list[Path]:
    """Return the files of a directory without asking git, whose settings in an archive could run programs."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for text in _SUBMODULE.findall((directory / ".gitmodules").read_text()):
            if not (directory / text).is_dir() or not any((directory / text).iterdir()):
                raise _empty(directory, Path(text))
    for base, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in _LEFT_OUT)
        # Links to directories are listed here and are not followed.
        names += [name for name in directories if Path(base, name).is_symlink()]
        found += [
            Path(base, name).relative_to(directory) for name in names if not name.endswith(".pyc")
        ]
    return sorted(found)


# What only an inventory of ours has, and what any inventory may have.
_OURS = (".vault-password", ".secrets", "pki/ca.key", "pki/hosts")
_ANY = ("group_vars", "host_vars")


def _of_inventory(inventory: Path, source: Path) -> Iterator[Path]:
    """Find the files and directories of an inventory and of those next to it, such as `staging` next to `production`.

    Args:
        inventory: The file or directory that the run was given.
        source: The application's source. If the inventory is the same directory, only its parts are found.
    """
    is_file = not inventory.is_dir()
    own = inventory.parent if is_file else inventory
    neighbours = own.parent.iterdir() if own.parent.is_relative_to(source) else ()
    # In the source's root, the application may have a directory with variables for an Ansible of its own.
    signs = _OURS if own.parent == source else (*_OURS, *_ANY)
    places = {own, *(path for path in neighbours if _has(path, signs))}
    for place in places:
        if (
            not is_file
            and not source.is_relative_to(place)
            and (place == own or _has(place, ["hosts*"]))
        ):
            yield place
            continue
        yield from (place / name for name in (".secrets", *_ANY))
        # The application may have packages of these names.
        if _has(place, ["pki/hosts", "pki/ca.key"]):
            yield place / "pki"
        if _has(place, ["monitoring/prometheus-rules.yml"]):
            yield place / "monitoring"
        if is_file:
            yield place / inventory.name


def _has(place: Path, patterns: Iterable[str]) -> bool:
    try:
        return any(next(place.glob(pattern), None) for pattern in patterns)
    except OSError:
        return False  # it belongs to another user


def _needed(directory: Path, names: list[Path], private: Iterable[Path]) -> list[Path]:
    """Return the files of a source without virtualenvs, inventories and other files of the run.

    An inventory has keys and passwords that no other host may have, and a change of it is not a new release.
    """
    unneeded = {name.parent for name in names if name.name == "pyvenv.cfg"}
    unneeded |= {name for name in names if name.name == ".vault-password"}
    unneeded |= {path.relative_to(directory) for path in private if path.is_relative_to(directory)}
    unneeded.discard(Path())
    needed = [name for name in names if unneeded.isdisjoint((name, *name.parents))]
    if not needed:
        raise SourceError(
            f"celery_app_source: all files of {directory} belong to the inventory or to virtualenvs. Move the inventory"
            " out of the source, or name another directory."
        )
    return needed


# Where this collection is installed, which may be in the project.
_INSTALLED = [path for path in Path(__file__).parents if path.name == "ansible_collections"]


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, which are left out of a release.

    Attributes:
        inventories: Files and directories that the run was given.
        others: Such as its plan, its log and the directory of the certificates.
    """

    inventories: Sequence[Path] = ()
    others: Sequence[Path] = ()

    def within(self, source: Path) -> Iterator[Path]:
        """Yield those that may be in a source, without links in their paths."""
        for path in self.inventories:
            # Ansible looks for variables beside a link, and not beside the file that it points to.
            for inventory in {path.resolve(), path.parent.resolve() / path.name}:
                yield from _of_inventory(inventory, source)
        yield from (path.resolve() for path in (*_INSTALLED, *self.others))


def _tar(directory: Path, names: Iterable[Path], made: Mapping[Path, bytes]) -> bytes:
    """Return a tar archive that only depends on the content: no times, no owners, two modes.

    Args:
        directory: Directory with the files.
        names: Their names, relative to it.
        made: More files, with their content.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            path = directory / name
            status = path.lstat()
            # Don't use gettarinfo(): it stores the second of two hard links as a reference.
            info = tarfile.TarInfo(str(name))
            info.uname = info.gname = "root"
            if stat.S_ISLNK(status.st_mode):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
                archive.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                info.size = status.st_size
                info.mode = 0o755 if status.st_mode & 0o100 else 0o644
                with open(path, "rb") as stream:
                    archive.addfile(info, stream)
            else:
                raise SourceError(
                    f"{path} is neither a file nor a link; leave it out of the source"
                )
        for name, content in made.items():
            info = tarfile.TarInfo(str(name))
            info.uname = info.gname = "root"
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _clone(url: str, version: str, scratch: Path) -> Path:
    target = scratch / "git"
    target.mkdir()
    for arguments in (
        ["init", "--quiet"],
        # URLs of submodules may be relative to it, and Git LFS uses it.
        ["config", "remote.origin.url", url],
        ["fetch", "--quiet", "--depth=1", "--", url, version],
        ["checkout", "--quiet", "--detach", "FETCH_HEAD"],
        ["submodule", "--quiet", "update", "--init", "--recursive"],
    ):
        done = _git(arguments, target)
        if done.returncode != 0:
            # A URL may contain a password or a token.
            words = re.sub(r"(?<=://)[^/@\s]+@", "", f"{version} of {url}: {_words(done)}")
            raise SourceError(
                f"celery_app_source: can't get {words}. Check URL, version and the rights of the user who runs Ansible."
            )
    return target


@dataclass(frozen=True)
class Packed:
    """A packed source.

    Attributes:
        id: Name of the release, twelve hexadecimal digits.
        archive: Its files (tar, compressed by gzip).
        directory: Where these files are now; temporary unless the source is a path.
        exported: Requirements that are in no file of the source; empty if there are none.
    """

    id: str
    archive: bytes
    directory: Path
    exported: bytes


def pack(
    source: Mapping[str, Any],
    base: Path,
    scratch: Path,
    salt: str,
    run: RunFiles | None = None,
) -> Packed:
    """Pack a source.

    Args:
        source: celery_app_source.
        base: Base of relative paths.
        scratch: An empty directory for temporary files.
        salt: Other differences between releases, such as the interpreter.
        run: The run's own files, if they may be in the source.

    Raises:
        SourceError: The source is missing or can't be read.
    """
    if source.get("pip"):
        # Nothing but its requirements; the code comes with the packages.
        directory, names = scratch, []
        exported = {Path(lock_files.EXPORTED): requirements.of_package(source, base)}
        source = {}
    else:
        directory = _directory(source, base, scratch)
        # The collection may be in a directory that git ignores.
        everything = source.get("archive") or source.get("of_collection")
        names = _all_files(directory) if everything else files_of(directory)
        if not names:
            # It may have files, but git ignores all of them.
            raise SourceError(
                f"celery_app_source: {directory} has no file that git does not ignore"
            )
        names = _needed(directory, names, (run or RunFiles()).within(directory))
        _refuse_pointers(directory, names)
        exported = lock_files.export(directory, names, source, scratch)
    archive = _tar(directory, names, exported)
    # Everything besides its files that defines a release.
    recipe = "\0".join(
        [
            salt,
            str(source.get("directory") or "."),
            str(source.get("requirements") or requirements_file.NAME),
        ]
    )
    digest = hashlib.sha256(archive + recipe.encode()).hexdigest()
    compressed = gzip.compress(archive, compresslevel=6, mtime=0)
    return Packed(digest[:12], compressed, directory, b"".join(exported.values()))


def _directory(source: Mapping[str, Any], base: Path, scratch: Path) -> Path:
    """Return the directory of the source's files, of a copy in `scratch` if they come from elsewhere."""
    if source.get("git"):
        return _clone(str(source["git"]), str(source.get("version") or "HEAD"), scratch)
    if source.get("archive"):
        return archives.unpack(source, base, scratch)
    if not source.get("path"):
        raise SourceError("celery_app_source: give one of path, git, archive and pip")
    directory = (base / Path(str(source["path"])).expanduser()).resolve()
    if not directory.is_dir():
        raise SourceError(
            f"celery_app_source.path: {directory} is not a directory on the control node"
        )
    if what := never_a_source(directory):
        raise SourceError(
            f"celery_app_source.path: {directory} is {what}, and a release would take all of its files to the hosts. "
            "Name the directory of the code."
        )
    return directory
