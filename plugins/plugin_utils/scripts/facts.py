"""Collects the facts for `host_facts`: one script, run by the host's own Python with only the standard library.

This file is not imported on the host but sent there as text, so it only needs Python 3.7. Input: JSON on stdin with
`paths`, `names` to resolve, `units` to query, package names in `versions`, `ports`, a pattern of files in `marks`, the
`interpreter` of releases, `directories` that have to exist, `record`, `certificate`, `client_key`, `files` and
directories of `data`, which may be missing, the copy of the firewall's previous table (`rollback`), the `targets`
(host and port) that a host without a mark of the `app` has to reach, and the `sentinel` of the host: its own file
(`data`), its `hosts` file, and the hosts of Redis in the inventory (`members`); and the `logins` to compare: the `path`
of an ACL file, a `salt`, and the `wanted` hashes.
Output: one JSON object.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import socket
import subprocess
import sys
import time


def release() -> dict[str, str]:
    """Return os-release(5) as a dictionary; empty if there is none."""
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
    """Return systemd's version; 0 if there is none."""
    try:
        answer = subprocess.run(["systemctl", "--version"], stdout=subprocess.PIPE, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    words = answer.stdout.decode("utf-8", "replace").split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


# As in module_utils/release/debian.py, which is not on the host.
FOR_BUILDS = "/var/lib/celery-fleet/build-packages"


def packages() -> dict[str, str]:
    """Return the installed Debian packages with their versions, without those that are about to be removed."""
    found = {}
    name = ""
    installed = False
    try:
        with open("/var/lib/dpkg/status", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    name, installed = line[9:].strip(), False
                elif line.startswith("Status: "):
                    installed = line.split()[-1] == "installed"
                elif line.startswith("Version: ") and installed:
                    found[name] = line[9:].strip()
    except OSError:
        return {}
    # apt keeps such a package if a run installs it meanwhile.
    for name in text(FOR_BUILDS).split():
        found.pop(name, None)
    return found


def candidates(names: list[str]) -> dict[str, str]:
    """Return the versions of packages that apt would install, without those that its lists don't have."""
    if not names:
        return {}
    command = ["apt-cache", "policy", *names]
    try:
        answer = subprocess.run(
            command, stdout=subprocess.PIPE, timeout=20, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found, name = {}, ""
    for line in answer.stdout.decode("utf-8", "replace").splitlines():
        key, _, version = line.strip().partition(":")
        if not line.startswith(" "):
            name = key
        elif key == "Candidate" and version.strip() != "(none)":
            found[name] = version.strip()
    return found


def memory() -> int:
    """Return the bytes of RAM; 0 if the kernel does not say."""
    found = re.search(r"^MemTotal: *(\d+)", text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


# What Redis needs of the kernel.
KERNEL = ("vm.overcommit_memory", "net.core.somaxconn")


def free(path: str) -> int:
    """Return the free bytes at the location of a path, whether it exists or not."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


# Seconds within which a port must answer.
PATIENCE = 3.0
# More Sentinels outside of the inventory than this are not looked at: each may cost the time above.
MOST = 10


def unresolved(names: list[str]) -> list[str]:
    """Return the names that the host can't resolve."""
    found = []
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError):
            found.append(name)
    return found


def silent(targets: list[tuple[str, int]]) -> dict[str, str]:
    """Return the targets that can't be reached, with the reasons. A refusal is an answer: nothing may listen yet."""
    found = {}
    for host, port in targets:
        fault = probe(host, port)
        if isinstance(fault, (ConnectionRefusedError, socket.gaierror)):
            continue  # names are resolved by `unresolved`
        if isinstance(fault, OSError):
            found[f"{host}:{port}"] = fault.strerror or str(fault)
    return found


def others(data: str, hosts: str, members: list[str]) -> list[str]:
    """Return the hosts outside of the inventory whose Sentinels this host's one knows, if they answer."""
    addresses = {line.split()[-1]: line.split()[0] for line in text(hosts).splitlines() if line}
    # Redis's user owns this file.
    known = re.findall(r"^sentinel known-sentinel \S+ (\S+) (\d{1,5}) ", text(data), re.MULTILINE)
    places = sorted({(host, int(port)) for host, port in known if host not in members})
    return [host for host, port in places[:MOST] if probe(addresses.get(host, host), port) is None]


def changed_logins(path: str, salt: str, wanted: dict[str, str]) -> list[str]:
    """Return the users of Redis on this host who get another password; `wanted` has a hash of each."""
    # Each queue takes some hundred bytes of it, and the users who matter here come last.
    found = dict(re.findall(r"^user (\S+) [^\n]*?>(\S+)", text(path, most=-1), re.MULTILINE))
    hashes = {
        name: hashlib.sha256((salt + password).encode()).hexdigest()
        for name, password in found.items()
    }
    return sorted(name for name in wanted if hashes.get(name, wanted[name]) != wanted[name])


def probe(host: str, port: int) -> OSError | UnicodeError | None:
    """Return why nothing answers on a port of a host; None if something does."""
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except (OSError, UnicodeError) as error:
        return error
    return None


def active(units: list[str]) -> list[str]:
    """Return the units that are active."""
    found = []
    for unit in units:
        command = ["systemctl", "is-active", "--quiet", unit]
        try:
            if subprocess.run(command, timeout=10).returncode == 0:
                found.append(unit)
        except (OSError, subprocess.TimeoutExpired):
            pass
    return found


def marks(pattern: str) -> list[dict[str, object]]:
    """Return the marks of all applications with their paths; for an unreadable one with the reason."""
    found = []
    for path in sorted(glob.glob(pattern)) if pattern else []:
        try:
            with open(path, encoding="utf-8") as stream:
                mark = json.load(stream)
            if not isinstance(mark, dict) or mark.get("format") != 1:
                raise ValueError("its format is unknown to this version")
            found.append({**mark, "path": path})
        except (OSError, ValueError) as error:
            found.append({"path": path, "error": str(error)})
    return found


def content(path: str) -> object:
    """Return the content of a JSON file; None if it is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def text(path: str, most: int = 65536) -> str:
    """Return the text of a file, at most so many characters; empty if it is missing or not text."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read(most)
    except (OSError, ValueError):
        return ""


def owners(paths: list[str]) -> dict[str, str]:
    """Return the owners of existing paths: the user's name, or its ID if there is no such user."""
    found = {}
    for path in paths:
        try:
            owner = os.stat(path).st_uid
        except OSError:
            continue
        try:
            found[path] = pwd.getpwuid(owner).pw_name
        except KeyError:
            found[path] = str(owner)
    return found


def listening(ports: list[int]) -> dict[str, int]:
    """Return the port by inode for the sockets that listen on one of the ports."""
    found = {}
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path, encoding="ascii") as lines:
                rows = [line.split() for line in list(lines)[1:]]
        except OSError:
            continue
        for row in rows:
            port = int(row[1].rpartition(":")[2], 16)
            # 0A is the state LISTEN.
            if row[3] == "0A" and port in ports:
                found[row[9]] = port
    return found


def listeners(ports: list[int]) -> dict[str, list[dict[str, str]]]:
    """Return who listens on each port: command and unit of each process that has the socket open."""
    sockets = listening(ports)
    found: dict[str, list[dict[str, str]]] = {}
    for process in (name for name in os.listdir("/proc") if name.isdigit() and sockets):
        try:
            handles = [os.readlink(handle.path) for handle in os.scandir(f"/proc/{process}/fd")]
            held = {sockets[name[8:-1]] for name in handles if name[8:-1] in sockets}
            if not held:
                continue
            with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as stream:
                command = stream.read().strip()
            with open(f"/proc/{process}/cgroup", encoding="utf-8") as stream:
                unit = unit_of(stream.read())
        except OSError:
            continue  # it has just ended
        for port in held:
            who = {"command": command, "unit": unit}
            if who not in found.setdefault(str(port), []):
                found[str(port)].append(who)
    return found


def unit_of(cgroups: str) -> str:
    """Return the innermost unit in the lines of /proc/…/cgroup; systemd's lines have `name=systemd` or no name."""
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in ("", "name=systemd"):
            names = [name for name in path.split("/") if name.endswith((".service", ".scope"))]
            if names:
                return names[-1]
    return "no unit"


def interpreters(version: str) -> list[str]:
    """Return the paths of the Pythons whose version matches a pattern, the preferred one first."""
    places = ("/usr/bin", "/usr/local/bin", "/opt/python*/bin")
    return [path for place in places for path in sorted(glob.glob(f"{place}/python{version}"))]


def interpreter(wanted: str) -> dict[str, object]:
    """Return facts about a Python: whether it exists, real paths of it and its library, and its version.

    It is given by path or version. It is run as the user ``nobody``, because it may belong to the application. If this
    user can't run it, its version is unknown. If there is none, ``others`` are the Pythons of the host.
    """
    if not wanted:
        return {}
    path = wanted if "/" in wanted else next(iter(interpreters(wanted)), wanted)
    found: dict[str, object] = {"path": path, "exists": os.path.isfile(path)}
    if not found["exists"]:
        found["others"] = interpreters("3.[0-9]") + interpreters("3.[0-9][0-9]")
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3]); print(sys.base_prefix)"
    command = [path, "-S", "-I", "-c", code]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    try:
        answer = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            cwd="/",
            # Root's may have passwords of proxies and package indexes, which are not for a program of the application.
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        )
        lines = answer.stdout.decode("utf-8", "replace").splitlines()
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    version, library = lines if len(lines) == 2 else ("", "")
    places = [os.path.realpath(place) for place in (path, library) if place]
    return {**found, "version": version, "places": places}


