"""Preflight's checks of clients outside the fleet, and of queues that only they consume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, secret, valid

C = "celery_app_clients"
P = "celery_app_client_passwords"
E = "celery_app_external_queues"
Found = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Return a function for the variable, message and remedy of each problem."""

    def look(**more: Any) -> list[tuple[str, str, str]]:
        return [
            (problem.variable, problem.message, problem.remedy)
            for problem in problems({**valid(tmp_path), **more})
        ]

    return look


def partner(**options: Any) -> dict[str, Any]:
    return {C: {"partner": options}, P: {"partner": secret(30)}}


def test_a_client_passes(found: Found) -> None:
    options: dict[str, Any] = {
        "queues": ["discounts", "letters"],
        "consume": ["letters"],
        "results": True,
        "addresses": ["10.2.0.0/24"],
    }
    assert found(**partner(**options), **{E: ["letters"]}) == []


def test_an_external_queue_is_a_text(found: Found) -> None:
    ((variable, message, remedy),) = found(**{E: [1]})
    assert (variable, remedy) == (f"{E}[0]", "write it in quotes")
    assert "is a number" in message


def test_a_route_and_an_entry_to_an_external_queue_pass(found: Found) -> None:
    entry = {"task": "partner.print", "interval": 60, "queue": "letters"}
    more: dict[str, Any] = {
        "celery_app_task_routes": {"app.*": {"queue": "discounts"}, "p.*": {"queue": "letters"}},
        "celery_beat_schedule": {"letters": entry},
        "celery_health_thresholds": {"queues": {"letters": {"bad": 5000}}},
    }
    assert found(**more, **{E: ["letters"]}) == []
    assert found(**more) != []


@pytest.mark.parametrize(
    ("given", "where", "message", "remedy"),
    [
        (partner(queues=["discount"]), f"{C}.partner.queues[0]", "is not a worker", "discounts?"),
        (partner(queues=["nosuch"]), f"{C}.partner.queues[0]", "is not a worker", f"to {E}"),
        (partner(consume=["discounts"]), f"{C}.partner.consume[0]", "is not one of", f"to {E}"),
        (
            {E: ["discounts"]},
            f"{E}[0]",
            "is a queue of discounts@worker1",
            "from the worker's queues",
        ),
        ({E: ["a b"]}, E, "is not a queue name", "begin with"),
        ({C: {"worker": {}}, P: {"worker": secret(30)}}, f"{C}.worker", "own Redis users", ""),
        ({C: {"Shop": {}}, P: {"Shop": secret(30)}}, f"{C}.Shop", "Redis user", "a-z"),
        ({C: {"shop": {}}}, f"{P}.shop", "is not set to a string", "openssl"),
        ({C: {"shop": {}}, P: {"shop": None}}, f"{P}.shop", "is not set to a string", "openssl"),
        ({P: {"shop": secret(30)}}, f"{P}.shop", "does not have", "add the client"),
        ({C: {"shop": {}}, P: {"shop": "short"}}, f"{P}.shop", "shorter than 16", "openssl"),
        (
            {C: {"shop": {}}, P: {"shop": "a blank in a long one"}},
            f"{P}.shop",
            "has a space",
            "openssl",
        ),
        ({C: {"shop": {}}, P: {"shop": secret(0)}}, f"{P}.shop", "the same secret", "its own"),
        (partner(addresses=["host.example.com"]), f"{C}.partner.addresses[0]", "not an addr", ""),
        (partner(addresses=["0.0.0.0/0"]), f"{C}.partner.addresses[0]", "let everyone in", ""),
        (partner(queue=["mail"]), f"{C}.partner.queue", "not a known key", "queues"),
        ({C: {"shop": None}, P: {"shop": secret(30)}}, f"{C}.shop", "has no value", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_refused(
    found: Found, given: dict[str, Any], where: str, message: str, remedy: str
) -> None:
    (one,) = found(**given)
    assert (one[0], message in one[1], remedy in one[2]) == (where, True, True), one


@pytest.mark.parametrize("key", ["queues", "consume"])
def test_a_queue_whose_name_looks_like_a_priority_of_a_client_s_queue_is_refused(
    found: Found, key: str
) -> None:
    ((variable, message, _),) = found(
        **partner(**{key: ["letters"]}), **{E: ["letters", "letters-p3", "letters-p4"]}
    )
    assert variable == f"{C}.partner.{key}[0]"
    assert message.startswith("also allows the queue letters-p3")


def test_a_password_in_place_of_a_name_is_not_shown(found: Found) -> None:
    (one,) = found(**{P: {"S3cret-in-the-wrong-place": secret(30)}})
    assert "S3cret" not in str(one)
