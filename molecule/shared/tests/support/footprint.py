"""Record everything on a host, to compare with a later look: files, accounts, units, packages, firewall tables.

Left out is what changes by itself or through looking; `NOISE` lists each such place with its reason.

`python footprint.py STATE` records all hosts of a scenario before anything is deployed, and keeps the result in
STATE/footprints.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Places that neither a deploy nor a removal is responsible for.
NOISE = (
    # dpkg and apt record what was installed and removed when. Packages themselves are compared by their list.
    r"/var/lib/(dpkg|apt|ucf|pam|systemd/deb-systemd-[a-z-]+)(/.*)?",
    r"/var/log/(apt|dpkg\.log|alternatives\.log)(/.*)?",
    r"/var/cache(/.*)?",
    r"/etc/ld\.so\.cache",
    # Copies of account files before the last change; the files themselves are compared.
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-",
    # The system's own files.
    r"/var/log/(journal|wtmp|btmp|lastlog|faillog|private)(/.*)?",
    r"/var/lib/(systemd|private|logrotate|postgresql|dbus)(/.*)?",
    r"/var/log/postgresql(/.*)?",
    # dpkg-db-backup.timer writes there after midnight.
    r"/var/backups(/.*)?",
    r"/var/(lib/)?tmp(/.*)?",
    # A running server writes these at any time. If a removal leaves something there, the directory shows it.
    r"/var/lib/celery-fleet-redis/[^/]+/(appendonlydir/.*|dump\.rdb)",
    r"/var/lib/[^/]+-flower/flower\.db.*",
    r"/var/lib/[^/]+/metrics/.*",
    # Ansible's own files, for the user that connects.
    r"/(home/[^/]+|root)/\.(ansible|cache)(/.*)?",
    # Docker's files, in each container.
    r"/etc/(hosts|hostname|resolv\.conf|mtab)",
)

_LOOK = r"""
import grp, hashlib, json, os, pwd, stat, subprocess, sys

asked = json.load(sys.stdin)
files = {}
for root in asked["roots"]:
    device = os.lstat(root).st_dev
    for directory, directories, names in os.walk(root):
        directories[:] = [d for d in directories if os.lstat(os.path.join(directory, d)).st_dev == device]
        for name in [".", *names, *(d for d in directories if os.path.islink(os.path.join(directory, d)))]:
            path = os.path.normpath(os.path.join(directory, name))
            try:
                about = os.lstat(path)
                text = ""
                if stat.S_ISLNK(about.st_mode):
                    text = os.readlink(path)
                elif stat.S_ISREG(about.st_mode):
                    with open(path, "rb") as stream:
                        text = hashlib.sha256(stream.read()).hexdigest()
            except FileNotFoundError:
                continue
            files[path] = f"{stat.filemode(about.st_mode)} {about.st_uid}:{about.st_gid} {text}"

def lines(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return sorted(set(done.stdout.splitlines()))

units = lines("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain")
tables = lines("nft", "list", "ruleset") if os.path.exists("/usr/sbin/nft") else []
print(json.dumps({
    "files": files,
    "users": sorted(":".join(map(str, one)) for one in pwd.getpwall()),
    "groups": sorted(f"{g.gr_name}:{g.gr_gid}:{','.join(sorted(g.gr_mem))}" for g in grp.getgrall()),
    "units": units,
    "failed": lines("systemctl", "list-units", "--failed", "--no-legend", "--plain", "--no-pager"),
    "packages": lines("dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package} ${Version}\\n"),
    "manual": lines("apt-mark", "showmanual"),
    "tables": tables,
    # adduser's lock, which Debian's packages leave there.
    "run": sorted(name for name in os.listdir("/run") if name != "adduser"),
}))
"""

ROOTS = ("/etc", "/opt", "/usr", "/var", "/home", "/root", "/srv")
Footprint = Mapping[str, object]


def look(container: str) -> Footprint:
    """Return everything on a host now."""
    done = subprocess.run(
        ["docker", "exec", "--interactive", container, "python3", "-c", _LOOK],
        input=json.dumps({"roots": ROOTS}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: Footprint = json.loads(done.stdout)
    return found


def kept(state: Path, host: str) -> Footprint:
    """Return what was there before anything was deployed."""
    found: Footprint = json.loads((state / "footprints" / f"{host}.json").read_text())
    return found


def differences(before: Footprint, after: Footprint) -> dict[str, list[str]]:
    """Return by kind what was added, removed or changed between two looks; empty if they are the same."""
    noise = re.compile("|".join(NOISE))
    found: dict[str, list[str]] = {}
    for kind in before:
        old, new = before[kind], after[kind]
        if isinstance(old, dict) and isinstance(new, dict):
            changed = [
                f"{path}: {old.get(path, '-')} → {new.get(path, '-')}"
                for path in sorted(old.keys() | new.keys())
                if old.get(path) != new.get(path) and not noise.fullmatch(path)
            ]
        else:
            assert isinstance(old, list)
            assert isinstance(new, list)
            changed = [f"- {line}" for line in old if line not in new]
            changed += [f"+ {line}" for line in new if line not in old]
        if changed:
            found[kind] = changed
    return found


def main() -> None:
    """Record each host; keep an existing record."""
    state = Path(sys.argv[1])
    hosts = json.loads((state / "fleet.json").read_text())["hosts"]
    (state / "footprints").mkdir(mode=0o700, exist_ok=True)
    for name, host in hosts.items():
        path = state / "footprints" / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(look(host["container"])))


if __name__ == "__main__":
    main()
