"""What the control side computes from an application's variables."""

from __future__ import annotations

import fnmatch
import re
import shlex
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils import routing
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import left_queues
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    acl,
    directories,
    kept_release,
    nginx,
    redis,
    surplus,
    visibility,
    workers,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    environment as desired_environment,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import (
    RedisServers,
)
from celery import Celery
from celery.app.routes import MapRoute
from celery.utils.time import get_exponential_backoff_interval
from kombu import Connection

from celery_fleet.common import redis_client as health_redis
from celery_fleet.config.entries import parse_entries
from tests.facts import facts
from tests.facts import schedule as schedule_of
from tests.facts import workers as workers_of_host
from tests.systemd import environment

USERS = ("worker", "beat", "producer", "flower", "operator", "admin")
WORD = "secret"
PASSWORDS = {user: f"pw-of-{user}" for user in USERS}


# --- settings ----------------------------------------------------------------------------------------


def whole(component: str = "worker", password: str = WORD, **more: Any) -> dict[str, Any]:
    options = {key: more.pop(key) for key in ("parts", "schedule") if key in more}
    return desired_settings.process_settings(facts(**more), component, password, **options)


def settings(component: str = "worker", password: str = WORD, **more: Any) -> dict[str, Any]:
    made = whole(component, password, **more)
    assert (made["format"], made["app"], made["component"]) == (1, "shop", component)
    pins: dict[str, Any] = made["celery"]
    return pins


@pytest.mark.parametrize(
    ("component", "log"), [("worker", "json"), ("beat", "json"), ("producer", None)]
)
def test_json_logs_need_no_format_of_celery(component: str, log: str | None) -> None:
    given = {"worker_log_format": "json", "worker_task_log_format": "%(message)s"}
    options = {"defaults": given} if component != "producer" else {}
    made = desired_settings.process_settings(facts(), component, WORD, **options)
    assert made.get("log") == log
    assert not [name for name in made["celery"] if name.endswith("log_format")]


def test_a_beat_without_entries_is_told_what_happens_to_missed_runs() -> None:
    """It reads the entries from the database, which has no column for that."""
    each = {"missed": "each", "missed_limit": 3}
    entries = {"a": {"task": "t", "interval": 5, **each}, "b": {"task": "t", "interval": 5}}
    schedule: dict[str, Any] = {
        "entries": {},
        "policy": "add",
        "scheduler": "database",
        "edited": "keep",
        "left_out": ["c"],
    }
    assert "beat_missed" not in whole(
        "beat", schedule={**schedule, "declared": {"b": entries["b"]}}
    )
    made = whole("beat", schedule={**schedule, "declared": entries})
    assert made["beat_missed"] == {"a": each}
    assert made["beat_schedule_left_out"] == ["c"]
    file = {**schedule, "scheduler": "persistent", "entries": entries}
    made = whole("beat", schedule=file)
    assert made["celery"]["beat_schedule"] == entries
    assert "beat_missed" not in made


@pytest.mark.parametrize("component", ["worker", "producer", "flower", "operator"])
def test_each_component_has_its_own_user_and_tls(component: str) -> None:
    pins = settings(component)
    assert pins["broker_url"] == f"rediss://{component}:secret@redis1:6379/0"
    assert pins["result_backend"] == f"rediss://{component}:secret@redis1:6380/0"
    assert pins["broker_read_url"] is pins["broker_write_url"] is None
    for key in ("broker_use_ssl", "redis_backend_use_ssl"):
        assert pins[key] == {
            "ssl_cert_reqs": "required",
            "ssl_ca_certs": "/ca.crt",
            "ssl_check_hostname": True,
        }


@pytest.mark.parametrize(
    ("component", "metrics"),
    [
        ("worker", {"file": "/var/lib/shop/metrics/worker-%n.json"}),
        ("beat", {"file": "/var/lib/shop/metrics/beat.json"}),
        ("producer", {}),
        ("operator", {}),
        ("flower", None),
    ],
)
def test_workers_and_beat_have_metrics_and_senders_add_the_time(
    component: str, metrics: Any
) -> None:
    assert whole(component, metrics=True).get("metrics") == metrics
    assert "metrics" not in whole(component)


def test_beat_has_no_result_store() -> None:
    pins = settings("beat")
    assert pins["result_backend"] == "disabled://"
    assert pins["result_expires"] is None
    assert "6380" not in repr(pins)


def test_a_password_of_any_characters_survives_the_url() -> None:
    password = "a/b@c:d%e?f#g h+ü"
    url = urlsplit(settings(password=password)["broker_url"])
    assert unquote(url.password or "") == password
    assert (url.hostname, url.port, url.path) == ("redis1", 6379, "/0")


def test_an_ipv6_address_is_in_brackets() -> None:
    address = {"broker": {"host": "fd00::1", "port": 6379}}
    pins = settings(**address, results={"host": "fd00::1", "port": 6380})
    for name, port in (("broker_url", 6379), ("result_backend", 6380)):
        assert pins[name] == f"rediss://worker:secret@[fd00::1]:{port}/0"
        connection = Connection(pins[name])
        assert (connection.hostname, connection.port) == ("fd00::1", port)
        server = health_redis.server_of(pins[name], {})
        assert (server.host, server.port) == ("fd00::1", port)


def test_only_workers_and_beat_redeliver_overdue_tasks() -> None:
    own = {"broker_transport_options": {"visibility_timeout": 60}}
    for component in ("worker", "beat"):
        pins = settings(component, visibility_timeout=9000)
        assert pins["broker_transport_options"]["visibility_timeout"] == 9000
        # `-e celery_app_visibility_timeout=9000` is text.
        pins = settings(component, visibility_timeout="9000")
        assert pins["broker_transport_options"]["visibility_timeout"] == 9000
        pins = settings(component, visibility_timeout=9000, settings=own)
        assert pins["broker_transport_options"]["visibility_timeout"] == 60
    for component in ("producer", "flower", "operator"):
        for more in ({}, own):
            options = settings(component, settings=more)["broker_transport_options"]
            # Longer ago than any clock begins.
            assert options["visibility_timeout"] > time.time()
            assert options["socket_keepalive"] is True


def test_only_workers_and_the_operator_have_direct_queues() -> None:
    assert [c for c in USERS[:5] if settings(c)["worker_direct"]] == ["worker", "operator"]


def test_the_inventorys_own_settings_win() -> None:
    pins = settings(settings={"worker_direct": False, "task_acks_late": True})
    assert (pins["worker_direct"], pins["task_acks_late"]) == (False, True)


@pytest.mark.parametrize("component", USERS[:5])
def test_no_process_of_a_fleet_is_eager(component: str) -> None:
    assert settings(component)["task_always_eager"] is False


