"""How a worker of the model fetches, acknowledges and puts back: our way, stock's, and ours with one part left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Seconds that a lease lasts, and seconds between two renewals. The visibility timeout is the same.
LEASE, EVERY = 15, 5
#: Age in seconds from which an unknown tag of its own counts as left by a late fetch.
LATE = 6
#: A message that has killed this many processes becomes a dead letter.
DEATHS = 3
#: Largest number of messages that a process holds.
PREFETCH = 3


@dataclass(frozen=True)
class Design:
    """One switch for each rule that keeps a message; ``celery_fleet.delivery`` has all of them on."""

    #: List and ``unacked`` change in one step; otherwise a pop comes first, and a write in a second step.
    atomic_fetch: bool = True
    #: Each delivery has a tag with its owner; otherwise one tag stays with the message for ever.
    tag_per_delivery: bool = True
    #: Tasks continue through a lost connection; otherwise they are put back although they still run.
    carry: bool = True
    #: An acknowledgement that failed is sent again; otherwise it is forgotten.
    resend: bool = True
    #: A process renews what it holds while it lives.
    lease: bool = True
    #: It renews only messages that it knows; otherwise all with the owner's name.
    renews_known: bool = True
    #: It also renews the tag of a fetch whose reply it has not read.
    renews_outstanding: bool = True
    #: A renewal only touches tags that exist; otherwise it adds those that it does not find.
    renews_existing: bool = True
    #: Scores come from the broker's clock; otherwise from the host's.
    broker_clock: bool = True
    #: Any worker puts back a message that no lease covers.
    sweeps: bool = True
    #: The sweep skips what the sweeper itself holds.
    spares_own: bool = True
    #: After an outage the sweep leaves other workers time for a renewal.
    patient: bool = True
    #: The sweep of a worker's own tags skips that of a fetch on its way.
    spares_outstanding: bool = True
    #: A message is put back from ``unacked``, if it is still there; otherwise from memory, in any case.
    guarded: bool = True
    #: The hand-back waits until all processes of the dead worker have ended.
    lock: bool = True
    #: The hand-back acknowledges messages that were written down as ended.
    acknowledges_dead: bool = True

    def without(self, *names: str) -> Design:
        """Return the design with some parts left out."""
        return replace(self, **dict.fromkeys(names, False))


OURS = Design()
#: kombu 5.7. At each worker, ``restore_visible`` sweeps messages that are older than the visibility timeout.
STOCK = OURS.without(
    *("atomic_fetch", "tag_per_delivery", "carry", "resend", "lease", "broker_clock"),
    *("spares_own", "patient", "lock", "acknowledges_dead"),
)
