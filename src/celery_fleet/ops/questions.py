"""Answer the operator's questions in the release's Python: ``python -m celery_fleet.ops.questions``, JSON on stdin.

    {"question": "workers", "settings": {… operator.json …}, "timeout": 8,
     "expected": ["discounts@worker1"], "queues": ["discounts"]}
    {"question": "inspect", "method": "active", "nodes": [], "arguments": [], "wait": 2, …}
    {"question": "lengths", "queues": ["discounts"], …}
    {"question": "purge", "queue": "discounts", …}
    {"question": "revoke", "ids": ["6f1e…"], "terminate": false, "signal": "SIGTERM", "expected": […], …}
    {"question": "pauses", "do": "pause", "targets": ["queue:mail"], "by": "ana", "expected": […], …}
    {"question": "pool_sizes", "do": "set", "nodes": ["mail@worker1"], "processes": 6, "by": "ana", "expected": […], …}
    {"question": "dead_letters", "do": "list", "choose": {"queue": "discounts"}, "payload": false, …}
    {"question": "result", "id": "6f1e…", "wait": 0, …}
    {"question": "task", "id": "6f1e…", "seconds": 7, …}

prints ``{"ok": true, "answer": …}``, or ``{"ok": false, "error": "one line"}`` if no server or worker could be asked.
Never takes longer than ``timeout`` plus one second. A full broker passes no question to the workers, but it still
answers how long its queues are. The application is not imported; :mod:`celery_fleet.beat.due` answers what needs it.

To add a question, add a function to :data:`QUESTIONS`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from celery_fleet.common.answering import serve
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact, redact_all, secrets_in
from celery_fleet.common.text import late
from celery_fleet.compat import versions
from celery_fleet.config.settings import parse
from celery_fleet.delivery.keys import direct_queue
from celery_fleet.ops import dead_letters, history, pauses, pool_sizes
from celery_fleet.ops.app import make_app
from celery_fleet.ops.inspection import METHODS
from celery_fleet.ops.replies import WAIT, collecting

TIMEOUT = 8.0

#: Prefix of the names of the fleet's own tasks, such as the canary's.
OUR_TASKS = "celery_fleet."

#: Seconds between two checks for a result.
PAUSE = 0.2


def inspect(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return each node's answer to one of Celery's inspect methods."""
    method = str(request.get("method"))
    if method not in METHODS:
        raise FleetError(f"{method} is not a question: use one of {', '.join(METHODS)}")
    nodes = _strings(request, "nodes")
    with collecting(nodes or _strings(request, "expected")) as (found, collect):
        asked = app.control.inspect(
            destination=nodes or None,
            timeout=float(request.get("wait") or WAIT),
            callback=collect,
        )
        getattr(asked, method)(*_strings(request, "arguments"))
    return found


def _strings(request: Mapping[str, Any], name: str) -> list[str]:
    return [str(item) for item in request.get(name) or ()]


