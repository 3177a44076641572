"""The fleet's own health check, as its last result lies on this host.

It is made by a systemd timer, so that it works where Celery does not; here it is only read.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

# Seconds between two checks if the result does not say; a result older than twice that means that checks have stopped.
INTERVAL = 300
# Seconds by which the clock of the writer may differ from this one; beyond that an age means nothing.
SKEW = 60.0


def last_result(name: str, now: datetime) -> dict[str, Any]:
    """The result's content with its `age` in seconds, whether it is `stale`, and a `text` for a person.

    `state` is the result's own (good, warning, bad) only if it is fresh. Otherwise it is "missing" or "stale", and
    `last_state` is the state of the result.
    """
    if not name:
        return _missing("CELERY_FLEET_HEALTH is not set: no health check of a fleet runs here")
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
        state = str(content["state"])
        stale_after = 2 * float(content.get("interval") or INTERVAL)
        age = round((now - datetime.fromisoformat(content["checked"])).total_seconds(), 1)
        faults = sorted(
            f"{check}: {found.get('text', found['state'])}"
            for check, found in content.get("checks", {}).items()
            if found["state"] != "good"
        )
    except FileNotFoundError:
        return _missing(f"{name} is not there: the health check has not run on this host yet")
    except OSError as error:
        return _missing(f"{name} can't be read: {error.strerror}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return _missing(f"{name} is no result of a health check: {error!r}")
    if -SKEW <= age <= stale_after:
        return {
            **content,
            "age": age,
            "stale": False,
            "text": f"{state}, {age:.0f} s ago" + "".join(f"; {each}" for each in faults),
        }
    when = f"{age:.0f} s old" if age > 0 else f"from {-age:.0f} s in the future"
    return {
        **content,
        "state": "stale",
        "last_state": state,
        "age": age,
        "stale": True,
        "text": f"the last result is {when}: the health check no longer runs on this host",
    }


def _missing(text: str) -> dict[str, Any]:
    return {"state": "missing", "age": None, "stale": True, "text": text}
