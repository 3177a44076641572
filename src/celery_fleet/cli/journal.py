"""Read what this host's journal says about a task, from Celery's own log entries (celery/app/trace.py).

At level INFO a worker logs that it has received a task, and its pool how the task ended; failures are at ERROR. They do
not log when a task was sent or started, nor in this form that it was revoked, given back, or killed with its process.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import CommandError

JOURNALCTL = "/usr/bin/journalctl"

#: Loggers of Celery that tell of a task's life.
LOGGERS = ("celery.worker.strategy", "celery.app.trace")

#: The loggers of Celery's beat and of ours, and the number of their latest entries that are read.
BEAT = ("celery.beat", "celery_fleet.beat")
LINES = 20_000

_SENDING = re.compile(r"Scheduler: Sending due task (.+) \((\S+)\)$")
#: What follows if it could not be sent (celery/beat.py), or if another beat has become the leader.
_NOT_SENT = (
    "Message Error: Couldn't apply scheduled task {name}: ",
    "{name} was not sent: another beat has become the leader",
)

#: Seconds between the time of an entry and that of the same event in the history.
NEAR = 1.0

_FIELDS = (
    *("_SOURCE_REALTIME_TIMESTAMP", "_SYSTEMD_INVOCATION_ID", "MESSAGE"),
    *("CELERY_WORKER", "CELERY_TASK", "CELERY_QUEUE", "CELERY_RELEASE"),
)

#: What Celery writes after a task's name and id, and what that means.
_EVENTS = {
    "received": "received",
    "succeeded in": "succeeded",
    "retry:": "retried",
    "raised expected:": "failed",
    "raised unexpected:": "failed",
    "INTERNAL ERROR:": "failed",
    "ignored": "ignored",
    "reject": "rejected",
}

Run = dict[str, Any]


def command(application: Application, task_id: str) -> list[str]:
    """Return the command line that prints the entries about a task's life, in JSON."""
    # Any process can write fields of its own, but not under the unit of another one.
    unit = f"--unit={application.name}-worker@*.service"
    matches = [unit, *(f"LOGGER={name}" for name in LOGGERS)]
    # A message with a traceback is longer than what journalctl shows without --all.
    options = ["--quiet", "--no-pager", "--all", "--output=json"]
    fields = f"--output-fields={','.join(_FIELDS)}"
    return [JOURNALCTL, *options, fields, *matches, f"CELERY_TASK_ID={task_id}"]


def fired(application: Application, seconds: float) -> list[tuple[float, str, str]]:
    """Return what beat has sent, by this host's journal: the Unix time, the entry and its task, the oldest first.

    Raises:
        CommandError: The journal can't be read; the text has the reason.
    """
    options = ["--quiet", "--no-pager", "--all", "--output=json", f"--lines={LINES}"]
    fields = "--output-fields=_SOURCE_REALTIME_TIMESTAMP,MESSAGE"
    matches = [f"--unit={application.name}-beat.service", *(f"LOGGER={name}" for name in BEAT)]
    found: list[tuple[float, str, str]] = []
    for entry in _entries(application, [JOURNALCTL, *options, fields, *matches], seconds):
        message = _message(_text(entry.get("MESSAGE")))
        match = _SENDING.search(message)
        if match is not None:
            found.append((_when(entry), match[1], match[2]))
        elif found and any(text.format(name=found[-1][1]) in message for text in _NOT_SENT):
            # Celery says what it sends before it does so.
            found.pop()
    return found


def _message(text: str) -> str:
    """Return the message in an entry's text, which is JSON if the application logs that."""
    if not text.startswith("{"):
        return text
    try:
        return str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        return text


def _when(entry: Mapping[str, Any]) -> float:
    stamp = entry.get("_SOURCE_REALTIME_TIMESTAMP") or entry["__REALTIME_TIMESTAMP"]
    return round(int(_text(stamp)) / 1e6, 3)


def read(application: Application, task_id: str, seconds: float) -> list[Run]:
    """Return the runs of a task that workers of this host have logged.

    Raises:
        CommandError: The journal can't be read; the text has the reason.
    """
    words = command(application, task_id)
    return runs(_entries(application, words, seconds), application.host, task_id)


