"""Names that the fleet adds to the broker and to messages; all other names are Celery's or kombu's.

Standard library only.
"""

from __future__ import annotations

#: The task with which a worker proves that it fetches and answers tasks; see `celery_fleet.worker.canary`.
CANARY = "celery_fleet.canary"

#: The hash of dead letters, from id to JSON document, and the sorted set of their ids by when they were last seen.
DEAD_LETTERS = "fleet:dead-letters"
DEAD_LETTERS_INDEX = "fleet:dead-letters:index"

#: Begins the key of a claim, a random number that only one process knows: it has removed a message, whose task may
#: begin there. The value is the message's tag; see `celery_fleet.delivery.fetch.at_most_once`.
CLAIM = "fleet:claim:"

#: The hash of pauses, see `celery_fleet.common.pauses`.
PAUSES = "fleet:pauses"

#: Of several beats: the token of the one that sends, that of the one that did so last, and the hash of when each entry
#: was last sent, by its name; see `celery_fleet.beat.leadership`.
BEAT_LEADER = "fleet:beat:leader"
BEAT_LAST_LEADER = "fleet:beat:last-leader"
BEAT_SENT = "fleet:beat:sent"

#: The hash of pool sizes that operators have set, see `celery_fleet.common.pool_sizes`.
POOL_SIZES = "fleet:pool-sizes"

#: Headers of a message: how often a worker did not know its task, and when that first happened (Unix time).
UNKNOWN = "x-fleet-unknown"
UNKNOWN_SINCE = "x-fleet-unknown-since"
#: Header: how many processes died while they ran the task. If several tasks ran, each gets an equal part of the death.
DEATHS = "x-fleet-deaths"
#: Header: how many times the whole worker died while it ran the task. From `SUSPECT` deaths on, a worker runs only one
#: such task at a time.
CRASHES = "x-fleet-crashes"
SUSPECT = 2

#: Header: when the message was sent (Unix time, rounded to milliseconds), by the sender's clock; see
#: `celery_fleet.delivery.sending_time`.
SENT = "x-fleet-sent"
#: Header: the same time of a replayed dead letter before its first replay, which gave it a new one.
FIRST_SENT = "x-fleet-first-sent"

#: The stream in the result store that says what became of each task; see `celery_fleet.worker.history`.
HISTORY = "fleet:history"

#: The list of items that could not be read if there are no dead letters; the newest come first.
UNREADABLE = "fleet:unreadable"
UNREADABLE_KEPT = 1000


def direct_queue(node: str) -> str:
    """Return the name that Celery gives to a node's direct queue, which only the canary uses."""
    return f"{node}.dq2"
