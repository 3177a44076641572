"""Reads what pip is asked to install for a release: its requirements file and the files that this one includes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..desired import requirements_file
from .lock_files import EXPORTED, is_local

_PIN = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==([\w.+!-]+)")


@dataclass(frozen=True)
class Requirements:
    """What pip is asked to install.

    Attributes:
        file: Its name, as it was given.
        digest: Hash of all lines except comments. Two releases with the same digest need the same packages.
        local: Whether a package is built from files, which may change while the lines stay the same.
        pins: Each `name==version` among the lines that applies to every platform.
    """

    file: str
    digest: str
    local: bool
    pins: tuple[str, ...]


def read(source: Path, wanted: Mapping[str, Any], exported: bytes = b"") -> Requirements:
    """Read a requirements file with all files that it includes.

    Args:
        source: Directory with the application's source.
        wanted: celery_app_source. Its `requirements` are relative to its `directory` or to the source.
        exported: Requirements that are in no file of the source, but come from a lock or are a package of the index.

    Raises:
        UserError: A file is missing.
    """
    # With `pip` the variable names a file on the control node.
    named = "" if wanted.get("pip") else wanted.get("requirements")
    name = str(named or requirements_file.NAME)
    if exported:
        name = str(Path(name).parent / EXPORTED)
        return _summary(name, [line.text for line in requirements_file.lines(exported.decode())])
    places = requirements_file.places(wanted, source)
    first = next((path for path in places if path.is_file()), None)
    if first is None:
        raise UserError(
            f"celery_app_source.requirements: the source has no {places[0].relative_to(source)}. Name the file "
            "that lists the application's packages, relative to celery_app_source.directory."
        )
    lines: list[str] = []
    _collect(first, source, lines, set())
    return _summary(name, lines)


def of_package(wanted: Mapping[str, Any], base: Path) -> bytes:
    """Return the requirements of an application that is a package of the index.

    Args:
        wanted: celery_app_source. Its `requirements` are a file on the control node that may list the application too.
        base: Base of relative paths.

    Raises:
        UserError: The file includes others, or asks for another version of the application.
    """
    package = Requirement(str(wanted["pip"]))
    extras = sorted(package.extras | {str(extra) for extra in wanted.get("extras") or []})
    chosen = f"[{','.join(extras)}]" if extras else ""
    line = f"{package.name}{chosen}{package.specifier}"
    if not wanted.get("requirements"):
        return f"{line}\n".encode()
    file = base / Path(str(wanted["requirements"])).expanduser()
    try:
        lines = list(requirements_file.lines(file.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:
        raise UserError(f"celery_app_source.requirements: {file} can't be read: {error}") from None
    listed = False
    for given in lines:
        where = f"celery_app_source.requirements: {file.name}, line {given.number},"
        if given.included:
            raise UserError(
                f"{where} includes {given.included}. Name one file that lists all packages, such as a lock."
            )
        with contextlib.suppress(InvalidRequirement):
            same = Requirement(given.text.split(" --")[0])
            if canonicalize_name(same.name) == canonicalize_name(package.name):
                listed = True
                pins = [one.version for one in same.specifier if one.operator == "=="]
                if not all(package.specifier.contains(pin, prereleases=True) for pin in pins):
                    raise UserError(
                        f"{where} asks for {same.name}{same.specifier}, but celery_app_source.pip is "
                        f"{wanted['pip']}. Write the same version in both."
                    )
    # With hashes, pip would refuse the line that has none.
    texts = [*([] if listed else [line]), *(given.text for given in lines)]
    return "".join(f"{text}\n" for text in texts).encode()


def _summary(name: str, lines: list[str]) -> Requirements:
    local = any(is_local(line) and "--hash" not in line for line in lines)
    pins = tuple(
        f"{pin[1]}=={pin[2]}" for line in lines if (pin := _PIN.match(line)) and ";" not in line
    )
    return Requirements(name, hashlib.sha256("\n".join(lines).encode()).hexdigest(), local, pins)


def _collect(path: Path, source: Path, found: list[str], seen: set[Path]) -> None:
    """Append the lines of a file and of those that it includes, each file once, as pip reads them.

    The names and ends of files are recorded too, because the same line means something else in a file of constraints.
    """
    seen.add(path.resolve())
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for line in requirements_file.lines(text):
        if not line.included:
            found.append(line.text)
            continue
        # Requirements and constraints mean different things, so keep which it is.
        found.append("--constraint" if line.constrains else "--requirement")
        other = path.parent / line.included
        if not other.is_file():
            shown = path.relative_to(source) if path.is_relative_to(source) else path
            raise UserError(
                f"celery_app_source.requirements: {shown}, line {line.number}, includes {line.included}, which the "
                "source lacks"
            )
        found.append(os.path.relpath(other, source))
        if other.resolve() not in seen:
            _collect(other, source, found, seen)
        found.append("--end")
