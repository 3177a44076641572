"""Records what a process was started with: fingerprints of its inputs, taken when it starts.

This file has two uses, both as root on the host. The `reconcile` module uses it to compute what a unit would be started
with now, and `comparison` compares that with the record. The file itself is also installed on each host as the
recorder, which every service of the fleet runs before its process:

    ExecStartPre=-+/usr/bin/python3 -S -I /usr/lib/celery-fleet/fingerprint.py record %n

Therefore it is a single file that imports only a little of the standard library: it runs before each start.

A record contains the invocation ID of the start and is only valid while the unit has that ID. So it belongs to the
process, no matter how that was started. Values that could be secret are stored as an HMAC with a key that only root
can read, so that they can't be guessed.
"""

from __future__ import annotations

import glob
import hashlib
import hmac
import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

FORMAT = 1
STATE = "/var/lib/celery-fleet"
KEY = f"{STATE}/fingerprint.key"
# Holds for each unit the list of what its process reads when it starts, written by `reconcile`.
LISTS = f"{STATE}/inputs"
RECORDS = "/run/celery-fleet/fingerprints"
#: Value in a record for an input that is just being passed to the running process.
UNSURE = "(not known)"

# Content of a file that will be created later: it differs from any real content.
TO_COME = b"\0to come"
ABSENT = "(absent)"
NEVER = "(to come)"
KEY_LENGTH = 32
# Seconds to wait for systemd's answer, because the unit's start waits as well.
_PATIENCE = 10.0
# A file's change time lags behind the clock by up to one kernel tick. There are at least 100 ticks per second.
_TICK = 0.01
# Directives of redis.conf with a value that is or contains a secret.
SECRET_DIRECTIVES = frozenset(
    (
        "masterauth",
        "masteruser",
        "rename-command",
        "requirepass",
        "tls-client-key-file-pass",
        "tls-key-file-pass",
        "user",
    )
)
# An assignment in an EnvironmentFile=, as systemd.exec(5) describes it; a quoted value may span lines.
_ASSIGNMENT = re.compile(
    r"[ \t]*(?:[#;][^\n]*|(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"
    r"(?P<value>(?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\\.|[^\n\"'\\])*))?\n",
    re.DOTALL,
)
# Kinds of inputs that are whole files or links; inputs of other kinds may be spread over several files.
_PATHS = ("drop-in", "file", "link", "release", "unit")


class Disk:
    """Reads files and links from disk. In check mode an overlay replaces it."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a regular file; None if there is no file."""
        try:
            # Anything else at this path, such as a FIFO, must not block a start.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{path} is not a regular file")
            return stream.read()

    def target(self, path: str) -> str | None:
        """Return the target of a link; None if there is no link."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def match(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, sorted."""
        return sorted(glob.glob(pattern))


class _TrackingDisk(Disk):
    """The disk, remembering which paths were read."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}

    def read(self, path: str) -> bytes | None:
        """See `Disk`."""
        self.paths[path] = None
        return super().read(path)

    def target(self, path: str) -> str | None:
        """See `Disk`."""
        self.paths[path] = None
        return super().target(path)

    def changed_within(self, seconds: float) -> str:
        """Return the first of these paths that changed within the last seconds; an empty string if none did.

        For a missing path the directory is checked. A time in the future means that the clock was set back, and is
        ignored.
        """
        now = time.time()
        for path in self.paths:
            try:
                there = path if os.path.lexists(path) else os.path.dirname(path)
                changed = os.lstat(there).st_ctime
            except OSError:
                continue
            if now - seconds - _TICK <= changed <= now:
                return path
        return ""


class _Input:
    """One thing that a process depends on; `plain` if its value may be shown."""

    def __init__(self, kind: str, name: str, path: str, value: str, plain: bool = False) -> None:
        self.label = f"{kind} {name}".rstrip()
        self.place = f"{kind} {path}" if kind in _PATHS else self.label
        self.path = path
        self.value = value
        self.plain = plain


def _unquoted(text: str) -> str:
    value = text.strip()
    if len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in _escapes(value[1:-1]):
        return re.sub(r"\\([\"\\$`\n])", r"\1", value[1:-1])
    if len(value) >= 2 and value[0] == value[-1] == "'" and "'" not in value[1:-1]:
        return value[1:-1]
    return value


def _escapes(text: str) -> str:
    return re.sub(r"\\.", "", text, flags=re.DOTALL)


def environment(text: str) -> dict[str, str] | None:
    """Return the variables of an environment file; None if it is malformed."""
    found: dict[str, str] = {}
    text += "" if text.endswith("\n") else "\n"
    position = 0
    while position < len(text):
        match = _ASSIGNMENT.match(text, position)
        if match is None:
            return None
        if match["name"]:
            found[match["name"]] = _unquoted(match["value"])
        position = match.end()
    return found


def directives(text: str) -> dict[str, str]:
    """Return the directives of a redis.conf; the values of a repeated directive are joined."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.strip().split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        name, value = words[0].lower(), _unquoted(words[1]) if len(words) > 1 else ""
        found[name] = f"{found[name]}; {value}" if name in found else value
    return found


