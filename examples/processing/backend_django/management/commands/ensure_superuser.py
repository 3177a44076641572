"""Make the superuser of the environment, or bring it to what the environment says."""

from __future__ import annotations

import os
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

# Django's own names, as `createsuperuser --noinput` reads them.
NAMES = ("DJANGO_SUPERUSER_USERNAME", "DJANGO_SUPERUSER_EMAIL", "DJANGO_SUPERUSER_PASSWORD")


class Command(BaseCommand):
    """See the module's text."""

    help = f"Make or update the superuser of {', '.join(NAMES)}."

    def handle(self, *_: Any, **__: Any) -> None:
        """Create or update the user; a second time changes nothing, so no session ends."""
        if missing := [name for name in NAMES if not os.environ.get(name)]:
            raise CommandError(f"not set in the environment: {', '.join(missing)}")
        username, email, password = (os.environ[name] for name in NAMES)
        users = get_user_model()._default_manager
        self._check(users.model(username=username, email=email))
        with transaction.atomic():
            # Two hosts may do this at the same time.
            user, made = users.select_for_update().get_or_create(username=username)
            changed = [
                name
                for name, value in (
                    ("email", email),
                    ("is_staff", True),
                    ("is_superuser", True),
                    ("is_active", True),
                )
                if getattr(user, name) != value
            ]
            user.email = email
            user.is_staff = user.is_superuser = user.is_active = True
            # A new hash would end the user's sessions, so write it only if it differs.
            if made or not user.check_password(password):
                user.set_password(password)
                changed.append("password")
            if changed:
                user.save()
        what = (
            "made" if made else f"updated ({', '.join(changed)})" if changed else "as it should be"
        )
        self.stdout.write(f"superuser {username}: {what}")

    def _check(self, user: Any) -> None:
        try:
            user.clean_fields(exclude=["password"])
        except ValidationError as error:
            wrong = "; ".join(
                f"DJANGO_SUPERUSER_{name.upper()}: {' '.join(texts)}"
                for name, texts in error.message_dict.items()
            )
            raise CommandError(wrong) from None
