"""The schedule in an application's database: how a host is asked for it, and what is made of the answer.

What is asked is `celery_fleet.beat.database.program`, in the release's Python and as the application's user. The
entries, whose arguments may be secret, go to it by standard input.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import remote
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import Item

PART = "celery_beat_schedule"

# What the shell below says where the host has nothing yet to ask with.
_TOO_EARLY = 99
# Its first line where the release that runs is asked, since the new one is yet to be built.
_CURRENT = "by the current release"

# A release of before knows the database as well, and so the plan can say what users edited. What is written comes from
# the new one alone.
_SCRIPT = (
    "runtime=$1 root=$2 release=$3 do=$4; shift 4; "
    '[ -f "$runtime/celery_fleet/beat/database/program.py" ] || exit {early}; '
    'if [ -f "$root/releases/$release/release.json" ]; then set -- --release "$release" "$@"; '
    'elif [ "$do" = plan ] && [ -f "$root/current/release.json" ]; then echo {current}; else exit {early}; fi; '
    'exec /usr/bin/python3 -S -I "$runtime/celery_fleet/system/exec.py" "$@"'
)


class ScheduleError(UserError):
    """The schedule can't be written; the message is for the person who runs the play."""


def command(do: str, app: str, root: str, runtime: str, release: str, timeout: float) -> str:
    """The shell command that asks a host; the settings are its standard input.

    Args:
        do: `plan`, which only reads, or `sync`.
        app: Name of the application.
        root: Directory of its releases.
        runtime: Directory of the fleet's package.
        release: Name of the release to ask in.
        timeout: Seconds that it may take.
    """
    script = _SCRIPT.format(early=_TOO_EARLY, current=shlex.quote(_CURRENT))
    own = ("--app", app, "--as", "producer", "--timeout", f"{timeout:g}", "--")
    program = ("python", "-m", "celery_fleet.beat.database.program", "--settings", do)
    return shlex.join(["/bin/sh", "-c", script, "sh", runtime, root, release, do, *own, *program])


def foretold(host: str, done: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """What a run would do with the schedule: `items` and `notes` of the plan, and whether it has to ask again.

    Args:
        host: Name of beat's host.
        done: How the command for `plan` ended.
        secrets: Values that may not be shown.

    Raises:
        ScheduleError: What is declared has to be mended.
    """
    if done.get("rc") == _TOO_EARLY:
        return _later(host, "the database is asked when the release is there")
    # A login shell's greeting may stand before it.
    current = _CURRENT in str(done.get("stdout", "")).splitlines()
    try:
        answer = _answer(done, secrets)
    except remote.RemoteError as error:
        return _later(host, f"the database can't be asked yet: {error}")
    if not answer["ok"]:
        if answer.get("refused") and not current:
            raise ScheduleError(f"{host}: {answer['error']}. Nothing was changed.")
        return _later(host, f"the database can't be asked yet: {answer['error']}")
    items = [
        Item(host, PART, f"entry {one['entry']}", str(one["action"]), tuple(one["why"])).as_dict()
        for one in answer["items"]
    ]
    if current:
        # What the new code declares is known when it is there.
        items += _later(host, "the database is asked again by the new release")["items"]
    return {"items": items, "notes": list(answer["notes"]), "due": bool(items)}


def _later(host: str, why: str) -> dict[str, Any]:
    item = Item(host, PART, "the schedule in the database", "write", (why,))
    return {"items": [item.as_dict()], "notes": [], "due": True}


def _answer(done: dict[str, Any], secrets: Iterable[str]) -> dict[str, Any]:
    """The program's; a mistake is an answer as well, which it says by its exit status."""
    answer = remote.finding(done, secrets)
    if "ok" not in answer:
        raise remote.RemoteError(json.dumps(answer))
    return answer


def written(host: str, done: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """What was done, in lines for a person, and whether it was anything.

    The arguments are those of `forecast`.

    Raises:
        ScheduleError: It was not done.
    """
    if done.get("rc") == _TOO_EARLY:
        raise ScheduleError(
            f"{host}: the schedule can't be written into the database: the release is not built on this host. "
            "Run site.yml without --skip-tags or --tags that leave its build out."
        )
    try:
        answer = _answer(done, secrets)
        error = None if answer["ok"] else str(answer["error"])
    except remote.RemoteError as words:
        answer, error = {}, str(words)
    if error is not None:
        raise ScheduleError(
            f"{host}: the schedule can't be written into the database: {error}.\nNothing of it was written, and "
            "beat goes on as it was. Mend the cause and run the same playbook again."
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
