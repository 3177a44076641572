"""Read and check the command line of :mod:`celery_fleet.system.exec`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: The components that lend a command their credentials. Beat's are for reading its schedule. `schedule` means beat's
#: settings with the declared entries, for a beat that reads its entries from a database.
COMPONENTS = ("producer", "operator", "beat", "schedule")

#: Exit statuses other than the command's.
TIMED_OUT, FAILED, NOT_EXECUTABLE, NOT_FOUND = 124, 125, 126, 127
#: Largest --timeout in seconds, about 30 years; systemd does not accept arbitrary numbers.
LONGEST = 1_000_000_000

USAGE = (
    f"usage: exec.py --app APP [--as {'|'.join(COMPONENTS)}] [--release ID] [--timeout SECONDS]"
    " [--unit NAME] [--output PATH] [--umask MODE] -- CMD…"
)


class ExecError(Exception):
    """The reason why a command can't be run, in one line; ``status`` is the exit status for it."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status


@dataclass(frozen=True)
class ExecRequest:
    """A checked command line; see :mod:`celery_fleet.system.exec`."""

    app: str
    command: tuple[str, ...]
    component: str = "producer"
    release: str | None = None
    timeout: float | None = None
    unit: str | None = None
    output: str | None = None
    umask: str = "0077"


def arguments(argv: Sequence[str]) -> ExecRequest:
    """Read the command line (without the program's name).

    Raises:
        ExecError: The command line is wrong; the text shows the usage.
    """
    if "--" not in argv:
        raise ExecError(f"no command: {USAGE}")
    cut = list(argv).index("--")
    own, command = list(argv[:cut]), tuple(argv[cut + 1 :])
    if not command:
        raise ExecError(f"no command after --; {USAGE}")
    known = {
        "--app": "app",
        "--as": "component",
        "--release": "release",
        "--timeout": "timeout",
        "--unit": "unit",
        "--output": "output",
        "--umask": "umask",
    }
    given: dict[str, str] = {}
    while own:
        word = own.pop(0)
        if word not in known or not own:
            raise ExecError(f"{word} is not an option with a value; {USAGE}")
        given[known[word]] = own.pop(0)
    if "app" not in given:
        raise ExecError(f"--app is missing; {USAGE}")
    component = given.get("component", "producer")
    if component not in COMPONENTS:
        raise ExecError(f"--as {component}: use one of {', '.join(COMPONENTS)}")
    return ExecRequest(
        app=given["app"],
        command=command,
        component=component,
        release=given.get("release"),
        timeout=_seconds(given.get("timeout")),
        unit=_unit(given.get("unit")),
        output=given.get("output"),
        umask=given.get("umask", ExecRequest.umask),
    )


def _unit(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9:_.@-]{1,200}", name):
        raise ExecError(f"--unit {name!r} can't be the name of a unit")
    return name


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise ExecError(f"--timeout {text}: must be a number of seconds above 0, {LONGEST} at most")
    return seconds
