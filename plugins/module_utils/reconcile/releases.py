"""Releases that a host is to run: whether they are built there, and suit what the inventory says.

Runs on the host, inside the `settle` module, as root, before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import SettleError
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import Part
from ansible_collections.celery_fleet.core.plugins.module_utils.release import (
    note,
    suitability,
)


def require_built(parts: Sequence[Part], *, check: bool) -> None:
    """Refuse a link to a release that is not there: its processes would end with their next start.

    Args:
        parts: What roles want.
        check: Whether releases that the parts are yet to build count as built.

    Raises:
        SettleError: One is missing.
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
            raise SettleError(
                f"release {os.path.basename(path)} is not built on this host, or for another Python than it has "
                f"now, and {link.path} is to point to it: "
                "run site.yml without --skip-tags or --tags that leave its build out.\nNo file was written."
            )


def foretell_refused(parts: Sequence[Part], disk: Disk) -> list[str]:
    """Hold each release that is there against the inventory; one that is yet to be built is checked by its build.

    Returns:
        Remarks for a person.

    Raises:
        SettleError: One does not suit the inventory.
    """
    remarks: list[str] = []
    for release in (release for _, wanted in parts for release in wanted.releases):
        found = disk.read(f"{release.path}/{note.NOTE}") if release.demands else None
        if found is None:
            continue
        name, text = os.path.basename(release.path), found.decode(errors="replace")
        words = suitability.refusals(name, text, release.demands or {})
        if words:
            raise SettleError("\n".join([*words, "Nothing was changed."]))
        remarks += suitability.remarks(name, text, release.demands or {})
    return remarks
