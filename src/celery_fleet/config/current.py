"""The settings of this process: read at first use and kept."""

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
    """Give the process its settings instead of a file; None forgets them."""
    global _settings
    _settings = settings


def current_settings() -> FleetSettings:
    """The process's settings: read at first use and kept, since the file may not stay readable.

    Raises:
        FleetError: where the file is missing or wrong.
    """
    global _settings
    if _settings is None:
        _settings = read(locate(os.environ), COMPONENT)
    return _settings
