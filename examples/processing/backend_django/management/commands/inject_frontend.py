"""Put the values of this place into a copy of the built front-end."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backend_django import frontend


class Command(BaseCommand):
    """See the module's text; collectstatic comes after it."""

    help = "Put VITE_APP_STATIC_ROOT and VITE_APP_API_ROOT into a copy of the built front-end."
    requires_system_checks: list[str] = []

    def handle(self, *_: Any, **__: Any) -> None:
        """Do it; a second time changes nothing."""
        try:
            written = frontend.inject(
                settings.FRONTEND_BUILD, settings.FRONTEND_ROOT, settings.FRONTEND_VALUES
            )
        except frontend.FrontendError as error:
            raise CommandError(str(error)) from None
        except OSError as error:
            raise CommandError(
                f"{error.filename or settings.FRONTEND_ROOT} can't be written: {error.strerror}"
            ) from None
        if left := frontend.unfinished(settings.FRONTEND_ROOT, settings.FRONTEND_VALUES):
            raise CommandError(f"there are placeholders left in {', '.join(left)}")
        done = "written" if written else "there already"
        self.stdout.write(f"the front-end is {done}: {settings.FRONTEND_ROOT}")
