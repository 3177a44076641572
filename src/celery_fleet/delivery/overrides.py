"""Apply one worker's deviations from its host's settings: ``CELERY_FLEET_DELIVERY`` in its environment.

    {"celery": {"task_acks_late": false}, "unset": ["worker_prefetch_multiplier"], "delivery": {"fetch": "stock"}}

``celery`` replaces settings of the file, ``unset`` removes settings of the file so the application decides, and
``delivery`` replaces options of the file. Standard library only: the hand-back has the same environment as its
worker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery_fleet.common.errors import FleetError

VARIABLE = "CELERY_FLEET_DELIVERY"
_KEYS: Mapping[str, tuple[type, str]] = {
    "celery": (dict, "an object"),
    "unset": (list, "a list"),
    "delivery": (dict, "an object"),
}
_REMEDY = "run site.yml again to write the worker's environment"


def applied(document: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return a worker's settings document with its environment applied; any other document unchanged.

    Raises:
        FleetError: The variable does not have the form above.
    """
    text = environ.get(VARIABLE, "")
    if not text or document.get("component") != "worker":
        return dict(document)
    given = _parsed(text)
    celery, delivery = document.get("celery"), document.get("delivery") or {}
    if not isinstance(celery, Mapping) or not isinstance(delivery, Mapping):
        return dict(document)  # the check of the settings reports it
    gone = given.get("unset", [])
    merged: dict[str, Any] = {
        **document,
        "celery": {
            **{name: value for name, value in celery.items() if name not in gone},
            **given.get("celery", {}),
        },
    }
    if delivery or given.get("delivery"):
        merged["delivery"] = {**delivery, **given.get("delivery", {})}
    return merged


def _parsed(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as exc:
        raise FleetError(
            f"{VARIABLE} is not JSON (column {exc.colno}, {exc.msg}); {_REMEDY}"
        ) from exc
    if not isinstance(given, dict):
        raise FleetError(f"{VARIABLE} must hold a JSON object; {_REMEDY}")
    errors = [f"{key} is not known" for key in given if key not in _KEYS]
    errors += [
        f"{key} must be {words}"
        for key, (kind, words) in _KEYS.items()
        if key in given and not isinstance(given[key], kind)
    ]
    if errors:
        raise FleetError(f"{VARIABLE}: {'; '.join(errors)}; {_REMEDY}")
    return given
