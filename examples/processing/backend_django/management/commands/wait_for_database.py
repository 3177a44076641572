"""Wait until the database answers, for so long and no longer."""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, connection


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


class Command(BaseCommand):
    """See the module's text."""

    help = "Wait until the database answers."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The bound."""
        parser.add_argument(
            "--timeout", type=seconds, default=60.0, help="seconds to wait at most (60)"
        )

    def handle(self, *_: Any, timeout: float, **__: Any) -> None:
        """Ask once a second."""
        begin = time.monotonic()
        while True:
            left = begin + timeout - time.monotonic()
            try:
                self._ask(left)
            except (OperationalError, InterfaceError) as error:
                reason = " ".join(str(error).split())
            else:
                self.stdout.write(f"the database answers after {time.monotonic() - begin:.1f} s")
                return
            left = begin + timeout - time.monotonic()
            if left <= 0:
                raise CommandError(
                    f"the database {self._name()} did not answer within {timeout:g} s: {reason}"
                )
            time.sleep(min(1.0, left))

    def _ask(self, left: float) -> None:
        if connection.vendor == "postgresql":
            # libpq takes whole seconds, 2 at least.
            options = connection.settings_dict["OPTIONS"]
            options["connect_timeout"] = max(2, min(5, math.ceil(left)))
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            connection.close()

    def _name(self) -> str:
        database = connection.settings_dict
        host = ":".join(str(database[key]) for key in ("HOST", "PORT") if database.get(key))
        return f"{database['NAME']} on {host}" if host else str(database["NAME"])
