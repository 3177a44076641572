"""Texts of other programs and users on an operator's terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from celery_fleet.cli import application, output
from celery_fleet.cli.commands import inspect, monitor, results
from celery_fleet.cli.errors import CommandError
from celery_fleet.cli.main import cli
from celery_fleet.cli.watching import Sample, Summary
from celery_fleet.health import result as health_result
from celery_fleet.health.result import BAD, Finding
from tests.unit.cli import host

#: Sets the terminal's title, clears it, and hides the rest.
EVIL = "x\x1b]0;owned\x07\x1b[2J\x1b[8my\x9b2J"
SHOWN = EVIL.translate(dict.fromkeys(map(ord, "\x1b\x07\x9b"), "\N{REPLACEMENT CHARACTER}"))
SAMPLE: dict[str, Any] = {
    "at": datetime.now(UTC).timestamp(),
    "elapsed": 1.0,
    "span": 1.0,
    "counts": {},
    "mean": None,
    "workers": {EVIL: {"online": False, "source": "events"}},
    "queues": {EVIL: 1},
    "last": False,
}


def sample(**more: Any) -> Sample:
    failure = {"task": EVIL, "id": EVIL, "worker": EVIL, "error": EVIL}
    return Sample.of({**SAMPLE, "failures": [failure], "trouble": EVIL, **more})


def picture() -> None:
    summary = Summary()
    summary.add(sample())
    output.console().print(monitor.picture(summary, 5))


@pytest.mark.parametrize(
    "show",
    [
        lambda: output.say(EVIL),
        lambda: output.table(EVIL, (EVIL,), [(EVIL,), ((EVIL, True),)]),
        lambda: CommandError(EVIL).show(),
        lambda: results.show_outcome(
            {"ok": False, "state": EVIL, "error": EVIL, "traceback": EVIL}
        ),
        lambda: inspect.show("conf", {EVIL: {EVIL: EVIL}}),
        lambda: inspect.show("active", {EVIL: [{"name": EVIL, "id": EVIL}]}),
        lambda: monitor._print_lines(sample()),
        picture,
    ],
)
def test_no_escape_sequence_reaches_a_terminal(
    show: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    show()
    said = "".join(capsys.readouterr())
    assert SHOWN in said
    assert "\x1b" not in said
    assert "\x9b" not in said


def test_health_shows_what_a_check_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(health_result, "STATE", tmp_path)
    host.install(tmp_path)
    found = health_result.compose(
        app="shop",
        host="worker1",
        interval=300,
        findings={"disk": Finding(BAD, EVIL)},
        last={},
        checked=health_result.moment(datetime.now(UTC)),
        seconds=1.0,
        invocation="x",
    )
    health_result.write(tmp_path / "shop.json", found)
    assert SHOWN in CliRunner().invoke(cli, ["health"]).output


def test_a_result_is_exact_in_json_and_harmless_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"ok": True, "result": f"one\n\ttwo {EVIL}"}
    results.show_outcome(found)
    assert capsys.readouterr().out == f"one\n\ttwo {EVIL}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    results.show_outcome(found)
    assert capsys.readouterr().out == f"one\n\ttwo {SHOWN}\n"


def test_half_a_surrogate_pair_is_escaped(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """No encoding has it, but JSON does, so a result may be cut within an emoji."""
    found = {"ok": True, "result": "cut é\ud83d"}
    results.show_outcome(found)
    assert capsysbinary.readouterr().out == b"cut \xc3\xa9\\ud83d\n"
    for show in (
        lambda: results.show_outcome({**found, "result": found}),
        lambda: output.as_json(found),
    ):
        show()
        assert b'"cut \\u00e9\\ud83d"' in capsysbinary.readouterr().out


def printed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: tuple[str, ...],
    *rows: tuple[Any, ...],
    width: int = 80,
) -> list[str]:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, no_color=True))
    output.table("Title", columns, rows, right=("restarts", "times"))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line == line.rstrip() for line in lines), "padded"
    return lines


def test_a_table_fits_the_terminal_and_breaks_no_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, due = "core.tasks.recompute_all_discounts", "2026-11-22 00:00:00"
    columns = ("entry", "task", "queue", "schedule", "due (America/Guayaquil)", "due (UTC)")
    row = ("recompute-all", task, "discounts", "crontab 0 2 * * *", due, "2026-11-22 05:00:00")
    wide = printed(capsys, monkeypatch, columns, row, width=output.WIDE)
    assert re.split(" {2,}", wide[2]) == list(row)
    lines = printed(capsys, monkeypatch, columns, row)
    words = {word for line in lines for word in line.split()}
    assert words >= {"recompute-", "all", "core.tasks.", "2026-11-22", "00:00:00", "discounts"}
    assert lines[-1] == ""
    assert printed(capsys, monkeypatch, ("a", "b")) == ["Title", "a  b", ""]


def test_a_row_whose_words_are_too_long_takes_a_line_for_each_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = "6f1e0c5a-1b2c-4d3e-af90-a1b2c3d4e5f6"
    row = (identity, "recomputediscounts", "discounts", "undecodable", 12, "worker1")
    columns = ("id", "task", "queue", "reason", "times", "node")
    lines = printed(capsys, monkeypatch, columns, row, ("", "x", "", "", 1, "y"))
    assert lines == [
        "Title",
        f"id      {identity}",
        "task    recomputediscounts",
        "queue   discounts",
        "reason  undecodable",
        "times   12",
        "node    worker1",
        "",
        "task    x",
        "times   1",
        "node    y",
        "",
    ]


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("core.tasks.add_all", ["core.", "tasks.", "add_", "all"]),
        ("mail@worker1, bulk", ["mail@", "worker1,", "bulk"]),
        ("3.5 s on 10.0.0.1:6379", ["3.5", "s", "on", "10.0.0.1:6379"]),
        ("2026-01-02 03:00:00", ["2026-01-02", "03:00:00"]),
        ("6f1e0c5a-1b2c-4d3e-af90-a1b2c3d4e5f6", ["6f1e0c5a-1b2c-4d3e-af90-a1b2c3d4e5f6"]),
        ("", [""]),
    ],
)
def test_cells_are_split_between_words(cell: str, parts: list[str]) -> None:
    assert output.parts(cell) == parts


def test_commands_only_print_with_this_module() -> None:
    """Exceptions are completion, whose output is for a shell, and logs, which starts fast and prints one sentence."""
    commands = Path(inspect.__file__).parent.glob("*.py")
    found = {path.stem for path in commands if "click.echo" in path.read_text()}
    assert found == {"completion", "logs"}


def test_json_has_no_numbers_that_json_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"mean": float("nan"), "most": [float("inf"), 2.5], "pair": (float("-inf"), 1)}
    output.as_json({**values, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    results.show_outcome({"ok": True, "result": values})
    first, second = capsys.readouterr().out.split("\n}\n", 1)

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is not JSON")

    wanted = {"mean": None, "most": [None, 2.5], "pair": [None, 1]}
    assert json.loads(f"{first}}}", parse_constant=refuse) == {
        **wanted,
        "at": "2026-01-01 00:00:00+00:00",
    }
    assert json.loads(second, parse_constant=refuse) == wanted