def users(text: str) -> dict[str, str]:
    """Return the rules of each user in an ACL file."""
    lines = (line.split() for line in text.splitlines())
    return {words[1]: " ".join(words[2:]) for words in lines if words[1:] and words[0] == "user"}


def _settings(text: str) -> dict[str, str] | None:
    """Return the keys of a JSON object and of the `celery` object in it; None if it is malformed."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    celery = content.pop("celery", {})
    items = [*content.items()]
    items += celery.items() if isinstance(celery, dict) else [("celery", celery)]
    return {str(key): json.dumps(value, sort_keys=True) for key, value in items}


def _of_file(path: str, content: bytes | None) -> list[_Input]:
    """Return a file's inputs: one by one if its format is known, otherwise the whole file."""
    name = os.path.basename(path)
    if content is None:
        return [_Input("file", name, path, ABSENT, plain=True)]
    if content == TO_COME:
        return [_Input("file", name, path, NEVER, plain=True)]
    text = content.decode(errors="surrogateescape")
    if name in ("redis.conf", "login.conf"):
        return [
            _Input("setting", key, path, value, plain=key not in SECRET_DIRECTIVES)
            for key, value in directives(text).items()
        ]
    kind, parts = "", None
    if name.endswith(".env"):
        kind, parts = "environment", environment(text)
    elif name.endswith(".json"):
        kind, parts = "settings", _settings(text)
    elif name == "users.acl":
        kind, parts = "user", users(text)
    if parts is None:
        return [_Input("file", name, path, text)]
    return [_Input(kind, key, path, value) for key, value in parts.items()]


def _of_link(path: str, target: str | None) -> _Input:
    if os.path.basename(os.path.dirname(path)) == "pins":
        return _Input("release", "", path, os.path.basename(target or ABSENT), plain=True)
    return _Input("link", os.path.basename(path), path, target or ABSENT, plain=True)


def values(given: object, key: bytes) -> dict[str, str]:
    """Return fingerprints of additional inputs (any JSON); an object has one for each key."""
    if given is None:
        return {}
    items = given.items() if isinstance(given, dict) else [("values", given)]
    return {
        str(name): str(value)
        if name == "runtime"
        else _hashed(str(name), json.dumps(value, sort_keys=True), key)
        for name, value in items
    }


def _hashed(label: str, value: str, key: bytes) -> str:
    text = f"{label}\0{value}".encode(errors="surrogateescape")
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def inputs(
    sources: Iterable[str],
    files: Iterable[str],
    links: Iterable[str],
    further: Mapping[str, str],
    key: bytes,
    disk: Disk,
) -> dict[str, str]:
    """Return what a process that starts now depends on: readable label → fingerprint, or plain value.

    Args:
        sources: The unit's file and its drop-ins.
        files: Paths or glob patterns of files that the process reads when it starts.
        links: Links that it resolves then.
        further: Fingerprints from `values`.
        key: The host's key.
        disk: Disk to read from.
    """
    return {**_labelled(_read(sources, files, links, disk), key), **further}


def texts(
    sources: Iterable[str], files: Iterable[str], links: Iterable[str], disk: Disk
) -> dict[str, str]:
    """Return the texts behind the fingerprints of `inputs`, under the same labels. They contain secrets."""
    return _labelled(_read(sources, files, links, disk))


def _read(
    sources: Iterable[str], files: Iterable[str], links: Iterable[str], disk: Disk
) -> list[_Input]:
    found: list[_Input] = []
    for path in sources:
        content = disk.read(path)
        kind = "drop-in" if path.endswith(".conf") else "unit"
        value = ABSENT if content is None else content.decode(errors="surrogateescape")
        found.append(_Input(kind, os.path.basename(path), path, value))
    paths: dict[str, None] = {}
    for pattern in files:
        paths.update(dict.fromkeys(disk.match(pattern) if glob.has_magic(pattern) else [pattern]))
    for path in paths:
        found += _of_file(path, disk.read(path))
    found += [_of_link(path, disk.target(path)) for path in links]
    return found


