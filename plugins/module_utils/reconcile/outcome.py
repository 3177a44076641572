"""What settling a host comes to: an error for a person, or a report of what was done and what has to be."""

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


class SettleError(Exception):
    """The host could not be brought to the wanted state; the message is for the person who runs the play."""


@dataclass(frozen=True)
class Pending:
    """One thing that has to be done.

    Attributes:
        part: Name of the role that wants it; empty where one role alone settles.
        unit: The unit that it is about; empty where it is about none.
        action: What.
        why: Reasons for people, each a few words; no secret.
    """

    part: str
    unit: str
    action: Action
    why: tuple[str, ...]

    @property
    def text(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.why)


@dataclass(frozen=True)
class Change:
    """One path that was changed, or in check mode would be.

    Attributes:
        part: Name of the role that wants it.
        path: Where; `enable <unit>` or `daemon-reload` for what has no path of ours.
        link: For a link, where from and where to.
    """

    part: str
    path: str
    link: str = ""


@dataclass
class Report:
    """What was done, or in check mode would be."""

    changes: list[Change] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    done: list[Pending] = field(default_factory=list)
    states: dict[str, dict[str, object]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[str]:
        """Paths that were changed, in their order."""
        return [change.path for change in self.changes]
