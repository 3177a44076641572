"""The settings of this process, read at first use and kept."""

from __future__ import annotations

import os

from celery_fleet.common import errors
from celery_fleet.config.settings import (
    FleetSettings,
    locate,
    read,
)

COMPONENT = errors.component(os.environ)

_settings: FleetSettings | None = None


def use_settings(settings: FleetSettings | None) -> None:
    """Set the process's settings directly instead of reading a file; None forgets them."""
    global _settings
    _settings = settings


def current_settings() -> FleetSettings:
    """Return the process's settings; they are read once and kept, because the file may become unreadable.

    Raises:
        FleetError: the file is missing or wrong.
    """
    global _settings
    if _settings is None:
        _settings = read(locate(os.environ), COMPONENT)
    return _settings
