"""Read-only containers, so that the application can't change pinned settings in place.

A change is refused without an exception, because an application that sets
``app.conf.broker_transport_options['visibility_timeout']`` at import must still start; it is
logged once. Copies (``copy()``, ``copy.deepcopy``, pickle) are ordinary dictionaries, because kombu
and Celery derive their own from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn, Self

logger = logging.getLogger("celery_fleet.settings")


class FrozenDict(dict[str, Any]):
    """A dictionary that refuses changes; ``name`` is the setting's name for the log."""

    def __init__(self, content: Mapping[Any, Any], name: str = "settings") -> None:
        super().__init__({key: freeze(item, f"{name}.{key}") for key, item in content.items()})
        self._name = name
        self._told = False

    def _refuse(self) -> None:
        if not self._told:
            self._told = True
            logger.warning("%s: a change by the application is refused; the fleet's value stays",
                           self._name)  # fmt: skip

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse()

    def __delitem__(self, key: Any) -> None:
        self._refuse()

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]  # refuses, so returns itself
        self._refuse()
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Refuse the change."""
        self._refuse()

    def clear(self) -> None:
        """Refuse the change."""
        self._refuse()

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Refuse the change, but return what a dictionary would."""
        if key not in self:
            self._refuse()
        return self.get(key, default)

    def pop(self, key: Any, *default: Any) -> Any:
        """Refuse the change, but return what a dictionary would."""
        self._refuse()
        return self[key] if not default else self.get(key, default[0])

    def popitem(self) -> NoReturn:
        """Refuse with an exception."""
        # Returning an item that stays would make `while d: d.popitem()` endless.
        raise TypeError(f"{self._name} is set by the fleet and can't be changed")

    def copy(self) -> dict[str, Any]:
        """Return an ordinary, changeable copy."""
        return {key: thaw(item) for key, item in self.items()}

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> dict[str, Any]:
        return self.copy()

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)


def freeze(value: Any, name: str = "settings") -> Any:
    """Return ``value`` with every dictionary frozen and every list as a tuple, at any depth."""
    if isinstance(value, Mapping):
        return FrozenDict(value, name)
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item, name) for item in value)
    return value


def thaw(value: Any) -> Any:
    """Return an ordinary, changeable copy of a frozen value; tuples stay tuples."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(thaw(item) for item in value)
    return value
