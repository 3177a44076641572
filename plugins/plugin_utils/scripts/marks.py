"""Keeps marks of a release's commands: which are done, and which were started; runs as root by `python3 -S -I -c`.

Commands that run on one host have their marks on the fleet's first Redis host, so that the runs of all hosts see them.
Commands that run on all hosts have their marks on each host.

Input: {"directory": of the marks, "app", "scope": "fleet" | "host", "do": "look" | "start" | "done" | "drop",
"release"} and, except for a look, {"name", "when": "release" | "once", "host": the one that runs the command}.
Output of a look: {"release": {name: mark}, "once": {name: mark}}. Otherwise: {"state": "started" | "done" |
"unreadable", "host", "resumed": whether the mark was there already, "path"}.

A mark is a file {"state": "started" | "done", "host"}. It is written whole or not at all, and survives a crash. Whether
a started command still runs is not in it: systemd knows that, on its host.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any] | None:
    """Read a mark; None if there is none.

    Raises:
        ValueError: It is not a mark.
    """
    try:
        mark = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(mark, dict) or mark.get("state") not in ("started", "done"):
        raise ValueError("it is not a mark")
    return mark


def synced(directory: Path) -> None:
    """Write a directory to disk, so that a rename in it survives a crash."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, mark: dict[str, Any]) -> None:
    """Write a mark whole or not at all, and to disk."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(mark, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    synced(path.parent)


def marks(directory: Path) -> dict[str, Any]:
    """Return all marks of a directory by name. One that can't be read counts, so that nothing is done twice."""
    found: dict[str, Any] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            mark = read(path)
        except ValueError as error:
            mark = {"state": "unreadable", "path": str(path), "error": str(error)}
        if mark is not None:
            found[path.stem] = mark
    return found


def answer(asked: dict[str, Any], place: Path) -> dict[str, Any]:
    """Carry out a request about one command. The caller holds the lock."""
    name = str(asked["name"])
    kept = place / ("once" if asked["when"] == "once" else str(asked["release"]))
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = kept / f"{name}.json"
    try:
        mark = read(path)
    except ValueError as error:
        return {"state": "unreadable", "path": str(path), "error": str(error)}
    ours = {"state": "started", "host": asked["host"]}
    if asked["do"] == "drop":
        if mark == ours:
            path.unlink()
            synced(kept)
    elif asked["do"] == "done":
        write(path, {**ours, "state": "done"})
    elif mark is None:
        write(path, ours)
    return {**(mark or ours), "resumed": mark is not None, "path": str(path)}


def main() -> None:
    """Answer one request, under the lock."""
    asked = json.load(sys.stdin)
    place = Path(asked["directory"]) / asked["app"] / asked["scope"]
    if asked["do"] == "look":
        # A plan changes nothing, so a look takes no lock. Each mark is whole.
        found = {"release": marks(place / str(asked["release"])), "once": marks(place / "once")}
        print(json.dumps(found))
        return
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(json.dumps(answer(asked, place)))


if __name__ == "__main__":
    main()
