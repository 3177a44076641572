"""The state that roles want on a host, as data: the input of `reconcile`.

One `DesiredState` holds all files, links and units that one role wants on one host. It is built from plain JSON, so
it can be sent to the host in a single module argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar, cast, get_args

OnChange = Literal["restart", "reload", "live", "nothing"]
# Permission bits, given as an octal string.
Mode = int
Port = int
_Kind = TypeVar("_Kind")


class DesiredStateError(ValueError):
    """The data from a role does not have the form of `DesiredState`."""


@dataclass(frozen=True)
class Directory:
    """A directory with its owner and mode; its parents must exist or come before it in the list.

    Attributes:
        follow: Whether symbolic links in its path are followed. If not, missing parents are created and belong to root.
            Don't follow links in places that other users can write to.
    """

    path: str
    owner: str = "root"
    group: str = "root"
    mode: Mode = 0o755
    follow: bool = True


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
    mode: Mode = 0o644
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
        hint: What to do if it fails; added to the error message.
    """

    files: tuple[str, ...]
    command: tuple[str, ...] = ()
    redis: str = ""
    flavor: str = "redis"
    hint: str = ""

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.redis):
            raise DesiredStateError("must have either command or redis")


@dataclass(frozen=True)
class SentinelPlace:
    """Where a Sentinel listens.

    Attributes:
        host: A name in its certificate.
        port: TLS port.
    """

    host: str
    port: Port


@dataclass(frozen=True)
class RedisAccess:
    """How to log in to a running Redis to change it.

    Attributes:
        host: A name in its certificate.
        port: TLS port.
        ca: Path of the CA certificate that signed the server's.
        user: A user that may change settings and users.
        password: That user's password.
        certificate: Path of the client certificate, for a server that asks for one.
        key: Path of that certificate's key.
        staged_key: Path from which a running server reads its new key; if empty, the server is restarted instead.
        primary: Name by which Sentinels know the primary; empty without replicas.
        sentinels: The Sentinels, where the user may log in as well, in the order in which they are asked.
        replicas: How many replicas a primary needs.
        role_file: Path of the file with which the server starts as a primary or as a replica.
        queues: Whether it is a broker, so that tasks may wait in queues that the inventory no longer names.
    """

    host: str
    port: Port
    ca: str
    user: str
    password: str = field(repr=False)
    certificate: str = ""
    key: str = ""
    staged_key: str = ""
    primary: str = ""
    sentinels: tuple[SentinelPlace, ...] = ()
    replicas: int = 0
    role_file: str = ""
    queues: bool = False


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

    def __post_init__(self) -> None:
        if (self.on_change == "live") != (self.redis is not None):
            raise DesiredStateError("on_change live needs redis, and nothing else does")


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
        trees: Paths that are removed with their content.
    """

    units: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()


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


KEYS = frozenset(item.name for item in fields(DesiredState))


def parse(raw: Mapping[str, Any]) -> DesiredState:
    """Build `DesiredState` from plain data.

    Raises:
        DesiredStateError: A key is unknown or missing, or a value has the wrong type; the message names it.
    """
    given = {key: value for key, value in raw.items() if value is not None}
    return built(DesiredState, given, "")


def built(kind: type[_Kind], item: Mapping[str, Any], where: str) -> _Kind:
    """Build an object of a data class from a dictionary with its fields as keys, each read by the field's type.

    Raises:
        DesiredStateError: See `parse`.
    """
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]  # only data classes are passed
    if unknown := sorted(item.keys() - known.keys()):
        raise DesiredStateError(
            f"{where or 'reconcile'}: unknown key {', '.join(unknown)};"
            f" known are {', '.join(sorted(known))}"
        )
    needed = [
        name
        for name, one in known.items()
        if one.default is MISSING and one.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in item]:
        raise DesiredStateError(f"{where}: {', '.join(missing)} is missing")
    values = {
        name: _READERS[str(known[name].type)](value, f"{where}.{name}" if where else name)
        for name, value in item.items()
    }
    try:
        return kind(**values)
    except DesiredStateError as error:
        raise DesiredStateError(f"{where}: {error}") from None


def _items(kind: type[_Kind]) -> Callable[[Any, str], tuple[_Kind, ...]]:
    def read(value: Any, where: str) -> tuple[_Kind, ...]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise DesiredStateError(f"{where}: must be a list, not {type(value).__name__}")
        for item in value:
            if not isinstance(item, Mapping):
                raise DesiredStateError(
                    f"{where}: each item must be a dictionary, not {type(item).__name__}"
                )
        return tuple(built(kind, item, f"{where}[{n}]") for n, item in enumerate(value))

    return read


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DesiredStateError(f"{where}: must be a list of strings, not {type(value).__name__}")
    return tuple(str(item) for item in value)


def _mode(value: Any, where: str) -> Mode:
    if isinstance(value, str) and value.isdigit():
        return int(value, 8)
    raise DesiredStateError(f"{where}: must be an octal string such as '0644', not {value!r}")


def _port(value: Any, where: str) -> Port:
    if str(value).isdigit():
        return int(value)
    raise DesiredStateError(f"{where}: must be a number, not {value!r}")


def _mapping(value: Any, where: str) -> Mapping[str, Any] | None:
    if value is None or isinstance(value, Mapping):
        return value
    raise DesiredStateError(f"{where}: must be a dictionary, not {type(value).__name__}")


def _redis(value: Any, where: str) -> RedisAccess | None:
    item = _mapping(value, where)
    return None if item is None else built(RedisAccess, item, where)


def _on_change(value: Any, where: str) -> OnChange:
    if value in get_args(OnChange):
        return cast("OnChange", value)
    choices = ", ".join(get_args(OnChange))
    raise DesiredStateError(f"{where}: must be one of {choices}, not {value!r}")


# How a field is read, by its type.
_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "Any": lambda value, _: value,
    "bool": lambda value, _: bool(value),
    "int": lambda value, _: int(value),
    "float": lambda value, _: float(value),
    "str": lambda value, _: str(value),
    "str | None": lambda value, _: None if value is None else str(value),
    "tuple[str, ...]": _texts,
    "Mode": _mode,
    "Port": _port,
    "OnChange": _on_change,
    "Mapping[str, Any] | None": _mapping,
    **dict.fromkeys(("RedisAccess", "RedisAccess | None"), _redis),
    "Owned": lambda value, where: built(Owned, _mapping(value, where) or {}, where),
    **{
        f"tuple[{kind.__name__}, ...]": _items(kind)
        for kind in (
            File,
            Directory,
            Link,
            Check,
            Unit,
            Release,
            PlannedCommand,
            Data,
            SentinelPlace,
        )
    },
}


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
