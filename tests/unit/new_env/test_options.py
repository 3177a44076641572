from __future__ import annotations

from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.options import (
    BY_NAME,
    OPTIONS,
    read,
    usage,
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
    for option in OPTIONS:
        assert f"{option.name}={option.example}" in usage()
