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
# table; without a copy, the table was confirmed or has been rolled back.
ROLLBACK = """
systemctl stop "$4"
[ -e "$2" ] || exit 0
if [ -s "$2" ]; then mv -f "$2" "$1" && exec systemctl restart "$3"; exit 1; fi
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


def arm(app: str, file: str, seconds: float) -> str:
    """Let systemd restore the table on disk, or its absence, after so many seconds."""
    unit, copy = f"{app}-firewall-rollback", copy_of(file)
    rollback = ["/bin/sh", "-c", ROLLBACK, "sh", file, copy]
    rollback += [f"{app}-firewall.service", f"{unit}.timer"]
    # The table of a run that was killed was never confirmed, so roll it back first.
    if not run("systemctl", "is-active", f"{unit}.timer"):
        run("systemctl", "start", f"{unit}.service")
    elif os.path.exists(copy):
        # The host has rebooted since.
        run(*rollback)
    save(file, copy)
    # By default the description is the script, whose lines systemd takes for sections of the timer's file when it reads
    # that again. Then the timer would be broken.
    description = f"--description={app}: rolls back a firewall table that is not confirmed"
    options = ["--quiet", "--collect", f"--unit={unit}", description, "--service-type=oneshot"]
    delay = [f"--on-active={seconds:g}s", "--timer-property=AccuracySec=1s"]
    return run("systemd-run", *options, *delay, *rollback)


def save(file: str, copy: str) -> None:
    """Copy a table; if there is none, make an empty file. The copy is on the disk before the new table is written."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(copy)
    if os.path.exists(file):
        shutil.copy2(file, copy)
    with open(copy, "ab") as stream:
        os.fsync(stream.fileno())


def keep(app: str, file: str) -> str:
    """Cancel the rollback; this fails if it has begun."""
    error = run("systemctl", "stop", f"{app}-firewall-rollback.timer")
    if not error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy_of(file))
    return error


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
        answer = {"error": run("systemctl", "start", f"{asked['app']}-firewall-rollback.service")}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main()
