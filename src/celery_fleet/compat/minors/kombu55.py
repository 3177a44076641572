"""kombu 5.5, where it is not as 5.6. Checked in the source of kombu 5.5.4."""

from __future__ import annotations

from celery_fleet.compat.minors import kombu56
from celery_fleet.compat.minors.kombu56 import *  # noqa: F403  # all that is not said otherwise below
from celery_fleet.compat.mixin import Mixin


class _Parts(Mixin):  # type: ignore[misc]  # see mixin
    """How long a question waits in Redis: here it is an argument's default."""

    brpop_timeout = 1

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(self.brpop_timeout if timeout is None else timeout)


class Channel(_Parts, kombu56.Channel):  # type: ignore[misc]  # see there
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Parts, kombu56.SentinelChannel):  # type: ignore[misc]  # see there
    """A channel of sentinel://."""
