"""ExecStop of a worker's unit: TERM, wait for the drain, QUIT, wait again, KILL.

Run as a file with `python3 -S -I`: standard library alone, nothing of this package. SIGTERM makes Celery stop
taking tasks and wait for those that run, without bound. When the drain is over, SIGQUIT makes it hand back what
it has not acknowledged. With the threads pool SIGQUIT would hand back tasks that
run to their end all the same, and so run twice; with gevent it hands back nothing: there `--no-quit` has it wait and no
more. It is of no use either where the unit itself hands back what a dead process held (`--hand-back`). But a process
that began before its unit did so, or that could not prepare for it, has left nothing by which that could be told, and
is asked as ever.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import time

# Seconds that Celery gets after SIGQUIT to hand back its messages; measured: two.
_AFTER_QUIT = 20.0

# Seconds between two questions whether the host goes down meanwhile.
_SLICE = 5.0


def host_shuts_down() -> bool:
    """Whether the whole host is going down, so that nobody waits half an hour for its tasks."""
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "is-system-running"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "stopping"


def runtime_directory() -> str:
    """The unit's own; empty without one."""
    return os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]


def is_handed_back() -> bool:
    """Return whether the process has left what hand_back.py needs; the name as in worker_record.py."""
    directory = runtime_directory()
    return bool(directory) and os.path.exists(os.path.join(directory, "owner.json"))


def note_stopping() -> None:
    """Leave word for hand_back.py that whatever ends the process now, no task is to blame for it."""
    directory = runtime_directory()
    if directory:
        # The name as in worker_record.py. Without it a task that is killed at the end of its drain counts as a killer.
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(directory, "stopping"), os.O_WRONLY | os.O_CREAT, 0o600))


def wait(process: int, seconds: float) -> bool:
    """Wait until the process behind a pidfd has ended; whether it has."""
    readable, _, _ = select.select([process], [], [], seconds)
    return bool(readable)


def wait_for_drain(process: int, seconds: float, shutdown_seconds: float) -> bool:
    """Wait for the drain; from when the host goes down for ``shutdown_seconds`` at most."""
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
    """Stop the process named on the command line; 0 where it ended by itself, 1 where it was killed."""
    parser = argparse.ArgumentParser(prog="stop.py")
    # systemd gives no $MAINPID where the process has already left by itself.
    parser.add_argument("pid", type=int, nargs="?")
    parser.add_argument(
        "--drain", type=float, required=True, help="seconds to wait for running tasks"
    )
    parser.add_argument(
        "--shutdown-drain", type=float, default=60.0, help="the same while the host goes down"
    )
    parser.add_argument("--no-quit", action="store_true")
    parser.add_argument("--hand-back", action="store_true", help="the unit does it at its end")
    options = parser.parse_args(argv)
    if options.pid is None:
        return 0
    try:
        # A file descriptor of the process, not its number: a number may be another's by the time of the signal.
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
        # Not left to systemd, which would begin a TimeoutStopSec of its own, as long as the drain, after this one.
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return 1
    except ProcessLookupError:
        return 0
    finally:
        os.close(process)


if __name__ == "__main__":
    sys.exit(main())
