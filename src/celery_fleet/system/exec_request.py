"""Read and check the command line of :mod:`celery_fleet.system.exec`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

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


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in our form."""

    def error(self, message: str) -> NoReturn:
        """Raise an error with the usage."""
        raise ExecError(f"{message}; {USAGE}")


def arguments(argv: Sequence[str]) -> ExecRequest:
    """Read the command line (without the program's name).

    Raises:
        ExecError: The command line is wrong; the text shows the usage.
    """
    if "--" not in argv:
        raise ExecError(f"no command: {USAGE}")
    cut = list(argv).index("--")
    command = tuple(argv[cut + 1 :])
    if not command:
        raise ExecError(f"no command after --; {USAGE}")
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--app", required=True)
    parser.add_argument("--as", dest="component", choices=COMPONENTS)
    parser.add_argument("--timeout", type=_seconds)
    parser.add_argument("--unit", type=_unit)
    for name in ("--release", "--output", "--umask"):
        parser.add_argument(name)
    return ExecRequest(command=command, **vars(parser.parse_args(argv[:cut])))


def _unit(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:_.@-]{1,200}", name):
        raise ExecError(f"--unit {name!r} can't be the name of a unit")
    return name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:
        raise ExecError(f"--timeout {text}: must be a number of seconds above 0, {LONGEST} at most")
    return seconds
