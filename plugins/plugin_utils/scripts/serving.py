"""Waits until the units of a host serve; runs on the host, as root, by `python3 -S -I -c`.

Input: {"units": [names], "addresses": [{"name", "host", "path", "status": [those that are right; without it, all but
those of server errors]} with either "address", "port" and "ca" for TLS, or "listen": path of a Unix socket or
ADDRESS:PORT without TLS], "journals": [units for which to return the last lines], "schedule": path of what beat wrote
or empty, "release": path of its release's note or empty, "timeout": seconds, "stable_for": seconds that a unit which
was started again has to stay up, "restarts": automatic restarts of a unit after which the wait is given up, or null}.
Output: {"units": {name: properties}, "journals": {unit: text}, "schedule": [entries] or null if they are too many,
"zone": theirs, "code": [names of the entries in the release's own code], "errors": {name: text}}.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

PROPERTIES = (
    "ActiveState,SubState,StatusText,Result,NRestarts,MainPID,LoadState,UnitFileState,"
    "ActiveEnterTimestampMonotonic"
)

# Maximum number of characters to read of beat's file; an entry takes about 300.
_LARGEST = 50_000_000

# Why a socket may accept connections without an answer.
_HELD = (
    " The process may be busy or wait for something, such as its database. Or it does not use the socket that systemd "
    "holds: celery_producer_web.command has to use file descriptor 3 (docs/web.md)."
)


def run(*command: str) -> str:
    """Run a command; return its output, including errors."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    # With `text=True`, the carriage return in a status of the application would end its line.
    return done.stdout.decode(errors="replace")


def states(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of units, with one call of systemctl."""
    if not names:
        return {}
    command = ("systemctl", "show", "--no-pager", f"--property={PROPERTIES}", *names)
    blocks = run(*command).strip("\n").split("\n\n")
    return {
        name: dict(line.partition("=")[::2] for line in block.split("\n") if line)
        # If systemd does not answer, there is only one block, and all units count as down.
        for name, block in zip(names, blocks + [""] * (len(names) - len(blocks)), strict=True)
    }


def up(state: dict[str, str], stable_for: float) -> bool:
    """Return whether a unit serves and was not just restarted after a failure."""
    if state.get("ActiveState") != "active":
        return False
    since = int(state.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    # A process that is restarted every second is "active" most of the time.
    return (
        state.get("NRestarts", "0") in ("", "0")
        or time.clock_gettime(time.CLOCK_MONOTONIC) - since > stable_for
    )


def journal(unit: str) -> str:
    """Return the last lines of a unit's journal."""
    command = ("journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=10", "--unit", unit)
    return run(*command).strip()


def restarts(state: dict[str, str]) -> int:
    """Return how often systemd has restarted a unit by itself."""
    return int(state.get("NRestarts") or 0)


@contextlib.contextmanager
def connection(wanted: dict[str, Any]) -> Iterator[socket.socket]:
    """Connect to a process's own socket, or to an address with TLS."""
    listen = wanted.get("listen", "")
    if listen.startswith("/"):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(5)
            stream.connect(listen)
            yield stream
    elif listen:
        address, _, port = listen.rpartition(":")
        with socket.create_connection((address.strip("[]"), int(port)), timeout=5) as stream:
            yield stream
    else:
        context = ssl.create_default_context(cafile=wanted["ca"])
        # The file may lack the root, and have just the site's own certificate and its intermediates.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        address = wanted.get("address", wanted["host"])
        with (
            socket.create_connection((address, wanted["port"]), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=wanted["host"]) as stream,
        ):
            yield stream


def fetch(wanted: dict[str, Any]) -> str:
    """Request an address; return an empty string for an expected status code, otherwise the error."""
    lines = [f"GET {wanted['path']} HTTP/1.1", f"Host: {wanted['host']}", "Connection: close"]
    if "listen" in wanted:
        # nginx always sends them, so an application may rely on them.
        lines += ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "X-Real-Ip: 127.0.0.1"]
    request = "\r\n".join([*lines, "", ""])
    try:
        with connection(wanted) as stream:
            stream.sendall(request.encode())
            stream.settimeout(10)
            line = stream.makefile("rb").readline(200).decode(errors="replace").strip()
    except TimeoutError:
        return f"no answer in time at {wanted.get('listen') or wanted['host']}.{_HELD if 'listen' in wanted else ''}"
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    found = re.match(r"HTTP/1\.[01] (\d{3})", line)
    if found and int(found.group(1)) in (wanted.get("status") or range(200, 500)):
        return ""
    return f"answered “{line}”"


def described(name: str, state: dict[str, str]) -> str:
    """Return what is wrong with a unit: its state in the first line, then its journal."""
    text = (
        f"it is {state.get('ActiveState')} ({state.get('SubState')}, result {state.get('Result')}, "
        f"restarted {state.get('NRestarts') or 0} times)"
    )
    if state.get("StatusText") and state["MainPID"] != "0":
        text += f", it says “{state['StatusText']}”"
    return f"{text}\n{journal(name)}"


def in_code(path: str) -> list[str]:
    """Return names of the entries in a release's code; empty if its note is from an older version."""
    if not path:
        return []
    try:
        with open(path) as stream:
            return sorted(json.load(stream).get("application", {}).get("schedule", {}))
    except (OSError, ValueError, AttributeError):
        return []


def loaded(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the entries that beat has loaded, with their zone, and errors. Beat writes the file at its first tick."""
    if not path:
        return {"entries": []}, {}
    try:
        # The directory belongs to the application, so follow no link and don't block.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle) as stream:
            text = stream.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                return {"entries": None}, {}
            found = json.loads(text)
            return {"zone": found.get("zone", ""), "entries": found["entries"]}, {}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        return {"entries": []}, {"beat": f"what it has loaded can't be read: {error}"}


def main() -> None:
    """Wait until the units serve, and print the answer."""
    wanted = json.load(sys.stdin)
    begin = time.monotonic()
    missing: dict[str, str] = {}
    # systemd does not reset its counter if a crash loop is interrupted.
    counted: dict[str, int] = {}
    while True:
        found = states(wanted["units"])
        down = [name for name, state in found.items() if not up(state, wanted["stable_for"])]
        schedule, missing = loaded(wanted["schedule"])
        if not down and not missing:
            missing = {item["name"]: text for item in wanted["addresses"] if (text := fetch(item))}
        lost = wanted["restarts"] is not None and any(
            state.get("ActiveState") == "failed"
            or restarts(state) - counted.setdefault(name, restarts(state)) > wanted["restarts"]
            for name, state in found.items()
        )
        waited = time.monotonic() - begin
        if (not down and not missing) or lost or waited > wanted["timeout"]:
            break
        time.sleep(0.3)
    errors = {
        name: f"did not serve within {waited:.0f} s: {text}\n{journal(name)}"
        if name in found
        else text
        for name, text in missing.items()
    }
    errors |= {name: described(name, found[name]) for name in down}
    journals = {unit: journal(unit) for unit in wanted["journals"]}
    print(
        json.dumps(
            {
                "units": found,
                "journals": journals,
                "schedule": schedule["entries"],
                "zone": schedule.get("zone", ""),
                "code": in_code(wanted["release"]),
                "errors": errors,
            }
        )
    )


if __name__ == "__main__":
    main()
