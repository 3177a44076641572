"""What workers hold in the broker, and the loss of their connections to it."""

from __future__ import annotations

from support import resp
from support.inventory import Fleet


def held(fleet: Fleet, node: str) -> set[str]:
    """Tags of the deliveries that a node's processes hold, told by its name in them."""
    with resp.session(fleet, "broker", "worker") as broker:
        tags = broker.send("ZRANGE", "unacked_index", 0, -1)
    return {tag for tag in tags if tag.startswith(f"{node}/")}


def cut_connections(fleet: Fleet) -> int:
    """End all connections of workers to the broker; how many there were.

    Not those of senders: one that does not hear whether its message has arrived sends it again, so that there are
    two of it, whoever takes them.
    """
    with resp.session(fleet, "broker", "admin") as admin:
        return int(admin.send("CLIENT", "KILL", "USER", "worker"))
