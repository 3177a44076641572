"""A fake systemctl whose units are in a file: each `show` moves a unit one step further.

{"unit": {"steps": {"start": [{…}, …], "stop": […]}, "now": {…}, "left": []}}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PATH = Path(sys.argv[1])
VERB, *WORDS = sys.argv[2:]

units = json.loads(PATH.read_text())
names = [word for word in WORDS if not word.startswith("-")]
if VERB == "show":
    blocks = []
    for name in names:
        unit = units.get(name)
        if unit is None:
            blocks.append(f"Id={name}\nLoadState=not-found\nActiveState=inactive")
            continue
        blocks.append(
            "\n".join(f"{key}={value}" for key, value in {"Id": name, **unit["now"]}.items())
        )
        if unit["left"]:
            unit["now"] |= unit["left"].pop(0)
    print("\n\n".join(blocks))
else:
    if units.get("refuses"):
        sys.exit("Failed to do it: no")
    for name in names:
        units[name]["left"] = units[name]["steps"].get(VERB, [])
        units[name]["now"] |= units[name]["left"].pop(0) if units[name]["left"] else {}
    units.setdefault("log", []).append([VERB, *WORDS])
PATH.write_text(json.dumps(units))
