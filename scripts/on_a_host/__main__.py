"""Write docs/on-a-host.md: all that the roles put on hosts, and who can read which secret.

    python -m scripts.on_a_host           write the file
    python -m scripts.on_a_host --check   say whether it is what would be written; 1 if not

What stands there is what real dry runs of `site.yml` would settle, over the inventories that the render tests have:
so it takes a minute, and a test of theirs compares it. What belongs to one inventory is told by a placeholder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.on_a_host.page import write
from scripts.on_a_host.things import ROOT
from tests.render.fleet import FILLED_IN, VALKEY, VARIANTS, render

OUTPUT = ROOT / "docs" / "on-a-host.md"


def main(arguments: Sequence[str]) -> int:
    """Parse, render, write or compare."""
    parser = argparse.ArgumentParser(
        prog="scripts.on_a_host", description="Write docs/on-a-host.md from dry runs."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    check = parser.parse_args(arguments).check
    wanted = {name: (name, given) for name, given in FILLED_IN.items()} | VARIANTS
    wanted["valkey"] = ("staging", VALKEY)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        runs = {
            title: pool.submit(
                render, inventory, Path(name), given, 257 if title == "valkey" else 252, title
            )
            for title, (inventory, given) in wanted.items()
        }
        fleets = {title: run.result() for title, run in runs.items()}
    text = write(fleets.pop("local"), list(fleets.values()))
    if not check:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.is_file() and OUTPUT.read_text() == text:
        return 0
    print(
        f"{OUTPUT.relative_to(ROOT)} is stale: run `python -m scripts.on_a_host`", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
