"""The base of mixins for Celery's and kombu's classes; standard library only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Neither has types, so ``super()`` in a mixin may be anything.
    Mixin: Any
else:
    Mixin = object
