"""Write the table of faults of a replicated Redis into docs/redis.md: `make report-failover`.

It reads the results of `make soak-failover` in .state/results/failover and measures nothing itself. Stale runs, and
runs with a failed test, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from . import origin
from .delivery_report import Recovery, Result, load
from .origin import ORIGINS, require_sound, table_of_origins
from .report import between, causes_text, run, seconds_text, table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = origin.RESULTS / "failover"
PAGE = ROOT / "docs" / "redis.md"

#: The cases in the order of the table, each with its description.
CASES = {
    "primaries killed, 1": "`kill -9` of the primary",
    "primaries killed, 2": "the same, again",
    "a primary killed, frozen and lost": "the primary is killed; hangs for 30 s; its host loses its power for 40 s",
    "cut off from the other hosts of Redis": "the primary is cut off from the other hosts of Redis for 40 s",
    "cut off from all workers": "… from all workers",
    "cut off from everything": "… from all other hosts",
    "cut off with the sender, from the rest": "… with the sender, from all others",
    "cut off with a host of workers, from the rest": "… with a host of workers, from all others",
    "killed without 1 of 3 Sentinels": "`kill -9` of the primary while one Sentinel is away",
    "killed without 2 of 3 Sentinels": "… while two are, so it has to come back by itself",
    "killed while a replica was behind": "`kill -9` of the primary while a replica hangs",
    "disk of the primary full": "the primary's disk is full for 30 s",
    "clocks moved by an hour": "the clocks of one, two and all hosts of Redis move by an hour, forward and back",
    "the hosts of Redis reboot": "all hosts of Redis reboot by `reboot_hosts`",
    "Redis restarted by a run": "a run restarts all of Redis",
    "one host becomes three": "one host of Redis becomes three",
    "a lost host of Redis replaced": "a host of Redis is lost for good, and replaced",
    "two hosts of Redis lost": "two of three hosts of Redis are lost for good, one after the other, and replaced",
    "three hosts become one": "three hosts of Redis become one",
    "hosts changed to valkey": "hosts with Redis 7 are installed again with Valkey 8, one after another",
    "hosts changed to redis": "… with Valkey 8 again with Redis 8",
    "passwords of Redis changed": "all passwords are revoked at once, and later rotated in order",
    "keys and certificates changed": "all keys and certificates are rotated",
}
#: Measured although the fleet promises nothing for it.
APART = {
    "cut off, with both variables 0": (
        "the primary is cut off from the other hosts of Redis, with `celery_app_wait_replicas` and "
        "`redis_min_replicas_to_write` 0"
    )
}
HEADINGS = (
    *("fault", "times", "sent", "refused", "**lost**", "by", "**doubled**", "by"),
    *("consuming again after, median", "longest"),
)


def _line(title: str, result: Result) -> list[str]:
    one, recovery = result.summary, result.recovery or Recovery(0, math.nan, math.nan)
    return [
        *(title, str(one.faults), f"{one.sent:,}", f"{one.refused:,}"),
        *(f"**{one.lost}**", causes_text(one.lost_causes)),
        *(f"**{one.doubled}**", causes_text(one.doubled_causes)),
        *(seconds_text(recovery.p50), seconds_text(recovery.longest)),
    ]


def figures(found: Mapping[tuple[str, str], Result]) -> str:
    """Return both tables, with the commits that they were measured on; `found` must have all cases."""
    tables = [
        table(HEADINGS, [_line(title, found[name, "fleet"]) for name, title in cases.items()])
        for cases in (CASES, APART)
    ]
    origins = table_of_origins([result.summary for result in found.values()])
    return (
        f"{tables[0]}\n\nMeasured, and not promised:\n\n{tables[1]}\n\nMeasured by:\n\n"
        f"{table(ORIGINS, origins)}"
    )


def main() -> None:
    """Read the runs and write the page."""
    found = load(RESULTS)
    missing = [name for name in (*CASES, *APART) if (name, "fleet") not in found]
    require_sound("failover", [result.summary for result in found.values()], missing)
    PAGE.write_text(between(PAGE.read_text(), figures(found), PAGE))
    print(f"{PAGE.relative_to(ROOT)} is written")


if __name__ == "__main__":
    run(main)
