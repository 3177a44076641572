"""What a program of the user's learns about a run: that it begins, and how it has ended. Standard library only."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

FORMAT: Final = 1
# Seconds that the program may take: the run waits for it.
LIMIT: Final = 15.0
# Failures that are listed, and characters of each message.
MOST: Final = 20
LONGEST: Final = 1000


def begun(app: str, release: str, plan: Mapping[str, Any], playbook: str) -> dict[str, Any]:
    """Return what is known at the start of a run; the other events repeat it.

    Args:
        app: Name of the application.
        release: Id of the release that the run deploys; may be empty.
        plan: The plan, as `Plan.as_dict` returns it.
        playbook: File name of the playbook.
    """
    return {
        "format": FORMAT,
        "event": "start",
        "app": app,
        "playbook": playbook,
        "release": release or None,
        "user": getpass.getuser(),
        "from": socket.gethostname(),
        "time": round(time.time(), 3),
        "hosts": list(plan.get("hosts", ())),
        "missing": dict(plan.get("missing", {})),
        "items": list(plan.get("items", ())),
        "notes": list(plan.get("notes", ())),
    }


def ended(
    start: Mapping[str, Any], well: bool, failed: Sequence[Mapping[str, str]], back: str = ""
) -> dict[str, Any]:
    """Return how a run has ended: `success`, `failure`, or `rollback` if the fleet is back at an earlier release.

    Args:
        start: What `begun` has returned.
        well: Whether no host has failed.
        failed: Host, task and message of each failure; after a rollback, why the release was refused.
        back: Id of the earlier release.
    """
    moment = time.time()
    return {
        **start,
        "event": "rollback" if back else "success" if well else "failure",
        "back": back or None,
        "time": round(moment, 3),
        "seconds": round(max(0.0, moment - float(start["time"])), 1),
        "failed": [
            {**one, "message": " ".join(one["message"].split())[:LONGEST]} for one in failed[:MOST]
        ],
    }


def send(command: Sequence[str], document: Mapping[str, Any]) -> str | None:
    """Run the program with the document as JSON on its standard input; return why that failed, or None."""
    # In a file, not through a pipe, which a process that it leaves behind would keep open.
    with tempfile.TemporaryFile() as printed:
        try:
            status = subprocess.run(
                list(command),
                input=json.dumps(document).encode(),
                stdout=printed,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"{command[0]} took longer than {LIMIT:.0f} s"
        except OSError as error:
            return f"{command[0]} can't be run: {error.strerror}"
        except ValueError as error:
            return f"{command[0]!r} can't be run: {error}"
        printed.seek(0)
        said = printed.read().decode(errors="replace").strip().splitlines()
    if status:
        return f"{command[0]} ended with status {status}" + (f": {said[-1]}" if said else "")
    return None
