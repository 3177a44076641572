"""Measure what a run of `site.yml` costs on the demo's hosts, which must stand: `make bench`.

All figures of one call come from one sitting, so that their ratios hold whatever the machine. A remote call is
counted by what Ansible's -vvv output says of each host; it makes the run itself slower, so it is a run apart.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

ROUNDS = 5
RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)
# "<10.1.2.3> SSH: EXEC ssh …" for each remote command; a module shows in its file's path, once for each host.
CALL = re.compile(r"^<([^>]+)> SSH: EXEC ", re.MULTILINE)
MODULE = re.compile(r"^Using module file (\S+)$", re.MULTILINE)


class BenchError(Exception):
    """What stops the measurement, in words for the person who started it."""


def run(command: Sequence[str]) -> tuple[float, str]:
    """Seconds and output of a command.

    Raises:
        BenchError: It failed; the message holds its last lines.
    """
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BenchError(
            f"`{' '.join(command)}` failed; does the demo stand (`make demo`)?\n{tail}"
        )
    return time.monotonic() - started, done.stdout


def changed(output: str) -> int:
    """How many tasks changed something, from the recap."""
    rows = RECAP.findall(output)
    if not rows:
        raise BenchError("Ansible printed no recap")
    return sum(int(row[2]) for row in rows)


def main() -> int:
    """Measure and print a Markdown table."""
    ping = ["ansible", "all", "-m", "ansible.builtin.ping"]
    site = ["ansible-playbook", "site.yml"]
    run(site)
    pings, sites = [], []
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
        pings.append(run(ping)[0])
        seconds, output = run(site)
        if changed(output):
            raise BenchError("the second run of site.yml changed something; it must not")
        sites.append(seconds)
    _, verbose = run([*site, "-vvv"])
    calls = Counter(CALL.findall(verbose))
    modules = Counter(path.rsplit("/", 1)[-1] for path in MODULE.findall(verbose))
    one_ping, one_site = statistics.median(pings), statistics.median(sites)
    print("| what | median | least to most |")
    print("|---|---|---|")
    for name, values in (("`ansible all -m ping`", pings), ("second run of `site.yml`", sites)):
        print(
            f"| {name} | {statistics.median(values):.1f} s | {min(values):.1f} to {max(values):.1f} s |"
        )
    print(f"| second run as a multiple of the ping | {one_site / one_ping:.1f} | |")
    print(
        f"| module executions on all {len(calls)} hosts | {sum(modules.values())} | {dict(modules)} |"
    )
    print(
        f"| remote commands on a host, those included | {max(calls.values())} at most | {sorted(calls.values())} |"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"error: {error}")
