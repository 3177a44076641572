"""Replaces systemd-run and systemctl: runs the command of a transient unit, and records how it was called.

usage: fake_systemd_run.py DIRECTORY (systemd-run OPTION… -- COMMAND… | systemctl kill|stop …)

Like systemd it expands `$$`, and gives the process the files of EnvironmentFile=, its credential in a directory and a
new session. Like systemd-run it turns a signal into 255 and SIGTERM into 0.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def variables(path: str) -> dict[str, str]:
    """Return the variables in an environment file, in the form in which the roles write it."""
    words = shlex.split(Path(path).read_text(), posix=True)
    return dict(word.replace("\\$", "$").partition("=")[::2] for word in words)


def start(place: Path, argv: list[str]) -> int:
    cut = argv.index("--")
    options, command = argv[:cut], argv[cut + 1 :]
    (place / "call.json").write_text(json.dumps({"options": options, "command": command}))
    if (place / "refuse").exists():
        print("Failed to start transient service unit: no", file=sys.stderr)
        return 1
    environ = {"PATH": "/usr/bin:/bin"}
    for option in options:
        name, _, value = option.removeprefix("--property=").partition("=")
        if name == "EnvironmentFile":
            environ.update(variables(value))
    for option in options:
        name, _, value = option.removeprefix("--property=").partition("=")
        if name == "UnsetEnvironment":
            for variable in value.split():
                environ.pop(variable, None)
        if name == "LoadCredential":
            credentials = place / "credentials"
            credentials.mkdir(exist_ok=True)
            identity, _, path = value.partition(":")
            shutil.copy(path, credentials / identity)
            environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    words = [word.replace("$$", "$") for word in command]
    if (place / "slow").exists():
        words = [word.replace("shift 2;", "shift 2; sleep 1;") for word in words]
    process = subprocess.Popen(words, env=environ, start_new_session=True)
    (place / "pid.new").write_text(str(process.pid))
    (place / "pid.new").rename(place / "pid")
    status = process.wait()
    if status in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGPIPE):
        return 0
    return 255 if status < 0 else status


def control(place: Path, argv: list[str]) -> int:
    with open(place / "control", "a") as log:
        log.write(f"{shlex.join(argv)}\n")
    if not (place / "pid").exists():
        print("Unit not loaded.", file=sys.stderr)
        return 1
    pid = int((place / "pid").read_text())
    number = signal.SIGTERM
    for word in argv:
        if word.startswith("--signal="):
            number = signal.Signals(int(word.removeprefix("--signal=")))
    os.killpg(pid, number)
    if argv[0] == "stop":
        for _ in range(50):
            time.sleep(0.02)
            try:
                os.killpg(pid, 0)
            except ProcessLookupError:
                return 0
        os.killpg(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    called = start if sys.argv[2] == "systemd-run" else control
    sys.exit(called(Path(sys.argv[1]), sys.argv[3:]))