def main() -> None:
    """Print all facts."""
    clock = time.time()
    wanted = json.load(sys.stdin)
    names = release()
    installed = packages()
    marked = marks(wanted["marks"])
    available = candidates([name for name in wanted["versions"] if name not in installed])
    facts = {
        "clock": clock,
        "hostname": platform.node(),
        "distribution": names.get("ID", ""),
        "distribution_like": names.get("ID_LIKE", "").split(),
        "distribution_version": names.get("VERSION_ID", ""),
        "distribution_name": names.get("PRETTY_NAME", ""),
        "systemd_version": systemd(),
        "systemd_is_init": text("/proc/1/comm").strip() == "systemd",
        "python_version": platform.python_version(),
        "architecture": platform.machine(),
        "processors": os.cpu_count() or 1,
        "memory_bytes": memory(),
        "kernel": {name: text(f"/proc/sys/{name.replace('.', '/')}").strip() for name in KERNEL},
        "free_bytes": {path: free(path) for path in wanted["paths"]},
        "packages": sorted(installed),
        "versions": {
            name: installed.get(name) or available.get(name, "") for name in wanted["versions"]
        },
        "unresolved_names": unresolved(wanted["names"]),
        "active_units": active(wanted["units"]),
        "firewall_unconfirmed": os.path.exists(wanted["rollback"]),
        "marks": marked,
        "silent": {}
        if any(mark.get("app") == wanted["app"] for mark in marked)
        else silent(wanted["targets"]),
        "sentinels": others(**wanted["sentinel"]),
        "changed_logins": changed_logins(**wanted["logins"]),
        "listeners": listeners(wanted["ports"]),
        "redis_data": owners(wanted["data"]),
        "record": content(wanted["record"]),
        "certificate": text(wanted["certificate"]),
        "has_client_key": os.path.exists(wanted["client_key"]),
        "files": [path for path in wanted["files"] if os.path.isfile(path)],
        "interpreter": interpreter(wanted["interpreter"]),
        "missing": [path for path in wanted["directories"] if not os.path.exists(path)],
        "uid": os.geteuid(),
    }
    json.dump(facts, sys.stdout)


if __name__ == "__main__":
    main()
