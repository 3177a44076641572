"""The names that we add to the broker and to messages; all others are kombu's. Standard library only."""

from __future__ import annotations

#: Pattern of all our keys, for the ACL.
PATTERN = "fleet:*"

#: The hash of dead letters, from id to JSON document, and the sorted set of their ids by when they were last seen.
DEAD_LETTERS = "fleet:dead-letters"
DEAD_LETTERS_INDEX = "fleet:dead-letters:index"

#: Headers of a message: how often a worker did not know its task, and since when (Unix time).
UNKNOWN = "x-fleet-unknown"
UNKNOWN_SINCE = "x-fleet-unknown-since"
#: How many processes died of it. If several tasks ran, each gets an equal part of the death.
DEATHS = "x-fleet-deaths"
#: At how many deaths of a whole worker it ran. From SUSPECT on, a worker runs no other such task beside it.
CRASHES = "x-fleet-crashes"
SUSPECT = 2

#: The list of items that could not be read if there are no dead letters; the newest come first.
UNREADABLE = "fleet:unreadable"
UNREADABLE_KEPT = 1000
