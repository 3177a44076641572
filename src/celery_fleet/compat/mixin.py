"""What a mixin of Celery's and kombu's classes is made from. Standard library alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Neither ships types, so ``super()`` in a mixin is whatever it is mixed into.
    Mixin: Any
else:
    Mixin = object