def test_a_producer_gives_up_sending_soon_and_beat_later() -> None:
    """The pauses between attempts are added up as kombu does."""

    def waited(policy: dict[str, float]) -> float:
        steps = (
            policy["interval_start"] + n * policy["interval_step"]
            for n in range(int(policy["max_retries"]))
        )
        return sum(min(step, policy["interval_max"]) for step in steps)

    assert 5 <= waited(settings("producer")["task_publish_retry_policy"]) <= 8
    beat = settings("beat")
    assert waited(beat["task_publish_retry_policy"]) > 20
    # Otherwise kombu gives up a connection that was lost after 4 s, before the policy is asked.
    assert beat["broker_transport_options"]["connect_retries_timeout"] == 60


def test_a_producer_without_the_result_store_gives_up_in_time() -> None:
    """Celery's own backend reads the settings; those of the inventory keep their effect."""
    more = {"result_backend_transport_options": {"result_chord_ordered": False}}
    app = Celery("shop", set_as_current=False, fixups=[])
    app.conf.update(settings("producer", settings=more))
    assert app.backend.retry_policy["timeout"] <= 8
    assert app.conf.result_backend_transport_options["result_chord_ordered"] is False
    # Workers wait for the result store, because a result that is not written is lost.
    assert "result_backend_transport_options" not in settings("worker")


@pytest.mark.parametrize(
    ("component", "seconds"),
    [
        # Sentinels need 3 s to notice that a primary is away, and some to choose another one.
        pytest.param("worker", 7, id="a worker outlasts a failover"),
        # systemd starts a Redis that has died after 2 s.
        pytest.param("producer", 3, id="a producer outlasts a restart"),
    ],
)
def test_attempts_to_reach_the_result_store_take_long_enough(
    component: str, seconds: float
) -> None:
    """The pauses are added up as Celery's backend draws them."""
    pins = settings(component)
    base = Celery("shop", set_as_current=False, fixups=[]).conf
    factor = base.result_backend_base_sleep_between_retries_ms
    longest = pins["result_backend_max_sleep_between_retries_ms"]

    def waited() -> float:
        retries = range(1, pins["result_backend_max_retries"] + 1)
        return sum(get_exponential_backoff_interval(factor, n, longest, True) for n in retries)

    assert sum(waited() >= 1000 * seconds for _ in range(1000)) >= 980
    assert pins["result_backend_max_retries"] * longest <= 40_000


def test_a_promise_on_delivery_sets_celerys_settings() -> None:
    assert not {"task_acks_late", "worker_prefetch_multiplier"} & set(settings())
    assert settings(delivery="inherit") == settings()
    late = settings(delivery="at_least_once")
    assert (late["task_acks_late"], late["worker_prefetch_multiplier"]) == (True, 1)
    assert (late["task_reject_on_worker_lost"], late["task_retry_on_worker_lost"]) == (False, True)
    early = settings(delivery="at_most_once")
    assert early["task_acks_late"] is early["task_retry_on_worker_lost"] is False
    assert "worker_prefetch_multiplier" not in early
    # The application decides about a failed or timed-out task.
    assert not any(name.startswith("task_acks_on") for name in late)


def test_only_workers_get_the_parts_of_the_delivery() -> None:
    parts = {"profile": "at_least_once", "fetch": "atomic"}
    assert whole("worker", parts=parts)["delivery"] == parts
    assert "delivery" not in whole("worker", parts={})
    for component in ("beat", "producer", "flower", "operator"):
        assert "delivery" not in whole(component, parts=parts)


def test_settings_of_the_inventory_override_a_promise() -> None:
    given = {"worker_prefetch_multiplier": 4}
    assert settings(delivery="at_least_once", settings=given)["worker_prefetch_multiplier"] == 4


def test_one_transport_option_keeps_the_others() -> None:
    ours = settings()["broker_transport_options"]
    given = {"broker_transport_options": {"priority_steps": [0], "socket_timeout": 4}}
    found = settings(settings=given)["broker_transport_options"]
    assert found == {**ours, "priority_steps": [0], "socket_timeout": 4}
    assert found["visibility_timeout"] == ours["visibility_timeout"]


def test_routes_are_only_set_if_some_are_given() -> None:
    assert "task_routes" not in settings()
    routes = {"app.*": {"queue": "q"}}
    assert settings(routes=routes)["task_routes"] == routes


def test_only_beat_has_the_schedule_with_entries_that_are_off() -> None:
    schedule: dict[str, dict[str, Any]] = {
        "a": {"task": "x", "interval": 5, "enabled": True},
        "b": {"task": "y", "interval": 5, "enabled": False},
        "c": {"task": "z", "interval": 5},
    }
    pins = settings("beat", schedule=schedule_of(schedule))
    assert pins["beat_schedule"] == {
        "a": {"task": "x", "interval": 5},
        # The application's code may have an entry of this name.
        "b": {"enabled": False},
        "c": {"task": "z", "interval": 5},
    }
    assert "beat_schedule" not in settings("worker", schedule=schedule_of(schedule))
    assert settings("beat")["beat_schedule"] == {}


def test_in_a_database_an_entry_that_is_off_is_complete() -> None:
    off = {"task": "t", "interval": 5, "enabled": False}
    schedule = {"off": off, "theirs": {"enabled": False}, "on": {"task": "t", "interval": 5}}
    found = whole("beat", schedule=schedule_of(schedule, scheduler="database", edited="reset"))
    assert found["celery"]["beat_schedule"] == schedule
    assert (found["beat_scheduler"], found["beat_schedule_on_edit"]) == ("database", "reset")
    assert "beat_scheduler" not in whole("beat", schedule=schedule_of(schedule))
    in_database = schedule_of({}, scheduler="database")
    assert "beat_scheduler" not in whole("worker", schedule=in_database)


@pytest.mark.parametrize("scheduler", ["persistent", "database"])
@pytest.mark.parametrize("enabled", [True, False])
def test_beat_does_not_get_the_option_override(scheduler: str, enabled: bool) -> None:
    entry = {"task": "t", "interval": 5, "override": True, "enabled": enabled}
    pins = settings("beat", schedule=schedule_of({"a": entry}, scheduler=scheduler))
    assert parse_entries(pins["beat_schedule"])["a"].enabled == enabled


def test_beat_gets_the_schedule_policy() -> None:
    schedule = {"a": {"task": "x", "interval": 5}}
    assert whole("beat")["beat_schedule_policy"] == "add"
    assert "beat_schedule_policy" not in whole("worker")
    replacing = whole("beat", schedule=schedule_of(schedule, policy="replace"))
    assert replacing["beat_schedule_policy"] == "replace"
    assert replacing["celery"]["beat_schedule"] == schedule
    assert (
        "beat_schedule"
        not in whole("beat", schedule=schedule_of(schedule, policy="refuse"))["celery"]
    )


