from __future__ import annotations

import shlex

from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.options import (
    BY_NAME,
    OPTIONS,
    PLAYBOOK,
    read,
    usage,
    words_of,
)


def test_values_come_from_arguments_or_the_environment() -> None:
    given, wrong = read(["NAME=a=b", "HOSTS", "FLOWER="], {"HOSTS": " x, y ", "APP": "unasked"})
    assert given == {"NAME": "a=b", "HOSTS": "x, y", "FLOWER": ""}
    assert wrong == []


def test_variables_of_make_itself_are_ignored() -> None:
    assert read(["PYTHON", "MAKEFLAGS"], {"PYTHON": "python3"}) == ({}, [])


def test_misspelt_and_repeated_options_are_named_together() -> None:
    given, wrong = read(["HOST=a", "xyz=1", "NAME=a", "NAME=b"], {})
    assert given == {"NAME": "a"}
    assert [(one.option, one.message) for one in wrong] == [
        ("HOST", "is not an option of new-env"),
        ("xyz", "is not an option of new-env"),
        ("NAME", "is given twice"),
    ]
    assert wrong[0].remedy == "did you mean HOSTS?"
    assert "VAULT_PASSWORD_FILE" in wrong[1].remedy


def test_usage_has_every_option_with_an_example() -> None:
    assert len(BY_NAME) == len(OPTIONS)
    lines = usage(PLAYBOOK).splitlines()[1:]
    for option in OPTIONS:
        # What a shell makes of it, in which the playbook's options are in single quotes.
        line = next(line for line in lines if f" {option.name}=" in line)
        assert shlex.split(line) == [f"{option.name}={option.example}"]
        assert "'" not in line


def test_extra_variables_in_json_may_be_lists_and_booleans() -> None:
    given = {"HOSTS": ["one", "two"], "FLOWER": False, "FIREWALL": True, "NAME": "a b", "APP": 7}
    words = ["HOSTS=one,two", "FLOWER=off", "FIREWALL=on", "NAME=a b", "APP=7"]
    assert words_of(given) == (words, [])
    assert words_of({"WEB": ["python", "-m", "a b"]})[0] == ["WEB=python -m 'a b'"]
    assert words_of({"WEB": "python -m 'a b'"})[0] == ["WEB=python -m 'a b'"]


def test_extra_variables_of_another_form_are_refused() -> None:
    raw = {"WEB": "python", "_raw_params": "-m uvicorn"}
    words, (wrong,) = words_of(raw)
    assert words == ["WEB=python"]
    assert (wrong.option, wrong.message) == ("-e", "has words without an option: -m uvicorn")
    assert 'as in WEB="python -m uvicorn' in wrong.remedy
    words, found = words_of({"QUEUES": {"mail": 2}, "HOSTS": [["a"]], "wrong": None})
    assert words == []
    assert [(one.option, one.message) for one in found] == [
        (name, "is neither a text nor a list of texts") for name in ("QUEUES", "HOSTS", "wrong")
    ]
    assert found[0].remedy == "write it as in QUEUES=orders=4,mail=2,reports"
