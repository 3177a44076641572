"""What `fleet_facts` asks a host: one stdlib script, run by the host's own Python.

This file is not imported on the host but sent there as text, so it needs nothing but Python 3.7. Input: JSON
on stdin with `paths`, `names` to resolve and `units` to look at. Output: one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time


def release() -> dict[str, str]:
    """os-release(5) as a dictionary, empty where there is none."""
    found = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    key, equals, value = line.strip().partition("=")
                    if equals and not key.startswith("#"):
                        found[key] = value.strip("\"'")
            break
    return found


def systemd() -> int:
    """systemd's version, 0 where there is none."""
    try:
        answer = subprocess.run(["systemctl", "--version"], stdout=subprocess.PIPE, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    words = answer.stdout.decode("utf-8", "replace").split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def packages() -> list[str]:
    """Names of the installed Debian packages."""
    found = set()
    name = ""
    try:
        with open("/var/lib/dpkg/status", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    name = line[9:].strip()
                elif line.startswith("Status: ") and line.split()[-1] == "installed":
                    found.add(name)
    except OSError:
        return []
    return sorted(found)


def memory() -> int:
    """Bytes of RAM, 0 where the kernel does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemTotal:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def free(path: str) -> int:
    """Bytes that are free where the path is, or would be made."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


def unresolved(names: list[str]) -> list[str]:
    """Those of the names that the host can't turn into an address."""
    found = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError):
            found.append(name)
    return found


def active(units: list[str]) -> list[str]:
    """Those of the units that run."""
    found = []
    for unit in units:
        command = ["systemctl", "is-active", "--quiet", unit]
        try:
            if subprocess.run(command, timeout=10).returncode == 0:
                found.append(unit)
        except (OSError, subprocess.TimeoutExpired):
            pass
    return found


def first_process() -> str:
    """The name of process 1."""
    try:
        with open("/proc/1/comm", encoding="ascii") as comm:
            return comm.read().strip()
    except OSError:
        return ""


def main() -> None:
    """Print all facts."""
    clock = time.time()
    wanted = json.load(sys.stdin)
    names = release()
    facts = {
        "clock": clock,
        "hostname": platform.node(),
        "distribution": names.get("ID", ""),
        "distribution_version": names.get("VERSION_ID", ""),
        "distribution_name": names.get("PRETTY_NAME", ""),
        "distribution_codename": names.get("VERSION_CODENAME", ""),
        "systemd_version": systemd(),
        "systemd_is_init": first_process() == "systemd",
        "python_version": platform.python_version(),
        "architecture": platform.machine(),
        "processors": os.cpu_count() or 1,
        "memory_bytes": memory(),
        "free_bytes": {path: free(path) for path in wanted["paths"]},
        "packages": packages(),
        "unresolved_names": unresolved(wanted["names"]),
        "active_units": active(wanted["units"]),
        "uid": os.geteuid(),
    }
    json.dump(facts, sys.stdout)


main()
