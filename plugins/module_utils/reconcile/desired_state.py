"""The state that roles want on a host, as data: the input of `reconcile`.

One `DesiredState` holds all files, links and units that one role wants on one host. It is built from plain JSON, so
it can be sent to the host in a single module argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

OnChange = Literal["restart", "reload", "live", "nothing"]


@dataclass(frozen=True)
class Directory:
    """A directory with its owner and mode; its parents must exist or come before it in the list."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755


@dataclass(frozen=True)
class File:
    """A regular file with its whole content.

    Attributes:
        dest: Absolute path.
        content: The text on disk; None, only in check mode, for a file that is created later.
        secret: Whether the content is hidden in diffs.
        diff: Whether a diff shows the content. For generated files it would only be long.
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
    """A path that processes, builds or commands create; listed in the manifest so that a removal finds it.

    Attributes:
        path: A directory or a file.
        keep: The name by which `fleet_remove_keep` keeps it; empty if it can't be kept.
        whole: Whether a directory is removed with its content; otherwise it is only removed if it is empty.
    """

    path: str
    keep: str = ""
    whole: bool = True


@dataclass(frozen=True)
class Check:
    """A daemon's own check of its configuration.

    It runs when one of `files` changed. If it fails, all files of the call are restored. It also runs before a unit
    reads a file that an earlier run wrote, because that run may have ended before its own check.

    Attributes:
        command: The daemon's check command; empty if `redis` is set.
        redis: Path of a redis.conf, with which a server is started briefly, without data and without a port.
        files: Glob patterns of the files that the daemon reads.
        flavor: `redis` or `valkey`, the server to start.
    """

    files: tuple[str, ...]
    command: tuple[str, ...] = ()
    redis: str = ""
    flavor: str = "redis"


@dataclass(frozen=True)
class RedisAccess:
    """How to log in to a running Redis to change it.

    Attributes:
        host: A name in its certificate.
        port: TLS port.
        ca: Path of the CA certificate that signed the server's.
        user: A user that may change settings and users.
        password: That user's password.
        certificate: Path of the client certificate, if the server asks for one.
        key: Path of that certificate's key.
        staged_key: Path from which a running server reads its new key; if empty, the server is restarted instead.
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
    """A systemd unit that should run and start at boot, and what its process depends on.

    Attributes:
        name: Full unit name.
        on_change: How the running process gets changed inputs. `live` sets what Redis accepts while it runs, and
            restarts for everything else.
        files: Files that the process reads when it starts; glob patterns if several roles share a unit.
        links: Links that it resolves when it starts.
        values: Additional inputs, any JSON.
        timeout: Seconds to wait until it is active.
        hint: What to check if it does not start; added to the error message.
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
    """A release that another step builds; only used for the plan.

    Attributes:
        path: The release's directory.
        what: Description of its content.
        demands: What the inventory requires of it, for `suitability.refusals`; None for Flower.
    """

    path: str
    what: str
    demands: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PlannedCommand:
    """A release command that another step runs; only used for the plan.

    Attributes:
        subject: Name of the application.
        text: The command's name and how often it runs.
    """

    subject: str
    text: str


@dataclass(frozen=True)
class Owned:
    """Names that belong to us, so that anything no longer wanted can be removed.

    Attributes:
        units: Glob patterns of unit names. A unit that matches and is not wanted is stopped (which drains it) and
            disabled.
        files: Glob patterns of paths. A file or link that matches and is not wanted is removed.
    """

    units: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class DesiredState:
    """Everything that one role wants on one host.

    Other steps provide `releases`, `commands` and `packages`, which are only here for the plan, and `data`, which is
    here for the manifest.
    """

    sysusers: tuple[File, ...] = ()
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    checks: tuple[Check, ...] = ()
    units: tuple[Unit, ...] = ()
    owned: Owned = field(default_factory=Owned)
    releases: tuple[Release, ...] = ()
    commands: tuple[PlannedCommand, ...] = ()
    packages: tuple[str, ...] = ()
    data: tuple[Data, ...] = ()


# A role's name and what the role wants.
Part = tuple[str, DesiredState]


def units_of(parts: Sequence[Part]) -> list[tuple[str, Unit]]:
    """Return all wanted units, each once, with the first part that has it."""
    found: dict[str, tuple[str, Unit]] = {}
    for part, wanted in parts:
        for unit in wanted.units:
            found.setdefault(unit.name, (part, unit))
    return list(found.values())


class DesiredStateError(ValueError):
    """The data from a role does not have the form of `DesiredState`."""


def _mode(value: Any, where: str) -> int:
    if isinstance(value, str) and value.isdigit():
        return int(value, 8)
    raise DesiredStateError(f"{where}: mode must be an octal string such as '0644', not {value!r}")


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DesiredStateError(f"{where}: must be a list of strings, not {type(value).__name__}")
    return tuple(str(item) for item in value)


def _items(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = raw.get(key) or []
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        raise DesiredStateError(f"{key}: must be a list, not {type(value).__name__}")
    for item in value:
        if not isinstance(item, Mapping):
            raise DesiredStateError(
                f"{key}: each item must be a dictionary, not {type(item).__name__}"
            )
    return list(value)


def _known(
    item: Mapping[str, Any], allowed: set[str], where: str, needed: Sequence[str] = ()
) -> None:
    unknown = sorted(set(item) - allowed)
    if unknown:
        raise DesiredStateError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(allowed))}"
        )
    missing = [key for key in needed if key not in item]
    if missing:
        raise DesiredStateError(f"{where}: {', '.join(missing)} is missing")


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
        raise DesiredStateError(
            f"{where}.demands: must be a dictionary, not {type(demands).__name__}"
        )
    return Release(str(item["path"]), str(item["what"]), demands)


def _command(item: Mapping[str, Any], where: str) -> PlannedCommand:
    _known(item, {"subject", "text"}, where, needed=("subject", "text"))
    return PlannedCommand(str(item["subject"]), str(item["text"]))


def _data(item: Mapping[str, Any], where: str) -> Data:
    _known(item, {"path", "keep", "whole"}, where, needed=("path",))
    return Data(str(item["path"]), str(item.get("keep", "")), bool(item.get("whole", True)))


def _check(item: Mapping[str, Any], where: str) -> Check:
    _known(item, {"command", "redis", "flavor", "files"}, where, needed=("files",))
    command, redis = _texts(item.get("command", []), where), str(item.get("redis", ""))
    if bool(command) == bool(redis):
        raise DesiredStateError(f"{where}: must have either command or redis")
    flavor = str(item.get("flavor", "redis"))
    return Check(files=_texts(item["files"], where), command=command, redis=redis, flavor=flavor)


def _redis(item: Any, where: str) -> RedisAccess | None:
    if item is None:
        return None
    if not isinstance(item, Mapping):
        raise DesiredStateError(f"{where}: must be a dictionary, not {type(item).__name__}")
    keys = ("host", "port", "ca", "user", "password")
    further = ("certificate", "key", "staged_key")
    _known(item, {*keys, *further}, where, needed=keys)
    host, port, ca, user, password = (str(item[key]) for key in keys)
    if not port.isdigit():
        raise DesiredStateError(f"{where}: port must be a number, not {port!r}")
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
        raise DesiredStateError(
            f"{where}: on_change must be one of {', '.join(get_args(OnChange))}, not {on_change!r}"
        )
    redis = _redis(item.get("redis"), f"{where}.redis")
    if (on_change == "live") != (redis is not None):
        raise DesiredStateError(f"{where}: on_change live needs redis, and nothing else does")
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


KEYS = frozenset(item.name for item in fields(DesiredState))


def parse(raw: Mapping[str, Any]) -> DesiredState:
    """Build `DesiredState` from plain data.

    Raises:
        DesiredStateError: A key is unknown or a value has the wrong type; the message names it.
    """
    _known(raw, set(KEYS), "reconcile")
    owned = raw.get("owned") or {}
    _known(owned, {"units", "files"}, "owned")
    return DesiredState(
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
    """Build what several roles want on one host, in order, each with the role's name.

    Raises:
        DesiredStateError: See `parse`.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        raise DesiredStateError(f"parts: must be a list, not {type(raw).__name__}")
    for item in raw:
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
            raise DesiredStateError("parts: each must be a pair of name and what is wanted")
    return [(str(name), parse(wanted)) for name, wanted in raw]
