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
    """End all connections to the broker but our own; how many there were."""
    with resp.session(fleet, "broker", "admin") as admin:
        return int(admin.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