def test_consumed_queues_are_those_of_all_workers() -> None:
    instances = {"a": {"queues": ["x", "y"]}, "b": None, "c": {}}
    hostvars = {
        "w1": {"celery_app_name": "shop", "celery_worker_host_instances": ["a"]},
        "w2": {"celery_app_name": "shop", "celery_worker_host_instances": ["a", "b"]},
    }
    assert workers.consumed(hostvars, ["w1", "w2"], instances) == ["b", "x", "y"]


# --- workers -----------------------------------------------------------------------------------------

INSTANCES: dict[str, dict[str, Any] | None] = {
    "discounts": {"concurrency": 4},
    "mail": None,
    "both": {"queues": ["x", "y"]},
}


def test_a_worker_consumes_the_queue_of_its_own_name() -> None:
    assert workers.worker_queues("mail", None) == ["mail"]
    assert workers.worker_queues("mail", {"queues": []}) == ["mail"]
    assert workers.worker_queues("mail", {"queues": ["a", 1]}) == ["a", "1"]


def test_options_of_a_worker_override_the_defaults() -> None:
    defaults = {"concurrency": 1, "pool": "solo"}
    assert workers.worker_options("discounts", INSTANCES, defaults) == {
        "concurrency": 4,
        "pool": "solo",
        "queues": ["discounts"],
    }


def test_queues_of_defaults_reach_worker_acl_and_nodes_alike() -> None:
    defaults = {"queues": ["shared"]}
    hostvars = {"w1": {"celery_app_name": "shop", "celery_worker_defaults": defaults}}
    assert workers.worker_options("mail", INSTANCES, defaults)["queues"] == ["shared"]
    assert workers.queues(INSTANCES, defaults=defaults) == ["shared", "x", "y"]
    assert workers.nodes(hostvars, ["w1"], INSTANCES)["mail@w1"]["queues"] == ["shared"]


def test_all_queues_include_scheduled_and_routed_ones() -> None:
    schedule: dict[str, dict[str, Any]] = {
        "a": {"task": "t", "queue": "scheduled"},
        "b": {"task": "t"},
    }
    routes: dict[str, dict[str, Any]] = {"app.*": {"queue": "routed"}, "other": {"priority": 3}}
    assert workers.queues(INSTANCES, schedule, routes) == sorted(
        ["discounts", "mail", "x", "y", "scheduled", "routed"]
    )


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({}, 600),
        ({"time_limit": 1800}, 1800),
        ({"time_limit": 1800, "drain_timeout": 60}, 60),
        ({"drain_timeout": 0}, 0),
        ({"time_limit": "90"}, 90),
    ],
)
def test_a_drain_lasts_as_long_as_a_task_may(options: dict[str, Any], seconds: float) -> None:
    assert workers.drain_timeout(options) == seconds


def test_a_command_line_has_every_option() -> None:
    options = {
        "queues": ["a", "b"],
        "concurrency": 4,
        "pool": "prefork",
        "prefetch_multiplier": 0,
        "time_limit": 1800,
        "autoscale": {"min": 3, "max": 10, "wait": "30s"},
        "optimization": "fair",
        "task_events": True,
        "purge": False,
        "exclude_queues": ["c", "d"],
        "include": ["app.more tasks"],
        # systemd enforces these; they are not on the command line.
        "memory_max": "1G",
        "drain_timeout": 60,
        "environment": {"A": "1"},
    }
    assert shlex.split(workers.worker_command("app.celery_app", "a@w1", options)) == [
        *("python", "-m", "celery", "-A", "app.celery_app", "worker", "-n", "a@w1", "-Q", "a,b"),
        *("--concurrency=3", "--pool=prefork", "--prefetch-multiplier=0", "--time-limit=1800"),
        *("--loglevel=INFO", "-O", "fair", "--task-events"),
        *("--exclude-queues=c,d", "--include=app.more tasks"),
    ]


def test_a_process_of_the_fleet_can_not_be_given_another_loader() -> None:
    made = desired_environment.process_environment(
        "worker", "/rt", "python -m x", {"PYTHONPATH": "/evil", "A": 1}
    )
    assert made["PYTHONPATH"] == "/rt"
    assert made["A"] == 1
    assert made["CELERY_LOADER"] == "celery_fleet.loader.FleetLoader"


def test_a_process_knows_the_path_of_its_hosts_health() -> None:
    made = desired_environment.process_environment("worker", "/rt", "python -m x", {"A": 1}, "shop")
    assert made["CELERY_FLEET_HEALTH"] == "/var/lib/celery-fleet/health/shop.json"
    # Flower runs no code of the application.
    assert "CELERY_FLEET_HEALTH" not in desired_environment.process_environment(
        "flower", "/rt", "x"
    )


def test_the_desired_state_of_a_hosts_workers() -> None:
    own = workers_of_host(INSTANCES, enabled=["discounts", "both"], defaults={"time_limit": 100})
    state = workers.worker_state(facts(host="w1"), own, release="abc", timeout=90)
    assert [unit["name"] for unit in state["units"]] == [
        "shop-worker@discounts.service",
        "shop-worker@both.service",
    ]
    assert state["links"][0] == {
        "path": "/opt/shop/pins/worker-discounts",
        "target": "../releases/abc",
    }
    files = {item["dest"]: item for item in state["files"]}
    text = files["/etc/celery-fleet/shop/worker-both.env"]["content"]
    assert 'CELERY_FLEET_NODE="both@w1"' in text
    assert "-Q x,y" in text
    drop_in = files["/etc/systemd/system/shop-worker@both.service.d/10-fleet.conf"]
    assert drop_in["vars"]["drain"] == 100
    # The desired state has every file that a unit depends on, and owns every file that it has.
    for unit in state["units"]:
        assert unit["files"][0] in files
        assert unit["links"][0] in [link["path"] for link in state["links"]]
        assert fnmatch.fnmatch(unit["name"], state["owned"]["units"][0])
    for path in [*files, *(link["path"] for link in state["links"])]:
        assert any(fnmatch.fnmatch(path, pattern) for pattern in state["owned"]["files"]), path


def test_pools_that_can_not_hand_back_are_never_told_to_quit() -> None:
    instances = {"t": {"pool": "threads"}, "g": {"pool": "gevent"}, "s": {"pool": "solo"}, "p": {}}
    state = workers.worker_state(facts(), workers_of_host(instances), release="1", timeout=9)
    found = [item["vars"]["may_quit"] for item in state["files"] if "vars" in item]
    assert found == [False, False, True, True]


