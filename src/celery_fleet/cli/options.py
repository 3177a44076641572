"""Options that all commands share, given before or after the command's name."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import update_wrapper
from types import MappingProxyType
from typing import Any

import click

from celery_fleet.cli import application as applications
from celery_fleet.cli import ask
from celery_fleet.cli.application import Application


@dataclass(frozen=True)
class GlobalOptions:
    """Options given before the command's name, and the process's start on the clock of `time.monotonic`."""

    app: str | None = None
    json: bool = False
    timeout: float | None = None
    began: float = field(default_factory=time.monotonic)

    def and_then(
        self,
        app: str | None = None,
        format_: str | None = None,
        json_: bool = False,
        timeout_: float | None = None,
    ) -> GlobalOptions:
        """Return these options overridden by those given after a further name."""
        json = True if json_ else self.json if format_ is None else format_ == "json"
        return GlobalOptions(app or self.app, json, timeout_ or self.timeout, self.began)


@dataclass(frozen=True)
class Context:
    """What a command works with.

    Attributes:
        application: The chosen application.
        json: Whether to print JSON.
        began: When the process started, on the clock of `time.monotonic`.
        timeout: Seconds from --timeout; None if it was not given.
    """

    application: Application
    json: bool
    began: float = field(default_factory=time.monotonic)
    timeout: float | None = None

    def bound(self, usual: float = ask.BOUND) -> float:
        """Return the command's time limit in seconds: --timeout, or else the usual one."""
        return self.timeout or usual

    def left(self, seconds: float | None = None) -> float:
        """Return what is left of a limit that started with the process, in seconds."""
        return (seconds or self.bound()) - (time.monotonic() - self.began)

    def within(self, what: str, seconds: float | None = None) -> AbstractContextManager[None]:
        """Limit the time as `ask.bounded` does, counted from the start of the process."""
        return ask.bounded(what, self.left(seconds) - ask.MARGIN, seconds or self.bound())


def complete_app(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Complete the host's applications in the shell."""
    del context, parameter
    return [name for name in applications.names() if name.startswith(typed)]


def chosen_application(context: click.Context) -> Application | None:
    """Return the chosen application for the shell's completion; None if the choice is open."""
    # No command is called during completion, so each name's options are only in its context.
    place: click.Context | None = context
    while place and not place.params.get("app"):
        place = place.parent
    try:
        return applications.choose(place.params["app"] if place else None)
    except click.ClickException:
        return None


class Seconds(click.FloatRange):
    """A number of seconds; refuses words such as `nan` that Python accepts as a float."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Refuse a value that is not a number or out of range."""
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return found


def count_option(default: int, meaning: str) -> Callable[[Any], Any]:
    """Return the option -n, --count of a command that lists things."""
    return click.option(
        "-n",
        "--count",
        type=click.IntRange(1, 1000),
        default=default,
        show_default=True,
        help=meaning,
    )


def shared(
    function: Callable[..., Any], *, formats: bool = True, timeout: bool = True, first: bool = False
) -> Callable[..., Any]:
    """Add the options that all commands share.

    Args:
        function: It takes them as :meth:`GlobalOptions.and_then` does.
        formats: Whether it prints tables or JSON, so that it has --format.
        timeout: Whether it has the shared --timeout, and not its own.
        first: Whether these come before all names; only these can be set by environment variables.
    """
    options = []
    if timeout:
        options.append(
            click.option(
                "--timeout",
                "timeout_",
                type=Seconds(1, 1_000_000),
                metavar="SECONDS",
                envvar="CELERY_FLEET_TIMEOUT" if first else None,
                help=f"How long an answer may take; usually {ask.BOUND:g} by default.",
            )
        )
    if formats:
        options += [
            click.option("--json", "json_", is_flag=True, help="The same as --format json."),
            click.option(
                "--format",
                "format_",
                type=click.Choice(["table", "json"]),
                help="A table (default), or JSON for scripts.",
            ),
        ]
    options.append(
        click.option(
            "--app",
            metavar="NAME",
            envvar="CELERY_FLEET_APP" if first else None,
            shell_complete=complete_app,
            help="The application; needed if a host has several.",
        )
    )
    for option in options:
        function = option(function)
    return function


def with_examples(text: str, examples: Iterable[str]) -> str:
    """Return a help text followed by examples, one on each line."""
    # Without the \b mark click would fill the lines into a paragraph.
    return "\n\n".join([inspect.cleandoc(text), "\n".join(["\b", "Examples:", *examples])])


class Group(click.Group):
    """A command with subcommands, which its help lists with whole sentences.

    Attributes:
        sections: Names of commands by title; commands without a section come last.
    """

    sections: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section."""
        sections = dict(self.sections)
        named = {name for names in sections.values() for name in names}
        rest = tuple(name for name in self.list_commands(ctx) if name not in named)
        for title, names in {**sections, "Commands": rest}.items():
            rows = [(name, first_sentence(self.commands[name])) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def first_sentence(command: click.Command) -> str:
    """Return the first sentence of a command's help."""
    text = " ".join((command.help or "").partition("\n\n")[0].split())
    return text.partition(". ")[0].removesuffix(".") + "."


def command(
    *,
    formats: bool = True,
    bound: bool = False,
    timeout: bool = True,
    examples: Iterable[str] = (),
    **options: Any,
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command like `click.command`, from a function with a :class:`Context` as its first argument.

    Args:
        formats: Whether it prints tables or JSON.
        bound: Whether the whole command must finish within :meth:`Context.bound`; other commands limit their parts.
        timeout: Whether it has the shared --timeout, and not its own.
        examples: Command lines for its help.
        options: Click's own options.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def called(
            app: str | None = None,
            format_: str | None = None,
            json_: bool = False,
            timeout_: float | None = None,
            **rest: Any,
        ) -> Any:
            given = click.get_current_context().find_object(GlobalOptions) or GlobalOptions()
            given = given.and_then(app, format_, json_, timeout_)
            made = Context(applications.choose(given.app), given.json, given.began, given.timeout)
            if not bound:
                return function(made, **rest)
            with made.within(str(click.get_current_context().info_name)):
                return function(made, **rest)

        wrapped: Callable[..., Any] = update_wrapper(called, function)
        wrapped = shared(wrapped, formats=formats, timeout=timeout)
        text = with_examples(function.__doc__ or "", examples)
        decorator: Callable[[Callable[..., Any]], click.Command]
        decorator = click.command(help=text, **options)
        return decorator(wrapped)

    return decorate
