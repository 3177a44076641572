"""Write the table and the picture of the last soak of the restarts into docs/: `make report-restarts`.

It reads the results of `make soak-restarts` in .state/results and measures nothing itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .origin import ORIGINS, RESULTS, ReportError, require_sound, table_of_origins
from .picture import Panel, draw
from .summary import RestartSummary

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "restarts.md"
PICTURE = ROOT / "docs" / "restarts.svg"

# The ways in the order of the columns, each with its acknowledgement.
TITLES = {
    "fleet": "Celery Fleet, `restart_workers.yml`",
    "plain": "plain unit, early acknowledgement",
    "multi": "`celery multi`, early acknowledgement",
    "plain-late": "plain unit, late acknowledgement",
    "multi-late": "`celery multi`, late acknowledgement",
}
NOTHING = "-"
# Cases in which nothing breaks.
ORDERLY = ("calm", "roll", "overlap")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
#: Runs that the page needs. Without those of the stock units, our results would prove nothing.
WANTED = (
    *(("calm", "fleet"), ("overlap", "fleet")),
    *(("roll", way) for way in TITLES),
    ("ansible-playbook killed and run again", "fleet"),
    ("a worker does not start", "fleet"),
    ("a host is lost in its turn", "fleet"),
    ("Redis is restarted", "fleet"),
    ("a task longer than its drain", "fleet"),
    # With `celery multi` this case only ends if some of its workers survive Redis's restart.
    ("all of these", "plain"),
)
#: What the table calls a case that needs more words than its results' name.
LABELS = {
    "all of these": "a task longer than its drain, Redis is restarted, and a host is lost, in one run"
}


def load(directory: Path) -> dict[tuple[str, str], RestartSummary]:
    """Return every kept run by case and way."""
    found = [RestartSummary.read(path) for path in sorted(directory.glob("*.summary.json"))]
    return {(summary.name, summary.way): summary for summary in found}


def seconds_text(value: float | None) -> str:
    """Return seconds as the text of a cell."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.0f} s" if value >= 10 else f"{value:.2f} s"


def _ratio(value: float | None, least: float | None) -> str:
    return f"{value / least:.2f}" if value and least else NOTHING


def _queues(values: Mapping[str, int]) -> str:
    return ", ".join(f"{queue} {number}" for queue, number in values.items())


def causes_text(values: Mapping[str, int]) -> str:
    """Return the text of a cell: each cause with its number."""
    return "; ".join(f"{number} {cause}" for cause, number in values.items()) or NOTHING


def _handed_back(one: RestartSummary) -> str:
    turns = one.report.get("turns", ())
    return str(sum(turn.get("handed_back") or 0 for turn in turns)) if turns else NOTHING


def rows(columns: Sequence[RestartSummary], calm: RestartSummary) -> list[list[str]]:
    """Return the rows of the table of orderly restarts, each with its heading."""
    return [
        ["sent", *(f"{one.sent:,}" for one in columns)],
        ["done", *(f"{one.done:,}" for one in columns)],
        ["**lost**", *(f"**{one.lost}**" for one in columns)],
        ["**doubled**", *(f"**{one.doubled}**" for one in columns)],
        ["wait, p50", *(seconds_text(one.waits["p50"]) for one in columns)],
        [
            f"wait, p99 (without a restart {seconds_text(calm.waits['p99'])})",
            *(seconds_text(one.waits["p99"]) for one in columns),
        ],
        [
            f"longest wait (without a restart {seconds_text(calm.waits['longest'])})",
            *(seconds_text(one.waits["longest"]) for one in columns),
        ],
        [
            f"fewest consuming processes (of {_queues(calm.fewest)})",
            *(_queues(one.fewest) for one in columns),
        ],
        ["tasks handed back before they started", *(_handed_back(one) for one in columns)],
        ["first stop to last return", *(seconds_text(one.roll) for one in columns)],
        [
            "shortest possible time for these drains and boots",
            *(seconds_text(one.critical) for one in columns),
        ],
        ["ratio of the two", *(_ratio(one.roll, one.critical) for one in columns)],
    ]


