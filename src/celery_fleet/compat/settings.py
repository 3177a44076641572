"""Read and replace an app's settings (celery/app/utils.py, celery/utils/collections.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from celery.app.defaults import _TO_OLD_KEY
from celery.app.utils import Settings


def spellings(name: str, prefix: str | None) -> set[str]:
    """Every name under which an application can write setting ``name``."""
    names = {name, _TO_OLD_KEY.get(name, name)}
    if prefix:
        # ConfigurationView.match_case writes the key in the case of the prefix.
        names |= {prefix + name, (prefix + name).upper(), (prefix + name).lower()}
    return names


def prefix_of(conf: Any) -> str | None:
    """The namespace that the application's settings carry, such as ``CELERY_``."""
    prefix = conf.__dict__.get("prefix")
    return str(prefix) if prefix else None


def application_settings(conf: Any, names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings ``names`` that the application has set itself, with their values."""
    maps = conf.__dict__["maps"][:-1]  # the last one holds Celery's defaults
    own = Settings({}, maps, conf.__dict__["_keys"], conf.__dict__["prefix"])
    found = {}
    for name in names:
        with suppress(KeyError):  # `in` passes over old names before 5.7
            found[name] = own[name]
    return found


def changes_of(conf: Any) -> dict[str, Any]:
    """The map of ``conf`` that every write goes to and every lookup begins with."""
    changes: dict[str, Any] = conf.__dict__["changes"]
    return changes


def replace_changes(conf: Any, changes: dict[str, Any]) -> None:
    """Put another map in that place."""
    conf.__dict__["changes"] = changes
    conf.__dict__["maps"] = [changes, *conf.__dict__["defaults"]]


def censor_table(conf: Any, mask: Callable[[Any], Any]) -> None:
    """Have everything that ``conf`` tells of itself go through ``mask``.

    Settings.table answers ``celery inspect conf``, and so Flower's pages; it masks URLs under
    their exact lowercase names only, not under a namespace's ``CELERY_BROKER_URL``.
    """
    table = type(conf).table

    def masked_table(with_defaults: bool = False, censored: bool = True) -> Any:
        content = table(conf, with_defaults, censored)
        return mask(content) if censored else content

    conf.__dict__["table"] = masked_table