def test_nodes_are_listed_with_host_and_unit() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "w1": {"celery_app_name": "shop", "celery_worker_host_instances": ["mail"]},
        "w2": {"celery_app_name": "shop", "celery_worker_instances": {"own": {"queues": ["z"]}}},
        "w3": {"celery_app_name": "shop"},
    }
    found = workers.nodes(hostvars, ["w1", "w2", "w3"], INSTANCES)
    assert list(found) == ["mail@w1", "own@w2", "discounts@w3", "mail@w3", "both@w3"]
    assert found["own@w2"] == {
        "host": "w2",
        "worker": "own",
        "unit": "shop-worker@own.service",
        "queues": ["z"],
        "pool": "prefork",
    }


# --- routes ------------------------------------------------------------------------------------------

ROUTES: dict[str, dict[str, Any]] = {
    "app.tasks.recompute_*": {"queue": "discounts"},
    "app.tasks.recompute_all": {"queue": "exact"},
    "app.tasks.*": {"queue": "later"},
    "app.tas?s.x": {"queue": "literal"},
    "*.without": {"priority": 3},
}


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("app.tasks.recompute_all", "exact"),
        ("app.tasks.recompute_some", "discounts"),
        ("app.tasks.x", "later"),
        ("app.tas?s.x", "literal"),
        ("app.taszs.x", "celery"),
        ("APP.tasks.x", "celery"),
        ("some.without", "celery"),
        ("other", "celery"),
    ],
)
def test_tasks_are_routed_as_celery_routes_them(task: str, queue: str) -> None:
    assert routing.routed(task, ROUTES) == queue
    assert (MapRoute(ROUTES)(task) or {}).get("queue", "celery") == queue


def test_without_routes_tasks_go_to_the_default_queue() -> None:
    assert routing.routed("x", None) == routing.routed("x", {}) == "celery"


def test_scheduled_entries_have_their_routed_queue() -> None:
    schedule: dict[str, dict[str, Any]] = {
        "own": {"task": "app.tasks.x", "queue": "own"},
        "routed": {"task": "app.tasks.x"},
        "off": {"task": "app.tasks.x", "enabled": False},
    }
    assert routing.scheduled(schedule, ROUTES) == {
        "own": {"task": "app.tasks.x", "queue": "own"},
        "routed": {"task": "app.tasks.x", "queue": "later"},
    }


def test_a_release_that_is_kept_gets_what_it_knows() -> None:
    schedule: dict[str, dict[str, Any]] = {
        "old": {"task": "app.tasks.x"},
        "new": {"task": "app.tasks.new"},
        "off": {"task": "app.tasks.new", "enabled": False},
        "others": {"task": "other.x", "queue": "theirs"},
    }
    known = ["app.tasks.x"]
    assert routing.unknown(schedule, known, ROUTES, ["theirs"]) == {"new": "app.tasks.new"}
    assert [*kept_release.known_schedule(schedule, known, ROUTES, ["theirs"])] == [
        "old",
        "off",
        "others",
    ]
    assert kept_release.known_schedule(schedule, [], ROUTES) == schedule
    routes = {
        "app.tasks.x": {"queue": "a"},
        "app.tasks.new": {"queue": "b"},
        "app.*": {"queue": "c"},
    }
    assert [*kept_release.known_routes(routes, known)] == ["app.tasks.x", "app.*"]
    assert kept_release.known_routes(routes, []) == routes


# --- ACL ---------------------------------------------------------------------------------------------

QUEUES = ["discounts", "mail"]


def rules(instance: str, **more: Any) -> dict[str, list[str]]:
    """Return each user's rules in their order."""
    lines = acl.acl(instance, PASSWORDS, QUEUES, **more).splitlines()
    assert all(line.startswith("user ") for line in lines)
    return {line.split()[1]: line.split()[2:] for line in lines}


def keys(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(("~", "%"))]


@pytest.mark.parametrize("instance", ["broker", "results"])
def test_there_is_one_user_for_each_component_and_no_default(instance: str) -> None:
    found = rules(instance)
    # Beat needs no results.
    expected = ["worker", "beat", "producer", "flower", "operator", "admin"]
    assert sorted(found) == sorted(
        ["default", *(u for u in expected if (instance, u) != ("results", "beat"))]
    )
    # Redis replays its append-only file with the rights of `default`, which has no password.
    assert found["default"][:2] == ["off", "resetpass"]
    assert not [word for word in found["default"] if word.startswith((">", "#", "nopass", "on"))]
    for user, words in found.items():
        if user != "default":
            assert words[:4] == ["on", f">pw-of-{user}", "resetchannels", "-@all"]


@pytest.mark.parametrize("instance", ["broker", "results"])
def test_no_user_may_run_commands_that_it_does_not_use(instance: str) -> None:
    # `admin` looks for queues that the inventory no longer names.
    allowed = {("broker", "admin"): left_queues.RIGHTS.split()}.get
    for user, words in rules(instance).items():
        if user == "default":
            continue
        for word in (one for one in words if one not in allowed((instance, user), ())):
            assert not word.startswith("+@"), f"{user}: it has a whole category"
            assert word not in ("allkeys", "allchannels", "nopass", "~*", "&*", "%R~*", "%W~*")
            assert word not in (
                "+keys",
                "+scan",
                "+flushall",
                "+flushdb",
                "+eval",
                "+debug",
                "+monitor",
            )
            if user != "admin":
                assert not word.startswith(("+acl", "+config", "+client|k", "+shutdown")), user


def test_a_producer_writes_to_queues_and_reads_none() -> None:
    for user in ("beat", "producer"):
        found = rules("broker")[user]
        assert keys(found) == [
            # Bindings of exchanges, which contain no task.
            "~_kombu.binding.*",
            "%W~discounts",
            "%W~discounts??[369]",
            "%W~mail",
            "%W~mail??[369]",
            "%W~_kombu.binding_permanent.*",
            "%W~fleet:room",
        ]
        assert not {"+brpop", "+del", "+get", "+lrange"} & set(found)


def test_a_producer_has_remote_control_only_if_it_is_switched_on() -> None:
    before, after = rules("broker"), rules("broker", remote_control=True)
    assert "&/0.celery.pidbox" not in " ".join(before["producer"])
    size = len(before["producer"])
    assert after["producer"][:size] == before["producer"]
    # It is one selector, without rights on anything else.
    added = " ".join(after["producer"][size:])
    assert added.startswith("(+brpop ")
    assert added.endswith(" &/0.celery.pidbox)")
    assert not [queue for queue in QUEUES if queue in added]
    assert {**after, "producer": []} == {**before, "producer": []}
    assert rules("results", remote_control=True) == rules("results")


def test_beats_remote_control_is_always_off() -> None:
    assert settings("beat")["beat_enable_remote_control"] is False
    assert "beat_enable_remote_control" not in settings("worker")


