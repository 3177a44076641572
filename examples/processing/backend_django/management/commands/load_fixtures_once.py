"""Load the fixtures, once ever: whether it was done is written in the database, with the rows themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from backend_django.site_config.models import SetupFlag

DIRECTORY = settings.BACKEND_DIR / "fixtures"


def fixtures(directory: Path, environment: str) -> list[Path]:
    """Return the fixtures for an environment: those named dev_* are only for development."""
    return [
        path
        for path in sorted(directory.glob("*.json"))
        if environment == "development" or not path.name.startswith("dev_")
    ]


class Command(BaseCommand):
    """See the module's text."""

    help = "Load the fixtures, once ever."

    def handle(self, *_: Any, **__: Any) -> None:
        """Load the fixtures, unless they were loaded before."""
        done = SetupFlag.objects.filter(setup_complete=True).first()
        if done is None:
            paths = fixtures(DIRECTORY, settings.ENVIRONMENT)
            if not paths:
                raise CommandError(f"there are no fixtures in {DIRECTORY}")
            with transaction.atomic():
                if self._take():
                    call_command("loaddata", *map(str, paths), verbosity=0)
                    names = ", ".join(path.name for path in paths)
                    self.stdout.write(f"loaded for {settings.ENVIRONMENT}: {names}")
                    return
            done = SetupFlag.objects.get(setup_complete=True)
        self.stdout.write(
            f"the fixtures were loaded already, at {done.created_at:%Y-%m-%d %H:%M:%S} UTC"
        )

    def _take(self) -> bool:
        """Set the flag in the transaction of the rows; return whether this process set it.

        There can be only one (`SetupFlag`), so a process that comes at the same moment waits here for the end of the
        other's transaction. If that is rolled back, so is the flag, and this process loads the fixtures.
        """
        try:
            with transaction.atomic():
                SetupFlag.objects.create(setup_complete=True)
        except IntegrityError:
            return False
        return True
