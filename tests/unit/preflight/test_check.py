"""Each kind of mistake in an inventory is refused, by name and with a remedy; a valid one is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fleet_preflight import report
from fleet_preflight.check import check
from fleet_preflight.model import Control, Problem, Severity
from fleet_preflight.names import near_miss, queue_fits

from tests.unit.preflight.inventory import (
    GROUPS,
    ROOT,
    changed,
    model,
    problems,
    secret,
    specs,
    valid,
)

Variables = dict[str, Any]


@pytest.fixture
def variables(tmp_path: Path) -> Variables:
    return valid(tmp_path / "source")


def text_of(found: list[Problem]) -> str:
    return report.block("Refused", found, GROUPS, GROUPS["fleet"])


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, text_of(found)
    return found[0]


def test_a_valid_inventory_passes(variables: Variables) -> None:
    assert problems(variables) == []


W = "celery_worker_instances"
D = f"{W}/discounts"
B = "celery_beat_schedule"
S = "celery_app_source"

# path, value, variable that is named, part of the message, part of the remedy
ERRORS: list[tuple[str, Any, str, str, str]] = [
    # names
    ("celery_workers_instances", {}, "celery_workers_instances", "misspelt", W),
    ("celery_apps_name", "x", "celery_apps_name", "misspelt", "celery_app_name"),
    ("flowr_port", 1, "flowr_port", "misspelt", "flower_port"),
    ("redis_pasword", "x", "redis_pasword", "no variable of the role redis", "redis_passwords"),
    ("pki_zzzzzz", "x", "pki_zzzzzz", "no variable of the role pki", "preflight_allowed_variables"),
    ("celery_app_name", "My Shop", "celery_app_name", "can't be the name", "begin with a letter"),
    ("celery_app_name", "a" * 26, "celery_app_name", "can't be the name", "25 characters"),
    ("celery_app_user", "root", "celery_app_user", "belongs to the system", "choose a name"),
    ("celery_app_user", "My User", "celery_app_user", "name of a Unix user", "begin with a letter"),
    ("celery_app_module", "app/celery", "celery_app_module", "no module as", "with dots"),
    (f"{W}/a@b", {"queues": ["celery"]}, f"{W}['a@b']", "name of a worker", "use a-z"),
    (f"{D}/queues", ["a b"], f"{W}.discounts.queues", "no queue name", "use letters"),
    (f"{D}/queues", ["discounts", "unacked"], f"{W}.discounts.queues", "key of its own", "another"),
    ("preflight_allowed_variables", ["*"], "preflight_allowed_variables[0]", "every name", "name"),
    # types
    (W, [], W, "a list where a mapping is wanted", "key: value"),
    (D, None, f"{W}.discounts", "has no value", "write {}"),
    (f"{D}/concurrrency", 4, f"{W}.discounts.concurrrency", "no key known", "concurrency"),
    (f"{D}/concurrency", "four", f"{W}.discounts.concurrency", "a string where a whole", "whole"),
    (f"{D}/concurrency", True, f"{W}.discounts.concurrency", "a boolean where a whole", "whole"),
    (f"{D}/queues", "discounts", f"{W}.discounts.queues", "a string where a list", "- item"),
    (f"{D}/queues", ["discounts", "{{ no }}"], f"{W}.discounts.queues[1]", "undefined", "define"),
    (f"{D}/task_events", "no", f"{W}.discounts.task_events", "where a boolean", "true or false"),
    (f"{D}/pool", "preforked", f"{W}.discounts.pool", "none of the allowed", "prefork?"),
    ("celery_app_name", ["a"], "celery_app_name", "a list where a string", "one string"),
    ("celery_app_env", "A=1", "celery_app_env", "a string where a mapping", "key: value"),
    ("celery_worker_enabled", "discounts", "celery_worker_enabled", "where a list", "- item"),
    # rendering
    (f"{D}/concurrency", "{{ cores }}", f"{W}.discounts.concurrency", "'cores' is undef", "define"),
    (f"{D}/concurrency", "{{ 1 / 0 }}", f"{W}.discounts.concurrency", "can't be rendered", "correct"),
    (f"{D}/concurrency", "{{ x", f"{W}.discounts.concurrency", "can't be rendered", "correct"),
    (
        f"{D}/concurrency",
        "{{ celery_apps }}",
        f"{W}.discounts.concurrency",
        "'celery_apps' is undefined",
        "did you mean celery_app_",
    ),
    (
        f"{D}/concurrency",
        "{{ ansible_processor_vcpus }}",
        f"{W}.discounts.concurrency",
        "is undefined",
        "facts of hosts are not known",
    ),
    # workers
    ("celery_worker_enabled", ["discounts", "maintenance", "analytics", "analyticz"],
     "celery_worker_enabled", "does not have", "analytics?"),
    (f"{D}/concurrency", 0, f"{W}.discounts.concurrency", "below 1", "1 or more"),
    (f"{D}/soft_time_limit", 1800, f"{W}.discounts.soft_time_limit", "not below", "less than 1800"),
    (f"{D}/memory_max", "1GB", f"{W}.discounts.memory_max", "nothing that systemd", "512M"),
    (f"{D}/cpu_quota", "2", f"{W}.discounts.cpu_quota", "nothing that systemd", "50%"),
    # restarts
    ("celery_restart_min_capacity", 0, "celery_restart_min_capacity", "below 1", "from 1 to 100"),
    ("celery_restart_min_capacity", 101, "celery_restart_min_capacity", "above 100", "1 to 100"),
    ("celery_restart_min_capacity", "101", "celery_restart_min_capacity", "above 100", "1 to 100"),
    ("celery_restart_min_capacity", "50%", "celery_restart_min_capacity", "where a whole", "whole"),
    ("celery_restart_batch", 0, "celery_restart_batch", "below 1", "1 or more"),
    ("celery_restart_batch", [1], "celery_restart_batch", "a list where a whole", "whole"),
    ("celery_restart_only", ["analyticz"], "celery_restart_only", "does not have", "analytics?"),
    ("celery_restart_only", "discounts,zzz", "celery_restart_only", "does not have", "choose from"),
    ("celery_restart_only", {"a": 1}, "celery_restart_only", "a mapping where a list", "- item"),
    ("celery_restart_all", "maybe", "celery_restart_all", "where a boolean", "true or false"),
    (f"{D}/overlap", "yes", f"{W}.discounts.overlap", "where a boolean", "true or false"),
    (D, {"overlap": True, "pool": "threads"}, f"{W}.discounts.overlap", "pool threads", "prefork"),
    ("celery_app_delivery", "exactly_once", "celery_app_delivery", "none of the", "at_least_once"),
    # schedule
    ("celery_beat_scheduler", "redbeat", "celery_beat_scheduler", "not supported yet", "persistent"),
    (f"{B}/clean", "0 2 * * *", f"{B}.clean", "a string where a mapping", "crontab"),
    (f"{B}/clean/task", 5, f"{B}.clean.task", "no task's name", "as Celery registers it"),
    (f"{B}/clean/tsk", "x", f"{B}.clean.tsk", "no key known", "task?"),
    (f"{B}/clean/interval", 5, f"{B}.clean", "more than one time", "exactly one"),
    (f"{B}/history/interval", "1h", f"{B}.history.interval", "no number of seconds", "as a number"),
    (f"{B}/history/interval", 0, f"{B}.history.interval", "no number of seconds", "as a number"),
    (f"{B}/clean/crontab", "0 2 * * *", f"{B}.clean.crontab", "mapping of fields", "minute: 0"),
    (f"{B}/clean/crontab/minute", 60, f"{B}.clean.crontab.minute", "not from 0 to 59", "0 to 59"),
    (f"{B}/clean/crontab/minute", "*/x", f"{B}.clean.crontab.minute", "step 'x'", "steps"),
    (f"{B}/clean/crontab/day_of_week", 7, f"{B}.clean.crontab.day_of_week", "0 to 6", "Sunday is 0"),
    (f"{B}/clean/crontab/day", 1, f"{B}.clean.crontab.day", "no field", "day_of"),
    (f"{B}/clean/crontab", {"minute": 0, "day_of_month": 30, "month_of_year": 2},
     f"{B}.clean.crontab", "never due", "change"),
    (f"{B}/clean/args", "x", f"{B}.clean.args", "a string where a list", "as such"),
    (f"{B}/clean/kwargs", [], f"{B}.clean.kwargs", "a list where a mapping", "as such"),
    (f"{B}/sun", {"task": "t", "queue": "analytics",
                  "solar": {"event": "sunsat", "latitude": 48, "longitude": 16}},
     f"{B}.sun.solar.event", "no event", "sunset?"),
    (f"{B}/sun", {"task": "t", "queue": "analytics",
                  "solar": {"event": "sunset", "latitude": 91, "longitude": 16}},
     f"{B}.sun.solar.latitude", "-90 to 90", "degrees"),
    # queues
    (f"{B}/clean/queue", "maintenanc", f"{B}.clean.queue", "no enabled worker", "maintenance?"),
    (f"{B}/clean", {"task": "app.x", "interval": 9}, f"{B}.clean.queue", "default queue celery",
     "analytics, discounts, maintenance"),
    ("celery_app_task_routes/app.*", {"queue": "nowhere"},
     "celery_app_task_routes['app.*'].queue", "no enabled worker", "consumed are"),
    ("celery_app_task_routes/app.*", "discounts", "celery_app_task_routes['app.*']",
     "a string where a mapping", "{queue: …}"),
    # secrets
    ("redis_passwords/worker", "", "redis_passwords.worker", "is empty", "openssl rand"),
    ("redis_passwords/worker", "CHANGE_ME", "redis_passwords.worker", "placeholder", "openssl"),
    ("redis_passwords/worker", "<your password>", "redis_passwords.worker", "placeholder", "openssl"),
    ("redis_passwords/worker", "REPLACE_WITH_32_CHARACTERS", "redis_passwords.worker",
     "placeholder", "openssl"),
    ("redis_passwords/worker", "s3cr3t", "redis_passwords.worker", "shorter than 16", "openssl"),
    ("redis_passwords/worker", "a blank within that is long", "redis_passwords.worker", "blank", ""),
    ("redis_passwords/worker", "a-line-that-has-an-end\n", "redis_passwords.worker", "line end", ""),
    ("redis_passwords/worker", secret(1), "redis_passwords.beat", "same secret", "its own"),
    ("redis_passwords/workerr", secret(77), "redis_passwords.(a key that is not shown)",
     "no key known", "worker?"),
    ("pki_ca_passphrase", "changeme", "pki_ca_passphrase", "placeholder", "openssl"),
    ("celery_app_secret_env/SECRET", "<fill in>", "celery_app_secret_env.SECRET", "placeholder", ""),
    ("celery_app_secret_env/DATABASE_URL", "postgresql://u:CHANGE_ME@db/shop",
     "celery_app_secret_env.DATABASE_URL", "placeholder", "real value"),
    # the visibility timeout against what a worker can hold
    ("celery_app_visibility_timeout", 3600, "celery_app_visibility_timeout", "second time", "9000"),
    # source
    (S, {}, S, "none of path", "exactly one"),
    (S, {"path": "a", "git": "https://x/y"}, S, "path and git", "exactly one"),
    (S, {"archive": "a.tar"}, f"{S}.archive", "not supported yet", "use path"),
    (S, {"git": "not an address"}, f"{S}.git", "no address", "https://"),
    (S, {"git": "--upload-pack=x"}, f"{S}.git", "no address", "https://"),
    (S, {"path": "no/such/place"}, f"{S}.path", "does not exist", str(ROOT)),
    (f"{S}/directory", "backend", f"{S}.directory", "no directory of", "there are app"),
    (f"{S}/directory", "../x", f"{S}.directory", "leads out", "without .."),
    (f"{S}/requirements", "req.txt", f"{S}.requirements", "does not have", "name the one"),
    ("celery_app_module", "shop.celery", "celery_app_module", "not below", "celery_app_source"),
    # network
    ("redis_broker_port", 70000, "redis_broker_port", "no TCP port", "1 to 65535"),
    ("redis_broker_maxmemory", "256 MB", "redis_broker_maxmemory", "no limit of memory", "256mb"),
    ("redis_broker_maxmemory", 0, "redis_broker_maxmemory", "no limit at all", "256mb"),
    ("flower_port", 443, "celery_producer_web_port", "port of flower_port", "another"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "variable", "message", "remedy"),
    ERRORS,
    ids=[f"{e[0]}={e[1]}" for e in ERRORS],
)
def test_a_mistake_is_refused(
    variables: Variables, path: str, value: Any, variable: str, message: str, remedy: str
) -> None:
    found = problems(changed(variables, path, value))
    fitting = [problem for problem in found if problem.variable == variable]
    assert fitting, text_of(found)
    assert any(
        message in problem.message
        and remedy in problem.remedy
        and problem.severity is Severity.ERROR
        for problem in fitting
    ), text_of(found)


def test_the_same_port_twice_on_redis(variables: Variables) -> None:
    found = problems({**variables, "redis_results_port": 6379})
    assert "port of redis_broker_port" in found[0].message
    assert found[0].hosts == ("redis1",)


def test_clients_and_redis_on_different_ports(variables: Variables) -> None:
    found = only(problems(variables, hosts={"redis1": {"redis_broker_port": 7000}}))
    assert found.variable == "celery_app_broker_port"
    assert "7000" in found.message


@pytest.mark.parametrize(
    "name",
    ["celery_app_name", "redis_passwords", W, "pki_ca_passphrase", S, "flower_cookie_secret"],
)
def test_a_required_variable_is_missing(variables: Variables, name: str) -> None:
    del variables[name]
    found = [problem for problem in problems(variables) if problem.variable == name]
    assert "is not set" in only(found).message


def test_a_password_for_protected_paths_is_missing(variables: Variables) -> None:
    del variables["celery_producer_web_auth_password"]
    assert "protected_paths" in only(problems(variables)).message


def test_own_variables_are_allowed_by_list(variables: Variables) -> None:
    variables |= {"redis_exporter_port": 1, "pki_zone": 2, "flower_shop": 3}
    assert len(problems(variables)) == 3
    variables["preflight_allowed_variables"] = ["redis_exporter_*", "pki_zone", "flower_shop"]
    assert problems(variables) == []


@pytest.mark.parametrize(
    ("groups", "variable", "message"),
    [
        ({"fleet": []}, "fleet", "without hosts"),
        ({"celery_workers": []}, "celery_workers", "without hosts"),
        ({"redis": []}, "redis", "external broker"),
        ({"redis": ["redis1", "worker1"]}, "redis", "more than one host"),
        ({"celery_beat": ["control1", "worker1"]}, "celery_beat", "more than one host"),
        ({"celery_beat": []}, "celery_beat", "nothing would send them"),
        ({"flower": ["control1", "other"]}, "flower", "not in fleet"),
    ],
)
def test_groups(
    variables: Variables, groups: dict[str, list[str]], variable: str, message: str
) -> None:
    found = problems(variables, groups={**GROUPS, **groups})
    assert any(one.variable == variable and message in one.message for one in found), text_of(found)


def test_a_misspelt_group_is_guessed(variables: Variables) -> None:
    groups = {**GROUPS, "celery_worker": GROUPS["celery_workers"]}
    del groups["celery_workers"]
    found = problems(variables, groups=groups)
    assert any("celery_worker?" in problem.remedy for problem in found)


def test_no_beat_without_a_schedule(variables: Variables) -> None:
    variables["celery_beat_schedule"] = {}
    assert problems(variables, groups={**GROUPS, "celery_beat": []}) == []


@pytest.mark.parametrize(
    ("path", "value", "variable", "message"),
    [
        (f"{D}/drain_timeout", 10, f"{W}.discounts.drain_timeout", "below time_limit"),
        ("celery_worker_enabled", ["discounts", "maintenance", "analytics"], None, None),
        (f"{W}/idle", {}, None, None),
        (f"{B}/clean/crontab", {"hour": 2}, f"{B}.clean.crontab.minute", "every minute"),
        # What the command line gives is text.
        ("celery_restart_only", "discounts, analytics", None, None),
        ("celery_restart_only", ["analytics"], None, None),
        ("celery_restart_only", "", None, None),
        ("celery_restart_all", "true", None, None),
        ("celery_restart_batch", "2", None, None),
        ("celery_restart_min_capacity", 100, None, None),
        (f"{D}/overlap", True, None, None),
        ("celery_app_delivery", "at_most_once", None, None),
        ("celery_app_settings", {"task_acks_late": False}, None, None),
    ],
)
def test_warnings(
    variables: Variables, path: str, value: Any, variable: str | None, message: str | None
) -> None:
    found = problems(changed(variables, path, value))
    if variable is None:
        assert found == []
    else:
        assert message is not None
        one = only(found)
        assert (one.variable, one.severity) == (variable, Severity.WARNING)
        assert message in one.message


@pytest.mark.parametrize(
    ("promise", "path", "value", "variable", "message"),
    [
        ("at_least_once", S, None, None, ""),
        ("at_least_once", f"{D}/prefetch_multiplier", 1, None, ""),
        (
            *("at_least_once", f"{D}/prefetch_multiplier", 4),
            *(f"{W}.discounts.prefetch_multiplier", "wins over the one of celery_app_delivery"),
        ),
        # One task ahead is one less that waits for its time limit.
        ("at_least_once", "celery_app_visibility_timeout", 3600, None, ""),
        ("at_most_once", f"{D}/prefetch_multiplier", 4, None, ""),
        (
            *("at_least_once", "celery_app_settings", {"task_acks_late": False}),
            *("celery_app_settings.task_acks_late", "against celery_app_delivery (at_least_once)"),
        ),
        (
            *("at_most_once", "celery_app_settings", {"task_acks_late": True}),
            *("celery_app_settings.task_acks_late", "against celery_app_delivery (at_most_once)"),
        ),
        ("at_least_once", "celery_app_settings", {"task_acks_late": True}, None, ""),
    ],
)
def test_a_promise_and_what_speaks_against_it(
    variables: Variables, promise: str, path: str, value: Any, variable: str | None, message: str
) -> None:
    given = changed(variables, "celery_app_delivery", promise)
    found = problems(given if value is None else changed(given, path, value))
    if variable is None:
        assert found == []
    else:
        one = only(found)
        assert (one.variable, one.severity) == (variable, Severity.WARNING)
        assert message in one.message


def test_a_worker_that_no_host_takes_and_nothing_needs(variables: Variables) -> None:
    variables[W]["idle"] = {}
    enabled = {"celery_worker_enabled": ["discounts", "maintenance", "analytics"]}
    one = only(problems(variables, hosts={"worker1": enabled, "worker2": enabled}))
    assert (one.variable, one.severity) == (f"{W}.idle", Severity.WARNING)


def test_a_worker_that_no_host_takes_though_an_entry_needs_it(variables: Variables) -> None:
    enabled = {"celery_worker_enabled": ["discounts", "maintenance"]}
    found = problems(variables, hosts={"worker1": enabled, "worker2": enabled})
    assert [one.variable for one in found if one.severity is Severity.ERROR] == [
        f"{B}.history.queue"
    ]


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ({"queue": "analytics"}, True),
        ({"options": {"queue": "analytics"}}, True),
        ({"enabled": False}, True),
        ({}, False),
    ],
)
def test_where_an_entry_goes(variables: Variables, entry: dict[str, Any], right: bool) -> None:
    variables[B]["other"] = {"task": "other.task", "interval": 60, **entry}
    assert (problems(variables) == []) is right


def test_the_default_queue_is_the_settings(variables: Variables) -> None:
    variables[B]["other"] = {"task": "other.task", "interval": 60}
    variables["celery_app_settings"] = {"task_default_queue": "analytics"}
    assert problems(variables) == []


def test_hosts_that_do_not_exist_yet_get_one_answer(variables: Variables) -> None:
    del variables["redis_passwords"]
    one = only(problems({**variables, "preflight_hosts_hint": "run make demo"}))
    assert one.variable == "ansible_host"
    assert one.remedy == "run make demo"
    assert one.hosts == tuple(GROUPS["fleet"])


def test_hosts_that_exist_need_no_hint(variables: Variables) -> None:
    variables |= {"preflight_hosts_hint": "run make demo", "ansible_host": "192.0.2.1"}
    assert problems(variables) == []


@pytest.mark.parametrize(
    ("ansible", "python", "variable"),
    [("2.18.1", "3.11.2", "ansible-core"), ("2.21.0", "3.11.2", "ansible-core"),
     ("2.19.0", "3.10.9", "python")],
)  # fmt: skip
def test_versions_of_the_control_side(
    variables: Variables, ansible: str, python: str, variable: str
) -> None:
    found = problems(variables, control=Control(ansible, python, ROOT))
    assert only(found).variable == variable


def test_relative_sources_start_beside_ansible_cfg(variables: Variables, tmp_path: Path) -> None:
    variables[S] = {"path": "source"}
    assert problems(variables, control=Control("2.19.0", "3.11.0", tmp_path)) == []


def test_all_errors_come_at_once(variables: Variables) -> None:
    variables[D.split("/", maxsplit=1)[0]]["discounts"]["concurrency"] = 0
    variables["redis_broker_port"] = "x"
    variables["celery_app_module"] = "no.such"
    variables["pki_ca_passphrase"] = "short"
    assert len(problems(variables)) == 4


def test_one_problem_of_many_hosts_is_one(variables: Variables) -> None:
    variables["celery_app_env"] = {"A": "{{ nowhere }}"}
    one = only(problems(variables))
    assert one.hosts == tuple(GROUPS["fleet"])
    assert "(all hosts)" in text_of([one])


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ((), ""),
        (("worker1",), "worker1"),
        (("worker1", "worker2"), "all hosts of celery_workers"),
        (("worker1", "redis1"), "worker1, redis1"),
        (tuple(f"h{n}" for n in range(9)), "h0, h1, h2, h3, h4, h5 and 3 more"),
    ],
)
def test_hosts_in_few_words(hosts: tuple[str, ...], text: str) -> None:
    assert report.where(hosts, GROUPS, GROUPS["fleet"]) == text


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("celery_workers_instances", "celery_worker_instances", True),
        ("celery_workerr_instances", "celery_worker_instances", True),
        ("celery_worker_instances", "celery_worker_instances", False),
        ("redis_port", "redis_passwords", False),
        ("flower_sort", "flower_port", True),
        ("pki_kye", "pki_key", True),
        ("my_own_variable", "celery_app_name", False),
    ],
)
def test_near_misses(name: str, known: str, near: bool) -> None:
    assert near_miss(name, known) is near


@pytest.mark.parametrize(
    "queue", ["a b", "a*", "a?", "a[b]", "a\\b", "a,b", "", "a\n", "'a'", "%a"]
)
def test_queues_that_do_not_fit(queue: str) -> None:
    assert not queue_fits(queue)


@pytest.mark.parametrize("queue", ["celery", "high.priority", "eu:mails", "a-b_c", "9"])
def test_queues_that_fit(queue: str) -> None:
    assert queue_fits(queue)


MARK = "hush-this-is-it-5fe2"
SHAPES: list[Callable[[], Any]] = [
    lambda: MARK,
    lambda: [MARK],
    lambda: {"worker": MARK, "beat": MARK},
    lambda: {MARK: None},
    lambda: {f"worker:{MARK}": None},
    lambda: {"worker": [MARK], "beat": {MARK: MARK}},
    lambda: MARK + "\n",
    lambda: MARK + " with blanks",
    lambda: {"worker": "{{ '" + MARK + "' | no_such_filter }}"},
    lambda: "{{ '" + MARK + "' | from_json }}",
    lambda: "{{ undefined_name ~ '" + MARK + "' }}",
    lambda: "{{ '" + MARK,
    lambda: {"workerr": MARK},
]


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize(
    "name",
    [
        "redis_passwords",
        "redis_pasword",
        "pki_ca_passphrase",
        "flower_auth_password",
        "celery_app_secret_env",
        "celery_producer_web_auth_password",
    ],
)
def test_no_secret_is_ever_shown(variables: Variables, name: str, shape: int) -> None:
    assert MARK not in text_of(problems({**variables, name: SHAPES[shape]()}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("celery_app_name", MARK),
        ("celery_app_env", {"A": "{{ [redis_passwords.worker] | from_json }}"}),
        ("celery_app_env", [f"redis://x:{MARK}@y"]),
        ("celery_app_module", f"{MARK}!"),
        (f"{B}", {"x": {"task": MARK + " "}}),
    ],
)
def test_no_secret_is_shown_in_another_place(variables: Variables, name: str, value: Any) -> None:
    variables["redis_passwords"]["worker"] = MARK
    assert MARK not in text_of(problems({**variables, name: value}))


def test_logins_of_urls_are_not_shown(variables: Variables) -> None:
    variables["celery_app_source"] = {"git": "https://user:hunter2@host/a b"}
    assert "hunter2" not in text_of(problems(variables))


GARBAGE: list[Any] = [
    None, [], {}, 0, -1, "", "x", True, 1.5, float("nan"), float("inf"), 10**400, [[]], [None], {1: 2},
    {None: None}, {"a": None}, {"a": {"b": []}}, {"discounts": "x"}, {"discounts": {"queues": {}}},
    [{"a": 1}], "{{ nosuch }}", "{{ 1 / 0 }}", "{{ [", "{{ omit }}", "{% for %}", "\x00", "a\nb", "é" * 300,
    {"path": None}, {"path": "\x00"}, {"git": 5}, {"path": ["x"]}, {"task": None}, {"x": {"crontab": {"minute": None}}},
    {"x": {"crontab": {"minute": "1" * 5000}}}, {"x": {"crontab": {1: 2}}}, {"x": {"solar": {}}}, {"*": 5},
]  # fmt: skip


# Those that checks look into; all the others are read by their specs alone.
LOOKED_INTO = [
    W, B, S, "celery_app_name", "celery_app_module", "celery_app_task_routes", "celery_worker_enabled",
    "celery_worker_defaults", "redis_passwords", "preflight_allowed_variables", "preflight_hosts_hint",
]  # fmt: skip


@pytest.mark.parametrize("name", LOOKED_INTO)
def test_nothing_that_a_user_writes_is_a_traceback(variables: Variables, name: str) -> None:
    base = model(variables)
    for value in GARBAGE:
        if isinstance(value, str) and "{" in value:
            text_of(problems({**variables, name: value}))
        else:
            hosts = {host: {**own, name: value} for host, own in base.hosts.items()}
            given = {host: names | {name} for host, names in base.given.items()}
            text_of(check(replace(base, hosts=hosts, given=given, _distinct={})))


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
def test_nothing_that_a_user_writes_everywhere_is_a_traceback(value: Any) -> None:
    everything = dict.fromkeys(sorted(specs().options), value)
    assert text_of(problems(copy.deepcopy(everything)))


def test_what_never_ends_is_refused(variables: Variables) -> None:
    found = problems({**variables, "celery_app_env": "{{ celery_app_env }}"})
    assert any(problem.variable == "celery_app_env" for problem in found)


def test_variables_whose_names_are_no_strings(variables: Variables) -> None:
    assert problems({**variables, 1: 2, None: 3}) == []


def test_values_that_many_hosts_share_are_looked_at_once(variables: Variables) -> None:
    hosts = [f"worker{number}" for number in range(20)]
    groups = {**GROUPS, "celery_workers": hosts, "fleet": [*GROUPS["fleet"], *hosts]}
    shared = model(variables, groups=groups)
    assert len(shared.distinct(W)) == 1
    one = only(problems(changed(variables, f"{D}/concurrency", 0), groups=groups))
    assert one.hosts == tuple(hosts)
