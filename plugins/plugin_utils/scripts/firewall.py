"""Rolls a firewall's new table back unless it is confirmed, and checks whether ports still answer.

It runs on the host, as root, by `python3 -S -I -c`.

Input: {"do": "arm" | "keep" | "back", "app": name, "file": path of the table, "seconds": until the rollback}
or {"do": "connect", "targets": [[host, port]], "timeout": seconds for each}.
Output: {"error": text, or empty}; for `connect` {"silent": [{"host", "port", "source"}]}.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from typing import Any

# Stop its own timer first, which would run it a second time after a manual start. An empty copy means that there was no
# table; without a copy, the table was confirmed or has been rolled back. If the copy equals the table, the new one is
# not written yet, because another application's run may hold the host's lock for long: then keep the copy for `back`.
ROLLBACK = """
systemctl stop "$4"
cat "$1" | cmp -s - "$2" && exit 0
if [ -s "$2" ]; then mv -f "$2" "$1" && exec systemctl restart "$3"; exit 1; fi
[ -e "$2" ] || exit 0
rm -f "$1" "$2"
exec systemctl disable --now "$3"
"""


def run(*command: str) -> str:
    """Run a command; return why it failed, or an empty string."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout.strip() or f"exit status {done.returncode}"


def copy_of(file: str) -> str:
    """Return where the previous table is until the new one is confirmed. It outlasts a reboot, which ends the timer."""
    return f"{file}.before"


def rollback(app: str, file: str) -> list[str]:
    """Return the command that restores the previous table or its absence, as long as there is a copy."""
    units = [f"{app}-firewall.service", f"{app}-firewall-rollback.timer"]
    return ["/bin/sh", "-c", ROLLBACK, "sh", file, copy_of(file), *units]


def arm(app: str, file: str, seconds: float) -> str:
    """Let systemd restore the table on disk, or its absence, after so many seconds."""
    # The table of a run that was killed was never confirmed, so roll it back first.
    back(app, file)
    save(file, copy_of(file))
    # By default the description is the script, whose lines systemd takes for sections of the timer's file when it reads
    # that again. Then the timer would be broken.
    description = f"--description={app}: rolls back a firewall table that is not confirmed"
    unit = f"--unit={app}-firewall-rollback"
    options = ["--quiet", "--collect", unit, description, "--service-type=oneshot"]
    delay = [f"--on-active={seconds:g}s", "--timer-property=AccuracySec=1s"]
    return run("systemd-run", *options, *delay, *rollback(app, file))


def save(file: str, copy: str) -> None:
    """Copy a table; if there is none, make an empty file. The copy is on the disk before the new table is written."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(copy)
    if os.path.exists(file):
        shutil.copy2(file, copy)
    with open(copy, "ab") as stream:
        os.fsync(stream.fileno())


def keep(app: str, file: str) -> str:
    """Cancel the rollback, which does nothing without a copy; this fails if it has begun."""
    error = run("systemctl", "stop", f"{app}-firewall-rollback.timer")
    try:
        os.unlink(copy_of(file))
    except FileNotFoundError:
        return error
    return ""


def back(app: str, file: str) -> str:
    """Begin the rollback. After a reboot, or if the timer came before the new table, systemd has no unit for it."""
    error = run("systemctl", "start", f"{app}-firewall-rollback.service")
    return run(*rollback(app, file)) if error and os.path.exists(copy_of(file)) else error


def silent(host: str, port: int, timeout: float) -> dict[str, Any] | None:
    """Return None if a new connection is answered. A refusal is an answer: in a first deploy nothing listens yet."""
    try:
        socket.create_connection((host, port), timeout).close()
    except TimeoutError:
        # This sends nothing: the system only chooses the source address.
        with contextlib.suppress(OSError):
            family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as probe:
                probe.connect(address)
                return {"host": host, "port": port, "source": probe.getsockname()[0]}
        return {"host": host, "port": port, "source": "an unknown address"}
    except OSError:
        # A table that drops packets can't cause other errors.
        pass
    return None


def main() -> None:
    """Do what is asked."""
    asked = json.load(sys.stdin)
    answer: dict[str, Any]
    if asked["do"] == "connect":
        found = [silent(host, port, asked["timeout"]) for host, port in asked["targets"]]
        answer = {"silent": [one for one in found if one]}
    elif asked["do"] == "arm":
        answer = {"error": arm(asked["app"], asked["file"], asked["seconds"])}
    elif asked["do"] == "keep":
        answer = {"error": keep(asked["app"], asked["file"])}
    else:
        answer = {"error": back(asked["app"], asked["file"])}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main()
