"""Find out what workers hold in the broker, and cut their connections to it."""

from __future__ import annotations

from support import resp
from support.inventory import Fleet


def held(fleet: Fleet, node: str) -> set[str]:
    """Return the tags of the deliveries that a node's processes hold; they contain its name."""
    with resp.session(fleet, "broker", "worker") as broker:
        tags = broker.send("ZRANGE", "unacked_index", 0, -1)
    return {tag for tag in tags if tag.startswith(f"{node}/")}


def cut_connections(fleet: Fleet) -> int:
    """Close all connections of workers to the broker; return how many there were.

    Connections of senders stay: a sender that does not hear whether its message has arrived sends it again, so there
    would be two of it, whichever worker fetches them.
    """
    with resp.session(fleet, "broker", "admin") as admin:
        return int(admin.send("CLIENT", "KILL", "USER", "worker"))
