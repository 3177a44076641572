"""How a worker of the model takes, acknowledges and puts back: ours, stock's, and ours with one part left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Seconds that a lease lasts, and between two renewals; also the visibility timeout of all.
LEASE, EVERY = 15, 5
#: Seconds from which on an unknown tag of its own counts as one that a late take has left.
LATE = 6
#: Processes that may die of a message before it is a dead letter.
DEATHS = 3
#: Messages that a process holds at most.
PREFETCH = 3


@dataclass(frozen=True)
class Design:
    """One switch for each thing that keeps a message; all on is what ``celery_fleet.delivery`` does."""

    #: List and ``unacked`` in one step; else a pop, and a write in a second one.
    atomic_take: bool = True
    #: A tag for each delivery, with its owner; else one that goes with the message for ever.
    tag_per_delivery: bool = True
    #: What runs goes on through a lost connection; else it is put back, and runs on all the same.
    carry: bool = True
    #: An acknowledgement that failed is sent again; else it is forgotten.
    resend: bool = True
    #: What is held is renewed while its process lives.
    lease: bool = True
    #: Only what is known is renewed; else all that bears the owner's name.
    renews_known: bool = True
    #: So is the tag of a take whose reply has not been read.
    renews_outstanding: bool = True
    #: A renewal touches only what is there; else it makes what it does not find.
    renews_existing: bool = True
    #: Scores are the broker's clock; else the host's.
    broker_clock: bool = True
    #: What no lease covers is put back by whoever finds it.
    sweeps: bool = True
    #: The sweep leaves alone what the sweeper itself holds.
    spares_own: bool = True
    #: After an outage the sweep gives the others the time of a renewal.
    patient: bool = True
    #: The sweep of own tags leaves alone that of the take on its way.
    spares_outstanding: bool = True
    #: What is put back comes from ``unacked``, if it is still there; else from memory, come what may.
    guarded: bool = True
    #: The hand-back waits until no process of the dead one lives.
    lock: bool = True
    #: The hand-back acknowledges what was written down as ended.
    acknowledges_dead: bool = True

    def without(self, *names: str) -> Design:
        """The same with some parts left out."""
        return replace(self, **dict.fromkeys(names, False))


OURS = Design()
#: kombu 5.7. Its sweep is ``restore_visible``, at every worker, of what is older than the visibility timeout.
STOCK = OURS.without(
    *("atomic_take", "tag_per_delivery", "carry", "resend", "lease", "broker_clock"),
    *("spares_own", "patient", "lock", "acknowledges_dead"),
)
