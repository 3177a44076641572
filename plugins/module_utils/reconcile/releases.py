"""Checks the releases that a host will run: whether they are built there and fit the inventory.

Runs on the host, inside the `reconcile` module, as root, before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..release import note, suitability
from .desired_state import Part
from .fingerprint import Disk
from .report import ReconcileError


def require_built(parts: Sequence[Part], *, check: bool) -> None:
    """Refuse a link to a release that is missing: its processes would fail at their next start.

    Args:
        parts: What roles want.
        check: Whether releases that the parts will build count as built.

    Raises:
        ReconcileError: A release is missing.
    """
    coming = {
        os.path.normpath(release.path)
        for _, wanted in parts
        for release in wanted.releases
        if check
    }
    for link in (link for _, wanted in parts for link in wanted.links):
        path = note.target_of(link.path, link.target)
        if path and path not in coming and not note.built(path):
            raise ReconcileError(
                f"release {os.path.basename(path)} is not built on this host, or for another Python than it has "
                f"now, and {link.path} is to point to it: "
                "run site.yml without --skip-tags or --tags that leave its build out.\nNo file was written."
            )


def check_suitable(parts: Sequence[Part], disk: Disk) -> list[str]:
    """Check each built release against the inventory; one that is built later is checked by its build.

    Returns:
        Remarks to show.

    Raises:
        ReconcileError: A release does not fit the inventory.
    """
    remarks: list[str] = []
    for release in (release for _, wanted in parts for release in wanted.releases):
        found = disk.read(f"{release.path}/{note.NOTE}") if release.demands else None
        if found is None:
            continue
        name, text = os.path.basename(release.path), found.decode(errors="replace")
        words = suitability.refusals(name, text, release.demands or {})
        if words:
            raise ReconcileError("\n".join([*words, "Nothing was changed."]))
        remarks += suitability.remarks(name, text, release.demands or {})
    return remarks