def _labelled(found: Sequence[_Input], key: bytes | None = None) -> dict[str, str]:
    """Return each label with its value, hashed if there is a key and the value is not plain.

    A value that is spread over several files is one input. Files with the same name get their path as label.
    """
    shares: dict[str, dict[str, _Input]] = {}
    for item in found:
        shares.setdefault(item.label, {})[item.path] = item
    result: dict[str, str] = {}
    for label, items in shares.items():
        several = len({item.place for item in items.values()}) > 1
        together: dict[str, list[_Input]] = {}
        for item in items.values():
            together.setdefault(item.place if several else label, []).append(item)
        for name, same in together.items():
            value = "\0".join(item.value for item in same)
            if key is None or all(item.plain for item in same):
                result[name] = value.replace("\0", "; ")
            else:
                result[name] = _hashed(label, value, key)
    return result


# --- records -------------------------------------------------------------------------------------------


def read_key(path: str = KEY) -> bytes | None:
    """Return the host's key; None if it is missing or too short."""
    try:
        with open(path, "rb") as stream:
            key = stream.read()
    except OSError:
        return None
    return key if len(key) >= KEY_LENGTH else None


def read_object(path: str) -> dict[str, object]:
    """Return the JSON object in a file; an empty one if the file is missing or broken."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_object(path: str, content: Mapping[str, object]) -> None:
    """Replace a file with a JSON object that only root can read."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fresh = f"{path}.{os.getpid()}"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(content, sort_keys=True, indent=1) + "\n")
    os.replace(fresh, path)


def write_record(
    unit: str,
    invocation: str,
    found: Mapping[str, str] | None,
    unknown: str = "",
    directory: str = RECORDS,
) -> None:
    """Record what a unit's process was started with; if `found` is None, `unknown` says why that is not known."""
    content: dict[str, object] = {"format": FORMAT, "invocation": invocation, "inputs": found}
    if found is None:
        content["unknown"] = unknown
    write_object(f"{directory}/{unit}.json", content)


# --- the recorder --------------------------------------------------------------------------------------


def _show(unit: str) -> dict[str, str]:
    """Return what systemd says about the unit's sources. systemctl needs its full path: PATH is the unit's."""
    done = subprocess.run(
        [
            "/usr/bin/systemctl",
            "show",
            "--property=FragmentPath,DropInPaths,NeedDaemonReload,InactiveExitTimestampMonotonic",
            "--",
            unit,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE,
        env={"LC_ALL": "C.UTF-8"},
        check=True,
    )
    pairs = (line.partition("=") for line in done.stdout.decode(errors="replace").splitlines())
    return {name: value for name, _, value in pairs}


def taken(
    unit: str,
    state: Mapping[str, str],
    listed: Mapping[str, object],
    key: bytes | None,
    disk: Disk | None = None,
) -> tuple[dict[str, str] | None, str]:
    """Return what a process that starts now is started with; if that can't be known, None and the reason.

    Args:
        unit: Unit name.
        state: What systemd says about the unit's sources.
        listed: What the process reads when it starts, as `reconcile` wrote it.
        key: The host's key; None if it is missing.
        disk: Disk to read from.
    """
    if state.get("NeedDaemonReload") != "no":
        return None, "daemon-reload was due when it started"
    if key is None:
        return None, f"{KEY} was missing when it started"
    files, links, further = (listed.get(name) for name in ("files", "links", "values"))
    if not isinstance(files, list) or not isinstance(links, list) or not isinstance(further, dict):
        return None, f"the list of its inputs was missing when it started ({LISTS}/{unit}.json)"
    sources = [state.get("FragmentPath", ""), *state.get("DropInPaths", "").split()]
    sources = [path for path in sources if path]
    return inputs(sources, files, links, further, key, disk or Disk()), ""


def record(unit: str, *, key: str = KEY, lists: str = LISTS, records: str = RECORDS) -> None:
    """Record what the unit that is starting is started with."""
    invocation = os.environ.get("INVOCATION_ID", "")
    listed = read_object(f"{lists}/{unit}.json")
    disk = _TrackingDisk()
    try:
        state = _show(unit)
        found, unknown = taken(unit, state, listed, read_key(key), disk)
        # systemd has already passed the credentials on. A file that changed since may differ from what the process got.
        begun = int(state.get("InactiveExitTimestampMonotonic", "0")) / 1e6
        late = disk.changed_within(time.monotonic() - begun)
        if found is not None and late:
            found, unknown = None, f"{late} was changed while it started"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        found, unknown = None, f"its inputs could not be read: {error}"
    write_record(unit, invocation, found, unknown, records)


def main(arguments: Sequence[str]) -> int:
    """Run `record UNIT`. The unit starts even if this fails."""
    if len(arguments) != 2 or arguments[0] != "record":
        print("usage: fingerprint.py record UNIT", file=sys.stderr)
        return 2
    try:
        record(os.path.basename(arguments[1]))
    except OSError as error:
        print(f"the inputs of this start could not be recorded: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
