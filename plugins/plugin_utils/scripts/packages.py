"""Notes which Debian packages a run brings to a host; runs there, as root, by `python3 -S -I -c`.

Input: {"path": of the note, "do": "begin" | "end", "asked": [names]}. `begin` comes before they are installed and
writes down what is there, `end` after it.
Output: {"new": {name: "asked" | "needed"}}, those that came in between: the ones that were asked for, and those that
came with them.

The note, {"format": 1, "installed": {name: "asked" | "needed"}}, and until `end` "before" and "asked", is what a
removal of the fleet goes by. Of a run that was killed in between, whoever comes next takes over what
was asked for and what apt marks as needed by others alone; what somebody installed meanwhile is theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS = "/var/lib/dpkg/status"


def installed(path: str = STATUS) -> list[str]:
    """Names of the installed packages."""
    found, name = set(), ""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("Package: "):
                name = line[9:].strip()
            elif line.startswith("Status: ") and line.split()[-1] == "installed":
                found.add(name)
    return sorted(found)


def automatic() -> set[str]:
    """Names of those that apt installed for others' sake."""
    done = subprocess.run(["apt-mark", "showauto"], stdout=subprocess.PIPE, text=True, check=True)
    return {name.partition(":")[0] for name in done.stdout.split()}


def folded(note: dict[str, Any], now: list[str], auto: set[str]) -> dict[str, str]:
    """What has come since the note's `before`, if it has one; that goes from the note."""
    before, asked = note.pop("before", None), set(note.pop("asked", []))
    if before is None:
        return {}
    fresh = [name for name in now if name not in set(before)]
    found = {name: "asked" for name in fresh if name in asked}
    found.update({name: "needed" for name in fresh if name not in asked and name in auto})
    note["installed"] = {**note.get("installed", {}), **found}
    return found


def read(path: Path) -> dict[str, Any]:
    """The note; an empty one where there is none."""
    try:
        note = json.loads(path.read_text())
    except FileNotFoundError:
        return {"format": 1, "installed": {}}
    return dict(note)


def write(path: Path, note: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "w") as stream:
        json.dump(note, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)


def main() -> None:
    """Note it."""
    asked = json.load(sys.stdin)
    path = Path(asked["path"])
    note = read(path)
    now = installed()
    new = folded(note, now, automatic()) if "before" in note else {}
    if asked["do"] == "begin":
        note.update(before=now, asked=asked["asked"])
    write(path, note)
    print(json.dumps({"new": new}))


if __name__ == "__main__":
    os.umask(0o022)
    main()
