"""kombu's JSON document of a message; standard library only, because the hand-back uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def redelivered(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a message with kombu's marks of a redelivery."""
    properties = dict(raw.get("properties") or {})
    info = {**(properties.get("delivery_info") or {}), "redelivered": True}
    headers = {**(raw.get("headers") or {}), "redelivered": True}
    return {**raw, "headers": headers, "properties": {**properties, "delivery_info": info}}
