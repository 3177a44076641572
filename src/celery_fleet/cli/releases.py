"""Read what runs have recorded about the fleet's releases, on any host of the fleet.

The control side writes the record; `plugins/plugin_utils/run/release_history.py` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery_fleet.cli import output
from celery_fleet.cli.errors import CommandError

DIRECTORY = Path("/var/lib/celery-fleet/releases")


def record(name: str) -> dict[str, Any]:
    """Return the record of an application: `current`, `hold` and `history`; empty if there is none here.

    Raises:
        CommandError: It can't be read.
    """
    path = DIRECTORY / f"{name}.json"
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        if found.get("hold") is not None:
            _require(found["hold"], "release", "by", "why")
        for entry in found.get("history") or ():
            _require(entry, "release", "by", "why", "result", "what")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CommandError(
            f"{path} can't be read ({error!r}), so it is unknown which release is held; copy it from another host of"
            " the fleet, where `celery-fleet releases` shows it, or remove it on all hosts: then no release is held"
        ) from None
    return found


def _require(entry: Mapping[str, Any], *names: str) -> None:
    """Raise KeyError, TypeError or ValueError for a hold or an entry of the history that can't be shown."""
    float(entry["at"])
    for name in names:
        str(entry[name])


def kept(root: Path) -> list[str] | None:
    """Return the names of the releases that a host keeps; None if this user may not see them."""
    try:
        names = sorted(path.name for path in (root / "releases").iterdir())
        return [name for name in names if (root / "releases" / name / "release.json").is_file()]
    except PermissionError:
        return None
    except FileNotFoundError:
        return []


def say_hold(hold: Mapping[str, Any] | None) -> None:
    """Say which release the fleet holds, who said so, when and why; nothing if it holds none."""
    if hold:
        since = output.ago(datetime.fromtimestamp(float(hold["at"]), UTC))
        output.say(
            f"Release {hold['release']} is held by {hold['by']} for {since}: {hold['why']}. "
            "site.yml keeps it; to deploy another one: ansible-playbook celery_fleet.core.deploy_app\n"
        )
