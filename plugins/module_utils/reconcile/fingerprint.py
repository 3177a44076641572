"""What a process was started with: fingerprints of its inputs, taken at its start.

Used twice, both times as root on the host. The `settle` module computes from it what a unit would be started with now,
and `comparison` tells both apart. And this very file is on each host as the recorder, which every service of the fleet
runs before its process:

    ExecStartPre=-+/usr/bin/python3 -S -I /usr/lib/celery-fleet/fingerprint.py record %n

That is why it is one file that imports only the standard library, and little of it: it runs before each start.

A record carries the start's invocation ID, and counts only while that is the unit's. So it belongs to the process, no
matter who started it. What could be secret is in there as an HMAC with a key that only root reads, so that nothing can
be guessed from it.
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
# For each unit the list of what its process reads at its start, written by `settle`.
LISTS = f"{STATE}/inputs"
RECORDS = "/run/celery-fleet/fingerprints"

# Content of a file that is yet to be made: it differs from whatever is there.
TO_COME = b"\0to come"
ABSENT = "(absent)"
NEVER = "(to come)"
KEY_LENGTH = 32
# Seconds for systemd's answer; the start that waits for it must go on.
_PATIENCE = 10.0
# The time of a file's change lags behind the clock by up to one tick of the kernel, of which there are at least 100 a
# second.
_TICK = 0.01
# Directives of redis.conf whose value is or holds a secret.
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
# An assignment as systemd.exec(5) reads it from an EnvironmentFile=; a quoted value may span lines.
_ASSIGNMENT = re.compile(
    r"[ \t]*(?:[#;][^\n]*|(?P<name>[A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"
    r"(?P<value>(?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\\.|[^\n\"'\\])*))?\n",
    re.DOTALL,
)
# Kinds of inputs that have one name each on a host; of the others several files may hold a share.
_PATHS = ("drop-in", "file", "link", "release", "unit")


class Disk:
    """What lies on disk. An overlay stands in for it where a run is foretold."""

    def read(self, path: str) -> bytes | None:
        """Content of a regular file; nothing where there is none."""
        try:
            # Whatever stands in its place, a FIFO too, must not hold a start up.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(f"{path} is not a regular file")
            return stream.read()

    def target(self, path: str) -> str | None:
        """Target of a link; nothing where there is none."""
        try:
            return os.readlink(path)
        except OSError:
            return None

    def match(self, pattern: str) -> list[str]:
        """Paths that match a pattern, sorted."""
        return sorted(glob.glob(pattern))


class _Looked(Disk):
    """The disk, with what was looked at on it."""

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
        """The first of these paths that was changed so lately; nothing where none was.

        Of one that is not there its directory tells. A time to come is that of a clock that was set back since.
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
    """One thing that a process depends on; `plain` where people may read its value."""

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
    """Variables of an environment file; nothing where it is malformed."""
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
    """Directives of a redis.conf; one that stands there several times has all its values."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.strip().split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        name, value = words[0].lower(), _unquoted(words[1]) if len(words) > 1 else ""
        found[name] = f"{found[name]}; {value}" if name in found else value
    return found


def users(text: str) -> dict[str, str]:
    """Rules of each user of an ACL file."""
    lines = (line.split() for line in text.splitlines())
    return {words[1]: " ".join(words[2:]) for words in lines if words[1:] and words[0] == "user"}


def _settings(text: str) -> dict[str, str] | None:
    """Keys of a JSON object; those of its `celery` object stand beside them."""
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
    """The inputs that a file holds, one by one where its form is known; else the whole."""
    name = os.path.basename(path)
    if content is None:
        return [_Input("file", name, path, ABSENT, plain=True)]
    if content == TO_COME:
        return [_Input("file", name, path, NEVER, plain=True)]
    text = content.decode(errors="surrogateescape")
    if name == "redis.conf":
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
    """Fingerprints of further inputs, any JSON; an object's keys count one by one."""
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
    """What a process that starts now depends on: a label for people, and what tells whether it differs.

    Args:
        sources: The unit's file and its drop-ins.
        files: Paths, or glob patterns, of files that it reads at its start.
        links: Links that it resolves then.
        further: Fingerprints as `values` makes them.
        key: The host's.
        disk: Where all this lies.
    """
    return {**_labelled(_read(sources, files, links, disk), key), **further}


def texts(
    sources: Iterable[str], files: Iterable[str], links: Iterable[str], disk: Disk
) -> dict[str, str]:
    """What `inputs` takes the fingerprints of, under the same labels. It holds secrets."""
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
    """Each label with its value, hashed if there is a key and the value is not plain.

    What is in several files is one input; files of one name are told by their paths.
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
    """The host's key; nothing where there is none that serves."""
    try:
        with open(path, "rb") as stream:
            key = stream.read()
    except OSError:
        return None
    return key if len(key) >= KEY_LENGTH else None


def read_object(path: str) -> dict[str, object]:
    """A JSON object from a file; an empty one where it is absent or broken."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_object(path: str, content: Mapping[str, object]) -> None:
    """Replace a file by a JSON object, for root alone."""
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
    """Write down what a unit's process was started with; `unknown` says why that can't be told."""
    content: dict[str, object] = {"format": FORMAT, "invocation": invocation, "inputs": found}
    if found is None:
        content["unknown"] = unknown
    write_object(f"{directory}/{unit}.json", content)


# --- the recorder --------------------------------------------------------------------------------------


def _show(unit: str) -> dict[str, str]:
    """What systemd says of the unit's sources, by systemctl's full path: PATH is the unit's own."""
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
    """What a process that starts now is started with; else nothing, and why that can't be told.

    Args:
        unit: Its name.
        state: What systemd says of its sources.
        listed: What it reads at its start, as `settle` wrote it down.
        key: The host's.
        disk: Where all this lies.
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
    """Write down what the unit that starts now is started with."""
    invocation = os.environ.get("INVOCATION_ID", "")
    listed = read_object(f"{lists}/{unit}.json")
    disk = _Looked()
    try:
        state = _show(unit)
        found, unknown = taken(unit, state, listed, read_key(key), disk)
        # systemd has handed over credentials already. What was changed since may not be what the process was given.
        begun = int(state.get("InactiveExitTimestampMonotonic", "0")) / 1e6
        late = disk.changed_within(time.monotonic() - begun)
        if found is not None and late:
            found, unknown = None, f"{late} was changed while it started"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        found, unknown = None, f"its inputs could not be read: {error}"
    write_record(unit, invocation, found, unknown, records)


def main(arguments: Sequence[str]) -> int:
    """`record UNIT`; a start goes on whatever becomes of it."""
    if len(arguments) != 2 or arguments[0] != "record":
        print("usage: fingerprint.py record UNIT", file=sys.stderr)
        return 2
    try:
        record(os.path.basename(arguments[1]))
    except OSError as error:
        print(f"what this start was given could not be written down: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
