"""List the failed tests of parts of `scripts/check.sh` at the end of its output: `python -m scripts.failures PART...`.

A part's pytest leaves its record in `.state/failures/<part>.xml`, and Ansible under Molecule leaves its log next to it
in `<part>.log`. Other output, such as Molecule's recap, may hide a failure, and a CI may show only the last lines. So
each failed test becomes one line here: `FAILED <test> — <first line of its error>`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

LINES = 20
WIDTH = 200

# "2026-01-31 10:00:00,000 p=123 u=me n=ansible INFO| fatal: [worker1]: FAILED! => "; the result is on the next lines.
RECORD = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ p=\d+ u=\S+ n=ansible [A-Z]+\| ")
TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*)\] \**$")
FATAL = re.compile(r"^fatal: \[([^\]]+)\]: (\S+)!? =>")
MESSAGE = re.compile(r"^ +msg: (?:[|>]-?\s*\n *)?(.+)$", re.MULTILINE)
# pytest marks an exception as in "E   AssertionError: …".
RAISED = re.compile(r"^E {2,}(\S.*)$", re.MULTILINE)


def of_tests(record: str) -> list[str]:
    """Return the lines for a record of pytest (JUnit's XML, `junit_family=xunit1`), in the order of the run.

    Raises:
        ET.ParseError: The text is not a record, for example because pytest was killed while it wrote.
    """
    found = []
    for case in ET.fromstring(record).iter("testcase"):  # noqa: S314  # our own pytest wrote it
        for kind in ("failure", "error"):
            for outcome in case.findall(kind):
                found.append(_line(_test(case), _error(outcome)))  # noqa: PERF401  # three levels deep
    return found


def _test(case: ET.Element) -> str:
    """Return the test's id, ready to paste: `file::Class::name`, or only the file if it can't be collected."""
    name, classes, file = (case.get(key, "") for key in ("name", "classname", "file"))
    if not file or not classes:
        return file or name
    inside = classes.removeprefix(file.removesuffix(".py").replace("/", ".")).strip(".")
    return "::".join([file, *inside.split("."), name] if inside else [file, name])


def _error(outcome: ET.Element) -> str:
    message: str = outcome.get("message", "")
    # For "collection failure" and "failed on setup with …" only the text has the exception.
    if outcome.tag == "error" and (raised := RAISED.findall(outcome.text or "")):
        return str(raised[-1])
    return next((line for line in message.splitlines() if line.strip()), "no message")


def of_ansible(log: str) -> list[str]:
    """Return the lines for a log of Ansible: the last task that failed, on each of its hosts.

    Earlier failures were rescued or ignored, or the run would have ended with them. Removing the hosts comes later.
    """
    task, failed = "", dict[str, list[str]]()
    for block in _blocks(log):
        if named := TASK.match(block):
            task = named[1]
        elif fatal := FATAL.match(block):
            message = MESSAGE.search(block)
            # If a task fails again in a later play, the later failure counts.
            lines = failed.pop(task, [])
            failed[task] = [
                *lines,
                _line(f"{task} ({fatal[1]})", message[1] if message else fatal[2]),
            ]
    return list(failed.values())[-1] if failed else []


def _blocks(log: str) -> list[str]:
    """Return the texts of a log's records, without Ansible's prefixes."""
    found: list[list[str]] = []
    for line in log.splitlines():
        text = RECORD.sub("", line)
        if text != line:
            found.append([text])
        elif found:
            found[-1].append(line)
    return ["\n".join(lines).strip() for lines in found]


def _line(what: str, error: str) -> str:
    # Remove control characters, which could hide what follows on a terminal. XML has none, but a log may.
    text = "".join(each for each in f"FAILED {what} — {error.strip()}" if each.isprintable())
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def of_part(part: str, directory: Path) -> list[str]:
    """Return a line for each failure of a part; if none is recorded, a line that says so."""
    record, log = directory / f"{part}.xml", directory / f"{part}.log"
    try:
        lines = of_tests(record.read_text(errors="replace"))
    except (OSError, ET.ParseError):
        lines = []
    if not lines and log.is_file():
        lines = of_ansible(log.read_text(errors="replace"))
    return lines or [f"FAILED {part} — no failed test is on record: see the output above"]


def shown(lines: Sequence[str]) -> list[str]:
    """Return at most `LINES` lines; the last one counts the lines that were cut off."""
    if len(lines) <= LINES:
        return list(lines)
    return [*lines[: LINES - 1], f"… and {len(lines) - LINES + 1} more, above"]


def main(parts: Sequence[str]) -> int:
    """Print the failures of these parts."""
    directory = Path(__file__).resolve().parent.parent / ".state" / "failures"
    print(*shown([line for part in parts for line in of_part(part, directory)]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
