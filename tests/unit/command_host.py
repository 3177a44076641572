"""A host that runs release commands: the real program, with a fake systemd of a few lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src/celery_fleet/system/release_command.py"

# Starts its command in a new session, unless a unit of this name runs; records its pid by its unit.
SYSTEMD_RUN = """
import os, subprocess, sys
words = sys.argv[1:]
options = [word for word in words if word.startswith("--")]
unit = next(word.partition("=")[2] for word in options if word.startswith("--unit="))
command = words[len(options):]
place = os.path.join({units!r}, unit)
if {refuses!r}:
    sys.exit("Failed to start transient service unit: no")
null = subprocess.DEVNULL
done = subprocess.Popen(command, start_new_session=True, stdin=null, stdout=null, stderr=null)
with open(place, "w") as stream:
    stream.write(str(done.pid))
"""
SYSTEMCTL = """
import os, sys
for unit in sys.argv[4:]:
    try:
        with open(os.path.join({units!r}, unit)) as stream:
            pid = int(stream.read())
        with open("/proc/%d/stat" % pid) as stream:
            state = stream.read().rpartition(")")[2].split()[0]
        print("inactive" if state == "Z" else "active")
    except (OSError, ValueError):
        print("inactive")
"""
# Takes the arguments of exec.py, and runs the command directly. The pending migrations are those in a file beside it.
EXEC = """
import json, os, subprocess, sys
cut = sys.argv.index("--")
own, command = sys.argv[1:cut], sys.argv[cut + 1:]
given = dict(zip(own[::2], own[1::2]))
if command[1:3] == ["-m", "celery_fleet.ops.migrations"]:
    with open({migrations!r}) as stream:
        sys.exit(print(stream.read()))
with open({seen!r}, "a") as stream:
    stream.write(json.dumps(given) + "\\n")
with open(given["--output"], "a") as output:
    try:
        timeout = float(given["--timeout"])
        sys.exit(subprocess.run(command, stdout=output, stderr=output, timeout=timeout).returncode)
    except subprocess.TimeoutExpired:
        print("took more than %g s" % timeout, file=sys.stderr)
        sys.exit(124)
    except FileNotFoundError:
        print("no such command", file=sys.stderr)
        sys.exit(127)
"""


class Host:
    """A host whose files are below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.units = root / "units"
        self.bin = root / "bin"
        self.runtime = root / "runtime"
        for directory in (self.units, self.bin, self.runtime):
            directory.mkdir(parents=True)
        self.seen = root / "seen"
        self.migrations = root / "migrations.json"
        self.pending(None)
        self.count = root / "count"
        self.argv: list[str] = []
        self.refuses(False)
        self.program("systemctl", SYSTEMCTL.format(units=str(self.units)))
        (self.runtime / "exec.py").write_text(
            EXEC.format(seen=str(self.seen), migrations=str(self.migrations))
        )
        text = SOURCE.read_text()
        for name in ("/run/celery-fleet", "/var/lib/celery-fleet", "/var/log/celery-fleet"):
            assert text.count(f'Path("{name}') == 1
            text = text.replace(f'Path("{name}', f'Path("{root}{name}')
        text = text.replace('PYTHON = "/usr/bin/python3"', f"PYTHON = {sys.executable!r}")
        (self.runtime / "release_command.py").write_text(text)

    def stands_still(self) -> None:
        """Stop the clock: everything that starts from now on starts in the same second."""
        path = self.runtime / "release_command.py"
        text = path.read_text()
        assert text.count("time.gmtime()") == 1
        path.write_text(text.replace("time.gmtime()", "time.gmtime(0)"))

    def refuses(self, refuses: bool) -> None:
        self.program("systemd-run", SYSTEMD_RUN.format(units=str(self.units), refuses=refuses))

    def pending(self, names: list[str] | None, error: str | None = None) -> None:
        """Set the answer about pending migrations; None as that of an application without Django."""
        document = {"ok": error is None, "error": error, "pending": names, "one_way": []}
        self.migrations.write_text(json.dumps(document))

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)

    def ask(self, do: str, *argv: str, **more: Any) -> dict[str, Any]:
        request = {"do": do, "app": "shop", "name": "migrate", "release": "r1", "mark": "r1"}
        # A request to wait names its command, as the control side does.
        self.argv = list(argv) if do == "start" else self.argv
        request |= {"argv": self.argv, "resumed": False, "timeout": 30, "seconds": 20}
        request |= {"umask": "0077", **more}
        done = subprocess.run(
            [sys.executable, "-S", "-I", str(self.runtime / "release_command.py")],
            input=json.dumps(request),
            env={"PATH": f"{self.bin}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def counting(self, rest: str = "") -> list[str]:
        """Return a command that leaves a line each time it starts."""
        return ["/bin/sh", "-c", f"echo begun >> {self.count}; {rest}"]

    @property
    def begun(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0

    def end(self) -> None:
        """End everything that still runs."""
        for pid in self.pids():
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.units.iterdir()]
