"""What is sent, and when: the same for the same seed, whoever runs the tasks.

Of each hundred tasks, which at the usual rate take two seconds to send, 95 sleep 10 to 100 ms, four 1 to 5 s and one 20
s; their order is drawn. The mix holds in each hundred rather than on the average, and queues are dealt rather than
drawn, so that a run of a minute or two is as good as a long one: by chance alone, long tasks would pile up on one queue
now and then, and the wait of the last percent would tell the seed rather than the restart.

With `rich` the same tasks go to the same queues at the same moments, and are more than they were: all have a body of
1 kB and a priority, and of each hundred one has a body of 1 MB, five have a rate limit and one, with an ETA, is revoked
by another task.

`by_worker` is another load, for workers of several kinds. Each has a queue of its name, whose tasks publish only at
their end, if at all: a retry, the next one of a chain, the body of a chord. So a process that runs one task has never
published before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

RATE = 50.0  # tasks a second, where nobody says another
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
#: Workers of other kinds, with their shares of the load. What `exchanges` has is sent to named exchanges, by tasks of
#: `warm`: senders have no right to it.
WORKERS: Mapping[str, int] = {
    "warm": 4,
    "cold": 4,
    "threads": 5,
    "greenlets": 6,
    "once": 3,
    "exchanges": 2,
}
#: What each ten tasks of a worker are; those that are not named are naps.
TENTHS: Mapping[int, str] = {3: "stumble", 6: "chain", 9: "chord"}
#: Seconds of a nap, by its place in each twenty.
NAPS: Mapping[int, float] = {1: 3.0, 10: 8.0}

# In the proportion of the processes that the inventory gives to each queue.
SHARES: Mapping[str, int] = {"fast": 6, "medium": 4, "slow": 3}


@dataclass(frozen=True)
class Send:
    """One task to send.

    Attributes:
        number: Its place in the order; with the run's name, its id.
        at: Seconds after the beginning.
        kind: nap, eta, stumble or chord; a chord's number and seconds are its first header's. Of a rich load also
            limited and revoked; the number after a revoked one's is that of the task that revokes it. Of a load by
            worker also chain, whose number is its first link's, and relay, which sends the task of the next number.
        queue: Where it goes.
        seconds: How long it sleeps.
        delay: Seconds until its ETA; 0 is at once.
        size: Bytes of its body, beside what every message has.
        priority: As Celery's; on Redis 0 is the highest.
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
    """Queues in turn, each as often as its share, as evenly as can be."""
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
    """All sends, without an end.

    Args:
        seed: Of the random numbers.
        long: Naps of so many seconds, sent first, one after the other, to the first queue.
        rich: See above.
        rate: Tasks a second.
        eta: The longest ETA, in seconds.
    """
    numbers = random.Random(seed)  # noqa: S311  # a load, no secret
    # Numbers of their own, so that what is drawn for every load stays the same.
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
        # Of the short ones: one with an ETA, one that retries, and now and then a chord.
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
    """All sends to workers of some kinds, without an end.

    Args:
        seed: Of the random numbers.
        workers: Which of `WORKERS`.
        rate: Tasks a second.
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
        # What may be lost is no part of anything: other tasks would be waited for in vain.
        kind = {"exchanges": "relay", "once": "nap"}.get(queue) or TENTHS.get(place % 10, "nap")
        yield Send(number, index / rate, kind, queue, seconds)
        number += {"chord": CHORD_HEADERS + 1, "chain": CHAIN_LINKS, "relay": 2}.get(kind, 1)


def _seconds(numbers: random.Random, length: str) -> float:
    if length == "long":
        return 20.0
    low, high = (1.0, 5.0) if length == "middle" else (0.01, 0.1)
    return round(numbers.uniform(low, high), 3)
