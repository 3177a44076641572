"""Tells where the inventory's relative paths start, and which directories are never an application's source."""

from __future__ import annotations

from pathlib import Path


def base_directory(config: object) -> Path:
    """Return the directory from which relative paths in an inventory start.

    This is the directory of the ansible.cfg in use. The configuration of a user or of a machine belongs to no project,
    so with one of these, as without any, it is the working directory.

    Args:
        config: The configuration file that Ansible has read (`ansible_config_file`), if there is one.
    """
    if not config:
        return Path.cwd()
    directory = Path(str(config)).parent
    return Path.cwd() if _is(directory, _home(), Path("/etc/ansible")) else directory


def never_a_source(directory: Path) -> str:
    """Return what a directory is if its files may never become a release, else an empty string."""
    if _is(directory, Path("/")):
        return "the root of the file system"
    return "your home directory" if _is(directory, _home()) else ""


def _is(directory: Path, *others: Path | None) -> bool:
    return any(other and directory.resolve() == other.resolve() for other in others)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # the user has none
        return None
