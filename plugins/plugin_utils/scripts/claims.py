"""Keeps which commands of a release are done, and who is at one; runs as root by `python3 -S -I -c`.

Those that run on one host have their marks on the fleet's first Redis host, where all hosts' runs look; those that run
on all hosts have them on each.

Input: {"directory": where marks lie, "app", "scope": "fleet" | "host", "do": "look" | "claim" | "done" | "drop",
"release"} and, but for a look, {"name", "when": "release" | "once", "host": who runs it, "claim": a new word, "owner":
who asks, for people}.
Output of a look: {"release": {name: mark}, "once": {name: mark}}; else {"state": "ours" | "done" | "held" | "free" |
"unreadable", "claim": the one that counts, "resumed": whether it is one of before, "host", "owner", "since", "age",
"path"}.

A mark is a file, whole or not there, that outlasts a boot and a crash: {"state": "claimed" | "done", "claim", "host",
"owner", "since"}. A claim has no end of its own: whether its command still runs, its host knows.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any] | None:
    """A mark; None where there is none.

    Raises:
        ValueError: It is no mark.
    """
    try:
        mark = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(mark, dict) or mark.get("state") not in ("claimed", "done"):
        raise ValueError("it is no mark")
    return mark


def synced(directory: Path) -> None:
    """What was renamed in a directory lasts only when that is on disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, mark: dict[str, Any]) -> None:
    """Whole or not at all, and for good."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(mark, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    synced(path.parent)


def marks(directory: Path) -> dict[str, Any]:
    """All marks of a directory by name; one that can't be read counts as there, so that nothing is done twice."""
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
    """Do what is asked of one command; the caller holds the lock."""
    name = str(asked["name"])
    kept = place / ("once" if asked["when"] == "once" else str(asked["release"]))
    kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = kept / f"{name}.json"
    try:
        mark = read(path)
    except ValueError as error:
        return {"state": "unreadable", "path": str(path), "error": str(error)}
    mine = {
        "state": "claimed",
        "claim": asked["claim"],
        "host": asked["host"],
        "owner": asked["owner"],
        "since": time.time(),
    }
    if asked["do"] == "done":
        write(path, {**mine, "state": "done"})
        return {"state": "done", "path": str(path)}
    if asked["do"] == "drop":
        if mark is not None and mark["state"] == "claimed" and mark["claim"] == asked["claim"]:
            path.unlink()
            synced(kept)
        return {"state": "free", "path": str(path)}
    if mark is None:
        write(path, mine)
        return {**mine, "state": "ours", "resumed": False, "age": 0.0, "path": str(path)}
    state = mark["state"]
    if state == "claimed":
        # The same host asks its own systemd whether the command still runs.
        state = "ours" if mark["host"] == asked["host"] else "held"
    age = max(0.0, time.time() - float(mark["since"]))
    return {**mark, "state": state, "resumed": True, "age": age, "path": str(path)}


def main() -> None:
    """One question, one answer, under the lock."""
    asked = json.load(sys.stdin)
    place = Path(asked["directory"]) / asked["app"] / asked["scope"]
    if asked["do"] == "look":
        # Without a lock, and without a trace: a plan changes nothing. Each mark is whole.
        found = {"release": marks(place / str(asked["release"])), "once": marks(place / "once")}
        print(json.dumps(found))
        return
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(json.dumps(answer(asked, place)))


if __name__ == "__main__":
    main()