def _entries(
    application: Application, words: Sequence[str], seconds: float
) -> Iterator[Mapping[str, Any]]:
    """Run journalctl and return the entries that it prints in JSON."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"the journal of {application.host} could not be read within {seconds:g} s"
        ) from None
    except OSError as error:
        raise CommandError(f"{words[0]} can't be run: {error.strerror}") from None
    if done.returncode:
        raise CommandError(f"{words[0]}: {done.stderr.strip() or done.returncode}")
    # Texts of the application may have characters that `splitlines` takes for the end of a line, such as U+2028.
    return map(json.loads, filter(None, done.stdout.split("\n")))


def runs(entries: Iterable[Mapping[str, Any]], host: str, task_id: str) -> list[Run]:
    """Return the runs that entries of the journal tell of, the oldest first.

    They have the keys of a run in the history, and `source`. What the journal does not say is None.
    """
    found: list[Run] = []
    processes: dict[str, list[Run]] = {}
    for entry in entries:
        worker = _text(entry.get("CELERY_WORKER"))
        event = _event(_text(entry.get("MESSAGE")), task_id)
        if not worker or event is None:
            continue
        state, detail = event
        when = _when(entry)
        # A worker that was killed logs no end: what it had received does not end in the next process.
        process = processes.setdefault(_text(entry.get("_SYSTEMD_INVOCATION_ID")), [])
        opened = [run for run in process if run["ended"] is None]
        if state == "received" or not opened:
            run = _run(entry, f"{worker}@{host}", task_id)
            process.append(run)
            found.append(run)
        else:
            # A task that retries at once is received again before the first run has logged its end.
            run = opened[0] if state == "retried" else opened[-1]
        run["state"] = state
        run["queue"] = run["queue"] or _text(entry.get("CELERY_QUEUE")) or None
        if state == "received":
            run["received"] = when
            continue
        run["ended"], run["detail"] = when, detail
        if isinstance(detail, float):
            run["started"] = round(when - detail, 3)
    return found


def _run(entry: Mapping[str, Any], node: str, task_id: str) -> Run:
    unknown = ("origin", "sent", "eta", "received", "started", "ended", "state", "detail")
    return {
        "id": task_id,
        "name": _text(entry.get("CELERY_TASK")),
        "queue": None,
        **dict.fromkeys(unknown),
        "node": node,
        "release": _text(entry.get("CELERY_RELEASE")) or None,
        "source": "journal",
    }


def _event(message: str, task_id: str) -> tuple[str, str | float | None] | None:
    """Return what a message says, and as detail the run time or the exception's name; None if it is another one."""
    events = "|".join(_EVENTS)
    match = re.search(rf"Task .+?\[{re.escape(task_id)}\] ({events}) ?([\w.-]*)", message)
    if match is None:
        return None
    state, rest = _EVENTS[match[1]], match[2]
    if state == "succeeded" and re.fullmatch(r"\d+(\.\d+)?(e-\d+)?s", rest):
        return state, float(rest.removesuffix("s"))
    return state, rest if state == "failed" else None


def _text(value: Any) -> str:
    """Return a field as text: it is a list of bytes if it has control characters, or of texts if it is repeated."""
    if isinstance(value, list):
        numbers = all(isinstance(one, int) for one in value)
        return bytes(value).decode(errors="replace") if numbers else _text(value[0])
    return str(value or "")


def merged(history: Sequence[Run], logged: Iterable[Run]) -> list[Run]:
    """Return the runs of both, the oldest first.

    A run that both have is the history's. It gets the journal's end if it has none, because workers write the history
    some seconds later, and not while the result store is down.
    """
    found = [{**run, "source": "history"} for run in history]
    more = []
    for run in logged:
        same = _same(run, found)
        if same is None:
            more.append(run)
        elif same["ended"] is None and run["ended"] is not None:
            started = same["started"] or run["started"]
            same.update({key: run[key] for key in ("ended", "state", "detail")}, started=started)
    return sorted(found + more, key=lambda run: run["received"] or run["ended"])


def _same(run: Run, history: Iterable[Run]) -> Run | None:
    """Return the run of the history that a run of the journal is."""
    there = [one for one in history if one["node"] == run["node"]]
    when = run["received"]
    if when is not None:
        near = min(there, key=lambda one: abs(one["received"] - when), default=None)
        return near if near and abs(near["received"] - when) <= NEAR else None
    ended = run["ended"]
    for one in there:
        if one["ended"] is not None and abs(one["ended"] - ended) <= NEAR:
            return one
    opened = [one for one in there if one["ended"] is None and one["received"] <= ended + NEAR]
    return opened[-1] if opened else None
