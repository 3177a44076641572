"""Gives what the application's user has built to root, and refuses links and directories that root must not trust."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .process import BuildError


def give_to_root(directory: Path) -> None:
    """Make root the owner of a whole tree that all users may read and only root may write.

    Links change owner, their targets don't. A directory is given to root before its content is listed, and entries are
    not looked up by their whole path, because a process left behind by a package could still add or replace entries.
    """

    def give(name: Path | str, handle: int | None = None) -> None:
        os.chown(name, 0, 0, dir_fd=handle, follow_symlinks=False)
        mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
        if not stat.S_ISLNK(mode):
            runs = stat.S_ISDIR(mode) or mode & 0o111
            os.chmod(name, 0o755 if runs else 0o644, dir_fd=handle)

    give(directory)
    for _, directories, names, handle in os.fwalk(directory, follow_symlinks=False):
        for name in (*directories, *names):
            give(name, handle)


def refuse_foreign(*directories: Path) -> None:
    """Refuse to delete in directories that are links or that root does not own.

    A user who owns a parent of them could have put such a directory there, with links to other users' files in it.
    """
    for directory in directories:
        about = directory.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise BuildError(
                f"{directory} is a link or does not belong to root, so nothing is deleted in it. Move it away and run "
                "again."
            )


def links_out(venv: Path) -> set[tuple[str, str]]:
    """Return links in a virtualenv that lead out of it, each with its target."""
    root = os.path.realpath(venv)
    found = set()
    for base, directories, names in os.walk(root):
        for path in (os.path.join(base, name) for name in (*directories, *names)):
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
                found.add((os.path.relpath(path, root), os.readlink(path)))
    return found


def refuse_links_out(venv: Path, made: set[tuple[str, str]]) -> None:
    """Refuse links that packages have created, other than those to the interpreter that `venv` has `made`."""
    strange = sorted(links_out(venv) - made)
    if strange:
        shown = "\n".join(f"  {name} -> {target}" for name, target in strange[:5])
        raise BuildError(
            "installing the requirements has left links that lead out of the virtualenv:\n"
            f"{shown}\n"
            "Find the package that makes them, and take it out of the requirements or report it to its authors."
        )
