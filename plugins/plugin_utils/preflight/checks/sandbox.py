"""Says which paths of a host the sandbox of units hides from their processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from ..model.inventory import as_list, as_mapping

# What templates/systemd/_service.j2 hides, by directive.
_HIDDEN: Final = {
    "ProtectHome": ("/home", "/root", "/run/user"),
    "PrivateTmp": ("/tmp", "/var/tmp"),  # noqa: S108  # none is written to
}
# The remedy for files of processes.
VISIBLE: Final = (
    "write a directory that they see, as in /srv/shop/media; each process has its own /tmp and /var/tmp without any "
    "option"
)
_YES: Final = ("1", "yes", "y", "true", "t", "on")


def hidden_by_sandbox(
    path: str | PurePosixPath, options: Mapping[str, object] | None = None
) -> str:
    """Return why a process can't see a path, as the end of a message; an empty string if it can.

    Args:
        path: An absolute path.
        options: Options of its unit; `unit_lines` may switch off what hides the path.
    """
    plain = PurePosixPath(os.path.normpath(path))
    given = as_mapping(as_mapping(options).get("unit_lines"))
    for directive, places in _HIDDEN.items():
        value = given.get(directive, True)
        # Of repeated lines, the last one counts.
        if str((as_list(value) or [value])[-1]).lower() not in _YES:
            continue
        for place in places:
            if plain.is_relative_to(place):
                return f"below {place}, which the fleet's processes can't see, because their units have {directive}="
    return ""
