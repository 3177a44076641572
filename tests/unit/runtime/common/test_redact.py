from __future__ import annotations

import pytest

from celery_fleet.common.redact import redact, redact_all, redact_value, secrets_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rediss://worker:geheim@redis1:6379/0", "rediss://worker:***@redis1:6379/0"),
        ("redis://:geheim@h/0 refused", "redis://:***@h/0 refused"),
        ("at redis://u:p@ss/wo:rd@h/0, again", "at redis://u:***@h/0, again"),
        ("sentinel://u:one@a;sentinel://u:two@b", "sentinel://u:***@b"),
        ("redis://redis1:6379/0", "redis://redis1:6379/0"),
        ("mail to ops@example.org at 10:30", "mail to ops@example.org at 10:30"),
    ],
)
def test_passwords_of_urls_are_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_known_secrets_are_masked_anywhere() -> None:
    secrets = secrets_in(
        {"broker_url": "redis://u:p%40ssword@h/0", "x": [{"sentinel_password": "andere"}]}
    )

    assert redact("p@ssword, p%40ssword and andere", secrets) == "***, *** and ***"


def test_short_words_are_not_taken_for_secrets() -> None:
    assert secrets_in({"broker_url": "redis://u:a@h/0"}) == set()


def test_a_routing_key_is_not_masked() -> None:
    """Otherwise no answer would have the queue `mail`, and its worker would seem not to consume it."""
    route = {"queue": "mail", "routing_key": "mail"}
    settings = {"task_routes": {"shop.*": route}, "task_default_routing_key": "mail"}

    assert secrets_in({**settings, "security_key": "s3cr3t"}) == {"s3cr3t"}
    assert redact_value("task_default_routing_key", "mail") == "'mail'"


def test_values_with_secret_names_are_masked() -> None:
    assert redact_value("security_key", "abc") == "***"
    assert redact_value("redis_options", {"password": "abc", "db": 1}) == (
        "{'password': ***, 'db': 1}"
    )
    assert redact_value("broker_url", ["redis://u:pw@h/0"]) == "['redis://u:***@h/0']"


@pytest.mark.parametrize("password", ["ge heim", "ge'heim", 'ge"heim', "ge@heim wort", "ge\nheim"])
@pytest.mark.parametrize("name", ["broker_url", "CELERY_RESULT_BACKEND", "url"])
def test_an_unquoted_password_in_a_url_is_masked_completely(name: str, password: str) -> None:
    url = f"redis://u:{password}@h/0"

    assert redact_value(name, url) == "'redis://u:***@h/0'"
    assert redact_value("x", {name: [url]}) == f"{{{name!r}: ['redis://u:***@h/0']}}"
    assert redact_all({name: url}) == {name: "redis://u:***@h/0"}
    assert password in secrets_in({name: url})


def test_a_url_without_a_password_stays_as_it_is() -> None:
    assert redact_value("broker_url", "redis://redis1:6379/0") == "'redis://redis1:6379/0'"
    assert redact_value("result_backend", "rpc") == "'rpc'"
