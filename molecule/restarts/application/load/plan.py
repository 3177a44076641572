"""Plan what is sent and when; this only depends on the seed, not on the workers that run the tasks.

Of each hundred tasks, which take two seconds to send at the usual rate, 95 sleep 10 to 100 ms, four 1 to 5 s and one 20
s. Their order is random. The mix holds in each hundred, not only on average, and queues take turns. So a run of a
minute or two is as good as a long one. With random queues, long tasks would sometimes pile up in one of them, and the
wait of the last percent would say more about the seed than about the restart.

With `rich` the same tasks go to the same queues at the same moments, with more in them: all have a body of 1 kB and a
priority. Of each hundred, one has a body of 1 MB, five have a rate limit, and one with an ETA is revoked by another
task.

`by_worker` is another load, for workers of several kinds. Each has a queue with its name. The tasks there publish only
at their end, if at all: a retry, the next task of a chain, the body of a chord. So a process that runs one task has
never published before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

RATE = 50.0  # tasks per second, by default
BLOCK = 100
CHORD_EVERY = 5  # blocks
CHORD_HEADERS = 4
ETA = (5.0, 30.0)  # seconds, from and to; below the visibility timeout
REVOKED_IN = (
    15.0  # seconds until the ETA of a task that is revoked: its revoke has to be there before
)
SMALL, LARGE = 1_000, 1_000_000  # bytes of a body
LIMITED = 5  # of each hundred
PRIORITIES = (0, 3, 6, 9)  # those that kombu has lists for

CHAIN_LINKS = 3
#: Workers of other kinds, with their shares of the load. Tasks of `warm` send those of `exchanges` to named exchanges,
#: which senders must not use.
WORKERS: Mapping[str, int] = {
    "warm": 4,
    "cold": 4,
    "threads": 5,
    "greenlets": 6,
    "once": 3,
    "exchanges": 2,
}
#: Kinds of each ten tasks of a worker; the others are naps.
TENTHS: Mapping[int, str] = {3: "stumble", 6: "chain", 9: "chord"}
#: Seconds of a nap, by its place in each twenty.
NAPS: Mapping[int, float] = {1: 3.0, 10: 8.0}

# Proportional to the processes that the inventory gives to each queue.
SHARES: Mapping[str, int] = {"fast": 6, "medium": 4, "slow": 3}


@dataclass(frozen=True)
class Send:
    """One task to send.

    Attributes:
        number: Its place in the order; the run's name and this number are its id.
        at: Seconds after the beginning.
        kind: nap, eta, stumble or chord. A chord has the number and seconds of its first header. A rich load also has
            limited and revoked; the task after a revoked one revokes it. A load by worker also has chain, with the
            number of its first link, and relay, which sends the task with the next number.
        queue: The queue that it goes to.
        seconds: How long it sleeps.
        delay: Seconds until its ETA; 0 for at once.
        size: Bytes of its body, in addition to what every message has.
        priority: Celery's priority; on Redis 0 is the highest.
    """

    number: int
    at: float
    kind: str
    queue: str
    seconds: float
    delay: float = 0.0
    size: int = 0
    priority: int = 0


def _deal(shares: Mapping[str, int]) -> Iterator[str]:
    """Yield queues in turn, each as often as its share, as evenly as possible."""
    total = sum(shares.values())
    owed = dict.fromkeys(shares, 0.0)
    while True:
        for queue, share in shares.items():
            owed[queue] += share / total
        chosen = max(owed, key=lambda queue: owed[queue])
        owed[chosen] -= 1
        yield chosen


def plan(
    seed: int,
    long: Sequence[float] = (),
    *,
    rich: bool = False,
    rate: float = RATE,
    eta: float = ETA[1],
) -> Iterator[Send]:
    """Yield all sends, without an end.

    Args:
        seed: Seed of the random numbers.
        long: Lengths of naps in seconds, sent first, one after the other, to the first queue.
        rich: See above.
        rate: Tasks per second.
        eta: The longest ETA, in seconds.
    """
    numbers = random.Random(seed)  # noqa: S311  # a load, no secret
    # Separate random numbers, so that those for every load stay the same.
    more = random.Random(seed + 1)  # noqa: S311  # a load, no secret
    queues = {length: _deal(SHARES) for length in ("short", "middle", "long")}
    number = 0
    for seconds in long:
        yield Send(number, 0.0, "nap", next(iter(SHARES)), seconds)
        number += 1
    block = 0
    while True:
        lengths = ["short"] * 95 + ["middle"] * 4 + ["long"]
        numbers.shuffle(lengths)
        shorts = [index for index, length in enumerate(lengths) if length == "short"]
        # Some of the short tasks: one with an ETA, one that retries, and sometimes a chord.
        special = dict(zip(numbers.sample(shorts, 3), ("eta", "stumble", "chord"), strict=True))
        large = -1
        if rich:
            plain = [index for index in shorts if index not in special]
            large, *chosen = more.sample(plain, LIMITED + 2)
            special |= dict(zip(chosen, ["limited"] * LIMITED + ["revoked"], strict=True))
        for index, length in enumerate(lengths):
            seconds = _seconds(numbers, length)
            kind = special.get(index, "nap")
            if kind == "chord" and block % CHORD_EVERY:
                kind = "nap"
            delay = numbers.uniform(ETA[0], eta) if kind == "eta" else 0.0
            if kind == "revoked":
                delay = REVOKED_IN
            at = (block * BLOCK + index) / rate
            send = Send(number, at, kind, next(queues[length]), seconds, delay)
            if rich:
                size, priority = LARGE if index == large else SMALL, more.choice(PRIORITIES)
                send = replace(send, size=size, priority=priority)
            yield send
            number += {"chord": CHORD_HEADERS + 1, "revoked": 2}.get(kind, 1)
        block += 1


def by_worker(seed: int, workers: Sequence[str], rate: float = RATE) -> Iterator[Send]:
    """Yield all sends to workers of some kinds, without an end.

    Args:
        seed: Seed of the random numbers.
        workers: Names from `WORKERS`.
        rate: Tasks per second.
    """
    numbers = random.Random(seed)  # noqa: S311  # a load, no secret
    queues = _deal({name: WORKERS[name] for name in workers})
    sent = dict.fromkeys(workers, 0)
    number = 0
    for index in count():
        queue = next(queues)
        place = sent[queue]
        sent[queue] += 1
        seconds = NAPS.get(place % 20) or round(numbers.uniform(0.01, 0.1), 3)
        # A task that may be lost is not part of a chain or chord, whose other tasks would never come.
        kind = {"exchanges": "relay", "once": "nap"}.get(queue) or TENTHS.get(place % 10, "nap")
        yield Send(number, index / rate, kind, queue, seconds)
        number += {"chord": CHORD_HEADERS + 1, "chain": CHAIN_LINKS, "relay": 2}.get(kind, 1)


def _seconds(numbers: random.Random, length: str) -> float:
    if length == "long":
        return 20.0
    low, high = (1.0, 5.0) if length == "middle" else (0.01, 0.1)
    return round(numbers.uniform(low, high), 3)
