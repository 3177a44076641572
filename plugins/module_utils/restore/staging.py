"""What is beside the instances' data before a restore begins: refuses a disk without room for it, and removes it.

Runs on the host, inside the `redis_restore` module, as root.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import UserError
from .restoration import Restoration, RestoreHost

_MIB = 2**20
# What Redis and the notes of the restore need besides, in bytes.
RESERVE = 16 * _MIB


def discard(restorations: Collection[Restoration]) -> bool:
    """Remove what a restore that has not begun has left, and return whether there was any.

    One that has begun is left as it is, because the next run finishes it.
    """
    if any(one.begun for one in restorations):
        return False
    found = [one.finish() for one in restorations]
    return any(found)


def refuse_full(restorations: Iterable[Restoration], host: RestoreHost) -> None:
    """Refuse a disk without room for all snapshots and the data directories that are made from them.

    A replica needs as much: it stores what it copies from its primary, and then writes it to its append-only file.

    Raises:
        UserError: There is too little room; the message has the numbers.
    """
    needed = sum(one.missing() for one in restorations)
    free = host.free(host.data)
    if needed and free < needed + RESERVE:
        raise UserError(
            f"{host.data} has {free // _MIB} MiB free, and the restore needs {-(-(needed + RESERVE) // _MIB)} MiB "
            "there. Nothing was changed. Make room, for example delete what earlier restores have kept in "
            f"{host.data}/*.before-*, if you no longer need it. Then run the same command again."
        )
