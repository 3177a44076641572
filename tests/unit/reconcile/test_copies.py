"""How long a run waits for a replica that copies its primary's data."""

from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.copies import Copies


def copying(read: int) -> dict[str, str]:
    """Return what a replica says that has read this many bytes."""
    return {"role": "slave", "master_sync_in_progress": "1", "master_sync_read_bytes": str(read)}


IDLE = {"role": "slave", "master_sync_in_progress": "0"}


def test_a_copy_of_any_length_goes_on() -> None:
    copies = Copies()
    assert not copies.goes_on(IDLE)
    assert all(copies.goes_on(copying(read)) for read in (0, 0, *range(0, 10**9, 10**6)))
    # It loads what it has read.
    assert copies.goes_on(copying(10**9))


def test_a_replica_that_can_not_read_the_data_is_given_up() -> None:
    copies = Copies()
    seen = [copies.goes_on(state) for _ in range(5) for state in (copying(0), copying(500), IDLE)]
    assert seen[:2] == [True, True]
    assert not any(seen[12:])


def test_so_is_one_whose_copies_are_too_fast_to_be_seen_ending() -> None:
    copies = Copies()
    seen = [copies.goes_on(copying(read)) for read in (200, 0, 300, 100, 300, 0, 10, 5, 6, 7)]
    assert seen[0]
    assert not seen[-1]
