"""Whether a removal may begin, and what its plan says."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.look import Footprint
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import removal_plan

OURS = {"app": "shop", "owner": "production", "path": "/etc/celery-fleet/shop/fleet.json"}
CHANGED_KEY = "Host key for w1 has changed. Host key verification failed"
HERE: dict[str, Any] = {"reachable": True, "reason": "", "uid": 0, "marks": [OURS]}


def refusals(app: Any = "shop", **given: Any) -> list[str]:
    facts = given.pop("facts", {"redis1": HERE, "worker1": HERE})
    options = {"redis": ["redis1"], "fleet": list(facts), "keep": [], "without": False, **given}
    return removal_plan.refusals(app, "production", facts, **options)


def test_an_inventory_s_own_application_may_go() -> None:
    assert refusals() == []
    assert refusals(facts={"redis1": {**HERE, "marks": []}}) == []
    assert refusals(keep=["logs", "redis_data"]) == []


@pytest.mark.parametrize("app", ["", "../etc", "a*", "Shop", None, "shop/x", "x" * 26])
def test_an_invalid_name_is_the_only_refusal(app: Any) -> None:
    (word,) = refusals(app, keep="logs")
    assert "celery_app_name" in word


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep": "logs"}, ["fleet_remove_keep", "list"]),
        ({"keep": ["log"]}, ["fleet_remove_keep", "log", "releases"]),
        (
            {"facts": {"redis1": HERE, "worker1": {"reachable": False, "reason": "timed out"}}},
            ["worker1", "timed out", "fleet_remove_ignore_unreachable"],
        ),
        (
            {"facts": {"worker1": {"reachable": False, "reason": CHANGED_KEY}}},
            ["worker1", "ssh-keygen -R w1", "fleet_remove_ignore_unreachable"],
        ),
        ({"facts": {"redis1": {**HERE, "uid": 1000}}}, ["redis1", "ansible_become"]),
        (
            {"facts": {"redis1": {**HERE, "marks": [{**OURS, "owner": "staging"}]}}},
            ["staging", "production", "celery_app_inventory_name=staging"],
        ),
        (
            {"facts": {"redis1": {**HERE, "marks": [{"path": OURS["path"], "error": "no JSON"}]}}},
            ["can't be read", "no JSON", "site.yml"],
        ),
        (
            {"facts": {"redis1": HERE}, "fleet": ["redis1", "worker1"]},
            ["--limit", "redis1", "worker1"],
        ),
    ],
)
def test_each_refusal_names_what_and_the_remedy(given: dict[str, Any], words: list[str]) -> None:
    (text,) = refusals(**given)
    assert [word for word in words if word not in text] == []


def test_all_refusals_come_at_once() -> None:
    facts = {
        "redis1": {**HERE, "marks": [{**OURS, "owner": "staging"}]},
        "worker1": {"reachable": False, "reason": "timed out"},
    }
    assert len(refusals(facts=facts, keep=["x"])) == 3


def test_a_host_that_is_down_may_be_left_for_later() -> None:
    facts = {"redis1": HERE, "worker1": {"reachable": False, "reason": "timed out"}}
    assert refusals(facts=facts, without=True) == []


def test_a_host_of_workers_may_go_alone() -> None:
    assert refusals(facts={"worker1": HERE}, fleet=["redis1", "worker1"]) == []


COUNTED = {"state": "counted", "waiting": 5, "held": 1, "dead": 0, "queues": {"mails": 5}}


@pytest.mark.parametrize(
    ("messages", "keep", "words"),
    [
        (COUNTED, (), "Redis on redis1 holds 5 messages that wait (mails 5), 1 that workers hold"),
        (COUNTED, ("redis_data",), ""),
        ({**COUNTED, "waiting": 0, "held": 0, "queues": {}}, (), ""),
        (
            {**COUNTED, "waiting": 0, "held": 0, "dead": 1},
            (),
            "Redis on redis1 holds 1 dead letter",
        ),
        ({"state": "settled"}, (), ""),
        ({"state": "none"}, (), ""),
        (
            {"state": "unknown", "reason": "it does not run"},
            (),
            "redis1 holds is not known: it does",
        ),
    ],
)
def test_messages_are_only_given_up_on_request(
    messages: dict[str, Any], keep: tuple[str, ...], words: str
) -> None:
    found = removal_plan.unsettled({"redis1": messages, "worker1": {}}, keep)
    assert words in found
    assert bool(words) == bool(found)


def test_what_other_hosts_have_as_well_is_not_lost() -> None:
    replica = {**COUNTED, "primaries": [], "copied": True}
    primary = {**COUNTED, "primaries": ["broker"], "copied": True}
    behind = {**replica, "copied": False}
    for leaving in (replica, primary):
        assert removal_plan.unsettled({"redis1": leaving}, (), elsewhere=True) == ""
    assert "redis1 holds" in removal_plan.unsettled({"redis1": behind}, (), elsewhere=True)
    whole = removal_plan.unsettled({"redis1": replica, "redis2": primary}, ())
    assert "redis2 holds 5" in whole
    assert "redis1" not in whole


@pytest.mark.parametrize(
    ("messages", "staying", "words"),
    [
        (
            {"primaries": ["broker"], "copied": False},
            ["redis2"],
            "redis1 has the primary of broker",
        ),
        ({"primaries": ["broker"], "copied": True}, ["redis2"], ""),
        ({"primaries": [], "copied": False}, ["redis2"], ""),
        ({"primaries": ["broker"], "copied": False}, [], ""),
        ({}, ["redis2"], ""),
    ],
)
def test_a_primary_without_a_copy_stays(
    messages: dict[str, Any], staying: list[str], words: str
) -> None:
    found = removal_plan.uncopied({"redis1": messages}, staying)
    assert words in "".join(found)
    assert bool(words) == bool(found)


def test_the_text_names_everything_that_goes_and_stays() -> None:
    one = Footprint(
        present=True,
        units=["shop-beat.service"],
        files=["/etc/celery-fleet/shop/app.env"],
        trees={"/opt/shop/releases": 12_300_000},
        kept={"/var/log/shop": 2_000},
        users=["user shop"],
        purge="apt purge redis-server",
        stay={"/etc/celery-fleet/shop/notes.txt": "is not the fleet's"},
        tables=["inet celery_fleet_shop"],
        messages=COUNTED,
    )
    two = Footprint(present=True, neighbours=["mails"])
    found = {"redis1": one.as_dict(), "worker1": two.as_dict(), "bare1": Footprint().as_dict()}
    text = removal_plan.text("shop", found, {"worker2": "timed out"})
    for words in (
        "shop goes from 2 hosts; all that is shared goes from redis1",
        "shop-beat",
        "5 messages that wait",
        "1: /etc/celery-fleet/shop (1)",
        "/opt/shop/releases (12 MB)",
        "/var/log/shop (2 KB)",
        "user shop",
        "nftables table inet celery_fleet_shop",
        "unless something else needs them: apt purge redis-server",
        "notes.txt: is not the fleet's",
        "mails",
        "bare1: shop is not there",
        "worker2 is left out: timed out",
    ):
        assert words in text, text
    assert removal_plan.changes(found)


def test_what_the_application_wrote_is_named_first() -> None:
    with_state = Footprint(
        present=True,
        trees={"/opt/shop/releases": 1, "/var/lib/shop": 5_000},
        state=["/var/lib/shop"],
    )
    found = {"redis1": Footprint(present=True).as_dict(), "worker1": with_state.as_dict()}
    lines = removal_plan.text("shop", found, {}).splitlines()
    assert lines[2:4] == [
        "  DELETED for good, with all that the application wrote there: /var/lib/shop on worker1.",
        '  Copy what you need first, or keep it: -e \'{"fleet_remove_keep": ["state"]}\'',
    ]
    found.pop("worker1")
    assert "DELETED" not in removal_plan.text("shop", found, {})


def test_without_an_application_there_is_nothing_to_do() -> None:
    found = {"redis1": Footprint().as_dict()}
    assert not removal_plan.changes(found)
    assert removal_plan.text("shop", found, {}) == "Removal: shop is on none of 1 host."
    assert removal_plan.ended("shop", found, {}, {}, []) == ""


def test_the_end_names_what_is_still_there_and_who_was_left_out() -> None:
    stay = {"/opt/shop/x": "is not the fleet's"}
    found = {
        "worker1": Footprint(present=True, stay=stay, purge="apt purge redis-server").as_dict()
    }
    text = removal_plan.ended(
        "shop", found, {"worker1": ["a", "b"]}, {"worker2": "timed out"}, ["redis1"]
    )
    assert "worker1: 2 items removed" in text
    assert "/opt/shop/x is still there" in text
    assert "\n    apt purge redis-server\n" in text
    assert "Not from worker2" in text
    assert "out of the inventory" in text


def test_a_command_that_runs_is_waited_for_by_a_person() -> None:
    found = {"worker1": Footprint(present=True, busy=["shop-exec-1.service"]).as_dict()}
    (word,) = removal_plan.busy(found)
    assert "systemctl stop shop-exec-1.service" in word
