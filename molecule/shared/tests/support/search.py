"""Search a host for the fleet's secrets, with the rights of one of its users."""

from __future__ import annotations

import json
from typing import Any

from support.inventory import Fleet
from support.secrets import needles

# Runs on the host. Says which secret is where, and prints none. It searches the output of commands run as `user`, and
# files in directories that `user` can read.
SEARCH = r"""
import json, os, pwd, subprocess, sys

wanted = json.load(sys.stdin)
needles = [(name, form.encode()) for name, found in wanted["needles"].items() for form in found]
patterns = b"\n".join(sorted({form for _, form in needles})) + b"\n"
account = pwd.getpwnam(wanted["user"])

def become():
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)

def inside(text):
    return sorted({name for name, form in needles if form in text})

found, size = {}, 0
for command in wanted["commands"]:
    text = subprocess.run(command, shell=True, preexec_fn=become, capture_output=True, cwd="/").stdout
    size += len(text)
    if inside(text):
        found[command] = inside(text)
if wanted["paths"]:
    grep = ["grep", "-r", "-s", "-l", "-a", "-F", "-D", "skip", "-f", "-", "--", *wanted["paths"]]
    listed = subprocess.run(grep, input=patterns, preexec_fn=become, capture_output=True, cwd="/").stdout
    for path in listed.decode().splitlines():
        found[path] = inside(open(path, "rb").read())
print(json.dumps({"found": found, "size": size}))
"""

PROCESSES = [
    "cat /proc/[0-9]*/cmdline",
    "cat /proc/[0-9]*/environ",
    "ps -eo args",
]
SYSTEMD = [
    "systemctl show --all '*'",
    "systemctl cat '*.service' '*.socket' '*.target'",
    "systemctl show-environment",
]
PLACES = [
    "/etc",
    "/opt",
    "/usr/lib/celery-fleet",
    "/var",
    "/run",
    "/tmp",
    "/home",
    "/srv",
    "/root",
]  # is searched


def search(
    fleet: Fleet,
    name: str,
    user: str,
    commands: list[str],
    paths: list[str],
    but: tuple[str, ...] = (),
) -> Any:
    """Search a host with a user's rights."""
    request = {
        "needles": needles(fleet, but=but),
        "user": user,
        "commands": commands,
        "paths": paths,
    }
    return json.loads(fleet.must(name, ["python3", "-c", SEARCH], json.dumps(request)))