def test_flower_changes_no_task() -> None:
    found = rules("broker")["flower"]
    for queue in QUEUES:
        assert f"%R~{queue}" in found
        assert f"~{queue}" not in found
        assert f"%W~{queue}" not in found
    assert "%R~unacked_index" in found
    assert "+lpush" not in found


def test_a_worker_may_use_all_queues_and_its_direct_queue() -> None:
    found = keys(rules("broker")["worker"])
    for key in ("discounts", "discounts??[369]", "mail", "unacked", "unacked_index", "*.dq2"):
        assert f"~{key}" in found


def test_lower_priorities_of_a_queue_are_covered_and_other_queues_are_not() -> None:
    name, pattern = acl._lists("mail")
    assert name == "mail"
    for priority in (3, 6, 9):
        assert fnmatch.fnmatchcase(f"mail\x06\x16{priority}", pattern)
    for other in ("mail2", "mailing", "xmail", "mail\x06\x160"):
        assert not fnmatch.fnmatchcase(other, pattern), other


def test_each_user_only_has_the_rights_on_results_that_it_needs() -> None:
    found = rules("results")
    history = "~fleet:history"
    assert keys(found["worker"]) == ["~celery-task-meta-*", "~celery-taskset-meta-*", history]
    assert keys(found["flower"]) == ["%R~celery-task-meta-*"]
    assert keys(found["operator"]) == ["%R~celery-task-meta-*", f"%R{history}"]
    for user in ("flower", "operator"):
        assert not {"+set", "+setex", "+del"} & set(found[user])


def test_the_admin_can_read_no_key() -> None:
    """tests/unit/reconcile/test_left_queues.py shows that `%R~*` gives it no content."""
    assert keys(rules("broker")["admin"]) == ["%R~*"]
    assert keys(rules("results")["admin"]) == []


def test_a_client_gets_its_own_user_and_changes_no_other() -> None:
    clients = {"shop": {"queues": ["mail"], "results": True}}
    for instance in ("broker", "results"):
        before = acl.acl(instance, PASSWORDS, QUEUES).splitlines()
        after = acl.acl(instance, {**PASSWORDS, "shop": "s"}, QUEUES, clients=clients).splitlines()
        (own,) = (line for line in after if line not in before)
        assert own.startswith("user shop on >s resetchannels -@all ")
        assert [line for line in after if line != own] == before


def test_an_application_may_use_all_keys_of_its_cache_but_not_manage_it() -> None:
    lines = acl.acl("cache", {**PASSWORDS, "cache": "c"}, QUEUES).splitlines()
    assert [line.split()[1] for line in lines] == ["default", "cache", "operator", "admin"]
    assert {"+@all", "-@admin", "-@dangerous", "+flushdb", "~*"} <= {*lines[1].split()}
    assert keys(lines[2].split()) == []


def test_a_component_without_a_password_gets_no_user() -> None:
    text = acl.acl("broker", {"worker": "x"}, QUEUES)
    assert [line.split()[1] for line in text.splitlines()] == ["default", "worker"]


def test_setinfo_is_only_allowed_if_the_server_knows_it() -> None:
    assert "client|setinfo" not in acl.acl("broker", PASSWORDS, QUEUES)
    assert "+client|setinfo" in rules("broker", setinfo=True)["worker"]


@pytest.mark.parametrize(
    ("flavor", "debian", "version", "knows"),
    [
        ("redis", "12", "5:7.0.15-1~deb12u4", False),
        # packages.redis.io on Debian 12, and a server older than Debian 13's own.
        ("redis", "12", "6:7.4.1-1rl1~bookworm1", True),
        ("redis", "12", "6:8.0.0-1rl1~bookworm1", True),
        ("redis", "13", "5:7.0.15-1", False),
        ("redis", "13", "5:7.2.0", True),
        ("redis", "13", "7.10.1", True),
        # The package's version is not known yet.
        ("redis", "12", "", False),
        ("redis", "13", "", True),
        ("valkey", "12", "", True),
    ],
)
def test_whether_the_server_knows_setinfo_is_its_version(
    flavor: str, debian: str, version: str, knows: bool
) -> None:
    system = {"distribution": "debian", "distribution_version": debian}
    facts = {**system, "versions": {"redis-server": version}}
    assert acl.knows_setinfo(flavor, facts) == knows


@pytest.mark.parametrize("facts", [{}, {"distribution": "ubuntu", "distribution_version": "24.04"}])
def test_an_unknown_host_gets_the_rules_of_the_oldest_server(
    facts: dict[str, Any],
) -> None:
    assert not acl.knows_setinfo("redis", facts)


def test_queues_may_be_an_iterator() -> None:
    assert acl.acl("broker", PASSWORDS, iter(QUEUES)) == acl.acl("broker", PASSWORDS, QUEUES)


# --- what a host must not have -----------------------------------------------------------------------


def test_the_desired_state_of_a_redis_host() -> None:
    instances = [
        {"kind": "broker", "name": "shop-broker", "port": 6379},
        {"kind": "results", "name": "shop-results", "port": 6380},
    ]
    servers: RedisServers = {
        "config": "/etc/r",
        "tls": "/etc/tls",
        "host": "redis1",
        "timeout": 300,
        "flavor": "redis",
        "setinfo": False,
        "remote_control": False,
    }
    state = redis.redis_state(facts(queues=QUEUES), servers, instances, PASSWORDS)
    settled = [item["dest"] for item in state["files"]]
    for unit in state["units"]:
        assert [path for path in unit["files"] if path.startswith("/etc/r/")] == [
            path for path in unit["files"] if path in settled
        ]
        assert {"/etc/tls/host.crt", "/etc/tls/host.key"} <= set(unit["files"])
        assert unit["on_change"] == "live"
        assert unit["redis"]["password"] == PASSWORDS["admin"]
    assert [unit["redis"]["port"] for unit in state["units"]] == [6379, 6380]
    assert [unit["redis"]["queues"] for unit in state["units"]] == [True, False]
    # Each configuration is tried before its files are written.
    assert [check["redis"] for check in state["checks"]] == [
        path for path in settled if path.endswith("redis.conf")
    ]
    users = [item for item in state["files"] if item["dest"].endswith("users.acl")]
    assert [item["secret"] for item in users] == [True, True]
    assert users[0]["content"] != users[1]["content"]


