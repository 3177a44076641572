"""The worker's side of the hand-back: write the files that its unit needs when the worker has ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import signals

from celery_fleet.compat import tasks
from celery_fleet.delivery import tags
from celery_fleet.delivery.hand_back import worker_record
from celery_fleet.delivery.hand_back.worker_record import StartedTasks, WorkerRecord
from celery_fleet.delivery.options import Options

logger = logging.getLogger("celery_fleet.delivery")

#: File descriptors of locks, which stay open as long as this process or one of its children is running.
_held: list[int] = []


def install(app: Any, options: Options, environ: Mapping[str, str]) -> None:
    """Write the files when the worker is set up and before it forks, if the hand-back is enabled."""
    if not options.hand_back:
        return
    signals.celeryd_after_setup.connect(
        lambda **_: prepare(app, options, environ),
        weak=False,
        dispatch_uid="celery_fleet.hand_back",
    )


def prepare(app: Any, options: Options, environ: Mapping[str, str]) -> StartedTasks | None:
    """Take the lock, write the record, and start to record tasks; return None if that fails.

    No message is lost then: if the process dies, its messages are returned when its lease expires.
    """
    directory = worker_record.directory_of(environ)
    if directory is None:
        logger.warning(
            "no hand-back: %s is not set, because no unit started this worker; if it dies, its messages wait"
            " until its lease expires",
            worker_record.DIRECTORY_VARIABLE,
        )
        return None
    owner = tags.owner()
    try:
        _held.append(worker_record.hold(directory))
        # The directory may have been preserved from an earlier start.
        for name in (worker_record.RECORD, worker_record.STOPPING):
            (directory / name).unlink(missing_ok=True)
        notes = StartedTasks(owner, directory / worker_record.BEGUN)
        transport = app.conf.broker_transport_options or {}
        WorkerRecord.of(owner, transport, options).write(directory)
    except (OSError, ValueError, TypeError) as error:
        logger.warning(
            "no hand-back: %s (%s); if this worker dies, its messages wait until its lease expires",
            error,
            directory,
        )
        return None
    tasks.on_tasks(notes.note, notes.forget)
    return notes
