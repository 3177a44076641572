from __future__ import annotations

import copy
import json
import logging
import pickle
from typing import Any

import pytest

from celery_fleet.config.frozen import FrozenDict, freeze


@pytest.fixture
def frozen() -> Any:
    return freeze({"timeout": 1, "deep": {"list": [{"a": 1}]}}, "options")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.__setitem__("timeout", 2),
        lambda d: d["deep"].__setitem__("new", 2),
        lambda d: d["deep"]["list"][0].update(a=2),
        lambda d: d.update(timeout=2),
        lambda d: d.pop("timeout"),
        lambda d: d.setdefault("new", 1),
        lambda d: d.clear(),
        lambda d: d.__delitem__("timeout"),
        lambda d: d.__ior__({"timeout": 2}),
    ],
)
def test_a_change_at_any_depth_has_no_effect(frozen: Any, change: Any) -> None:
    change(frozen)

    assert frozen == {"timeout": 1, "deep": {"list": ({"a": 1},)}}


def test_it_can_be_read_like_a_dictionary(frozen: Any) -> None:
    assert frozen.setdefault("timeout", 5) == 1
    assert frozen.setdefault("none", 5) == 5
    assert frozen.pop("timeout") == 1
    assert frozen.pop("none", 5) == 5
    with pytest.raises(KeyError):
        frozen.pop("none")
    with pytest.raises(TypeError, match="options"):
        frozen.popitem()


@pytest.mark.parametrize(
    "make",
    [
        lambda d: d.copy(),
        copy.copy,
        copy.deepcopy,
        lambda d: pickle.loads(pickle.dumps(d)),  # noqa: S301  # it was pickled here
    ],
)
def test_copies_are_ordinary_dictionaries(frozen: Any, make: Any) -> None:
    copied = make(frozen)
    copied["deep"]["new"] = 1

    assert type(copied) is dict
    assert type(copied["deep"]) is dict
    assert "new" not in frozen["deep"]


def test_it_is_json_and_merges_as_kombu_does(frozen: Any) -> None:
    assert json.loads(json.dumps(frozen)) == {"timeout": 1, "deep": {"list": [{"a": 1}]}}
    assert dict(frozen, timeout=3)["timeout"] == 3
    assert type(frozen | {"timeout": 3}) is dict


def test_a_refusal_is_logged_once(frozen: FrozenDict, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        frozen["timeout"] = 2
        frozen["timeout"] = 3

    assert [record.getMessage() for record in caplog.records] == [
        "options: a change by the application is refused; the fleet's value stays"
    ]
