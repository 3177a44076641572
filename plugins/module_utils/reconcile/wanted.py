"""The state that roles want on a host, as data: what `settle` is given.

One `Wanted` holds all files, links and units that one role wants on one host. It is built from plain
JSON, so that it can travel to the host in a single module argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

OnChange = Literal["restart", "reload", "live", "nothing"]


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
        content: The text, as it shall lie on disk; nothing for a file that is yet to be made, in check mode alone.
        secret: The content is shown in no diff.
        diff: Whether a diff shows the content; for files that nobody edits it would only be long.
    """

    dest: str
    content: str | None
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
class Data:
    """What processes, builds and commands make; named for the manifest, which a removal goes by.

    Attributes:
        path: A directory or a file.
        keep: The name by which `fleet_remove_keep` keeps it; empty if it can't be kept.
        whole: Whether a directory goes with what is in it; otherwise it goes only if nothing is left in it.
    """

    path: str
    keep: str = ""
    whole: bool = True


@dataclass(frozen=True)
class Check:
    """A daemon's own check of its configuration.

    It runs when one of `files` changed; where it fails, all files of the call go back to what they were. And it runs
    before a unit takes one of them up that an earlier run wrote: that run may have ended before its own check.

    Attributes:
        command: The daemon's, with its arguments; or none, and
        redis: path of a redis.conf, with which a server is started for a moment, without data and without a port.
        files: Glob patterns of the files that it reads.
        flavor: `redis` or `valkey`: which server that is.
    """

    files: tuple[str, ...]
    command: tuple[str, ...] = ()
    redis: str = ""
    flavor: str = "redis"


@dataclass(frozen=True)
class RedisAccess:
    """Where and as whom a running Redis takes changes.

    Attributes:
        host: A name that stands in its certificate.
        port: TLS port.
        ca: Path of the certificate that signs the server's.
        user: Who may change settings and users.
        password: That user's.
        certificate: Path of the certificate that is shown to it, where it asks for one.
        key: Path of that certificate's key.
        staged_key: Path at which a running server reads a new key of its own; without one it is restarted for that.
    """

    host: str
    port: int
    ca: str
    user: str
    password: str = field(repr=False)
    certificate: str = ""
    key: str = ""
    staged_key: str = ""


@dataclass(frozen=True)
class Unit:
    """A systemd unit, which shall run and start at boot, and what its process depends on.

    Attributes:
        name: Full unit name.
        on_change: What brings a change of its inputs to the running process; `live` sets what Redis takes while it
            runs, and restarts for the rest.
        files: Files whose content the process read at its start; glob patterns where several roles share a unit.
        links: Links that it resolved at its start.
        values: Further inputs, any JSON.
        timeout: Seconds to wait until it is active.
        hint: What to look at when it does not start, for the person who reads the error.
        redis: How to reach the server, for `live`.
    """

    name: str
    on_change: OnChange = "restart"
    files: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    values: Any = None
    timeout: float = 90.0
    hint: str = ""
    redis: RedisAccess | None = None


@dataclass(frozen=True)
class Release:
    """A release that another step builds; named for the plan alone.

    Attributes:
        path: Its directory.
        what: What it holds, for people.
        demands: What the inventory wants of it, as `suitability.refusals` takes it; none for Flower.
    """

    path: str
    what: str
    demands: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Command:
    """A command of a release that another step runs; named for the plan alone.

    Attributes:
        subject: What it belongs to: the application's name.
        text: Its name and how often it runs, for people.
    """

    subject: str
    text: str


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
    """All that one role wants on one host.

    Others bring `releases`, `commands` and `packages`, which are here for the plan, and `data`, for the manifest.
    """

    sysusers: tuple[File, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    checks: tuple[Check, ...] = ()
    units: tuple[Unit, ...] = ()
    owned: Owned = field(default_factory=Owned)
    releases: tuple[Release, ...] = ()
    commands: tuple[Command, ...] = ()
    packages: tuple[str, ...] = ()
    data: tuple[Data, ...] = ()


# What one role wants, under the role's name.
Part = tuple[str, Wanted]


def units_of(parts: Sequence[Part]) -> list[tuple[str, Unit]]:
    """Return all wanted units, each once under the first part that has it."""
    found: dict[str, tuple[str, Unit]] = {}
    for part, wanted in parts:
        for unit in wanted.units:
            found.setdefault(unit.name, (part, unit))
    return list(found.values())


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


def _known(
    item: Mapping[str, Any], allowed: set[str], where: str, needed: Sequence[str] = ()
) -> None:
    unknown = sorted(set(item) - allowed)
    if unknown:
        raise WantedError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(allowed))}"
        )
    missing = [key for key in needed if key not in item]
    if missing:
        raise WantedError(f"{where}: {', '.join(missing)} is missing")


def _file(item: Mapping[str, Any], where: str) -> File:
    keys = {"dest", "content", "owner", "group", "mode", "secret", "diff"}
    _known(item, keys, where, needed=("dest", "content"))
    return File(
        dest=str(item["dest"]),
        content=None if item["content"] is None else str(item["content"]),
        owner=str(item.get("owner", "root")),
        group=str(item.get("group", "root")),
        mode=_mode(item.get("mode", "0644"), where),
        secret=bool(item.get("secret", False)),
        diff=bool(item.get("diff", True)),
    )


