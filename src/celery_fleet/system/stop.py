"""ExecStop of a worker's unit: TERM, wait for the drain, QUIT, wait again, KILL.

Run as a file with `python3 -S -I`, so all that it imports uses only the standard library. SIGTERM makes Celery stop
fetching tasks and wait for running ones without a limit. After the drain, SIGQUIT makes it return the messages that it
has not acknowledged.

SIGQUIT is not always useful. With the threads pool it would return tasks that still run to their end, so they would
run twice. With gevent it returns nothing. For these pools `--no-quit` only waits. It is also unnecessary if the unit
itself returns what a dead process held (`--hand-back`). But a process that started before its unit did so, or that
could not prepare for it, has left no record for that, and still gets SIGQUIT.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # `python3 -I` runs this file without adding its directory to the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from celery_fleet.common.systemctl import host_shuts_down
from celery_fleet.delivery.hand_back.worker_record import RECORD, STOPPING, directory_of

# Seconds that Celery gets after SIGQUIT to return its messages; it took two when measured.
_AFTER_QUIT = 20.0

# Seconds between two checks whether the host is shutting down.
_SLICE = 5.0


def is_handed_back() -> bool:
    """Return whether the process has left the record that hand_back.py needs."""
    directory = directory_of(os.environ)
    return directory is not None and os.path.exists(directory / RECORD)


def note_stopping() -> None:
    """Tell hand_back.py that from now on no task is to blame if the process is killed."""
    directory = directory_of(os.environ)
    if directory is not None:
        # Without it, a task killed at the end of its drain counts as a killer.
        with contextlib.suppress(OSError):
            # A task can write there: a FIFO in its place must not block.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            os.close(os.open(directory / STOPPING, flags, 0o600))


def wait(process: int, seconds: float) -> bool:
    """Wait until the process of a pidfd has ended; return whether it has."""
    readable, _, _ = select.select([process], [], [], seconds)
    return bool(readable)


def wait_for_drain(process: int, seconds: float, shutdown_seconds: float) -> bool:
    """Wait for the drain; once the host shuts down, wait at most ``shutdown_seconds`` more."""
    deadline = time.monotonic() + seconds
    going_down = False
    while True:
        if not going_down and host_shuts_down():
            going_down = True
            deadline = min(deadline, time.monotonic() + shutdown_seconds)
        left = deadline - time.monotonic()
        if left <= 0:
            return wait(process, 0)
        if wait(process, left if going_down else min(left, _SLICE)):
            return True


def main(argv: list[str] | None = None) -> int:
    """Stop the process named on the command line; return 0 if it ended by itself, 1 if it was killed."""
    parser = argparse.ArgumentParser(prog="stop.py")
    # systemd passes no $MAINPID if the process has already ended by itself.
    parser.add_argument("pid", type=int, nargs="?")
    parser.add_argument(
        "--drain", type=float, required=True, help="seconds to wait for running tasks"
    )
    parser.add_argument(
        "--shutdown-drain", type=float, default=60.0, help="the same while the host shuts down"
    )
    parser.add_argument("--no-quit", action="store_true")
    parser.add_argument("--hand-back", action="store_true", help="the unit does it at its end")
    options = parser.parse_args(argv)
    if options.pid is None:
        return 0
    try:
        # A descriptor of the process: by the time of the signal its number could belong to another one.
        process = os.pidfd_open(options.pid)
    except ProcessLookupError:
        return 0
    try:
        start = time.monotonic()
        note_stopping()
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if wait_for_drain(process, options.drain, options.shutdown_drain):
            return 0
        print(f"tasks still run after {time.monotonic() - start:.0f} s of drain", flush=True)
        if not (options.no_quit or (options.hand_back and is_handed_back())):
            signal.pidfd_send_signal(process, signal.SIGQUIT)
            if wait(process, _AFTER_QUIT):
                return 0
        # systemd would first wait another TimeoutStopSec, which is as long as the drain.
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return 1
    except ProcessLookupError:
        return 0
    finally:
        os.close(process)


if __name__ == "__main__":
    sys.exit(main())