def workers(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return all workers with their queues and running tasks, and how many tasks wait in each queue."""
    stats = inspect(app, {**request, "method": "stats", "nodes": []})
    active = inspect(app, {**request, "method": "active", "nodes": list(stats)}) if stats else {}
    consumed = _consumed(app, request, stats)
    found = {
        node: _worker(node, one, active.get(node), consumed.get(node, ()))
        for node, one in sorted(stats.items())
    }
    if request.get("detailed"):
        for node, one in found.items():
            one.update(_details(stats[node], active.get(node)))
    queues = lengths(app, request.get("queues") or ())
    return {"workers": found, "queues": queues, **_kept(app), **_letters(app, request)}


def _consumed(
    app: Any, request: Mapping[str, Any], stats: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return the queues that each worker consumes.

    They are in its stats, unless it runs without the fleet's loader. Another question could come too late for a solo
    worker, which may have begun a task since.
    """
    fleets = {node: one.get("fleet") or {} for node, one in stats.items()}
    found = {node: fleet["queues"] for node, fleet in fleets.items() if "queues" in fleet}
    if others := [node for node in stats if node not in found]:
        answers = inspect(app, {**request, "method": "active_queues", "nodes": others})
        found |= {node: [queue["name"] for queue in every] for node, every in answers.items()}
    return found


def _letters(app: Any, request: Mapping[str, Any]) -> dict[str, int | None]:
    if not request.get("dead_letters"):
        return {}
    try:
        return {"dead_letters": dead_letters.count(app)}
    except Exception:  # noqa: BLE001  # older ACL rights, or another broker: still report the workers
        return {"dead_letters": None}


def _kept(app: Any) -> dict[str, list[dict[str, Any]] | None]:
    """Return the pauses and pool sizes that operators have set; None for what can't be read."""
    found: dict[str, list[dict[str, Any]] | None] = {}
    for name, listed in (("pauses", pauses.listed), ("pool_sizes", pool_sizes.listed)):
        try:
            found[name] = listed(app)
        except Exception:  # noqa: BLE001  # older ACL rights, or another broker: still report the workers
            found[name] = None
    return found


def _worker(
    node: str, stats: Mapping[str, Any], active: Any, every: Iterable[str]
) -> dict[str, Any]:
    fleet = stats.get("fleet") or {}
    pool = stats.get("pool")
    processes = pool.get("max-concurrency") if isinstance(pool, Mapping) else None
    queues = sorted(queue for queue in every if queue != direct_queue(node))
    state = str(fleet.get("state", "consuming" if every else "not consuming"))
    if state == "consuming" and queues and set(queues).issubset(fleet.get("paused", ())):
        state = "paused"
    return {
        "state": state,
        "queues": queues,
        "processes": processes,
        "running": None if active is None else len(active),
        "pid": stats.get("pid"),
        "uptime": stats.get("uptime"),
        "last_hour": stats.get("fleet_last_hour"),
    }


def _details(stats: Mapping[str, Any], active: Any) -> dict[str, Any]:
    usage = stats.get("rusage")
    return {
        "begun": total(stats),
        "prefetch": stats.get("prefetch_count"),
        # In KiB: the main process's peak.
        "memory": usage.get("maxrss") if isinstance(usage, Mapping) else None,
        "task_events": (stats.get("fleet") or {}).get("task_events"),
        "tasks": [
            {name: task.get(name) for name in ("id", "name", "time_start", "worker_pid")}
            for task in active or ()
        ],
    }


def total(stats: Mapping[str, Any]) -> int:
    """Return how many tasks of the application a worker has started since its own start."""
    return sum(
        int(number)
        for name, number in (stats.get("total") or {}).items()
        if not str(name).startswith(OUR_TASKS)
    )


def purge(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Empty a queue; return how many tasks it had."""
    from celery_fleet.compat import queues as compat_queues

    with app.connection_for_write() as connection:
        return {"purged": compat_queues.empty(connection.default_channel, str(request["queue"]))}


def revoke(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Revoke tasks; return each worker's reply."""
    with collecting(_strings(request, "expected")) as (found, collect):
        app.control.revoke(
            _strings(request, "ids"),
            terminate=bool(request.get("terminate")),
            signal=str(request.get("signal") or "SIGTERM"),
            reply=True,
            timeout=float(request.get("wait") or WAIT),
            callback=collect,
        )
    return found


def result(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the result store has of a task, after waiting if requested; PENDING if it has nothing."""
    identity = str(request["id"])
    end = time.monotonic() + float(request.get("wait") or 0)
    while True:
        found = stored(app.backend, identity)
        if found["ready"] or time.monotonic() >= end:
            return found
        time.sleep(min(PAUSE, max(end - time.monotonic(), 0)))


def task(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the history has of a task, as `celery_fleet.ops.history.search` does, and the state of its result."""
    from celery_fleet.compat import broker as compat_broker

    identity = str(request["id"])
    found = history.search(
        compat_broker.result_client(app, WAIT), identity, float(request.get("seconds") or 1)
    )
    result = None
    with suppress(FleetError):
        meta = stored(app.backend, identity)
        result = {key: meta[key] for key in ("state", "done")}
    return {"id": identity, **found, "result": result}


def stored(backend: Any, identity: str) -> dict[str, Any]:
    """Return a task's stored state, result, error and traceback; the class of its exception is not needed.

    Raises:
        FleetError: Only the application can read it.
    """
    from celery import states
    from kombu.exceptions import ContentDisallowed, DecodeError

    raw = backend.get(backend.get_key_for_task(identity))
    try:
        meta = {} if not raw else backend.decode(raw)
    except (ContentDisallowed, DecodeError):
        text = "the application stores results in another format than JSON; read this one with"
        raise FleetError(f"{text} celery-fleet exec -- celery result {identity}") from None
    state = str(meta.get("status") or states.PENDING)
    value, error = meta.get("result"), None
    if state in states.EXCEPTION_STATES:
        value, error = None, _error_text(value, str(meta.get("traceback") or ""))
    return {
        "id": identity,
        "state": state,
        "ready": state in states.READY_STATES,
        "ok": state == states.SUCCESS,
        "result": value,
        "error": error,
        "traceback": meta.get("traceback"),
        "done": meta.get("date_done"),
    }


def _error_text(value: Any, traceback: str) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    words = value.get("exc_message")
    # Celery stores only number and text of an OSError; Python's line at the end of the traceback also has the file.
    line = traceback.rstrip().rpartition("\n")[2]
    if line.startswith(f"{value.get('exc_type')}: [Errno "):
        return line
    shown = ", ".join(map(str, words)) if isinstance(words, (list, tuple)) else str(words or "")
    return f"{value.get('exc_type')}: {shown}".removesuffix(": ")


def lengths(app: Any, queues: Any) -> dict[str, int]:
    """Return how many tasks wait in each queue, for all priorities together."""
    from celery_fleet.compat import queues as compat_queues

    with app.connection_for_write() as connection:
        channel = connection.default_channel
        return {
            str(queue): sum(
                int(channel.client.llen(key))
                for key in compat_queues.priority_keys(channel, str(queue))
            )
            for queue in queues
        }


QUESTIONS: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "dead_letters": dead_letters.answer,
    "inspect": inspect,
    "lengths": lambda app, request: lengths(app, request.get("queues") or ()),
    "pauses": pauses.answer,
    "pool_sizes": pool_sizes.answer,
    "purge": purge,
    "result": result,
    "revoke": revoke,
    "task": task,
    "workers": workers,
}

#: Questions that are for the result store.
_OF_RESULTS = ("result", "task")

#: Questions about results, errors, arguments or messages of tasks, and Celery's methods that do.
_OF_TASKS = ("dead_letters", "result", "task")
_METHODS_OF_TASKS = ("active", "query_task", "reserved", "scheduled")

#: Questions that also work with a full broker, since they send nothing.
_OF_QUEUES = ("lengths", "purge", "dead_letters", "pauses", "pool_sizes")


def answer(
    raw: Mapping[str, Any], note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Return the document to print for a request.

    Args:
        raw: The request.
        note: Called with what the answer currently waits for, to explain a timeout.
    """
    if raw.get("question") not in QUESTIONS:
        return _error(f"the request must have a question, one of {', '.join(QUESTIONS)}")
    secrets = secrets_in(raw)
    try:
        versions.require()
        app = make_app(parse(raw.get("settings"), "settings"))
        question = str(raw["question"])
        trouble, full = _trouble(app, question, note)
        asked = "the result store" if question in _OF_RESULTS else "the broker"
        note(f"{asked} answers, but not all of what was asked for had come yet")
        if full and question == "workers":
            queues = lengths(app, raw.get("queues") or ())
            found = {"workers": {}, "queues": queues, "full": redact(trouble, secrets)}
            return {"ok": True, "answer": {**found, **_kept(app), **_letters(app, raw)}}
        if full and question not in _OF_QUEUES:
            return _error(redact(f"{trouble}; `celery-fleet status` shows the queues", secrets))
        if trouble and not full:
            return _error(redact(trouble, secrets))
        found = QUESTIONS[question](app, raw)
    except FleetError as exc:
        return _error(redact(one_line(exc), secrets))
    except Exception as exc:  # noqa: BLE001  # any error is the answer
        return _error(redact(f"{type(exc).__name__}: {one_line(exc)}", secrets))
    # What belongs to tasks is passed on unchanged: a URL in it is data, and no setting.
    of_tasks = question in _OF_TASKS or raw.get("method") in _METHODS_OF_TASKS
    return {"ok": True, "answer": found if of_tasks else redact_all(found, list(secrets))}


def _trouble(app: Any, question: str, note: Callable[[str], None]) -> tuple[str | None, bool]:
    """Return why the server for a question can't be asked (None if it can), and whether it is a full broker."""
    from celery_fleet.supervision import broker

    if question in _OF_RESULTS:
        note("the result store had not answered yet")
        return no_results(app), False
    note(f"the broker {broker.name(app)} had not answered yet")
    trouble, full = broker.ask_for_room(app)
    if full:
        return (
            f"the broker is full, so nothing can be sent and no worker can be asked: {trouble}",
            True,
        )
    return f"the broker can't be asked: {trouble}" if trouble else None, False


def no_results(app: Any) -> str | None:
    """Return why the result store can't be asked; None if it can."""
    from celery_fleet.compat import broker as compat_broker
    from celery_fleet.supervision import broker

    endpoints = compat_broker.result_endpoints(app)
    if not endpoints:
        return (
            "results are not in the fleet's store, because the inventory sets another result_backend:"
            " celery-fleet exec -- celery result"
        )
    trouble = broker.ask_endpoints(endpoints)
    return f"the result store can't be asked: {trouble}" if trouble else None


def _error(text: str) -> dict[str, Any]:
    return {"ok": False, "error": text}


def run(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a request by its deadline, even if something hangs."""
    timeout = raw["timeout"]
    answers: list[dict[str, Any]] = []
    stages = ["no worker had been asked yet"]
    thread = threading.Thread(
        target=lambda: answers.append(answer(raw, stages.append)), daemon=True
    )
    thread.start()
    thread.join(timeout)
    if answers:
        return answers[0]
    return _error(late(timeout, stages[-1]))


def _timed(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw, "timeout": float(raw.get("timeout", TIMEOUT))}


if __name__ == "__main__":
    serve(_timed, run)
