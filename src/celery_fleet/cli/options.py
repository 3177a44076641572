"""Options that all commands have, before or after the command's name."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any

import click

from celery_fleet.cli import application as applications
from celery_fleet.cli import ask
from celery_fleet.cli.application import Application


@dataclass
class Given:
    """What was said before the command's name, and when, on the clock of `time.monotonic`."""

    app: str | None = None
    format: str | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Context:
    """What a command works with; `began` is when its process did, on the clock of `time.monotonic`."""

    application: Application
    json: bool
    began: float = field(default_factory=time.monotonic)

    def left(self, seconds: float = ask.BOUND) -> float:
        """How much is left of a bound that began with the process."""
        return seconds - (time.monotonic() - self.began)

    def within(self, what: str, seconds: float = ask.BOUND) -> AbstractContextManager[None]:
        """As `ask.bounded`, from the start of the process on."""
        return ask.bounded(what, self.left(seconds) - ask.MARGIN, seconds)


def complete_app(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """The host's applications, for the shell's completion."""
    del context, parameter
    return [name for name in applications.names() if name.startswith(typed)]


def known(context: click.Context) -> Application | None:
    """The application that is meant, for the shell's completion: nothing where that is open."""
    given = context.find_object(Given)
    try:
        return applications.choose(context.params.get("app") or (given.app if given else None))
    except click.ClickException:
        return None


app_option = click.option(
    "--app",
    metavar="NAME",
    shell_complete=complete_app,
    help="The application; needed where a host has several.",
)
format_option = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    help="A table (default), or JSON for scripts.",
)


class Seconds(click.FloatRange):
    """A number of seconds; such words as `nan`, which Python takes for one, are none."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse what is no number, or out of range."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return found


def with_examples(text: str, examples: Iterable[str]) -> str:
    """A help text with examples below it, each in a line of its own."""
    # Without the mark click would fill the lines into a paragraph.
    return "\n\n".join([inspect.cleandoc(text), "\n".join(["\b", "Examples:", *examples])])


def command(
    *, formats: bool = True, bound: bool = False, examples: Iterable[str] = (), **options: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """`click.command` for a function whose first argument is a :class:`Context`.

    Args:
        formats: Whether it prints tables or JSON.
        bound: Whether all of it has to be done within :data:`ask.BOUND`; others bound their parts.
        examples: Command lines for its help.
        options: Click's own.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def called(app: str | None = None, format_: str | None = None, **rest: Any) -> Any:
            given = click.get_current_context().find_object(Given) or Given()
            name = app or given.app
            form = format_ or given.format
            made = Context(applications.choose(name), form == "json", given.began)
            if not bound:
                return function(made, **rest)
            with made.within(str(click.get_current_context().info_name)):
                return function(made, **rest)

        wrapped: Callable[..., Any] = update_wrapper(called, function)
        for option in (format_option, app_option) if formats else (app_option,):
            wrapped = option(wrapped)
        text = with_examples(function.__doc__ or "", examples)
        decorator: Callable[[Callable[..., Any]], click.Command]
        decorator = click.command(help=text, **options)
        return decorator(wrapped)

    return decorate
