from __future__ import annotations

import json

from celery_fleet.common import pool_sizes
from celery_fleet.common.pool_sizes import PoolSize

SIZE = PoolSize("mail@worker1", 6, "4", 1_700_000_000.0, "ana", "a backlog")


def test_a_size_in_words() -> None:
    assert SIZE.words == ("scaled to 6 by ana since 2023-11-14 22:13 UTC: a backlog (inventory: 4)")
    assert PoolSize("a@b", 3, "2 to 10").words == (
        "scaled to 3 since 1970-01-01 00:00 UTC (inventory: 2 to 10)"
    )


def test_a_hash_is_read_whatever_is_in_it() -> None:
    def with_(**changes: object) -> bytes:
        return json.dumps({**json.loads(SIZE.entry[1]), **changes}).encode()

    damaged = {
        b"a@h": b"{",
        b"b@h": b"[" * 100_000,
        b"c@h": with_(processes=0),
        b"d@h": with_(processes=1001),
        b"e@h": with_(processes=True),
        b"f@h": with_(processes="6"),
        b"g@h": with_(since=1e300),
        b"h@h": with_(since="NaN"),
        b"\xff": b"{}",
    }
    field, value = SIZE.entry
    found = pool_sizes.parse({**damaged, field.encode(): value.encode(), "a@b": with_(why="x\ny")})
    assert list(found) == ["a@b", "mail@worker1"]
    assert found["mail@worker1"] == SIZE
    assert found["a@b"].why == "x y"


def test_a_second_instance_has_its_workers_size() -> None:
    sizes = {"mail@worker1": SIZE}
    assert pool_sizes.of_node(sizes, "mail@worker1") is SIZE
    assert pool_sizes.of_node(sizes, "mail.next@worker1") is SIZE
    assert pool_sizes.of_node(sizes, "mail@worker2") is None
    assert pool_sizes.of_node(sizes, "mails@worker1") is None