def table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    every = [list(headings), ["---"] * len(headings), *map(list, lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


def figures(found: Mapping[tuple[str, str], RestartSummary]) -> str:
    """Return both tables with a sentence between them; `found` must have all wanted runs."""
    calm = found["calm", "fleet"]
    columns = [found["roll", way] for way in TITLES if ("roll", way) in found]
    text = table(["", *(TITLES[one.way] for one in columns)], rows(columns, calm))
    text += "\n\n" + _sentence(found["overlap", "fleet"])
    faults = [
        [
            *(LABELS.get(one.name, one.name), TITLES[way], f"{one.sent:,}"),
            *(str(one.lost), causes_text(one.lost_causes)),
            *(str(one.doubled), causes_text(one.doubled_causes)),
            seconds_text(one.waits["longest"]),
        ]
        for (name, way), one in sorted(
            found.items(), key=lambda item: list(TITLES).index(item[0][1])
        )
        if name not in ORDERLY
    ]
    if faults:
        heading = ["fault", "run by", "sent", "lost", "by", "doubled", "by", "longest wait"]
        text += "\n\n" + table(heading, faults)
    return f"{text}\n\nMeasured by:\n\n{table(ORIGINS, table_of_origins(list(found.values())))}"


def require_publishable(found: Mapping[tuple[str, str], RestartSummary], root: Path = ROOT) -> None:
    """Refuse runs that must not be published: failed, stale or incomplete.

    Raises:
        ReportError: Lists each such run and the command that measures it again.
    """
    missing = [f"{name} ({way})" for name, way in WANTED if (name, way) not in found]
    require_sound("restarts", list(found.values()), missing, root)


def _sentence(overlap: RestartSummary) -> str:
    """Describe the run in which a queue has a single worker in words, because it can't be compared with the others."""
    waited, fewest = seconds_text(overlap.waits["p99"]), _queues(overlap.fewest)
    return (
        "In another run, one queue has a single worker with as many processes as three workers have otherwise. It is "
        f"overlapped: a second instance consumes while it restarts. Of {overlap.sent:,} tasks, {overlap.lost} were "
        f"lost and {overlap.doubled} doubled. The 99th percentile waited {waited}. The fewest consuming processes "
        f"were {fewest}."
    )


def picture(found: Mapping[tuple[str, str], RestartSummary]) -> str:
    """Return the picture of the three ways over time."""
    panels = [
        Panel(TITLES[way].replace("`", ""), found["roll", way].series, found["roll", way].restart)
        for way in ("fleet", "plain", "multi")
        if ("roll", way) in found
    ]
    return draw(panels, "Throughput and lost tasks over time while all workers are restarted")


def between(
    text: str, figures: str, page: Path = PAGE, begin_mark: str = BEGIN, end_mark: str = END
) -> str:
    """Return a page with its figures replaced, which are between two marks.

    Raises:
        ReportError: The page lacks the lines that mark the place of the figures.
    """
    before, begin, rest = text.partition(begin_mark)
    _, end, after = rest.partition(end_mark)
    if not begin or not end:
        raise ReportError(f"{page.relative_to(ROOT)} lacks the lines {begin_mark} and {end_mark}")
    return f"{before}{begin}\n\n{figures}\n\n{end}{after}"


def write(page: Path, figures: str, picture_path: Path, picture: str) -> None:
    """Write a page with new figures, and its picture."""
    page.write_text(between(page.read_text(), figures, page))
    picture_path.write_text(picture)
    print(f"{page.relative_to(ROOT)} and {picture_path.relative_to(ROOT)} are written")


def write_or_check(
    page: Path, figures: str, argv: Sequence[str], begin_mark: str = BEGIN, end_mark: str = END
) -> int:
    """Write a page with new figures; with `--check`, only compare it. Return the exit status."""
    text = page.read_text()
    wanted = between(text, figures, page, begin_mark, end_mark)
    if "--check" in argv:
        return 0 if wanted == text else 1
    page.write_text(wanted)
    print(f"{page.relative_to(ROOT)} is written")
    return 0


def run(main: Callable[[], None]) -> None:
    """Run the main function of a report; its errors end the process without a traceback."""
    try:
        main()
    except (ReportError, OSError) as error:
        sys.exit(f"error: {error}")


def main() -> None:
    """Read the runs and write the page and the picture."""
    found = load(RESULTS)
    require_publishable(found)
    write(PAGE, figures(found), PICTURE, picture(found))


if __name__ == "__main__":
    run(main)
