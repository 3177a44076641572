"""Looks for an application's virtualenvs on a host, and says for which platform their packages have to be.

Input: `root`, the directory of the application, and `python`, the interpreter of its releases.
Output: `platform`, text that is the same on two hosts if packages built on one work on the other, empty if the
interpreter does not run; and `virtualenvs`, the names of those that are complete.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# As in module_utils/release/note.py, which is not on the host.
_NOTE = "virtualenv.json"

# Root's may have passwords of proxies and package indexes, which are not for a program of the application.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

_INTERPRETER = (
    "import os, sys, sysconfig; "
    "print(os.path.realpath(sys.executable), sysconfig.get_config_var('SOABI'), sysconfig.get_platform())"
)


def platform(python: str) -> str:
    """Return interpreter, binary interface and distribution, whose libraries packages may have been built with."""
    command = [python, "-S", "-I", "-c", _INTERPRETER]
    if os.geteuid() == 0:
        # It may belong to the application.
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    try:
        with open("/etc/os-release") as stream:
            lines = [line.strip() for line in stream]
    except OSError:
        lines = []
    system = sorted(line for line in lines if line.startswith(("ID=", "VERSION_ID=")))
    return " ".join([done.stdout.strip(), *system])


def complete(root: str) -> list[str]:
    """Return the names of an application's complete virtualenvs."""
    base = f"{root}/virtualenvs"
    try:
        names = sorted(os.listdir(base))
    except OSError:
        return []
    return [name for name in names if os.path.isfile(f"{base}/{name}/{_NOTE}")]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Look for the virtualenvs; see the module's docstring."""
    return {
        "platform": platform(request["python"]),
        "virtualenvs": complete(request["root"]),
    }


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
