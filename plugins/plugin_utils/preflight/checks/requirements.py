"""Checks versions of Celery, kombu and redis-py in the application's requirements, as far as they can be read here."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import ATOMIC
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ...desired import requirements_file
from ..model.inventory import Model, Problem, as_list, as_mapping, as_text, dotted, each_worker
from .delivery import is_atomic
from .source import expand_home, is_file

_SOURCE: Final = "celery_app_source"
# The first redis-py that any supported kombu works with, and the first that kombu 5.7 works with.
_REDIS_FROM: Final = (4, 5)
_REDIS_FROM_KOMBU57: Final = (6, 1)
_LATEST_REDIS: Final = 20
# More patch releases than any minor of these packages ever had.
_PATCHES: Final = 30


@dataclass
class PackageRequirement:
    """An application's requirements for one package.

    Attributes:
        versions: All conditions that a version has to meet.
        places: `file:line` of each requirement.
        text: The requirements as the files write them.
    """

    versions: SpecifierSet
    places: list[str]
    text: str


def check_versions(model: Model) -> Iterator[Problem]:
    """Refuse requirements that no supported version meets; a build would fail with the same refusal."""
    for value, hosts in model.distinct(_SOURCE, model.hosts_of_role("celery_release")):
        file = _file(model, as_mapping(value))
        if file is None:
            continue
        wanted = read_requirements(file)
        atomic = any(
            is_atomic(model, host, options) for _, options, on in each_worker(model) for host in on
        )
        for name, remedy in _unsupported(wanted, atomic):
            yield Problem(
                dotted((_SOURCE, "requirements")),
                f"asks for {wanted[name].text} ({', '.join(wanted[name].places)}), which Celery Fleet does not support",
                remedy,
                value=file.name,
                hosts=hosts,
            )


def read_requirements(file: Path) -> dict[str, PackageRequirement]:
    """Return the requirements for each package in a file and the files that it includes."""
    found: dict[str, PackageRequirement] = {}
    for place, requirement in _requirements(file, set()):
        # A requirement with a marker may not apply to the hosts.
        if requirement.marker is None and requirement.url is None:
            name = canonicalize_name(requirement.name)
            text = f"{requirement.name}{requirement.specifier}"
            if name in found:
                found[name].versions &= requirement.specifier
                found[name].places.append(place)
                found[name].text += f" and {text}"
            else:
                found[name] = PackageRequirement(requirement.specifier, [place], text)
    return found


def _unsupported(wanted: dict[str, PackageRequirement], atomic: bool) -> Iterator[tuple[str, str]]:
    """Yield name and remedy of each package with requirements that no supported version meets."""
    minors = {name: known for name, known in ATOMIC.items() if name != "kombu" or atomic}
    refused = [name for name, known in minors.items() if not _fits(wanted.get(name), known)]
    for name in refused:
        known = minors[name]
        stock = "; or write celery_worker_fetch: stock" if name == "kombu" else ""
        yield (
            name,
            f"require {name}=={known[0]}.*; supported versions are {', '.join(known)}{stock}",
        )
    newest = not refused and any(
        name in wanted and not _fits(wanted[name], known[1:]) for name, known in ATOMIC.items()
    )
    least = _REDIS_FROM_KOMBU57 if newest else _REDIS_FROM
    later = [
        f"{major}.{minor}"
        for major in range(least[0], _LATEST_REDIS)
        for minor in range(_LATEST_REDIS)
        if (major, minor) >= least
    ]
    if not _fits(wanted.get("redis"), later):
        reason = ", as kombu 5.7 does" if newest else ""
        yield (
            "redis",
            f"require redis>={later[0]}{reason}; or remove it, as celery[redis] installs one",
        )


def _fits(wanted: PackageRequirement | None, minors: Sequence[str]) -> bool:
    """Return whether a version of one of these minors meets the requirements."""
    if wanted is None:
        return True
    # A pinned version may not have the form of three numbers, such as 5.7.0rc1.
    pinned = [spec.version for spec in wanted.versions if spec.operator == "=="]
    versions = [
        *(version for version in pinned if ".".join(version.split(".")[:2]) in minors),
        *(f"{minor}.{patch}" for minor in minors for patch in range(_PATCHES)),
    ]
    return any(
        wanted.versions.contains(version.removesuffix(".*"), prereleases=True)
        for version in versions
    )


def _file(model: Model, source: object) -> Path | None:
    """Return the file that a build would read, if it is here."""
    given = as_mapping(source)
    file = as_text(given.get("requirements"))
    if given.get("pip"):
        return model.control.base_dir / expand_home(file) if file else None
    text = as_text(given.get("path"))
    if text is None or "\0" in text:
        return None
    root = model.control.base_dir / expand_home(text)
    return next((path for path in requirements_file.places(given, root) if is_file(path)), None)


def _requirements(file: Path, seen: set[Path]) -> Iterator[tuple[str, Requirement]]:
    """Yield each requirement of a file and of those that it includes, with `file:line`."""
    if file.resolve() in seen or not is_file(file):
        return
    seen.add(file.resolve())
    if file.name in requirements_file.LOCKS:
        yield from _locked(file)
        return
    if file.name == requirements_file.PROJECT:
        yield from _project(file)
        return
    try:
        text = file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return
    for line in requirements_file.lines(text):
        if line.included:
            yield from _requirements(file.parent / line.included, seen)
            continue
        try:
            # Options such as --hash follow the requirement.
            yield f"{file.name}:{line.number}", Requirement(line.text.split(" --")[0])
        except InvalidRequirement:
            continue  # an option, a path or a URL; pip reports what is wrong


def _locked(file: Path) -> Iterator[tuple[str, Requirement]]:
    """Yield the packages of a lock, which all have the same form: tables `package` with `name` and `version`."""
    try:
        packages = tomllib.loads(file.read_text(encoding="utf-8")).get("package")
    except (OSError, ValueError):
        return  # the tool that exports it reports what is wrong
    names = [as_text(as_mapping(package).get("name")) for package in as_list(packages)]
    for name, package in zip(names, as_list(packages), strict=True):
        version = as_text(as_mapping(package).get("version"))
        # With several versions of a package, the platform decides.
        if name and version and names.count(name) == 1:
            with contextlib.suppress(InvalidRequirement):
                yield file.name, Requirement(f"{name}=={version}")


def _project(file: Path) -> Iterator[tuple[str, Requirement]]:
    """Yield what a project requires, without its extras."""
    try:
        project = as_mapping(tomllib.loads(file.read_text(encoding="utf-8")).get("project"))
    except (OSError, ValueError):
        return  # pip reports what is wrong
    for text in as_list(project.get("dependencies")):
        with contextlib.suppress(InvalidRequirement):
            yield file.name, Requirement(str(text))
