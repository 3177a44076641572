"""Send or run an application's tasks in its release: ``python -m celery_fleet.ops.tasks`` with JSON on stdin.

    {"do": "send", "id": "…", "task": "shop.add", "args": [1], "kwargs": {}, "queue": null, "consumed": ["mail"]}
    {"do": "apply", "task": "shop.add", "args": [1], "kwargs": {}}
    {"do": "entry", "id": "…", "entry": "nightly", "consumed": ["mail"]}

``CELERY_APP`` names the application, which is loaded as by a producer that sends its tasks, with the settings of this
process. ``entry`` sends the task of an entry of beat's schedule, with beat's settings. It and ``send`` refuse a queue
that is not in ``consumed``, unless that is null. ``apply`` runs the task here with Celery's own ``apply``.

Prints one line of JSON, ``{"ok": true, "answer": …}`` or ``{"ok": false, "error": "one line", "usage": …}``. ``usage``
is true if the request is a mistake and the fleet is not at fault. What the application prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from celery_fleet.beat import described, due
from celery_fleet.common.answering import serve
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact

#: Seconds after which broker and result store count as not answering.
PATIENCE = 5.0


class RequestError(Exception):
    """The request is a mistake; the text is one line."""


def send(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a task; return its id, and whether its result is ignored.

    Raises:
        RequestError: It takes other arguments, or no worker consumes the queue that it would go to.
    """
    from celery_fleet.compat import beat

    task, args, kwargs = wanted(app, request)
    options = {"queue": request["queue"]} if request.get("queue") else {}
    queue, _ = beat.queue_of(app, task.name, options, args, kwargs)
    _require_consumed(task.name, queue, request, "add --queue, or --anyway")
    sent = task.apply_async(args, kwargs, task_id=request["id"], **options)
    # The application's task_ignore_result is the value of tasks that don't set their own.
    ignored = bool(task.ignore_result)
    return {"id": str(sent.id), "task": task.name, "queue": queue, "ignored": ignored}


def apply(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task in this process."""
    task, args, kwargs = wanted(app, request)
    # Its error is the answer, even if the application's tests want it raised (task_eager_propagates).
    done = task.apply(args, kwargs, throw=False)
    ok = bool(done.successful())
    return {
        "id": str(done.id),
        "task": task.name,
        "state": str(done.state),
        "ready": True,
        "ok": ok,
        "result": described.plain(done.result) if ok else None,
        "error": None if ok else f"{type(done.result).__name__}: {one_line(done.result)}",
        "traceback": None if ok else done.traceback,
    }


def send_entry(app: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send the task of an entry of beat's schedule; the entry's times stay as they are.

    Raises:
        RequestError: There is no such entry, or no worker consumes the queue that its task would go to.
    """
    from celery.beat import Scheduler

    from celery_fleet.compat import beat

    name = str(request.get("entry"))
    entry = _entry(app, name)
    queue, _ = beat.queue_of(app, entry.task, entry.options or {}, entry.args, entry.kwargs)
    _require_consumed(name, queue, request, "add --anyway")
    entry.options = {**(entry.options or {}), "task_id": request["id"]}
    sent = Scheduler(app, lazy=True).apply_async(entry, advance=False)
    return {"id": str(sent.id), "entry": name, "task": entry.task, "queue": queue}


def _require_consumed(
    what: str, queue: str | None, request: Mapping[str, Any], remedy: str
) -> None:
    consumed = request.get("consumed")
    if consumed is not None and queue is not None and queue not in consumed:
        raise RequestError(
            f"{what} goes to the queue {queue}, which no worker of the inventory consumes; consumed are"
            f" {', '.join(consumed) or 'none'}: {remedy}"
        )


def _entry(app: Any, name: str) -> Any:
    """Return an entry as beat has it, from the database if the schedule is there.

    Raises:
        RequestError: There is none of this name.
        FleetError: The schedule can't be in a database.
    """
    from celery_fleet.config.current import current_settings
    from celery_fleet.config.settings import DATABASE

    if current_settings().scheduler == DATABASE:
        from celery_fleet.beat.database.available import missing

        trouble = missing()
        if trouble:
            raise FleetError(trouble)
        from django_celery_beat.models import PeriodicTask
        from django_celery_beat.schedulers import ModelEntry

        rows = {row.name: row for row in PeriodicTask.objects.all()}
        if name in rows:
            return ModelEntry(rows[name], app=app)
        known = sorted(rows)
    else:
        entries = due.schedule_of(app)
        if name in entries:
            return entries[name]
        known = sorted(map(str, entries))
    raise RequestError(f"the schedule has no entry {name}; it has {', '.join(known) or 'none'}")


def wanted(app: Any, request: Mapping[str, Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """Return the requested task with its arguments.

    Raises:
        RequestError: There is no such task, or it does not take these arguments.
    """
    name = str(request.get("task"))
    args, kwargs = list(request.get("args") or ()), dict(request.get("kwargs") or {})
    task = app.tasks.get(name)
    if task is None:
        raise RequestError(f"the release registers no task {name}: see `celery-fleet tasks`")
    takes = getattr(task, "__header__", None)
    if task.typing and takes is not None:
        try:
            takes(*args, **kwargs)
        except TypeError as exc:
            raise RequestError(f"{name} does not take these arguments: {one_line(exc)}") from None
    return task, args, kwargs


DOINGS: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "send": send,
    "apply": apply,
    "entry": send_entry,
}


def unreachable() -> str | None:
    """Return why nothing can be sent now; called before the application is loaded, which may take long."""
    from celery_fleet.compat import broker as compat_broker
    from celery_fleet.config.current import current_settings
    from celery_fleet.ops.app import make_app
    from celery_fleet.supervision import broker

    app = make_app(current_settings())
    trouble = broker.Question(lambda: broker.ask(app), broker.name(app), PATIENCE).ask()
    if trouble:
        return f"the broker can't be asked: {trouble}"
    found = compat_broker.result_endpoints(app)
    if not found:
        return None
    address = ", ".join(endpoint.address for endpoint in found)
    store = broker.Question(lambda: broker.ask_endpoints(found), address, PATIENCE)
    trouble = store.ask()
    return f"the result store can't be asked: {trouble}" if trouble else None


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document to print for a request."""
    if request.get("do") not in DOINGS:
        return _error(f"the request must do one of {', '.join(DOINGS)}")
    module = os.environ.get("CELERY_APP", "")
    try:
        if request["do"] in ("send", "entry") and (trouble := unreachable()):
            return _error(redact(trouble))
        try:
            app = due.load(module)
        except (Exception, SystemExit) as exc:  # noqa: BLE001  # the application's code may do anything
            return _error(redact(f"application {module} can't be loaded: {_named(exc)}"))
        return {"ok": True, "answer": DOINGS[request["do"]](app, request)}
    except RequestError as exc:
        return _error(str(exc), usage=True)
    except FleetError as exc:
        return _error(redact(one_line(exc)))
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # any error is the answer
        return _error(redact(_named(exc)))


def _named(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {one_line(exc)}"


def _error(text: str, usage: bool = False) -> dict[str, Any]:
    return {"ok": False, "error": text, "usage": usage}


if __name__ == "__main__":
    # Ctrl-C is for the caller, which waits for this process; here it would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve(dict, answer)
