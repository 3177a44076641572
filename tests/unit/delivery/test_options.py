"""Which parts of the delivery are on, and which worker holds a message."""

from __future__ import annotations

import pytest

from celery_fleet.common.errors import FleetError
from celery_fleet.delivery.messages import Owner, owner_of
from celery_fleet.delivery.options import Options, parse
from celery_fleet.delivery.tags import Tags


def test_by_default_everything_is_stock() -> None:
    assert parse(None) == parse({}) == Options()
    assert not Options().atomic


def test_numbers_of_the_inventory_are_used() -> None:
    document = {"profile": "at_least_once", "fetch": "atomic", "lease": True, "unknown_delay": 5}
    options = parse(document)
    assert options.atomic
    assert options.lease
    assert options.unknown_delay == 5.0


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([], "must be a mapping"),
        ({"speed": 1}, "delivery.speed is not known"),
        ({"lease": 1, "fetch": "atomic"}, "delivery.lease is 1, not of type bool"),
        ({"keep": True}, "delivery.keep is True, not of type int"),
        ({"keep": 0}, "delivery.keep is 0, not above 0"),
        ({"failed": -1}, "delivery.failed is -1, not 0 or more"),
        ({"unknown_delay": "soon"}, "not of type float"),
        ({"fetch": "fast"}, "delivery.fetch is 'fast', not one of stock, atomic"),
        ({"profile": "exactly_once"}, "not one of inherit, at_least_once, at_most_once"),
        ({"lease": True}, "delivery.lease needs delivery.fetch: atomic"),
    ],
)
def test_mistakes_are_named(document: object, text: str) -> None:
    with pytest.raises(FleetError, match=text):
        parse(document)


def test_a_tag_names_its_owner() -> None:
    owner = Owner("mail@worker1")
    tags = Tags(owner)
    first, second = tags.next(), tags.next()
    assert first != second
    assert owner_of(first) == owner
    assert owner.holds(second)
    assert second.startswith(owner.prefix)


def test_another_start_of_the_node_holds_nothing_of_it() -> None:
    tag = Tags(Owner("mail@worker1")).next()
    assert not Owner("mail@worker1").holds(tag)
    assert not Owner("mail@worker10").holds(tag)


def test_a_stock_workers_tag_has_no_owner() -> None:
    assert owner_of("0d9a6d6e-58f5-4a0e-8d3a-3d1a4f7b6a51") is None
    assert owner_of("mail@worker1/xyz/1") is None
