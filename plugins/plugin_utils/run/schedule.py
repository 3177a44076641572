"""Compares and writes the schedule in an application's database: commands for a host, and judging its answers.

The commands run `celery_fleet.beat.database.program` in the release's Python, as the application's user. Entries are
sent by standard input, because their arguments may be secret.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

from . import host_scripts
from .plan import PlanItem

PART = "celery_beat_schedule"

# Exit status of the shell below if the host has no runtime or release to ask yet.
_TOO_EARLY = 99
# First line of output if the current release is asked because the new one is not built yet.
_CURRENT = "by the current release"

# The current release also knows the database, so the plan can show what users edited. Only the new release writes.
_SCRIPT = (
    "runtime=$1 root=$2 release=$3 do=$4; shift 4; "
    '[ -f "$runtime/celery_fleet/beat/database/program.py" ] || exit {early}; '
    'if [ -f "$root/releases/$release/release.json" ]; then set -- --release "$release" "$@"; '
    'elif [ "$do" = plan ] && [ -f "$root/current/release.json" ]; then echo {current}; else exit {early}; fi; '
    'exec /usr/bin/python3 -S -I "$runtime/celery_fleet/system/exec.py" "$@"'
)


class ScheduleError(UserError):
    """The schedule can't be written. The message is for the person who runs the play."""


def command(do: str, app: str, root: str, runtime: str, release: str, timeout: float) -> str:
    """Return the shell command that runs on the host; the settings are its standard input.

    Args:
        do: `plan`, which only reads, or `sync`.
        app: Name of the application.
        root: Directory of its releases.
        runtime: Directory of the fleet's package.
        release: Name of the release to use.
        timeout: Seconds that it may take.
    """
    script = _SCRIPT.format(early=_TOO_EARLY, current=shlex.quote(_CURRENT))
    own = ("--app", app, "--as", "producer", "--timeout", f"{timeout:g}", "--")
    program = ("python", "-m", "celery_fleet.beat.database.program", "--settings", do)
    return shlex.join(["/bin/sh", "-c", script, "sh", runtime, root, release, do, *own, *program])


def planned(host: str, done: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a run would do with the schedule: `items` and `notes` of the plan, and `due`, whether to run `sync`.

    Args:
        host: Name of beat's host.
        done: Result of the command for `plan`.
        secrets: Values that may not be shown.

    Raises:
        ScheduleError: The declared schedule has errors.
    """
    if done.get("rc") == _TOO_EARLY:
        return _later(host, "the database is asked once the release is built")
    # A login shell may print a greeting before it.
    current = _CURRENT in str(done.get("stdout", "")).splitlines()
    try:
        answer = _answer(done, secrets)
    except host_scripts.RemoteError as error:
        return _later(host, f"the database can't be asked yet: {error}")
    if not answer["ok"]:
        if answer.get("refused") and not current:
            raise ScheduleError(f"{host}: {answer['error']}. Nothing was changed.")
        return _later(host, f"the database can't be asked yet: {answer['error']}")
    items = [
        PlanItem(
            host, PART, f"entry {one['entry']}", str(one["action"]), tuple(one["why"])
        ).as_dict()
        for one in answer["items"]
    ]
    if current:
        # The entries in the new code are known once it is built.
        items += _later(host, "the database is asked again by the new release")["items"]
    return {"items": items, "notes": list(answer["notes"]), "due": bool(items)}


def _later(host: str, why: str) -> dict[str, Any]:
    item = PlanItem(host, PART, "the schedule in the database", "write", (why,))
    return {"items": [item.as_dict()], "notes": [], "due": True}


def _answer(done: dict[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """Return the program's answer. Errors are also an answer, although its exit status is not 0."""
    answer = host_scripts.finding(done, secrets)
    if "ok" not in answer:
        raise host_scripts.RemoteError(json.dumps(answer))
    return answer


def written(host: str, done: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return what was written, as lines of text, and whether anything was.

    The arguments are those of `planned`.

    Raises:
        ScheduleError: The schedule was not written.
    """
    if done.get("rc") == _TOO_EARLY:
        raise ScheduleError(
            f"{host}: the schedule can't be written into the database: the release is not built on this host. "
            "Run site.yml without --skip-tags or --tags that leave its build out."
        )
    try:
        answer = _answer(done, secrets)
        error = None if answer["ok"] else str(answer["error"])
    except host_scripts.RemoteError as words:
        answer, error = {}, str(words)
    if error is not None:
        raise ScheduleError(
            f"{host}: the schedule can't be written into the database: {error}.\nNothing was written, and "
            "beat keeps running as before. Fix the cause and run the same playbook again."
        )
    lines = [f"schedule entry {_line(one)}" for one in answer["items"]]
    return {"changed": bool(answer["items"]), "lines": [*lines, *answer["notes"]]}


def _line(one: Mapping[str, Any]) -> str:
    past = {
        "add": "added",
        "change": "changed",
        "remove": "removed",
        "mark": "marked",
        "forget": "left to its user",
    }
    return f"{one['entry']}: {past.get(one['action'], one['action'])} ({'; '.join(one['why'])})"
