"""Write docs/on-a-host.md: everything that the roles put on hosts, and who can read which secret.

    python -m scripts.on_a_host           write the file
    python -m scripts.on_a_host --check   check that it is up to date; exit status 1 if not

The page comes from real dry runs of `site.yml` with the inventories of the render tests. So it takes some minutes, and
one of these tests compares it. Values that belong to one inventory are replaced by placeholders.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.on_a_host.page import write
from scripts.on_a_host.things import ROOT
from tests.render.fleet import WANTED, render

OUTPUT = ROOT / "docs" / "on-a-host.md"


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, render, and write or compare the page."""
    parser = argparse.ArgumentParser(
        prog="scripts.on_a_host", description="Write docs/on-a-host.md from dry runs."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 if it is stale"
    )
    check = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {title: pool.submit(render, title, Path(name)) for title in WANTED}
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
