"""The site's own marks."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class SetupFlag(models.Model):
    """That the site was set up: its fixtures are loaded. Remove the row to have them loaded again."""

    setup_complete = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        """Set once: by this constraint, if two processes set it at the same time, one waits for the other."""

        constraints = (
            models.UniqueConstraint(
                fields=("setup_complete",),
                condition=models.Q(setup_complete=True),
                name="set_up_once",
            ),
        )

    def __str__(self) -> str:
        """Whether it is set up."""
        return "set up" if self.setup_complete else "not set up"
