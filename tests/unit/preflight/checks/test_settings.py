"""Names in `celery_app_settings` that have no effect or stop a process are refused; those of packages are accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import settings
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)
from celery.app.defaults import DEFAULTS, NAMESPACES, flatten
from celery.concurrency import get_available_pool_names
from kombu.transport.redis import SentinelChannel

from celery_fleet.common.errors import FleetError
from celery_fleet.compat import versions
from celery_fleet.config import settings as runtime
from tests.unit.preflight.inventory import problems, valid

ALLOWED = "preflight_allowed_variables"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    return valid(tmp_path / "source")


def found(variables: dict[str, Any], name: str, value: Any = 5) -> list[Problem]:
    return problems({**variables, settings.VARIABLE: {name: value}})


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        # misspelt
        ("task_time_limt", "no effect", "did you mean task_time_limit?"),
        ("worker_prefetch_multipler", "no effect", "did you mean worker_prefetch_multiplier?"),
        ("result_expire", "no effect", "did you mean result_expires?"),
        ("timezon", "no effect", "add celery_app_settings.timezon to preflight_allowed_variables"),
        # in another spelling
        ("CELERY_TASK_TIME_LIMIT", "not the name of a setting", "write task_time_limit"),
        ("CELERYD_TASK_TIME_LIMIT", "not the name of a setting", "write task_time_limit"),
        ("CELERYD_CONCURRENCY", "not the name of a setting", "write worker_concurrency"),
        ("CELERYBEAT_SCHEDULE_FILENAME", "not the name of", "write beat_schedule_filename"),
        ("CELERY_ACKS_LATE", "not the name of a setting", "write task_acks_late"),
        ("CELERY_RESULT_BACKEND", "not the name of a setting", "write result_backend"),
        ("CELERY_TASK_TIME_LIMT", "not the name of", "mean task_time_limit?"),
        ("beat-max-loop-interval", "not the name of a setting", "write beat_max_loop_interval"),
        ("Task_Time_Limit", "not the name of a setting", "write task_time_limit"),
        ("ONCE", "not the name of a setting", "in the application's code"),
        ("celery_task_time_limit", "another name", "write task_time_limit"),
        ("celeryd_concurrency", "another name", "write worker_concurrency"),
        # settings that have their own variable
        ("beat_schedule", "its own variable", "move it to celery_beat_schedule"),
        ("CELERYBEAT_SCHEDULE", "its own variable", "move it to celery_beat_schedule"),
        ("task_routes", "its own variable", "move it to celery_app_task_routes"),
        # names that no process would accept
        ("include", "sets it itself", "`include` of the worker"),
        ("CELERY_IMPORTS", "sets it itself", "in the application's code"),
    ],
)
def test_a_name_without_effect_is_refused(
    variables: dict[str, Any], name: str, message: str, remedy: str
) -> None:
    (one,) = found(variables, name)
    assert one.variable in (f"celery_app_settings.{name}", f"celery_app_settings['{name}']")
    assert one.severity is Severity.ERROR
    assert message in one.message
    assert remedy in one.remedy


def test_a_missing_space_does_not_show_the_value(variables: dict[str, Any]) -> None:
    (one,) = found(variables, "redis_password:hush")
    assert "write redis_password; mind the space" in one.remedy
    assert "hush" not in str(one)


@pytest.mark.parametrize(
    "name",
    [
        "redbeat_redis_url",
        "redbeat_lock_timeout",
        "django_celery_beat_tz_aware",
        "once_backend",
        "shop_currency",
        "redis_backend_health_check_interval",
    ],
)
def test_settings_of_packages_and_of_the_application_pass(
    variables: dict[str, Any], name: str
) -> None:
    assert found(variables, name) == []


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("task_max_retries", "preflight_allowed_variables"),
        ("worker_max_tasks_child", "did you mean worker_max_tasks_per_child?"),
        ("concurrency", "did you mean worker_concurrency?"),
    ],
)
def test_a_name_that_celery_could_have_is_warned_of(
    variables: dict[str, Any], name: str, remedy: str
) -> None:
    (one,) = found(variables, name)
    assert one.severity is Severity.WARNING
    assert remedy in one.remedy


@pytest.mark.parametrize("name", ["task_time_limt", "task_max_retries"])
def test_names_are_allowed_by_list(variables: dict[str, Any], name: str) -> None:
    assert found({**variables, ALLOWED: [f"celery_app_settings.{name}"]}, name) == []
    assert found({**variables, ALLOWED: ["celery_app_settings.task_*"]}, name) == []
    assert found({**variables, ALLOWED: [name]}, name) != []


@pytest.mark.parametrize("name", ["include", "TASK_TIME_LIMIT"])
def test_a_name_that_stops_a_process_is_never_allowed(variables: dict[str, Any], name: str) -> None:
    assert found({**variables, ALLOWED: ["celery_app_settings.*"]}, name) != []
    with pytest.raises(FleetError):
        runtime.parse_celery({name: 5})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("task_time_limit", "300", "write 300, without quotes"),
        ("result_expires", "1h", "in seconds"),
        ("worker_prefetch_multiplier", True, "write 300"),
        ("result_expires", {"hours": 1}, "in seconds"),
        ("task_ignore_result", "false", "write true or false, without quotes"),
        ("task_track_started", 1, "write true or false"),
    ],
)
def test_a_value_that_celery_would_misread_is_refused(
    variables: dict[str, Any], name: str, value: object, remedy: str
) -> None:
    given = {**variables, "celery_app_settings": {name: value}}
    (one,) = [p for p in problems(given) if p.variable == f"celery_app_settings.{name}"]
    assert one.severity is Severity.ERROR
    assert remedy in one.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [("result_expires", 3600.5), ("result_expires", None), ("task_track_started", False)],
)
def test_a_value_of_the_right_type_passes(
    variables: dict[str, Any], name: str, value: object
) -> None:
    given = {**variables, "celery_app_settings": {name: value}}
    assert [p for p in problems(given) if p.variable == f"celery_app_settings.{name}"] == []


def test_the_types_agree_with_celery() -> None:
    types = {name: option.type for name, option in flatten(NAMESPACES)}
    assert {name for name, type_ in types.items() if type_ in ("int", "float", int)} == (
        settings._NUMBERS
    )
    # Options for checking certificates are not booleans, and have another check.
    assert {
        name for name, type_ in types.items() if type_ == "bool" and not name.endswith("use_ssl")
    } == settings._SWITCHES


def test_the_runtime_refuses_the_same() -> None:
    assert set(settings.UNPINNABLE) == runtime.UNPINNABLE
    assert runtime._NAME.pattern == settings.NAME.pattern + r"\Z"


def test_the_names_agree_with_celery() -> None:
    assert set(settings._DEFAULTS) == set(DEFAULTS)
    assert (versions.CELERY[-1], versions.CELERY[0]) == settings.SUPPORTED


@pytest.mark.parametrize(
    "setting", ["broker_transport_options", "result_backend_transport_options"]
)
@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("visiblity_timeout", "visibility_timeout"),
        ("Socket-Timeout", "socket_timeout"),
        ("retry_polic", "retry_policy"),
    ],
)
def test_a_misspelt_option_of_a_connection_is_refused(
    variables: dict[str, Any], setting: str, option: str, meant: str
) -> None:
    (one,) = found(variables, setting, {option: 43200})
    assert one.variable == f"celery_app_settings.{setting}.{option}"
    assert one.severity is Severity.ERROR
    assert f"did you mean {meant}?" in one.remedy
    assert found({**variables, ALLOWED: [one.variable]}, setting, {option: 43200}) == []


def test_a_number_of_a_connection_that_is_text_is_refused(variables: dict[str, Any]) -> None:
    (one,) = found(variables, "broker_transport_options", {"visibility_timeout": "43200"})
    assert one.variable == "celery_app_settings.broker_transport_options.visibility_timeout"
    assert one.severity is Severity.ERROR
    assert one.remedy == "write 43200, without quotes"


def test_every_option_of_a_connection_passes(variables: dict[str, Any]) -> None:
    refused = ("global_keyprefix", "sentinel_kwargs")
    options = {name: 43200 for name in settings.TRANSPORT if name not in refused}
    assert found(variables, "broker_transport_options", {**options, "a_providers_own": 1}) == []
    assert set(SentinelChannel.from_transport_options) <= set(settings.TRANSPORT)


@pytest.mark.parametrize("pool", ["thread", "Prefork", "fork"])
def test_an_unknown_pool_in_the_settings_is_refused(variables: dict[str, Any], pool: str) -> None:
    (one,) = found(variables, "worker_pool", pool)
    assert one.variable == "celery_app_settings.worker_pool"
    assert "no worker would start" in one.message
    assert "known are prefork, threads, solo, gevent, eventlet" in one.remedy


@pytest.mark.parametrize("pool", [*get_available_pool_names(), "shop.pools:TaskPool"])
def test_a_pool_that_celery_knows_passes(variables: dict[str, Any], pool: str) -> None:
    assert found(variables, "worker_pool", pool) == []
