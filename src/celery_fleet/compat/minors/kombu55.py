"""Differences of kombu 5.5 from 5.6, checked in the source of kombu 5.5.4."""

from __future__ import annotations

from celery_fleet.compat.minors import kombu56
from celery_fleet.compat.minors.kombu56 import *  # noqa: F403  # everything that is not overridden below
from celery_fleet.compat.mixin import Mixin


class _Parts(Mixin):  # type: ignore[misc]  # see mixin
    """Sets how many seconds a poll waits in Redis: kombu 5.5 has it only as an argument's default."""

    brpop_timeout = 1

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(self.brpop_timeout if timeout is None else timeout)


class Channel(_Parts, kombu56.Channel):  # type: ignore[misc]  # see there
    """A channel of redis:// and rediss://."""


class SentinelChannel(_Parts, kombu56.SentinelChannel):  # type: ignore[misc]  # see there
    """A channel of sentinel://."""
