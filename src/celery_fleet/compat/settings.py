"""Read and replace an app's settings (celery/app/utils.py, celery/utils/collections.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from celery.app.defaults import _TO_OLD_KEY
from celery.app.utils import Settings


def spellings(name: str, prefix: str | None) -> set[str]:
    """Return every name under which an application can write setting ``name``."""
    names = {name, _TO_OLD_KEY.get(name, name)}
    if prefix:
        # ConfigurationView.match_case writes the key in the case of the prefix.
        names |= {prefix + name, (prefix + name).upper(), (prefix + name).lower()}
    return names


def prefix_of(conf: Any) -> str | None:
    """Return the namespace of the application's settings, such as ``CELERY_``; None if they have none."""
    prefix = conf.__dict__.get("prefix")
    return str(prefix) if prefix else None


def application_settings(conf: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the settings among ``names`` that the application has set, with their values."""
    maps = conf.__dict__["maps"][:-1]  # the last one holds Celery's defaults
    own = Settings({}, maps, conf.__dict__["_keys"], conf.__dict__["prefix"])
    found = {}
    for name in names:
        with suppress(KeyError):  # before 5.7, `in` does not find old names
            found[name] = own[name]
    return found


def changes_of(conf: Any) -> dict[str, Any]:
    """Return the map of ``conf`` that every write goes to and every lookup starts with."""
    changes: dict[str, Any] = conf.__dict__["changes"]
    return changes


def replace_changes(conf: Any, changes: dict[str, Any]) -> None:
    """Replace the map that `changes_of` returns."""
    conf.__dict__["changes"] = changes
    conf.__dict__["maps"] = [changes, *conf.__dict__["defaults"]]


def override(conf: Any, name: str, value: Any) -> None:
    """Change a setting for this process, also one that the inventory has pinned (`celery_fleet.config.pins`)."""
    repin = getattr(changes_of(conf), "repin", None)
    if repin is None or not repin(name, value):
        conf[name] = value


def censor_table(conf: Any, mask: Callable[[Any], Any]) -> None:
    """Pass every dump that ``conf`` makes of itself through ``mask``.

    Settings.table answers ``celery inspect conf`` and supplies Flower's pages. It masks URLs only under
    their exact lowercase names, not under a namespace's name such as ``CELERY_BROKER_URL``.
    """
    table = type(conf).table

    def masked_table(with_defaults: bool = False, censored: bool = True) -> Any:
        content = table(conf, with_defaults, censored)
        return mask(content) if censored else content

    conf.__dict__["table"] = masked_table
