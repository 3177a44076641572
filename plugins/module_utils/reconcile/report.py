"""The result of reconciling a host: an error, or a report of what was done and what is pending."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Action = Literal[
    "start",
    "restart",
    "reload",
    "live",
    "remove",
    "write",
    "link",
    "install",
    "build",
    "run",
]


class ReconcileError(Exception):
    """The host could not be brought to the desired state. The message is for the person who runs the play."""


@dataclass(frozen=True)
class PendingAction:
    """One action that has to be taken.

    Attributes:
        part: Name of the role that wants it; empty if only one role is reconciled.
        unit: The unit concerned; empty if there is none.
        action: Kind of action.
        why: Reasons, each a few words, without secrets.
    """

    part: str
    unit: str
    action: Action
    why: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return all reasons in one line."""
        return "; ".join(self.why)


@dataclass(frozen=True)
class Change:
    """One path that was changed, or would be in check mode.

    Attributes:
        part: Name of the role that wants it.
        path: The path; `enable <unit>` or `daemon-reload` for changes without a path.
        link: For a link, its old and new target.
    """

    part: str
    path: str
    link: str = ""


@dataclass
class HostReport:
    """Everything that was done, or would be done in check mode.

    Attributes:
        waiting: How many tasks wait in each queue that the inventory no longer names.
    """

    changes: list[Change] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    pending: list[PendingAction] = field(default_factory=list)
    done: list[PendingAction] = field(default_factory=list)
    states: dict[str, dict[str, object]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> list[str]:
        """Return the changed paths in order."""
        return [change.path for change in self.changes]
