"""Settings that contradict an inventory's promise on delivery, or a part of the delivery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.delivery import VARIABLES
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import delivery
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    UNKNOWN,
    Problem,
    Severity,
)

from tests.unit.preflight.inventory import changed, model, problems, valid
from tests.unit.preflight.test_run import only, text_of

Variables = dict[str, Any]
W = "celery_worker_instances"
D = f"{W}/discounts"
APP = "celery_app_delivery"
TAKE = "celery_worker_fetch"
HOUR = "celery_app_visibility_timeout"
FOR = "celery_worker_unknown_task_retention"
TRANSPORT = "broker_transport_options"


@pytest.fixture
def variables(tmp_path: Path) -> Variables:
    """Return a valid inventory that promises to run each task at least once."""
    return {**valid(tmp_path / "source"), APP: "at_least_once"}


def with_settings(variables: Variables, **settings: Any) -> Variables:
    return {**variables, "celery_app_settings": settings}


# --- accepted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("promise", ["inherit", "at_least_once", "at_most_once"])
@pytest.mark.parametrize("take", ["auto", "atomic", "stock"])
def test_every_promise_is_possible_with_every_way_of_fetching(
    variables: Variables, promise: str, take: str
) -> None:
    assert problems({**variables, APP: promise, TAKE: take}) == []


@pytest.mark.parametrize(
    "part", ["lease", "hand_back", "carry", "outage", "dead_letters", "nothing"]
)
def test_each_part_can_be_switched_off(variables: Variables, part: str) -> None:
    if part != "nothing":
        variables[VARIABLES[part]] = False
    assert problems(variables) == []


@pytest.mark.parametrize(
    "own",
    [
        {"delivery": "inherit"},
        {"delivery": "at_most_once", "fetch": "atomic"},
        {"fetch": "stock"},
        {"fetch": "auto"},
        {"pool": "gevent"},
    ],
)
def test_a_worker_may_differ(variables: Variables, own: dict[str, Any]) -> None:
    variables[W]["discounts"] |= own
    assert problems(variables) == []


def test_a_lease_does_not_depend_on_time_limits(variables: Variables) -> None:
    assert problems({**variables, HOUR: 15}) == []
    # Prefetched tasks are renewed, too.
    assert problems(changed({**variables, HOUR: 300}, f"{D}/prefetch_multiplier", 4)) == []


# --- refused -----------------------------------------------------------------------------------------

BREAKING = [
    ("at_least_once", {"task_acks_late": False}),
    ("at_least_once", {"task_retry_on_worker_lost": False}),
    ("at_least_once", {"worker_cancel_long_running_tasks_on_connection_loss": True}),
    ("at_most_once", {"task_acks_late": True}),
    ("at_most_once", {"task_reject_on_worker_lost": True}),
    ("at_most_once", {"task_retry_on_worker_lost": True}),
]


@pytest.mark.parametrize(("promise", "settings"), BREAKING)
def test_a_setting_that_breaks_the_promise_is_refused(
    variables: Variables, promise: str, settings: dict[str, bool]
) -> None:
    given = with_settings({**variables, APP: promise}, **settings)
    one = only(problems(given))
    assert (one.variable, one.severity) == (
        f"celery_app_settings.{next(iter(settings))}",
        Severity.ERROR,
    )
    assert f"contradicts celery_app_delivery ({promise})" in one.message
    assert "inherit" in one.remedy
    assert problems({**given, APP: "inherit"}) == []


@pytest.mark.parametrize(("promise", "settings"), BREAKING)
def test_a_setting_that_breaks_one_workers_promise_is_refused(
    variables: Variables, promise: str, settings: dict[str, bool]
) -> None:
    given = changed({**variables, APP: "inherit"}, f"{D}/delivery", promise)
    assert problems(given) == []
    one = only(problems(with_settings(given, **settings)))
    assert f"contradicts {W}.discounts.delivery ({promise})" in one.message
    assert one.hosts == ("worker1", "worker2")


@pytest.mark.parametrize(
    ("annotations", "path"),
    [
        ({"*": {"acks_late": False}}, "['*'].acks_late"),
        ({"*": {"retry_on_worker_lost": False}}, "['*'].retry_on_worker_lost"),
        ([{"*": {"acks_late": False}}], "[0]['*'].acks_late"),
    ],
)
def test_annotations_of_all_tasks_that_break_the_promise_are_refused(
    variables: Variables, annotations: Any, path: str
) -> None:
    given = with_settings(variables, task_annotations=annotations)
    one = only(problems(given))
    assert one.variable == f"celery_app_settings.task_annotations{path}"
    assert "is false, which contradicts celery_app_delivery (at_least_once)" in one.message
    assert problems({**given, APP: "inherit"}) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"task_acks_late": True},
        # The task of a lost process goes back to the queue, so it is not lost.
        {"task_retry_on_worker_lost": False, "task_reject_on_worker_lost": True},
        # Settings of a single task.
        {"task_annotations": {"app.tasks.clean": {"acks_late": False}}},
        {"task_annotations": {"*": {"rate_limit": "10/m"}}},
    ],
)
def test_settings_that_keep_the_promise_are_accepted(
    variables: Variables, settings: dict[str, Any]
) -> None:
    assert problems(with_settings(variables, **settings)) == []


FORGETTING: list[tuple[dict[str, Any], str]] = [
    ({TRANSPORT: {"ack_emulation": False}}, f"{TRANSPORT}.ack_emulation"),
    ({"task_queues": {"discounts": {"no_ack": True}}}, "task_queues.discounts.no_ack"),
]


@pytest.mark.parametrize("take", ["auto", "stock"])
@pytest.mark.parametrize(("settings", "path"), FORGETTING)
def test_queues_without_acknowledgement_break_the_promise(
    variables: Variables, settings: dict[str, Any], path: str, take: str
) -> None:
    given = {**with_settings(variables, **settings), TAKE: take}
    one = only(problems(given))
    assert one.variable == f"celery_app_settings.{path}"
    assert one.message.endswith("contradicts at_least_once")
    assert problems({**given, APP: "inherit"}) == []


def test_a_worker_that_purges_its_queues_breaks_the_promise(variables: Variables) -> None:
    given = changed(variables, f"{D}/purge", True)
    assert only(problems(given)).variable == f"{W}.discounts.purge"
    assert problems(changed(given, f"{D}/delivery", "inherit")) == []


@pytest.mark.parametrize("take", ["atomic", "stock"])
@pytest.mark.parametrize("options", [TRANSPORT, "result_backend_transport_options"])
def test_a_prefix_of_all_keys_is_refused(variables: Variables, options: str, take: str) -> None:
    given = with_settings(variables, **{options: {"global_keyprefix": "shop:"}})
    for promise in ("inherit", "at_least_once"):
        one = only(problems({**given, APP: promise, TAKE: take}))
        assert one.variable == f"celery_app_settings.{options}.global_keyprefix"


@pytest.mark.parametrize(
    ("path", "value", "variable", "remedy"),
    [
        (APP, "exactly_once", APP, "at_least_once"),
        (TAKE, "atmic", TAKE, "atomic?"),
        (f"{D}/fetch", "stok", f"{W}.discounts.fetch", "stock?"),
        (f"{D}/delivery", "at_last_once", f"{W}.discounts.delivery", "at_least_once?"),
        ("celery_worker_lease", "yes", "celery_worker_lease", "true or false"),
        (
            "celery_worker_unknown_task_retry_delay",
            0,
            "celery_worker_unknown_task_retry_delay",
            "1 or more",
        ),
        (
            "celery_worker_unknown_task_retry_delay",
            3601,
            "celery_worker_unknown_task_retry_delay",
            "3600 or less",
        ),
        (FOR, -1, FOR, "1 or more"),
        (FOR, "1h", FOR, "without a unit"),
        (
            "celery_worker_max_crashes_per_task",
            0,
            "celery_worker_max_crashes_per_task",
            "1 or more",
        ),
        (
            "celery_worker_max_crashes_per_task",
            1.5,
            "celery_worker_max_crashes_per_task",
            "whole number",
        ),
        ("celery_worker_max_dead_letters", 0, "celery_worker_max_dead_letters", "1 or more"),
        (
            "celery_worker_max_failed_dead_letters",
            -1,
            "celery_worker_max_failed_dead_letters",
            "0 or more",
        ),
        (
            "celery_worker_max_failed_dead_letters",
            10_001,
            "celery_worker_max_failed_dead_letters",
            "10000 or less",
        ),
        (HOUR, 14, HOUR, "15 or more"),
    ],
)
def test_values_out_of_range_are_refused(
    variables: Variables, path: str, value: Any, variable: str, remedy: str
) -> None:
    found = [p for p in problems(changed(variables, path, value)) if p.variable == variable]
    assert any(remedy in p.remedy and p.severity is Severity.ERROR for p in found), text_of(found)


TRANSPORT_PATH = f"celery_app_settings.{TRANSPORT}"
UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({TRANSPORT: {"ack_emulation": False}}, f"{TRANSPORT_PATH}.ack_emulation", "fetch: stock"),
    (
        {"task_queues": {"discounts": {"no_ack": True}}},
        "celery_app_settings.task_queues.discounts.no_ack",
        "fetch: stock for discounts",
    ),
]


@pytest.mark.parametrize(("settings", "variable", "remedy"), UNFIT)
def test_settings_that_the_atomic_fetch_does_not_support_are_refused(
    variables: Variables, settings: dict[str, Any], variable: str, remedy: str
) -> None:
    given = {**with_settings(variables, **settings), APP: "inherit", TAKE: "atomic"}
    one = only(problems(given))
    assert (one.variable, one.severity) == (variable, Severity.ERROR)
    assert remedy in one.remedy
    assert one.hosts == ("worker1", "worker2")
    # Without it, nothing is reported.
    assert problems({**given, TAKE: "stock"}) == []
    assert problems({**given, TAKE: "auto"}) == []


@pytest.mark.parametrize(
    "settings",
    [
        {TRANSPORT: {"global_keyprefix": "", "ack_emulation": True}},
        # No worker consumes this queue.
        {"task_queues": {"other": {"no_ack": True}}},
        {"task_queues": {"discounts": {"no_ack": False}}},
    ],
)
def test_settings_that_the_atomic_fetch_supports(
    variables: Variables, settings: dict[str, Any]
) -> None:
    assert problems(with_settings(variables, **settings)) == []


@pytest.mark.parametrize("part", ["lease", "hand_back", "carry", "outage"])
def test_a_part_that_no_worker_has_is_refused(variables: Variables, part: str) -> None:
    name = VARIABLES[part]
    given = {**variables, name: True}
    assert problems(given) == []
    one = only(problems({**given, TAKE: "stock"}))
    assert (one.variable, one.severity) == (name, Severity.ERROR)
    assert "no worker fetches atomically" in one.message
    assert "celery_worker_fetch: auto" in one.remedy
    assert only(problems({**given, APP: "inherit"})).variable == name
    # One worker with it is enough.
    given = {**given, TAKE: "stock"}
    given[W]["analytics"] |= {"fetch": "atomic"}
    assert problems(given) == []


def test_dead_letters_need_the_promise_at_least_once(variables: Variables) -> None:
    given = {**variables, "celery_worker_dead_letters": True, TAKE: "stock"}
    assert problems(given) == []
    one = only(problems({**given, APP: "at_most_once"}))
    assert "no worker promises at_least_once" in one.message


def test_keeping_failed_tasks_needs_dead_letters(variables: Variables) -> None:
    name = "celery_worker_max_failed_dead_letters"
    given = {**variables, name: 100}
    assert problems(given) == []
    one = only(problems({**given, APP: "inherit"}))
    assert (one.variable, one.value, one.severity) == (name, "100", Severity.ERROR)
    assert one.message == "has no effect: no worker promises at_least_once"
    one = only(problems({**given, "celery_worker_dead_letters": False}))
    assert one.message == "has no effect: dead letters are off"
    assert one.remedy == "remove it, or write celery_worker_dead_letters: true"
    assert problems({**variables, name: 0, APP: "inherit"}) == []


def test_the_outage_guard_needs_a_pool_with_an_event_loop(variables: Variables) -> None:
    variables |= {"celery_worker_outage_guard": True, "celery_worker_defaults": {"pool": "gevent"}}
    one = only(problems(variables))
    assert one.variable == "celery_worker_outage_guard"
    assert "another pool" in one.remedy


# --- the visibility timeout --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "own", "default"),
    [
        ({}, {}, 300),
        ({TAKE: "stock"}, {}, 3600),
        ({"celery_worker_lease": False}, {}, 3600),
        ({}, {"fetch": "stock"}, 3600),
        ({}, {"delivery": "inherit"}, 9000),
        ({APP: "inherit"}, {}, 9000),
        ({APP: "inherit", TAKE: "atomic"}, {}, 300),
        ({APP: "inherit"}, {"delivery": "at_least_once"}, 3600),
    ],
)
def test_the_default_timeout_is_short_only_if_all_workers_have_a_lease(
    variables: Variables, more: dict[str, Any], own: dict[str, Any], default: int
) -> None:
    variables[W]["discounts"] |= own
    given = {**variables, **more}
    made = model(given)
    assert {made.value(host, HOUR) for host in made.hosts} == {default}
    assert problems(given) == []


@pytest.mark.parametrize(
    ("more", "own"),
    [({TAKE: "stock"}, {}), ({"celery_worker_lease": False}, {}), ({}, {"fetch": "stock"})],
)
def test_a_worker_without_a_lease_needs_the_long_timeout(
    variables: Variables, more: dict[str, Any], own: dict[str, Any]
) -> None:
    variables[W]["discounts"] |= own
    one = only(problems({**variables, **more, HOUR: 300}))
    assert one.variable == HOUR
    assert "3600 or more" in one.remedy
    assert "celery_worker_lease" in one.remedy


def test_hosts_that_fetch_differently_need_the_same_timeout(variables: Variables) -> None:
    variables[W]["discounts"]["time_limit"] = 3600
    hosts = {"worker1": {TAKE: "stock"}}
    found = problems(variables, hosts=hosts)
    one = only([p for p in found if p.severity is Severity.ERROR])
    assert one.variable == HOUR
    assert "300: worker2; 7200: worker1" in one.message
    assert f"{HOUR}: 7200" in one.remedy
    found = problems({**variables, HOUR: 7200}, hosts=hosts)
    assert [p for p in found if p.severity is Severity.ERROR] == []


def test_an_unknown_task_waits_less_than_the_timeout(variables: Variables) -> None:
    for options in variables[W].values():
        options |= {"time_limit": 20, "soft_time_limit": 10}
    given = {**variables, TAKE: "stock", HOUR: 60}
    one = only(problems(given))
    assert one.variable == "celery_worker_unknown_task_retry_delay"
    assert "write less than 60" in one.remedy
    assert problems({**given, "celery_worker_unknown_task_retry_delay": 59}) == []
    assert problems({**given, "celery_worker_dead_letters": False}) == []
    # A worker that renews its lease may hold it.
    assert problems({**variables, HOUR: 60}) == []


# --- warnings ----------------------------------------------------------------------------------------


def test_many_prefetched_tasks_without_a_lease_are_a_warning(variables: Variables) -> None:
    given = changed({**variables, TAKE: "stock", HOUR: 9000}, f"{D}/prefetch_multiplier", 4)
    one = only(problems(given))
    assert (one.variable, one.severity) == (f"{W}.discounts.prefetch_multiplier", Severity.WARNING)
    assert problems(changed(given, f"{D}/prefetch_multiplier", 1)) == []
    assert problems({**given, APP: "at_most_once"}) == []


@pytest.mark.parametrize(
    ("more", "takes"),
    [
        # The longest drain of all; two hosts with three workers each, four at a time.
        ({}, 1890),
        ({"celery_restart_batch": 1}, 2 * (1890 + 690 + 690)),
        ({"celery_worker_start_timeout": 300}, 2100),
        ({"celery_worker_host_instances": ["maintenance", "analytics"]}, 690),
    ],
)
def test_unknown_tasks_are_kept_longer_than_a_rollout_takes(
    variables: Variables, more: dict[str, Any], takes: int
) -> None:
    def found(given: Variables) -> list[Problem]:
        return [p for p in problems(given) if p.variable == FOR]

    given = {**variables, **more, "celery_worker_unknown_task_retry_delay": 1}
    one = only(found({**given, FOR: takes - 1}))
    assert (one.severity, one.hosts) == (Severity.WARNING, ("worker1", "worker2"))
    assert f"write {takes} or more" in one.remedy
    assert found({**given, FOR: takes}) == []
    assert found({**given, FOR: takes - 1, "celery_worker_dead_letters": False}) == []


# --- unknown values ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [UNKNOWN, None, "nosuch", 7, ["stock"], {}])
def test_unknown_values_and_wrong_types_count_as_not_set(variables: Variables, value: Any) -> None:
    host, own = "worker1", {"delivery": "at_least_once"}
    made = model(variables)
    promised = delivery.parts(made, host, own)
    names = (APP, TAKE, "celery_worker_lease", "celery_worker_max_crashes_per_task")
    values = {**made.hosts[host], **dict.fromkeys(names[:3], value), names[3]: UNKNOWN}
    unknown = replace(made, hosts={host: values})
    assert delivery.parts(unknown, host, {**own, "fetch": value, "pool": value}) == promised
    assert delivery.parts(made, host, {"delivery": value}) == delivery.parts(made, host, {})