def test_a_site_only_has_a_password_if_paths_are_protected() -> None:
    options: dict[str, Any] = {
        "port": 443,
        "socket": "/run/s",
        "password_line": "admin:x",
        "proxy": {"read_timeout": 60, "send_timeout": 60, "ipv6": True},
    }
    site = nginx.site(facts(directory="/etc/shop"), "web", protected=["/admin/"], **options)
    (secret,) = [item for item in site["files"] if item.get("secret")]
    assert (secret["dest"], secret["mode"]) == ("/etc/shop/credentials-nginx/web.htpasswd", "0640")
    open_to_all = nginx.site(facts(directory="/etc/shop"), "web", protected=[], **options)
    assert [item for item in open_to_all["files"] if item.get("secret")] == []
    # The previous one is removed.
    assert secret["dest"] in open_to_all["owned"]["files"]
    assert secret["dest"] not in site["owned"]["files"]
    # nginx only checks the site; its drop-in is for systemd.
    assert [check["files"] for check in site["checks"]] == [["/etc/nginx/conf.d/shop-web.conf"]]
    # The directory is deleted with the last site if it only had our files.
    assert {"path": "/etc/nginx/conf.d"} in site["directories"]


def test_running_workers_are_those_of_the_plan() -> None:
    states = {
        "shop-worker@a.service": {"active": "active"},
        "shop-worker@b.service": {"active": "inactive"},
        # A second instance that was left behind will be removed, so it does not count.
        "shop-worker@a.next.service": {"active": "active"},
        "shop-beat.service": {"active": "active"},
    }
    hostvars: dict[str, dict[str, Any]] = {"h": {"__fleet_plan": {"states": states}}, "down": {}}
    assert workers.running(hostvars, ["down", "h"], "shop") == [{"host": "h", "worker": "a"}]


def test_the_longest_drain_is_the_maximum_of_all_workers() -> None:
    instances: dict[str, Any] = {"a": {"time_limit": 30}, "b": {"drain_timeout": 90}, "c": None}
    assert workers.longest_drain(instances, {"time_limit": 60}) == 90
    assert workers.longest_drain({}) == 0


def test_a_run_only_stops_components_that_its_tags_include() -> None:
    def units(run: tuple[str, ...], skip: tuple[str, ...] = ()) -> list[str]:
        return surplus.surplus("shop", [], "/etc/shop", "/opt/shop", "/var/lib/shop", run, skip)[
            "units"
        ]

    assert "shop-beat.service" in units(("deploy",))
    assert units(("flower",)) == ["shop-flower.service"]
    assert units(("celery_producer",)) == ["shop-web.socket", "shop-web.service"]
    assert "shop-beat.service" not in units(("all",), ("celery_beat",))


def test_producer_settings_are_removed_with_the_web_process_if_no_release_is_left() -> None:
    def files(*components: str, run: str = "all") -> list[str]:
        return surplus.surplus(
            "shop", components, "/etc/shop", "/opt/shop", "/var/lib/shop", (run,)
        )["files"]

    path = "/etc/shop/credentials/producer.json"
    found = surplus.surplus(
        "shop", ["redis"], "/etc/shop", "/opt/shop", "/var/lib/shop", ("celery_producer",)
    )
    assert path in found["files"]
    assert "shop-web.service" in found["units"]
    # On another host a web process that reads it may still run.
    assert path not in files("redis", run="celery_worker")
    for component in ("worker", "beat", "producer"):
        assert path not in files(component)


def test_environment_files_are_removed_with_their_last_reader() -> None:
    def files(*components: str, run: str = "all", skip: tuple[str, ...] = ()) -> set[str]:
        found = surplus.surplus(
            "shop", components, "/etc/shop", "/opt/shop", "/var/lib/shop", (run,), skip
        )
        return {secret, plain} & set(found["files"])

    secret, plain = "/etc/shop/credentials/secret.env", "/etc/shop/app.env"
    assert files("redis") == {secret, plain}
    # Flower reads the part without secrets.
    assert files("flower", "flower_site") == {secret}
    for component in ("worker", "beat", "producer", "web"):
        assert files(component) == set()
    # A process that this run does not stop still reads it.
    for role in ("celery_worker", "celery_beat", "celery_producer"):
        assert files("redis", run=role) == files("redis", skip=(role,)) == set()
    assert files("redis", skip=("flower",)) == {secret}


def test_backups_leave_a_host_with_its_redis() -> None:
    """Otherwise they go on with the data and the secrets of the old Redis, and push good backups out."""

    def of_backups(*components: str, run: str = "all") -> set[str]:
        found = surplus.surplus(
            "shop", components, "/etc/shop", "/opt/shop", "/var/lib/shop", (run,)
        )
        return {one for one in (*found["units"], *found["files"]) if "backup" in one}

    assert of_backups("worker") == {
        *("shop-backup.timer", "shop-backup.service", "/etc/shop/credentials/backup.json"),
        "/etc/systemd/system/shop-backup.timer",
        "/etc/systemd/system/shop-backup.service",
        "/etc/sysusers.d/shop-backup.conf",
    }
    # The role of Redis removes them itself.
    assert of_backups("redis") == of_backups("worker", run="celery_worker") == set()


def test_components_that_left_a_host_are_removed() -> None:
    every = ["redis", "worker", "beat", "web", "flower"]
    every += ["web_site", "flower_site", "flower_location", "logs"]
    assert surplus.surplus("shop", every, "/etc/shop", "/opt/shop", "/var/lib/shop") == {
        "units": [],
        "files": [],
    }
    found = surplus.surplus("shop", ["worker", "flower"], "/etc/shop", "/opt/shop", "/var/lib/shop")
    assert found["units"][:3] == ["shop-beat.service", "shop-web.socket", "shop-web.service"]
    for path in (
        "/etc/shop/beat.env",
        "/etc/shop/credentials/beat.json",
        "/etc/systemd/system/shop-web.socket",
        "/opt/shop/pins/beat",
        "/var/lib/shop/beat/celerybeat-schedule",
    ):
        assert any(fnmatch.fnmatch(path, pattern) for pattern in found["files"]), path
    for path in (
        "/etc/shop/app.env",
        "/etc/shop/worker-a.env",
        "/etc/shop/credentials/secret.env",
        "/etc/shop/credentials/flower.env",
        "/etc/systemd/system/shop-worker@a.service.d/10-fleet.conf",
    ):
        assert not any(fnmatch.fnmatch(path, pattern) for pattern in found["files"]), path


def test_only_flowers_site_is_removed_if_flower_moves_into_the_web_site() -> None:
    here = ["redis", "worker", "beat", "producer", "web", "flower", "web_site", "logs"]
    to_location = surplus.surplus(
        "shop", [*here, "flower_location"], "/etc/shop", "/opt/shop", "/var/lib/shop"
    )
    assert to_location == {"units": [], "files": ["/etc/nginx/conf.d/shop-flower.conf"]}
    back = surplus.surplus(
        "shop", [*here, "flower_site"], "/etc/shop", "/opt/shop", "/var/lib/shop"
    )
    assert back == {"units": [], "files": ["/etc/shop/nginx-web/flower.conf"]}
    # Only Flower is in the site: the web process is removed, and the site stays.
    without = surplus.surplus(
        "shop", [name for name in here if name != "web"], "/etc/shop", "/opt/shop", "/var/lib/shop"
    )
    assert "/etc/nginx/conf.d/shop-web.conf" not in without["files"]
    journal = surplus.surplus("shop", ["worker", "beat"], "/etc/shop", "/opt/shop", "/var/lib/shop")
    assert "/etc/logrotate.d/shop" in journal["files"]


