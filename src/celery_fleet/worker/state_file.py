"""Keeps the revoked tasks of a worker with ``--statedb`` in a file that can't stop the worker.

Celery uses ``shelve``. If a kill, a power cut or a full disk damaged its file, each start of the worker failed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from celery.worker import state

from celery_fleet.common import errors
from celery_fleet.common.errors import FleetError
from celery_fleet.common.pickle_file import PickleFile, read

logger = logging.getLogger("celery_fleet")


class StateInFile(state.Persistent):  # type: ignore[misc]  # Celery ships no types
    """What Celery keeps, in our own file."""

    db: Any

    def open(self) -> PickleFile:
        """Read the file."""
        path = Path(self.filename)
        return PickleFile(path, read(path))

    def merge(self) -> None:
        """Take over what the file has; begin with nothing if it is damaged.

        Raises:
            SystemExit: Nothing can be saved there, so the inventory has to change.
        """
        directory = Path(self.filename).parent
        if not os.access(directory, os.W_OK):
            errors.refuse(
                FleetError(
                    f"the worker can't write its statedb {self.filename}: {directory} is not there, or its permissions"
                    " or the worker's unit don't allow it (read_write_paths)"
                ),
                os.environ,
            )
        try:
            super().merge()
        except Exception as exc:  # noqa: BLE001  # damage shows in many ways
            logger.warning(
                "the statedb %s can't be read (%s); tasks that were revoked before this start may run",
                self.filename,
                errors.error_text(exc),
            )
            self.db = PickleFile(Path(self.filename), {})


def install() -> None:
    """Use it in this process's workers; call this before they build their blueprints."""
    state.Persistent = StateInFile
