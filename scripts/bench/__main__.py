"""Measure the speed that the project promises: `make bench`, or one part of it.

    second   the second run of site.yml on the demo's hosts, which must be running, as a multiple of a ping
    queues   the second run on a host with 24 queues and on one with 3
    hosts    the second run on 16 hosts and on 4
    cold     the first run on bare hosts, and a plain shell script that installs the same (bench_baseline.sh)
    preflight  the check of an inventory of 50 hosts with 24 queues, without any host

All figures of a part are measured in turn, round by round, so their ratios are valid on any machine. Remote calls are
counted in Ansible's -vvv output of a separate run, because this output slows a run down. If a goal is missed, a
profile by task follows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from scripts.bench.cold import cold
from scripts.bench.parts import hosts, preflight, queues, second
from scripts.bench.runs import BenchError

PARTS: Mapping[str, Callable[[int], str]] = {
    "second": second,
    "queues": queues,
    "hosts": hosts,
    "cold": cold,
    "preflight": preflight,
}
ROUNDS = {"second": 5, "queues": 5, "hosts": 3, "cold": 3, "preflight": 5}


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, measure, and print the results."""
    parser = argparse.ArgumentParser(
        prog="scripts.bench", description="Measure what a run of site.yml costs."
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help="default: 5, or 3 for parts that take long")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        text = PARTS[name](options.rounds or ROUNDS[name])
        print(f"### {name}\n\n{text}\n", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"error: {error}")
