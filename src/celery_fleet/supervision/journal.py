"""Log records with fields: for systemd's journal, or as lines of JSON.

journald takes a record with its fields as one datagram (``sd_journal_send(3)``, "Native Journal Protocol"). A record
that it does not take goes to standard error, as without this module.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery import signals

#: journald's socket.
SOCKET = "/run/systemd/journal/socket"

#: systemd tells a service by this variable to which device and inode its output is connected.
VARIABLE = "JOURNAL_STREAM"

#: Levels of logging, and the priorities of syslog(3) that they have in the journal.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7

Fields = Callable[[logging.LogRecord], Mapping[str, str]]


def task_fields(record: logging.LogRecord) -> dict[str, str]:
    """Return `task`, `task_id` and `queue` of the task that a record is about, as far as they are known.

    Celery's own records about a task carry its id and its name in ``data``, together with its arguments, which are not
    used. All others belong to the task that this process runs.
    """
    from celery._state import get_current_task

    found: dict[str, Any] = {}
    task = get_current_task()
    request = getattr(task, "request", None)
    if request is not None and request.id:
        info = request.delivery_info or {}
        found = {"task": task.name, "task_id": request.id, "queue": info.get("routing_key")}
    data = getattr(record, "data", None)
    # An application's own records may have a field of this name.
    if record.name.startswith("celery.") and isinstance(data, Mapping):
        name, task_id = data.get("name"), data.get("id")
        if isinstance(task_id, str) and task_id != found.get("task_id"):
            found = {"task": name if isinstance(name, str) else None, "task_id": task_id}
    return {name: str(value) for name, value in found.items() if value}


class JournalHandler(logging.Handler):
    """Sends records to journald with the fields ``CELERY_TASK``, ``CELERY_TASK_ID``, ``CELERY_QUEUE`` and others.

    Args:
        otherwise: The handler for records that journald does not take. Its formatter makes the messages.
        fields: Returns the fields of a record.
        path: journald's socket.
    """

    def __init__(
        self, otherwise: logging.Handler, fields: Fields = task_fields, path: str = SOCKET
    ) -> None:
        super().__init__(otherwise.level)
        self.setFormatter(otherwise.formatter)
        self._otherwise = otherwise
        self._fields = fields
        self._path = path
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; if journald does not take it at once, write it to the other handler."""
        try:
            message = self._message(record)
            if self._socket is None:
                self._socket = socket.socket(
                    socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
                )
            self._socket.sendto(message, self._path)
        except OSError:
            self._otherwise.handle(record)
        except Exception:  # noqa: BLE001  # logging must never end a task
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        super().close()

    def _message(self, record: logging.LogRecord) -> bytes:
        found = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_priority(record.levelno)),
            "SYSLOG_IDENTIFIER": "celery",
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            "CELERY_RELEASE": os.environ.get("CELERY_FLEET_RELEASE", ""),
            **{f"CELERY_{name.upper()}": value for name, value in self._fields(record).items()},
        }
        return b"".join(_field(name, value) for name, value in found.items() if value)


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)


class JsonFormatter(logging.Formatter):
    """Makes one JSON object of a record, in one line. Arguments and results of tasks are left out.

    Args:
        app: Name of the application.
        worker: Name of the worker; empty for beat.
        fields: Returns the fields of a record.
    """

    def __init__(self, app: str, worker: str, fields: Fields = task_fields) -> None:
        super().__init__()
        self._fields = fields
        host, release = socket.gethostname(), os.environ.get("CELERY_FLEET_RELEASE", "")
        self._always = {"app": app, "worker": worker, "host": host, "release": release}

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as text."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _without_result(record),
            **{name: value for name, value in self._always.items() if value},
            **self._fields(record),
        }
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=False, default=str)


def _without_result(record: logging.LogRecord) -> str:
    args = record.args
    if isinstance(args, Mapping) and "return_value" in args:
        return str(record.msg) % {**args, "return_value": "…"}
    return record.getMessage()


def connected(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Return whether journald reads a file descriptor of this process, standard error by default."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get(VARIABLE) == f"{found.st_dev}:{found.st_ino}"


def install(app: str, worker: str, *, as_json: bool, environ: Mapping[str, str]) -> None:
    """Give the handlers that Celery sets up in this process the journal's fields, or JSON.

    An application that sets up logging itself, by Celery's signal `setup_logging`, keeps its handlers.
    """

    def change(logger: logging.Logger, **_: Any) -> None:
        for number, handler in enumerate(logger.handlers):
            if as_json:
                handler.setFormatter(JsonFormatter(app, worker))
            # The type, because files have handlers of a class that is derived from it.
            ours = type(handler) is logging.StreamHandler and handler.stream is sys.__stderr__
            if ours and connected(environ):
                logger.handlers[number] = JournalHandler(handler)

    # At DEBUG, this logger would write the arguments of each task.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(change, weak=False, dispatch_uid="celery_fleet.journal")
