"""Run Ansible and measure a run: seconds, changes, calls on hosts."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ("ansible-playbook", "site.yml")
PING = ("ansible", "all", "-m", "ansible.builtin.ping")

RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)
# "<10.1.2.3> SSH: EXEC ssh …" for each remote command. A module is shown with its file's path, once for each host.
CALL = re.compile(r"^<([^>]+)> SSH: EXEC ", re.MULTILINE)
MODULE = re.compile(r"^Using module file (\S+)$", re.MULTILINE)
# "role : task name ------ 1.23s", from the callback profile_tasks.
TASK = re.compile(r"^(.+?) -{2,} (\d+\.\d+)s$", re.MULTILINE)


class BenchError(Exception):
    """The reason that stops the measurement, for the person who started it."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run a command; return its seconds and output.

    Raises:
        BenchError: It failed; the message has its last lines.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as missing:
        raise BenchError(
            f"{missing.filename} is not found: use `make bench`, or run `. .venv/bin/activate` first"
        ) from None
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise BenchError(f"`{' '.join(command)}` failed:\n{tail}")
    return time.monotonic() - started, done.stdout


def processor_seconds() -> float:
    """Return the processor seconds of all ended child processes so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def changed(output: str) -> int:
    """Return how many tasks changed something, from the recap.

    Raises:
        BenchError: There is no recap.
    """
    rows = RECAP.findall(output)
    if not rows:
        raise BenchError("Ansible printed no recap")
    return sum(int(row[2]) for row in rows)


def second_run(inventory: Path) -> float:
    """Return the seconds of a run of site.yml that has nothing to do.

    Raises:
        BenchError: It changed something.
    """
    seconds, output = run([*SITE, "--inventory", str(inventory)])
    if changed(output):
        raise BenchError("the second run of site.yml changed something; it must not")
    return seconds


def ping(inventory: Path) -> float:
    """Return the seconds of Ansible's ping of all hosts."""
    return run([*PING, "--inventory", str(inventory)])[0]


def in_turn(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure several things in turn, round by round; return the seconds of each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def profile(inventory: Path) -> list[tuple[str, float]]:
    """Return the slowest tasks of a run of site.yml with their seconds."""
    callback = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks"}
    _, output = run([*SITE, "--inventory", str(inventory)], callback)
    return [(name.strip(), float(seconds)) for name, seconds in TASK.findall(output)]


@dataclass(frozen=True)
class Calls:
    """The calls of a run of site.yml on the hosts.

    Attributes:
        modules: Number of executions by module, for all hosts together.
        commands: Number of remote commands on each host, including modules.
    """

    modules: Mapping[str, int]
    commands: Sequence[int]

    @classmethod
    def of(cls, output: str) -> Calls:
        """Count them in the output of a run with -vvv."""
        modules = Counter(path.rsplit("/", 1)[-1] for path in MODULE.findall(output))
        return cls(dict(modules), sorted(Counter(CALL.findall(output)).values()))

    def __str__(self) -> str:
        each = sum(self.modules.values()) / max(1, len(self.commands))
        return (
            f"{each:.1f} module executions a host ({_words(self.modules)}); "
            f"remote commands on a host: {', '.join(map(str, self.commands))}"
        )


def calls(inventory: Path) -> Calls:
    """Return the calls of a second run on the hosts of an inventory."""
    return Calls.of(run([*SITE, "--inventory", str(inventory), "-vvv"])[1])


def _words(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.items())
