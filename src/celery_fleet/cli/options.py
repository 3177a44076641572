"""Options that all commands have, before or after the command's name."""

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
class Given:
    """What was said before the command's name, and when the process began, on the clock of `time.monotonic`."""

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
    ) -> Given:
        """The same with what was said behind a further name, which goes before it."""
        json = True if json_ else self.json if format_ is None else format_ == "json"
        return Given(app or self.app, json, timeout_ or self.timeout, self.began)


@dataclass(frozen=True)
class Context:
    """What a command works with.

    Attributes:
        began: When its process did, on the clock of `time.monotonic`.
        timeout: Seconds that it may take by --timeout; None where nobody says it.
    """

    application: Application
    json: bool
    began: float = field(default_factory=time.monotonic)
    timeout: float | None = None

    def bound(self, usual: float = ask.BOUND) -> float:
        """Seconds that it may take: those of --timeout, else the usual ones."""
        return self.timeout or usual

    def left(self, seconds: float | None = None) -> float:
        """How much is left of a bound that began with the process."""
        return (seconds or self.bound()) - (time.monotonic() - self.began)

    def within(self, what: str, seconds: float | None = None) -> AbstractContextManager[None]:
        """As `ask.bounded`, from the start of the process on."""
        return ask.bounded(what, self.left(seconds) - ask.MARGIN, seconds or self.bound())


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


def shared(
    function: Callable[..., Any], *, formats: bool = True, timeout: bool = True, first: bool = False
) -> Callable[..., Any]:
    """Add the options that all commands have.

    Args:
        function: It takes them as :meth:`Given.and_then` does.
        formats: Whether it prints tables or JSON.
        timeout: Whether --timeout is none of its own options.
        first: Whether these stand before every name, and so go for variables of the environment as well.
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
                help=f"How long an answer may take; {ask.BOUND:g} by default.",
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
            help="The application; needed where a host has several.",
        )
    )
    for option in options:
        function = option(function)
    return function


def with_examples(text: str, examples: Iterable[str]) -> str:
    """A help text with examples below it, each in a line of its own."""
    # Without the mark click would fill the lines into a paragraph.
    return "\n\n".join([inspect.cleandoc(text), "\n".join(["\b", "Examples:", *examples])])


class Group(click.Group):
    """A command with commands, which its help lists with whole sentences.

    Attributes:
        sections: Titles with the names of commands; those in none come last.
    """

    sections: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them."""
        sections = dict(self.sections)
        named = {name for names in sections.values() for name in names}
        rest = tuple(name for name in self.list_commands(ctx) if name not in named)
        for title, names in {**sections, "Commands": rest}.items():
            rows = [(name, first_sentence(self.commands[name])) for name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def first_sentence(command: click.Command) -> str:
    """What a command is for."""
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
    """`click.command` for a function whose first argument is a :class:`Context`.

    Args:
        formats: Whether it prints tables or JSON.
        bound: Whether all of it has to be done within :meth:`Context.bound`; others bound their parts.
        timeout: Whether it takes the shared --timeout, and has none of its own.
        examples: Command lines for its help.
        options: Click's own.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def called(
            app: str | None = None,
            format_: str | None = None,
            json_: bool = False,
            timeout_: float | None = None,
            **rest: Any,
        ) -> Any:
            given = click.get_current_context().find_object(Given) or Given()
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
