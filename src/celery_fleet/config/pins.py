"""The map that replaces ``app.conf.changes``, so that nothing overrides the inventory's settings.

Every write to ``app.conf`` (attribute, item, ``update``) goes to that map, and every lookup starts with
it. So the pins win, because they are in it under all spellings of their names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery_fleet.common.redact import redact_value
from celery_fleet.compat import settings
from celery_fleet.config.frozen import FrozenDict, freeze, thaw

logger = logging.getLogger("celery_fleet.settings")

SCHEDULE = "beat_schedule"
CONSUMER = "worker_consumer"


class _Guarded(dict[str, Any]):
    """A dictionary that refuses changes of some keys; pickles and copies as an ordinary one."""

    def _refuses(self, key: Any, value: Any) -> bool:
        raise NotImplementedError

    def _put(self, key: str, value: Any) -> None:
        """Write without asking `_refuses`."""
        dict.__setitem__(self, key, value)

    def __setitem__(self, key: str, value: Any) -> None:
        if not self._refuses(key, value):
            dict.__setitem__(self, key, value)

    def __delitem__(self, key: str) -> None:
        if not self._refuses(key, None):
            dict.__delitem__(self, key)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # returns itself, like dict
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self.get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        if self._refuses(key, None):
            return self.get(key, *default)
        return dict.pop(self, key, *default)

    def popitem(self) -> Any:
        raise TypeError("settings pinned by the fleet can't be removed")

    def clear(self) -> None:
        for key in [key for key in self if not self._refuses(key, None)]:
            dict.__delitem__(self, key)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class PinnedSchedule(_Guarded):
    """``beat_schedule`` merged by name: the fleet's entries can't change, the application's can.

    ``removed`` names entries that the inventory disables, whether they are its own or the application's. With
    ``whole`` the schedule has only the fleet's entries.
    """

    def __init__(
        self,
        entries: Mapping[str, Mapping[str, Any]],
        removed: frozenset[str],
        application: Mapping[str, Any] | None,
        *,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.own = frozenset(entries)
        self._fixed = self.own | removed
        self._whole = whole
        self._withheld = False
        self.overruled: set[str] = set()
        self.update(application or {})
        for name, entry in entries.items():
            self._put(name, _frozen_entry(name, entry))

    def _refuses(self, key: Any, value: Any) -> bool:
        if self._withheld:
            return True
        if key not in self._fixed and not self._whole:
            return False
        if value is not None:
            self.overruled.add(str(key))
        return True

    def withhold(self) -> None:
        """Stay empty from now on and ignore the application's entries: a beat would write them into its database."""
        dict.clear(self)
        self._withheld = True

    def replace(self, application: Mapping[str, Any] | None) -> None:
        """Replace the application's previous schedule with a new one."""
        self.clear()
        self.update(application or {})


def _frozen_entry(name: str, entry: Mapping[str, Any]) -> FrozenDict:
    frozen = FrozenDict(entry, f"{SCHEDULE}.{name}")
    # Keep the types of the message's content (lists, plain dictionaries) for every serialiser.
    for key in ("args", "kwargs"):
        if key in entry:
            dict.__setitem__(frozen, key, entry[key])
    return frozen


class PinnedChanges(_Guarded):
    """``conf.changes`` with the inventory's settings pinned under every spelling of their names.

    ``overruled`` maps a setting's canonical name to the value that the application wanted.
    """

    def __init__(
        self,
        changes: Mapping[str, Any],
        pins: Mapping[str, Any],
        prefix: str | None = None,
        schedule: PinnedSchedule | None = None,
    ) -> None:
        super().__init__()
        self._schedule = schedule
        self.overruled: dict[str, Any] = {}
        self._started = False
        names = [*pins, SCHEDULE] if schedule is not None else list(pins)
        self._canonical = {
            alias: name for name in names for alias in settings.spellings(name, prefix)
        }
        for key, value in changes.items():
            if key not in self._canonical:
                self._put(key, value)
        for name in names:
            value = schedule if name == SCHEDULE else freeze(pins[name], name)
            self._put(name, value)
            if prefix:
                # A lookup of app.conf['CELERY_BROKER_URL'] uses exactly this key.
                self._put((prefix + name).upper(), value)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        """Leave out the class of the worker's consumer, which the delivery makes in this process.

        A process that a pool starts by spawn gets the settings by pickle, and has no consumer.
        """
        kept = {
            key: value
            for key, value in self.items()
            # The application may have put a namespace before the name.
            if not (isinstance(value, type) and key.lower().endswith(CONSUMER))
        }
        return dict, (kept,)

    def _refuses(self, key: Any, value: Any) -> bool:
        name = self._canonical.get(key)
        if name is None:
            return False
        if name == SCHEDULE and self._schedule is not None:
            if value is not None and value is not self._schedule:
                self._schedule.replace(value)
        elif value is not None:
            self.note(name, value)
        return True

    def repin(self, name: str, value: Any) -> bool:
        """Give a pinned setting another value; return whether it is pinned."""
        keys = [key for key in self if self._canonical.get(key) == name]
        for key in keys:
            self._put(key, freeze(value, name))
        return bool(keys)

    def note(self, name: str, wanted: Any) -> None:
        """Remember the application's value of a pinned setting, for the log."""
        if freeze(wanted) == self[name] or self.overruled.get(name) == wanted:
            return
        self.overruled[name] = thaw(wanted)
        if self._started:
            logger.warning("a later change is refused: %s", self.line(name))

    def line(self, name: str) -> str:
        """Return ``worker_concurrency: application 4, fleet 1``, without secrets."""
        wanted = redact_value(name, self.overruled[name])
        return f"{name}: application {wanted}, fleet {redact_value(name, self[name])}"

    def lines(self) -> list[str]:
        """Return a line for each setting that the fleet overrules in this application, sorted by name.

        After the first call, later refusals are logged when they happen.
        """
        self._started = True
        lines = [self.line(name) for name in sorted(self.overruled)]
        if self._schedule is not None:
            lines += [
                f"{SCHEDULE}: the application's entry {name} gives way to the fleet's"
                for name in sorted(self._schedule.overruled)
            ]
        return lines