def test_files_of_applications_with_similar_names_are_never_removed() -> None:
    names = ["flash-promos", "flash-worker", "flash-beat", "flash_promos"]
    found = surplus.surplus("flash", [], "/etc/celery-fleet/flash", "/opt/flash", "/var/lib/flash")
    for other in names:
        units = [
            *(f"{other}-worker@x.service", f"{other}-beat.service", f"{other}-flower.service"),
            *(f"{other}-web.service", f"{other}-web.socket", f"{other}.target"),
        ]
        files = [
            *(f"/etc/systemd/system/{unit}" for unit in units),
            f"/etc/systemd/system/{other}-worker@x.service.d/10-fleet.conf",
            f"/etc/nginx/conf.d/{other}-web.conf",
            f"/etc/celery-fleet/{other}/beat.env",
            f"/etc/logrotate.d/{other}",
        ]
        for path in [*units, *files]:
            patterns = found["units"] + found["files"]
            assert not any(fnmatch.fnmatch(path, pattern) for pattern in patterns), path


def test_all_files_of_workers_that_left_with_their_group_are_removed() -> None:
    own = workers_of_host(INSTANCES, enabled=["mail"])
    state = workers.worker_state(facts(directory="/etc/shop"), own, release="1", timeout=9)
    found = surplus.surplus("shop", [], "/etc/shop", "/opt/shop", "/var/lib/shop")
    paths = [*(i["dest"] for i in state["files"]), *(i["path"] for i in state["links"])]
    for path in paths:
        assert any(fnmatch.fnmatch(path, pattern) for pattern in found["files"]), path
    assert any(fnmatch.fnmatch(state["units"][0]["name"], pattern) for pattern in found["units"])


@pytest.mark.parametrize(
    ("instances", "defaults", "seconds"),
    [
        ({}, None, 3600),
        ({"a": None}, None, 3600),
        ({"a": {"time_limit": 10}}, None, 3600),
        ({"a": {"time_limit": 1800}}, None, 4 * 1800 + 1800),
        ({"a": {"time_limit": 1800, "prefetch_multiplier": 1}}, None, 3600),
        ({"a": {"time_limit": 1800, "prefetch_multiplier": 2, "drain_timeout": 60}}, None, 3660),
        (
            {"a": {}, "b": {"time_limit": 100}},
            {"time_limit": 7200, "prefetch_multiplier": 1},
            14400,
        ),
    ],
)
def test_the_visibility_timeout_is_longer_than_any_worker_holds_a_task(
    instances: dict[str, Any], defaults: dict[str, Any] | None, seconds: int
) -> None:
    assert visibility.visibility_timeout(instances, defaults) == seconds


@pytest.mark.parametrize(
    ("options", "settings", "delivery", "seconds"),
    [
        # Without a time limit in its own options, the drain of such a worker is ten minutes.
        ({}, {"task_time_limit": 3600}, "inherit", 4 * 3600 + 600),
        ({}, {"task_time_limit": 3600}, "at_least_once", 3600 + 600),
        # Given options win.
        ({"time_limit": 1000}, {"task_time_limit": 9000}, "inherit", 4 * 1000 + 1000),
        ({"time_limit": 3600}, {"worker_prefetch_multiplier": 2}, "inherit", 2 * 3600 + 3600),
        ({"time_limit": 3600}, {"worker_prefetch_multiplier": 2}, "at_least_once", 3 * 3600),
        ({"time_limit": 3600, "prefetch_multiplier": 1}, {"worker_prefetch_multiplier": 9}, "inherit", 7200),
        ({"time_limit": 3600}, {}, "at_least_once", 7200),
        ({"time_limit": 3600.5, "prefetch_multiplier": 1, "drain_timeout": 0}, {}, "inherit", 3601),
    ],
)  # fmt: skip
def test_settings_and_promise_apply_if_a_worker_has_no_options(
    options: dict[str, Any], settings: dict[str, Any], delivery: str, seconds: int
) -> None:
    stock = {"fetch": "stock"}
    assert visibility.visibility_timeout({"a": options}, None, settings, delivery, stock) == seconds


LONG = {"time_limit": 3600, "prefetch_multiplier": 1}


@pytest.mark.parametrize(
    ("instances", "delivery", "knobs", "seconds"),
    [
        ({"a": LONG, "b": None}, "at_least_once", {}, 300),
        ({"a": LONG}, "at_least_once", {"lease": True}, 300),
        ({"a": LONG}, "at_least_once", {"lease": False}, 7200),
        ({"a": LONG}, "inherit", {"fetch": "atomic"}, 300),
        ({"a": LONG | {"delivery": "at_least_once"}}, "inherit", {}, 300),
        # A worker without a lease is bounded by what it can hold; those with one are not.
        ({"a": LONG, "b": {"fetch": "stock"}}, "at_least_once", {}, 3600),
        ({"a": LONG | {"fetch": "stock"}, "b": {}}, "at_least_once", {}, 7200),
        ({"a": {"time_limit": 3600, "delivery": "inherit"}, "b": {}}, "at_least_once", {}, 5 * 3600),
        # Without known workers, nothing is promised.
        ({}, "at_least_once", {}, 3600),
    ],
)  # fmt: skip
def test_the_visibility_timeout_is_short_if_all_workers_have_a_lease(
    instances: dict[str, Any], delivery: str, knobs: dict[str, Any], seconds: int
) -> None:
    assert visibility.visibility_timeout(instances, None, None, delivery, knobs) == seconds


@pytest.mark.parametrize(
    ("options", "given", "seconds"),
    [
        ({}, 300, 3600),
        # As without a promise, with Celery's default of four prefetched tasks.
        ({"time_limit": 1800}, 300, 5 * 1800),
        (LONG, 300, 7200),
        (LONG, 86400, 86400),
        ({}, "7200", 7200),
    ],
)
def test_a_worker_without_a_lease_gets_a_longer_timeout(
    options: dict[str, Any], given: Any, seconds: int
) -> None:
    options = options | {"delivery": "at_least_once"}
    assert visibility.stock_visibility({"a": options}, None, None, given) == seconds


