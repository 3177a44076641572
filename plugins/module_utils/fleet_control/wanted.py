"""The state that roles want on a host, as data: what `settle` is given.

One `Wanted` holds all files, links and units that one role wants on one host. It is built from plain
JSON, so that it can travel to the host in a single module argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

UnitAction = Literal["start", "restart", "reload", "stop"]


@dataclass(frozen=True)
class Directory:
    """A directory with its owner and mode; parents must exist or stand before it in the list."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755


@dataclass(frozen=True)
class File:
    """A regular file, whole.

    Attributes:
        dest: Absolute path.
        content: The text, as it shall lie on disk.
        secret: The content is shown in no diff.
        diff: Whether a diff shows the content; for files that nobody edits it would only be long.
    """

    dest: str
    content: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    secret: bool = False
    diff: bool = True


@dataclass(frozen=True)
class Link:
    """A symbolic link, replaced atomically."""

    path: str
    target: str


@dataclass(frozen=True)
class Check:
    """A daemon's own check of its configuration.

    It runs when one of `files` changed; where it fails, all files of the call go back to what they were.
    """

    command: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """A systemd unit and what its process depends on.

    Attributes:
        name: Full unit name.
        started: Whether it shall run; otherwise it is stopped.
        enabled: Whether it starts at boot.
        on_change: What brings a change of its inputs to the running process.
        files: Files whose content the process read at its start; glob patterns where several roles share a unit.
        links: Links that it resolved at its start.
        values: Further inputs, any JSON.
        timeout: Seconds to wait until it is active.
        hint: What to look at when it does not start, for the person who reads the error.
    """

    name: str
    started: bool = True
    enabled: bool = True
    on_change: Literal["restart", "reload", "nothing"] = "restart"
    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    values: Any = None
    timeout: float = 90.0
    hint: str = ""


@dataclass(frozen=True)
class Owned:
    """What belongs to us by name, so that what is no longer wanted can go.

    Attributes:
        units: Glob patterns of unit names: a unit that matches and is not wanted is stopped (which drains it) and
            disabled.
        files: Glob patterns of paths: a file or link that matches and is not wanted is removed.
    """

    units: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """All that one role wants on one host."""

    sysusers: tuple[File, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    checks: tuple[Check, ...] = ()
    units: tuple[Unit, ...] = ()
    owned: Owned = field(default_factory=Owned)


class WantedError(ValueError):
    """The data that a role handed over has not the form of `Wanted`."""


def _mode(value: Any, where: str) -> int:
    if isinstance(value, str) and value.isdigit():
        return int(value, 8)
    raise WantedError(f"{where}: mode must be an octal string such as '0644', not {value!r}")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise WantedError(f"{where}: must be a list of strings, not {type(value).__name__}")
    return tuple(str(item) for item in value)


def _items(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = raw.get(key) or []
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise WantedError(f"{key}: must be a list, not {type(value).__name__}")
    for item in value:
        if not isinstance(item, Mapping):
            raise WantedError(f"{key}: each item must be a dictionary, not {type(item).__name__}")
    return list(value)


def _known(item: Mapping[str, Any], allowed: set[str], where: str) -> None:
    unknown = sorted(set(item) - allowed)
    if unknown:
        raise WantedError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(allowed))}"
        )


def _file(item: Mapping[str, Any], where: str) -> File:
    _known(item, {"dest", "content", "owner", "group", "mode", "secret", "diff"}, where)
    return File(
        dest=str(item["dest"]),
        content=str(item["content"]),
        owner=str(item.get("owner", "root")),
        group=str(item.get("group", "root")),
        mode=_mode(item.get("mode", "0644"), where),
        secret=bool(item.get("secret", False)),
        diff=bool(item.get("diff", True)),
    )


def _unit(item: Mapping[str, Any], where: str) -> Unit:
    _known(
        item,
        {"name", "started", "enabled", "on_change", "files", "links", "values", "timeout", "hint"},
        where,
    )
    on_change = item.get("on_change", "restart")
    if on_change not in ("restart", "reload", "nothing"):
        raise WantedError(
            f"{where}: on_change must be restart, reload or nothing, not {on_change!r}"
        )
    return Unit(
        name=str(item["name"]),
        started=bool(item.get("started", True)),
        enabled=bool(item.get("enabled", True)),
        on_change=on_change,
        files=_texts(item.get("files", []), f"{where}.files"),
        links=_texts(item.get("links", []), f"{where}.links"),
        values=item.get("values"),
        timeout=float(item.get("timeout", 90)),
        hint=str(item.get("hint", "")),
    )


def parse(raw: Mapping[str, Any]) -> Wanted:
    """Build `Wanted` from plain data.

    Raises:
        WantedError: A key is unknown or a value has the wrong type; the message names the place.
    """
    _known(raw, {"sysusers", "directories", "files", "links", "checks", "units", "owned"}, "settle")
    owned = raw.get("owned") or {}
    _known(owned, {"units", "files"}, "owned")
    return Wanted(
        sysusers=tuple(
            _file(item, f"sysusers[{n}]") for n, item in enumerate(_items(raw, "sysusers"))
        ),
        directories=tuple(
            Directory(
                path=str(item["path"]),
                owner=str(item.get("owner", "root")),
                group=str(item.get("group", "root")),
                mode=_mode(item.get("mode", "0755"), f"directories[{n}]"),
            )
            for n, item in enumerate(_items(raw, "directories"))
        ),
        files=tuple(_file(item, f"files[{n}]") for n, item in enumerate(_items(raw, "files"))),
        links=tuple(Link(str(item["path"]), str(item["target"])) for item in _items(raw, "links")),
        checks=tuple(
            Check(_texts(item["command"], f"checks[{n}]"), _texts(item["files"], f"checks[{n}]"))
            for n, item in enumerate(_items(raw, "checks"))
        ),
        units=tuple(_unit(item, f"units[{n}]") for n, item in enumerate(_items(raw, "units"))),
        owned=Owned(
            units=_texts(owned.get("units", []), "owned.units"),
            files=_texts(owned.get("files", []), "owned.files"),
        ),
    )
