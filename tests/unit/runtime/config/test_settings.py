from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.common.errors import FleetError
from celery_fleet.config.settings import (
    CREDENTIAL,
    locate,
    parse,
    parse_celery,
    read,
    with_essentials,
)
from tests.unit.runtime.conftest import document


def test_an_explicit_file_overrides_the_credential() -> None:
    both = {"CELERY_FLEET_SETTINGS": "/etc/x.json", "CREDENTIALS_DIRECTORY": "/run/c"}

    assert locate(both) == Path("/etc/x.json")
    assert locate({"CREDENTIALS_DIRECTORY": "/run/c"}) == Path("/run/c") / CREDENTIAL


def test_the_error_for_a_missing_file_names_both_places() -> None:
    with pytest.raises(FleetError, match=r"CELERY_FLEET_SETTINGS.*LoadCredential"):
        locate({})


def test_values_get_pythons_types() -> None:
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt"}
    options = {"socket_keepalive_options": {"TCP_KEEPIDLE": 30, "5": 5}}

    pins, schedule = parse_celery({"broker_use_ssl": tls, "broker_transport_options": options})

    assert pins["broker_use_ssl"]["ssl_cert_reqs"] is ssl.CERT_REQUIRED
    assert pins["broker_transport_options"]["socket_keepalive_options"] == {
        socket.TCP_KEEPIDLE: 30,
        5: 5,
    }
    assert schedule is None


@pytest.mark.parametrize(
    ("given", "metrics", "file"),
    [({}, False, None), ({"metrics": {}}, True, None), ({"metrics": {"file": "/m"}}, True, "/m")],
)
def test_metrics_may_be_off_or_without_a_file(
    given: dict[str, Any], metrics: bool, file: str | None
) -> None:
    settings = parse({**document(), **given}, "s")
    assert (settings.metrics, settings.metrics_file) == (metrics, file)


def test_a_log_is_text_or_json() -> None:
    assert not parse(document(), "s").log_json
    assert not parse({**document(), "log": "text"}, "s").log_json
    assert parse({**document(), "log": "json"}, "s").log_json
    with pytest.raises(FleetError, match="log is 'xml', not one of text, json"):
        parse({**document(), "log": "xml"}, "s")


@pytest.mark.parametrize("given", [True, {"file": 3}])
def test_metrics_of_another_form_are_refused(given: Any) -> None:
    with pytest.raises(FleetError, match="metrics must be a mapping, and its file a path"):
        parse({**document(), "metrics": given}, "s")


@pytest.mark.parametrize(
    ("celery", "message"),
    [
        ({"imports": ["x"]}, "imports can't be pinned"),
        (
            {"broker_transport_options": {"global_keyprefix": "shop:"}},
            r"broker_transport_options\.global_keyprefix is not supported: remove it from celery_app_settings",
        ),
        ({"BROKER_URL": "x"}, "BROKER_URL is not a setting's name"),
        ({"broker_use_ssl": {"ssl_cert_reqs": "maybe"}}, "ssl_cert_reqs is 'maybe'"),
        ({"a": {"socket_keepalive_options": {"TCP_NOPE": 1}}}, "TCP_NOPE"),
        ({"beat_schedule": {"e": {"task": "t"}}}, "beat_schedule.e: needs exactly one of"),
    ],
)
def test_a_mistake_in_the_settings_is_named(celery: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError, match=message):
        parse(document(**celery), "file")


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = document("nobody", imports=[], BROKER="x")
    wrong["app"] = None

    with pytest.raises(FleetError) as caught:
        parse(wrong, "/etc/settings.json")

    text = str(caught.value)
    for part in ("/etc/settings.json", "nobody", "app must", "imports", "BROKER", "run site.yml"):
        assert part in text


def test_the_file_of_another_component_is_refused() -> None:
    with pytest.raises(FleetError, match="file of a beat, but this process is a worker"):
        parse(document("beat"), "file", "worker")


def test_another_format_is_refused() -> None:
    with pytest.raises(FleetError, match="format 2"):
        parse({**document(), "format": 2}, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read"),
        (b"{", "is not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[]", "JSON object"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(FleetError, match=f"{path}.*{message}"):
        read(path)


def test_the_inventory_overrides_the_runtimes_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document("worker", worker_direct=False)))

    pins = with_essentials(read(path, "worker"))

    assert pins["worker_direct"] is False
    assert pins["broker_connection_max_retries"] is None
    assert pins["worker_cancel_long_running_tasks_on_connection_loss"] is False


def test_beat_without_results_schedules_no_clean_up_of_them() -> None:
    without = document("beat", result_backend="disabled://", result_expires=3600)

    assert with_essentials(parse(without, "file"))["result_expires"] is None
    assert with_essentials(parse(document("beat", result_expires=9), "file"))["result_expires"] == 9


def test_settings_do_not_show_secrets() -> None:
    assert "s3cr3tpw" not in repr(parse(document(), "file"))


def test_the_schedule_policy_is_read() -> None:
    made = document("beat")
    assert parse(made, "file").schedule_policy == "add"
    assert parse(made | {"beat_schedule_policy": "replace"}, "file").schedule_policy == "replace"
    with pytest.raises(FleetError, match="beat_schedule_policy is 'both', not one of add, replace"):
        parse(made | {"beat_schedule_policy": "both"}, "file")


def test_the_scheduler_of_beat_is_read() -> None:
    stated = {**document("beat", result_expires=60), "beat_scheduler": "database"}
    settings = parse(stated, "x")
    assert (settings.scheduler, settings.schedule_edited) == ("database", "keep")
    pins = with_essentials(settings)
    assert pins["beat_scheduler"] == "django_celery_beat.schedulers:DatabaseScheduler"
    # Otherwise Celery's clean-up of results would be written into the database.
    assert pins["result_expires"] is None
    assert with_essentials(parse(document("beat"), "x"))["beat_scheduler"] == (
        "celery.beat:PersistentScheduler"
    )
    own = document("beat", beat_scheduler="shop.Own")
    assert with_essentials(parse(own, "x"))["beat_scheduler"] == "shop.Own"
    assert "beat_scheduler" not in with_essentials(parse(document("worker"), "x"))
    for name in ("beat_scheduler", "beat_schedule_on_edit"):
        with pytest.raises(FleetError, match=f"{name} is 'nowhere', not one of"):
            parse({**document("beat"), name: "nowhere"}, "x")
