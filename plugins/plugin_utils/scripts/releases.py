"""Lists the releases that a host keeps and which of them are in use; runs as root, by `python3 -S -I -c`.

Input: {"root": directory of the application}.
Output: {"kept": {id: {"built": Unix time, "one_way": [one-way migrations], "tasks": [registered tasks]}}, "pins":
{unit's name: id}, "current": the id that commands by hand use, or empty}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# As in module_utils/release/note.py, which is not on the host.
_NOTE = "release.json"


def kept(releases: Path) -> dict[str, Any]:
    """Return the complete releases."""
    found = {}
    for note in sorted(releases.glob(f"*/{_NOTE}")):
        try:
            document = json.loads(note.read_text())
            found[note.parent.name] = {
                "built": float(document["built"]),
                "one_way": [str(name) for name in document.get("one_way") or ()],
                "tasks": [str(name) for name in document.get("tasks") or ()],
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # it is being removed, or is no note
    return found


def target(link: Path) -> str:
    """Return the release that a link points to; empty if there is none."""
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def main() -> None:
    """Print what there is."""
    root = Path(json.load(sys.stdin)["root"])
    # Flower has releases of its own.
    links = [link for link in sorted(root.glob("pins/*")) if link.name != "flower"]
    pins = {link.name: target(link) for link in links}
    found = {"kept": kept(root / "releases"), "pins": pins, "current": target(root / "current")}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
