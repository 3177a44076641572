"""The record of what was deployed.

It is a file on the host of the lease, `lease.RECORDS`; other hosts have copies for operators:

    {"format": 1, "current": "<id of the release that serves>",
     "hold": {"release": "<id>", "by": "ana", "at": <Unix time>, "why": "…", "unfinished": <whether its run has not
              ended well>, "tasks": ["<task that the release has>", …]} or null,
     "history": [{"release": "<id>", "what": "git … main", "by": "ana", "at": <Unix time>, "result": "deployed",
                  "why": "…", "canary": {…}}, …]}

A hold makes `site.yml` keep a release, regardless of the inventory's source. A deploy sets one on the release that
serves before it changes anything. So if it is killed, the next run of `site.yml` goes back to that release, and the
next deploy continues. A deploy that succeeds lifts it, unless it was told which release to deploy.

A fleet that goes back has an inventory that was written for a newer release. So the hold lists the tasks that the
release has, and what the inventory names beyond them is left out. Without such a list, the release must have all.
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

FORMAT: Final = 1
#: Entries that the history keeps.
KEPT: Final = 50

DEPLOYED, BACK, REFUSED = "deployed", "rolled back", "refused"

#: The id of a release.
ID: Final = re.compile(r"[0-9a-f]{12}")
# Seconds by which the clock of a host may be ahead.
_AHEAD = 3600


def held(
    record: Mapping[str, Any],
    release: str,
    why: str,
    *,
    unfinished: bool = True,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the record with a hold on a release; the run that sets it is unfinished until it records how it ended."""
    hold = {
        "release": release,
        "by": getpass.getuser(),
        "at": round(time.time()),
        "why": why,
        "unfinished": unfinished,
        "tasks": [*tasks],
    }
    return {**_whole(record), "hold": hold}


def recorded(
    record: Mapping[str, Any],
    release: str,
    choice: Mapping[str, Any] | None,
    result: str,
    canary: Mapping[str, Any] | None = None,
    why: str = "",
) -> dict[str, Any]:
    """Return the record after a run.

    Args:
        record: The record before it.
        release: Id of the release that was deployed, refused, or gone back to.
        choice: `ReleaseChoice.as_dict` of a deploy or a way back; None after `site.yml`, which changes no hold.
        result: `DEPLOYED`, `BACK` or `REFUSED`.
        canary: The canary's verdict, if there was a canary.
        why: Why it was refused.
    """
    entry = {
        "release": release,
        "what": str((choice or {}).get("what") or ""),
        "by": getpass.getuser(),
        "at": round(time.time()),
        "result": result,
        "why": why or str((choice or {}).get("why") or ""),
        "canary": dict(canary or {}),
    }
    whole = _whole(record)
    whole["history"] = [*whole["history"], entry][-KEPT:]
    if result != REFUSED:
        whole["current"] = release
        if choice is not None and not choice["holds"]:
            whole["hold"] = None
        elif choice is not None:
            reason = BACK if result == BACK else f"deployed as {choice['what']}"
            why, tasks = str(choice["why"]) or reason, choice.get("tasks") or ()
            whole = held(whole, release, why, unfinished=False, tasks=tasks)
    return whole


def is_sound(record: Any) -> bool:
    """Return whether a copy of the record, which another host has, can be used in its place."""
    try:
        names = [record["current"], *(entry["release"] for entry in _entries(record))]
        named = all(ID.fullmatch(name) for name in names if name)
        shown = all({"by", "why"} <= entry.keys() for entry in _entries(record))
        return named and shown and changed(record) <= time.time() + _AHEAD
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False


def changed(record: Mapping[str, Any]) -> float:
    """Return when a record was written, as Unix time."""
    return max((float(entry["at"]) for entry in _entries(record)), default=0.0)


def _entries(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in (record.get("hold"), *(record.get("history") or ())) if entry]


def _whole(record: Mapping[str, Any]) -> dict[str, Any]:
    empty = {"format": FORMAT, "current": "", "hold": None, "history": []}
    return {name: record.get(name) or value for name, value in empty.items()}


def note(hold: Mapping[str, Any] | None) -> list[str]:
    """Return what the plan says about a hold."""
    if not hold:
        return []
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(hold["at"])))
    words = f"release {hold['release']} is held by {hold['by']} since {since}: {hold['why']}"
    return [
        f"{words}. site.yml keeps it; to deploy celery_app_source: ansible-playbook celery_fleet.core.deploy_app"
    ]


def first_line(text: str) -> str:
    """Return the first line of a failure, for the record."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
