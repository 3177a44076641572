"""Redaction of secrets in the output of programs."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.redact import (
    clean,
    clean_answer,
    hide_logins,
    printable,
    secrets_of,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.environment import urls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach redis://user:pw@host:6379/0.", "cannot reach redis://***@host:6379/0."),
        ("postgresql+psycopg://u:p@ss/w:rd@db/x", "postgresql+psycopg://***@db/x"),
        ("rediss://:pw@h1;rediss://:pw@h2", "rediss://***@h2"),
        ("a@h1 asks http://h2/x for mail to a@b", "a@h1 asks http://h2/x for mail to a@b"),
    ],
)
def test_logins_in_urls_are_redacted(text: str, shown: str) -> None:
    assert hide_logins(text) == shown


def test_no_secret_is_shown() -> None:
    text = "could not connect: postgresql://u:other@db/shop, password geheim, abc"
    cleaned = clean(text, ["geheim", "abc"])
    assert cleaned == "could not connect: postgresql://***@db/shop, password ***, abc"


def test_secrets_of_an_environment_are_found() -> None:
    values = {"A": 'quo"ted $HOME `x` \\', "KEY": "BEGIN\nline of a key\nEND", "N": 5}
    assert secrets_of(values) == [
        'quo"ted $HOME `x` \\',
        "BEGIN\nline of a key\nEND",
        "5",
        "BEGIN",
        "line of a key",
        "END",
    ]
    assert secrets_of({}) == []


def test_the_password_of_a_url_is_a_secret_by_itself() -> None:
    parts = {"scheme": "postgresql", "host": "db", "user": "u", "password": "a:b/c d@e"}
    known = secrets_of({**urls({"DATABASE_URL": parts}), "PLAIN": "amqp://u:x@y@h/v?to=me@z"})
    words = "authentication failed for u with a:b/c d@e, a%3Ab%2Fc%20d%40e"
    assert clean(words, known) == "authentication failed for u with ***, ***"
    assert "x@y@h/v?to=me" in known
    assert clean("short is x", known) == "short is x"


def test_text_for_people_is_redacted_and_names_are_left_alone() -> None:
    answer = {
        "units": {"shop-beat.service": {"StatusText": "no shop-beat", "ActiveState": "shop-beat"}},
        "journals": {"shop-beat.service": "shop-beat at x://u:p@h"},
        "nodes": {"a": {"errors": ["shop-beat", 1], "queues": ["shop-beat"]}},
        "msg": None,
    }
    assert clean_answer(answer, ["shop-beat"]) == {
        "units": {"shop-beat.service": {"StatusText": "no ***", "ActiveState": "shop-beat"}},
        "journals": {"shop-beat.service": "*** at x://***@h"},
        "nodes": {"a": {"errors": ["***", 1], "queues": ["shop-beat"]}},
        "msg": None,
    }


def test_nothing_that_a_host_says_can_control_a_terminal() -> None:
    forged = "paused\x1b[2J\x9b1m\r\x07\x7f\tall\nserves é"
    shown = "paused�[2J�1m���\tall\nserves é"
    assert printable({"states": [{forged: forged, "pid": 7}], "none": None}) == {
        "states": [{shown: shown, "pid": 7}],
        "none": None,
    }