def _directory(item: Mapping[str, Any], where: str) -> Directory:
    _known(item, {"path", "owner", "group", "mode"}, where, needed=("path",))
    return Directory(
        path=str(item["path"]),
        owner=str(item.get("owner", "root")),
        group=str(item.get("group", "root")),
        mode=_mode(item.get("mode", "0755"), where),
    )


def _link(item: Mapping[str, Any], where: str) -> Link:
    _known(item, {"path", "target"}, where, needed=("path", "target"))
    return Link(str(item["path"]), str(item["target"]))


def _release(item: Mapping[str, Any], where: str) -> Release:
    _known(item, {"path", "what", "demands"}, where, needed=("path", "what"))
    demands = item.get("demands")
    if demands is not None and not isinstance(demands, Mapping):
        raise WantedError(f"{where}.demands: must be a dictionary, not {type(demands).__name__}")
    return Release(str(item["path"]), str(item["what"]), demands)


def _command(item: Mapping[str, Any], where: str) -> Command:
    _known(item, {"subject", "text"}, where, needed=("subject", "text"))
    return Command(str(item["subject"]), str(item["text"]))


def _data(item: Mapping[str, Any], where: str) -> Data:
    _known(item, {"path", "keep", "whole"}, where, needed=("path",))
    return Data(str(item["path"]), str(item.get("keep", "")), bool(item.get("whole", True)))


def _check(item: Mapping[str, Any], where: str) -> Check:
    _known(item, {"command", "redis", "flavor", "files"}, where, needed=("files",))
    command, redis = _texts(item.get("command", []), where), str(item.get("redis", ""))
    if bool(command) == bool(redis):
        raise WantedError(f"{where}: must have either command or redis")
    flavor = str(item.get("flavor", "redis"))
    return Check(files=_texts(item["files"], where), command=command, redis=redis, flavor=flavor)


def _redis(item: Any, where: str) -> RedisAccess | None:
    if item is None:
        return None
    if not isinstance(item, Mapping):
        raise WantedError(f"{where}: must be a dictionary, not {type(item).__name__}")
    keys = ("host", "port", "ca", "user", "password")
    further = ("certificate", "key", "staged_key")
    _known(item, {*keys, *further}, where, needed=keys)
    host, port, ca, user, password = (str(item[key]) for key in keys)
    if not port.isdigit():
        raise WantedError(f"{where}: port must be a number, not {port!r}")
    more = {key: str(item[key]) for key in further if key in item}
    return RedisAccess(host, int(port), ca, user, password, **more)


def _unit(item: Mapping[str, Any], where: str) -> Unit:
    _known(
        item,
        {
            "name",
            "on_change",
            "files",
            "links",
            "values",
            "timeout",
            "hint",
            "redis",
        },
        where,
        needed=("name",),
    )
    on_change = item.get("on_change", "restart")
    if on_change not in get_args(OnChange):
        raise WantedError(
            f"{where}: on_change must be one of {', '.join(get_args(OnChange))}, not {on_change!r}"
        )
    redis = _redis(item.get("redis"), f"{where}.redis")
    if (on_change == "live") != (redis is not None):
        raise WantedError(f"{where}: on_change live needs redis, and nothing else does")
    return Unit(
        name=str(item["name"]),
        on_change=on_change,
        files=_texts(item.get("files", []), f"{where}.files"),
        links=_texts(item.get("links", []), f"{where}.links"),
        values=item.get("values"),
        timeout=float(item.get("timeout", 90)),
        hint=str(item.get("hint", "")),
        redis=redis,
    )


KEYS = frozenset(item.name for item in fields(Wanted))


def parse(raw: Mapping[str, Any]) -> Wanted:
    """Build `Wanted` from plain data.

    Raises:
        WantedError: A key is unknown or a value has the wrong type; the message names the place.
    """
    _known(raw, set(KEYS), "settle")
    owned = raw.get("owned") or {}
    _known(owned, {"units", "files"}, "owned")
    return Wanted(
        sysusers=tuple(
            _file(item, f"sysusers[{n}]") for n, item in enumerate(_items(raw, "sysusers"))
        ),
        directories=tuple(
            _directory(item, f"directories[{n}]")
            for n, item in enumerate(_items(raw, "directories"))
        ),
        files=tuple(_file(item, f"files[{n}]") for n, item in enumerate(_items(raw, "files"))),
        links=tuple(_link(item, f"links[{n}]") for n, item in enumerate(_items(raw, "links"))),
        checks=tuple(_check(item, f"checks[{n}]") for n, item in enumerate(_items(raw, "checks"))),
        units=tuple(_unit(item, f"units[{n}]") for n, item in enumerate(_items(raw, "units"))),
        owned=Owned(
            units=_texts(owned.get("units", []), "owned.units"),
            files=_texts(owned.get("files", []), "owned.files"),
        ),
        releases=tuple(
            _release(item, f"releases[{n}]") for n, item in enumerate(_items(raw, "releases"))
        ),
        commands=tuple(
            _command(item, f"commands[{n}]") for n, item in enumerate(_items(raw, "commands"))
        ),
        packages=_texts(raw.get("packages") or [], "packages"),
        data=tuple(_data(item, f"data[{n}]") for n, item in enumerate(_items(raw, "data"))),
    )


def parse_parts(raw: Any) -> list[Part]:
    """Build what several roles want on one host, each under its name, in their order.

    Raises:
        WantedError: See `parse`.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise WantedError(f"parts: must be a list, not {type(raw).__name__}")
    for item in raw:
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
            raise WantedError("parts: each must be a pair of name and what is wanted")
    return [(str(name), parse(wanted)) for name, wanted in raw]
