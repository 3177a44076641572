"""Tries a firewall's table before it is written, and tells who gets through.

It runs on the host, as root, by `python3 -S -I -c`.

Input: {"do": "try" | "back" | "keep" | "connect", "unit": name without suffix of the timer that takes a table back,
"table": its name, "file": path of the table of before, "text": the new one, "seconds": until the timer takes it back,
"targets": [[host, port]], "timeout": seconds for all of them}; `connect` needs the last two alone, the others not them.
Output: {"error": text, or empty}; of `connect` {"blocked": [{"host", "port", "source", "error"}]}.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

PLACES = "/usr/sbin:/usr/bin:/sbin:/bin"
# Whoever is refused has got through: nobody listens there yet.
THROUGH = (ConnectionRefusedError, ConnectionResetError)


def run(command: list[str], text: str = "") -> str:
    """Why a command failed, or nothing."""
    try:
        done = subprocess.run(
            command,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Not every way to root brings the directories of its programs.
            env={
                **os.environ,
                "PATH": f"{os.environ.get('PATH', '')}:{PLACES}",
                "LC_ALL": "C.UTF-8",
            },
            check=False,
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    if done.returncode == 0:
        return ""
    return done.stdout.strip() or f"{command[0]} ended with {done.returncode}"


def before(asked: dict[str, Any]) -> list[str]:
    """The command that brings back what was there before: the table on disk, or none."""
    script = (
        'if [ -e "$1" ]; then exec nft -f "$1"; fi; nft delete table inet "$2" 2>/dev/null; exit 0'
    )
    return ["/bin/sh", "-c", script, "sh", asked["file"], asked["table"]]


def disarm(asked: dict[str, Any]) -> None:
    """No way back any more; what a killed run has left of one included."""
    unit = asked["unit"]
    # It may not be there.
    run(["systemctl", "stop", f"{unit}.timer"])
    run(["systemctl", "reset-failed", f"{unit}.timer", f"{unit}.service"])


def arm(asked: dict[str, Any]) -> str:
    """Should this run end here, or be cut off itself, systemd takes the table back."""
    return run(
        [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={asked['unit']}",
            f"--on-active={int(asked['seconds'])}s",
            "--timer-property=AccuracySec=1s",
            *before(asked),
        ]
    )


def attempt(asked: dict[str, Any]) -> str:
    """Load the new table for a while; why it could not be, or nothing."""
    disarm(asked)
    error = arm(asked) or run(["nft", "-f", "-"], asked["text"])
    if error:
        disarm(asked)
    return error


def source(address: Any, family: int) -> str:
    """The address that this host calls another one from; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def blocked(host: str, port: int, timeout: float) -> dict[str, Any] | None:
    """Nothing where the host answers, in whatever way, by all of its addresses that this one has a way to.

    A client would wait in vain for the silent one before it tries the next, at each of its connections.
    """
    finding = {"host": host, "port": port, "source": ""}
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return {**finding, "error": f"the name can't be resolved: {error}"}
    patience = timeout / len(found)
    through, words = False, ""
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(patience)
            try:
                one.connect(address)
                through = True
            except THROUGH:
                through = True
            except TimeoutError:
                silence = f"no answer from {address[0]} within {patience:g} s"
                return {**finding, "source": source(address, family), "error": silence}
            except OSError as error:
                words = str(error.strerror or error)
                finding["source"] = source(address, family)
    return None if through else {**finding, "error": words}


def connect(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the targets that are not reached; all are called at once."""
    findings: list[dict[str, Any]] = []

    def one(host: str, port: int) -> None:
        if finding := blocked(host, port, float(asked["timeout"])):
            findings.append(finding)

    threads = [threading.Thread(target=one, args=(host, port)) for host, port in asked["targets"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(findings, key=lambda finding: (finding["host"], finding["port"]))


def main() -> None:
    """Do what is asked."""
    asked = json.load(sys.stdin)
    if asked["do"] == "connect":
        json.dump({"blocked": connect(asked)}, sys.stdout)
        return
    error = ""
    if asked["do"] == "try":
        error = attempt(asked)
    else:
        if asked["do"] == "back":
            error = run(before(asked))
        disarm(asked)
    json.dump({"error": error}, sys.stdout)


if __name__ == "__main__":
    os.umask(0o077)
    main()
