"""Ask the release's Python questions, each with a time limit."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import BAD, CommandError
from celery_fleet.common.text import late
from celery_fleet.health.in_release import last_line, run_module
from celery_fleet.health.setup import CheckError
from celery_fleet.system.exec_request import TIMED_OUT

#: Seconds within which a command answers by default, unless it runs something for the operator.
BOUND = 10.0

#: Seconds of these that are kept for ending what takes too long.
MARGIN = 0.5

#: Seconds of these for starting the release's Python, so that its own answer comes before the outer limit.
START = 2.0


class _OverdueError(Exception):
    pass


class LateError(CommandError):
    """There was no answer in time."""


@contextmanager
def bounded(what: str, seconds: float = BOUND, said: float | None = None) -> Iterator[None]:
    """Limit the time of the block; inside another limit, the shorter one counts.

    Args:
        what: What is being done, for the message.
        seconds: The limit from now on.
        said: The limit to report, if part of it has already passed.

    Raises:
        LateError: The block took longer.
    """
    seconds = max(seconds, 0.001)
    began = time.monotonic()

    def overdue(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _OverdueError

    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    if 0 < outer <= seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OverdueError:
        raise LateError(f"{what}: {late(said or seconds)}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:
            left = outer - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


@contextmanager
def in_doubt(change: str) -> Iterator[None]:
    """If Ctrl-C or the time ends the block, say that what it changes may have been changed all the same.

    Args:
        change: What that means, such as `shop.add may have been sent all the same`.

    Raises:
        CommandError: One of them ended it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError(f"interrupted; {change}") from None
    except LateError as error:
        raise CommandError(f"{error.message}; {change}") from None


def question(application: Application, name: str, **request: Any) -> Any:
    """Ask one of :data:`celery_fleet.ops.questions.QUESTIONS` as the operator, and return the answer.

    Raises:
        CommandError: No answer; the text has the reason.
    """
    settings = application.carried_settings()
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    timeout = round(max(1.0, (left or BOUND) - START), 1)
    asked = {"question": name, "settings": settings, "timeout": timeout, **request}
    try:
        answer = run_module(application, "celery_fleet.ops.questions", asked, timeout + 5)
    except CheckError as error:
        raise CommandError(str(error)) from None
    if not answer.get("ok"):
        raise CommandError(str(answer.get("error") or "no answer"))
    return answer["answer"]


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block has ended. A program that the block starts also begins without it.

    At a terminal that program gets Ctrl-C too: exec.py lets it through as soon as it can forward it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exec_command(application: Application, component: str, *words: str) -> list[str]:
    """Return the command line of :mod:`celery_fleet.system.exec` without the command itself."""
    script = application.runtime / "celery_fleet" / "system" / "exec.py"
    own = ["--app", application.name, "--as", component, *words]
    return ["/usr/bin/python3", "-S", "-I", str(script), *own]


def in_release(
    application: Application,
    component: str,
    command: Sequence[str],
    timeout: float,
    request: Mapping[str, Any] | None = None,
    errors: bool = False,
) -> Mapping[str, Any]:
    """Run a command in the application's environment, and return the last line that it prints, as JSON.

    Args:
        application: The application.
        component: The command gets the credentials of this component.
        command: Its words.
        timeout: Seconds after which it is stopped.
        request: Its standard input, as JSON; a command line would be visible to everyone on the host.
        errors: Whether its standard error goes directly to the user.

    Raises:
        CommandError: It could not be run, or printed something else.
        LateError: It took too long.
        KeyboardInterrupt: Ctrl-C ended it.
    """
    timeout = max(round(timeout, 1), 0.1)
    done: subprocess.CompletedProcess[str] | None = None
    try:
        # exec.py forwards Ctrl-C. An interrupted process would kill exec.py, and the command would run on.
        with interrupts_held():
            done = subprocess.run(
                [
                    *exec_command(application, component, "--timeout", f"{timeout:.15g}"),
                    *("--", *command),
                ],
                # Without a request pass empty input, so that the command does not wait for the operator's terminal.
                input=json.dumps(request) if request is not None else "",
                stdout=subprocess.PIPE,
                stderr=None if errors else subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
            )
    except OSError as error:
        raise CommandError(f"/usr/bin/python3 can't be run: {error.strerror}") from None
    except KeyboardInterrupt:
        # If it came too late to interrupt the command, the answer counts.
        if done is None or done.returncode:
            raise
    if done.returncode == TIMED_OUT:
        if errors:
            # The program has reported it already.
            raise click.exceptions.Exit(BAD)
        raise LateError(f"the application in its release: {late(timeout)}")
    try:
        return last_line(done, command[-1])
    except CheckError as error:
        # An error of exec itself needs no introduction.
        raise CommandError(str(error).rpartition("celery-fleet exec: ")[2]) from None
