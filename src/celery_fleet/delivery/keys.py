"""Names that we add to the broker and to messages; all others are kombu's. Standard library alone."""

from __future__ import annotations

#: Pattern of all our keys, for the ACL.
PATTERN = "fleet:*"

#: Hash of dead letters, id → JSON document, and sorted set of their ids by when they were last seen.
DEAD_LETTERS = "fleet:dead-letters"
DEAD_LETTERS_INDEX = "fleet:dead-letters:index"

#: Headers of a message: how often a worker did not know its task, and since when (Unix time) ...
UNKNOWN = "x-fleet-unknown"
UNKNOWN_SINCE = "x-fleet-unknown-since"
#: ... how many processes died because of it, as far as is known: a part of one where several tasks ran; ...
DEATHS = "x-fleet-deaths"
#: ... and at how many deaths of a whole worker it ran. From SUSPECT of them on, it is run beside no other such task.
CRASHES = "x-fleet-crashes"
SUSPECT = 2

#: List of what could not be read, where there are no dead letters; the newest first.
UNREADABLE = "fleet:unreadable"
UNREADABLE_KEPT = 1000
