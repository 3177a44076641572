"""Write the tables and the picture of deploys under load into docs/deploys.md: `make report-noon`.

It reads the results of `make soak-noon` in .state/results/noon and measures nothing itself. Stale runs, and runs with a
failed test, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import origin
from .origin import ORIGINS, require_sound, table_of_origins
from .picture import Panel, draw
from .report import causes_text, load, run, seconds_text, table, write
from .summary import RestartSummary

ROOT = Path(__file__).resolve().parents[2]
RESULTS = origin.RESULTS / "noon"
PAGE = ROOT / "docs" / "deploys.md"
PICTURE = ROOT / "docs" / "deploys.svg"

#: The cases in the order of the table, each with its description.
CASES = {
    "deploys": "three deploys, a way back, and a run of `site.yml` while the release is held",
    "bad releases": "seven releases that are refused",
    "deploys killed": "ten deploys, each killed at a random moment and then finished or taken back",
    "a host is lost in a deploy": "a host loses its power half-way through a deploy",
    "tasks that one release knows": "tasks that only one of two releases knows, sent before and during deploys",
}
HEADINGS = ("case", "sent", "**lost**", "by", "**doubled**", "by", "longest wait")
#: What a run took, by its key in times.json, with the goal in seconds.
TIMES = {
    "deploy": ("`deploy_app.yml`, only code, canary not observed", 45),
    "back": ("`rollback_app.yml`", 20),
}

Found = Mapping[tuple[str, str], RestartSummary]


def figures(found: Found, times: Mapping[str, Any]) -> str:
    """Return the picture's place, the tables, and a sentence on requests and beat; `found` must have all cases."""
    lines = [
        [
            *(title, f"{one.sent:,}"),
            *(f"**{one.lost}**", causes_text(one.lost_causes)),
            *(f"**{one.doubled}**", causes_text(one.doubled_causes)),
            seconds_text(one.waits["longest"]),
        ]
        for title, one in ((title, found[name, "fleet"]) for name, title in CASES.items())
    ]
    report = found["deploys", "fleet"].report
    web, beat = report["web"], report["beat"]
    both = (
        f"During the first case, {web['failed']} of {web['requests']:,} requests to the web process failed. Beat had "
        f"{beat['slots']} slots: {beat['doubled']} were doubled and {beat['missed']} missed."
    )
    taken = [
        [title, seconds_text(times[name]), f"{goal} s"] for name, (title, goal) in TIMES.items()
    ]
    return "\n\n".join(
        [
            f"![Throughput and lost tasks over time during deploys]({PICTURE.name})",
            table(HEADINGS, lines),
            both,
            f"With {times['hosts']} hosts of workers and no task to wait for:",
            table(("run", "took", "goal"), taken),
            "Measured by:",
            table(ORIGINS, table_of_origins(list(found.values()))),
        ]
    )


def picture(found: Found) -> str:
    """Return the picture of good and of refused deploys over time."""
    panels = [
        Panel(title, found[name, "fleet"].series, found[name, "fleet"].restart)
        for name, title in (("deploys", "Good releases"), ("bad releases", "Refused releases"))
    ]
    return draw(panels, "Throughput and lost tasks over time during deploys", "deploys")


def require_publishable(found: Found, times: Mapping[str, Any], root: Path = ROOT) -> None:
    """Refuse runs that must not be published: failed, stale or incomplete, and times of another commit.

    Raises:
        ReportError: Lists each such run and the command that measures it again.
    """
    missing = [name for name in CASES if (name, "fleet") not in found]
    commits = {one.commit for one in found.values()}
    if times.get("commit") not in commits:
        missing.append("the times of a deploy and a way back, with the commit of the others")
    require_sound("noon", list(found.values()), missing, root)


def main() -> None:
    """Read the runs and write the page and the picture."""
    found, path = load(RESULTS), RESULTS / "times.json"
    times = json.loads(path.read_text()) if path.exists() else {}
    require_publishable(found, times)
    write(PAGE, figures(found, times), PICTURE, picture(found))


if __name__ == "__main__":
    run(main)