# --- environment files -------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "PLAIN": "plain",
    "DOUBLE": 'a"b',
    "SINGLE": "it's",
    "EXPANDED": "$HOME ${HOME} $$ $(id) `id`",
    "BACKSLASH": "C:\\new\\",
    "ESCAPED_QUOTE": '\\"',
    "BLANKS": "  leading and trailing  ",
    "COMMENT": "#not;a comment",
    "EQUALS": "a=b&c=%20%i",
    "UNICODE": "ü “x” 🥕",
    "EMPTY": "",
    "TAB": "a\tb",
    "PEM": "-----BEGIN CERTIFICATE-----\nMII\\B=\n\n-----END CERTIFICATE-----\n",
    "CRLF": "a\r\nb",
    "CONTINUED": "a\\\nb",
}


@pytest.mark.parametrize("name", VALUES)
def test_systemd_reads_the_given_values(name: str, tmp_path: Path) -> None:
    path = tmp_path / "env"
    values = {"BEFORE": "1", name: VALUES[name], "AFTER": "2"}
    path.write_bytes(desired_environment.environment_file(values).encode())
    assert environment(path) == [f"{key}={value}" for key, value in values.items()]


def test_values_that_are_no_strings_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "env"
    values = {"YES": True, "NO": False, "NUMBER": 5, "NULL": None, "FRACTION": 0.5}
    path.write_text(desired_environment.environment_file(values))
    assert environment(path) == ["YES=true", "NO=false", "NUMBER=5", "NULL=", "FRACTION=0.5"]


def test_no_variables_make_an_empty_file() -> None:
    assert (
        desired_environment.environment_file(None) == desired_environment.environment_file({}) == ""
    )


@pytest.mark.parametrize("name", ["A-B", "1A", "", "A B", "A=B", "A\nB", "Ä"])
def test_a_name_that_systemd_would_ignore_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't be the name of an environment variable"):
        desired_environment.environment_file({name: "x"})


NASTY = "a:b/c@d?e#f%g&h=i j+k“l”"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"scheme": "postgresql", "host": "db1"}, "postgresql://db1"),
        (
            {"scheme": "rediss", "host": "r1", "port": 6380, "password": "p", "path": 0},
            "rediss://:p@r1:6380/0",
        ),
        ({"scheme": "http", "host": "2001:db8::1", "port": "80"}, "http://[2001:db8::1]:80"),
        (
            {"scheme": "postgresql", "host": "/run/postgresql", "user": "u", "path": "/shop"},
            "postgresql://u@%2Frun%2Fpostgresql/shop",
        ),
        (
            {"scheme": "x", "host": "h", "query": {"a": True, "b": [1, "c d"], "e": None}},
            "x://h?a=true&b=1&b=c%20d&e=",
        ),
        ({"scheme": "x", "host": "h", "user": "u", "password": ""}, "x://u:@h"),
    ],
)
def test_a_url_is_composed_of_its_parts(parts: dict[str, Any], expected: str) -> None:
    assert desired_environment.url(parts) == expected


def test_clients_read_any_part_of_a_url_unchanged() -> None:
    query = {NASTY: NASTY}
    parts = {"scheme": "postgresql", "host": "db1", "user": NASTY, "password": NASTY}
    text = desired_environment.urls({"U": {**parts, "path": f"{NASTY}/x", "query": query}})["U"]
    found = urlsplit(text)
    assert (found.scheme, found.hostname) == ("postgresql", "db1")
    assert unquote(found.username or "") == unquote(found.password or "") == NASTY
    assert unquote(found.path) == f"/{NASTY}/x"
    assert parse_qs(found.query) == {NASTY: [NASTY]}
    # libpq does not decode a plus sign as a space.
    assert "+" not in text


def test_declared_directories_belong_to_the_application_by_default() -> None:
    given = {"/srv/a/b/": {"mode": "2750", "group": "shop-proxy"}, "/srv/a": None}
    found = directories.directories(facts(user="app"), given)
    assert [(one["path"], one["owner"], one["group"], one["mode"]) for one in found] == [
        ("/srv/a", "app", "app", "0750"),
        ("/srv/a/b", "app", "shop-proxy", "2750"),
    ]
    # The application may own the parent directory.
    assert {one["follow"] for one in found} == {False}


def test_the_bounds_of_a_worker_that_autoscales() -> None:
    options = {"autoscale": {"min": "2", "max": 10, "wait": "5m"}, "concurrency": 4}
    assert workers.autoscale(options) == {"min": 2, "max": 10, "wait": 300.0}
    assert (workers.processes(options), workers.pool_words(options)) == (10, "2 to 10")
    off = {"autoscale": {}, "concurrency": 4}
    assert workers.autoscale(off) == {}
    assert (workers.processes(off), workers.pool_words(off)) == (4, "4")
    assert workers.pool_words({}) == ""
    with pytest.raises(ValueError, match="can't be understood"):
        workers.autoscale({"autoscale": {"min": 2, "max": 10}})


@pytest.mark.parametrize("component", ["worker", "beat", "producer", "operator", "flower"])
def test_processes_know_that_the_schedule_is_on_the_broker(component: str) -> None:
    groups = {"celery_beat": ["a"]}
    schedule: Any = {
        "entries": {"nightly": {"task": "t", "interval": 60, "missed": "skip"}},
        "policy": "add",
        "scheduler": "redbeat",
        "edited": "keep",
        "declared": {},
        "left_out": [],
    }
    options = {"schedule": schedule} if component == "beat" else {}
    found = whole(component, scheduler="redbeat", groups=groups, **options)
    assert found.get("beat_scheduler") == (None if component == "flower" else "redbeat")
    # A single beat also sends with the script that writes the run.
    assert found.get("beat_standby", False) == (component == "beat")
    if component == "beat":
        assert found["celery"]["beat_schedule"]["nightly"]["missed"] == "skip"
    # Without a beat there is no schedule.
    assert "beat_scheduler" not in whole(component, scheduler="redbeat", groups={})


def test_rights_on_the_schedule_reach_no_queue() -> None:
    def rights(*, redbeat: bool) -> dict[str, str]:
        text = acl.acl("broker", PASSWORDS, QUEUES, standby=redbeat, redbeat=redbeat)
        lines = [line.split(" ", 2) for line in text.splitlines()]
        return {words[1]: words[2] for words in lines}

    before, after = rights(redbeat=False), rights(redbeat=True)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"worker", "beat", "producer"}
    for name in changed:
        selector = re.findall(r"\(.*?~redbeat:\*\)", after[name])
        assert len(selector) == 1
        assert re.findall(r"~\S+", selector[0]) == ["~redbeat:*)"]
    assert "redbeat" in after["producer"].partition("(")[2]
    assert "redbeat" not in after["producer"].partition("(")[0]
