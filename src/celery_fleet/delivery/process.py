"""The owner that this process is, for its whole life. Standard library alone."""

from __future__ import annotations

import socket

from celery_fleet.delivery.tags import Owner, Tags

_tags: Tags | None = None


def begin(node: str) -> Owner:
    """Say which node this process is, when its worker is set up; again with the same node changes nothing."""
    global _tags
    if _tags is None or _tags.owner.node != node:
        _tags = Tags(Owner(node))
    return _tags.owner


def tags() -> Tags:
    """What makes the tags of this process's deliveries."""
    global _tags
    if _tags is None:  # a worker that an application starts without Celery's own program
        _tags = Tags(Owner(f"celery@{socket.gethostname()}"))
    return _tags


def owner() -> Owner:
    """Who this process is in the tags of its deliveries."""
    return tags().owner
