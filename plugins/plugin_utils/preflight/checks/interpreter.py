"""Checks the Python that builds releases, and the Debian packages that are installed for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from ..model.inventory import UNKNOWN, Model, Problem, as_list
from .sandbox import hidden_by_sandbox

_PYTHON = re.compile(r"3\.(?:1[1-9]|[2-9][0-9])")
# With a hyphen at its end, apt would remove the package.
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.:=~/-]*[a-z0-9+.~]")
PYTHON: Final = "celery_release_python"
BUILD_PACKAGES: Final = "celery_release_build_packages"
ANOTHER_PYTHON: Final = (
    "name an interpreter that all users can run, such as /usr/bin/python3 or one below /opt, or a version such as "
    "3.12"
)


def check_interpreter(model: Model) -> Iterator[Problem]:
    """Refuse an interpreter that the units' sandbox hides: its releases could not start."""
    for value, hosts in model.distinct(PYTHON, model.hosts_of_role("celery_release")):
        if value is UNKNOWN:
            continue
        # YAML reads 3.12 as a number.
        message = hidden_by_sandbox(str(value))
        is_path = PurePosixPath(str(value)).is_absolute()
        if not message and (is_path or _PYTHON.fullmatch(str(value))):
            continue
        yield Problem(
            PYTHON,
            f"is {message}" if message else "is neither a path nor a version from 3.11 on",
            ANOTHER_PYTHON,
            value=model.show((PYTHON,), value),
            hosts=hosts,
        )


def check_build_packages(model: Model) -> Iterator[Problem]:
    """Refuse what apt would not read as the name of a package, such as an option."""
    for value, hosts in model.distinct(BUILD_PACKAGES, model.hosts_of_role("celery_release")):
        for number, name in enumerate(as_list(value)):
            if isinstance(name, str) and not _DEBIAN.fullmatch(name):
                yield Problem(
                    f"{BUILD_PACKAGES}[{number}]",
                    "is not the name of a Debian package",
                    "write it as in libpq-dev",
                    value=model.show((BUILD_PACKAGES,), name),
                    hosts=hosts,
                )
