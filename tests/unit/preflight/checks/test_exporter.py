"""Preflight's checks of the exporter's variables: its passwords, and who may reach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, secret, valid

NODE = "http://127.0.0.1:9100/metrics"


def with_exporter(directory: Path, **more: Any) -> dict[str, Any]:
    made = {
        **valid(directory),
        "celery_exporter_enabled": True,
        "celery_exporter_auth_password": secret(31),
        **more,
    }
    made["redis_passwords"]["exporter"] = secret(30)
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"celery_exporter_listen": "127.0.0.1:9808", "celery_exporter_auth_password": None},
        {"celery_exporter_listen": "[::1]:9808", "celery_exporter_auth_password": None},
    ],
)
def test_an_exporter_passes(tmp_path: Path, more: dict[str, Any]) -> None:
    assert problems(with_exporter(tmp_path, **more)) == []


def test_other_exporters_of_the_host_pass(tmp_path: Path) -> None:
    others = {
        "node": NODE,
        "redis-broker": "http://[::1]:9121/scrape?target=rediss://exporter@redis1:6379",
        "flower": "http://unix:/run/shop-flower/flower.sock:/metrics",
    }
    assert problems(with_exporter(tmp_path, celery_exporter_others=others)) == []


def test_other_exporters_need_the_site(tmp_path: Path) -> None:
    listen = {"celery_exporter_listen": "127.0.0.1:9808", "celery_exporter_auth_password": None}
    (one,) = problems(with_exporter(tmp_path, celery_exporter_others={"node": NODE}, **listen))
    assert (one.variable, "needs the site" in one.message) == ("celery_exporter_others", True)


def test_it_needs_its_user_in_redis(tmp_path: Path) -> None:
    inventory = with_exporter(tmp_path)
    del inventory["redis_passwords"]["exporter"]
    (one,) = problems(inventory)
    assert (one.variable, "is not set" in one.message) == ("redis_passwords.exporter", True)


KNOWN = ("node", "redis", "flower")


def with_known(directory: Path, **more: Any) -> dict[str, Any]:
    enabled = {f"celery_exporter_{name}_enabled": True for name in KNOWN}
    inventory = with_exporter(directory, **{**enabled, **more})
    inventory["redis_passwords"]["redis_exporter"] = secret(32)
    return inventory


def test_known_exporters_pass(tmp_path: Path) -> None:
    assert problems(with_known(tmp_path)) == []
    listen = {"celery_exporter_listen": "127.0.0.1:9808", "celery_exporter_auth_password": None}
    agent = with_known(tmp_path, celery_exporter_flower_enabled=False, **listen)
    assert problems(agent) == []


def test_known_exporters_need_the_fleets_exporter(tmp_path: Path) -> None:
    found = problems({**with_known(tmp_path), "celery_exporter_enabled": False})
    assert {one.variable for one in found} == {f"celery_exporter_{name}_enabled" for name in KNOWN}
    assert all("celery_exporter_enabled: true" in one.remedy for one in found)


def test_flower_can_not_be_reached_without_the_site(tmp_path: Path) -> None:
    listen = {"celery_exporter_listen": "127.0.0.1:9808", "celery_exporter_auth_password": None}
    (one,) = problems(with_known(tmp_path, **listen))
    assert (one.variable, "socket" in one.message) == ("celery_exporter_flower_enabled", True)


def test_the_exporter_of_redis_needs_its_user(tmp_path: Path) -> None:
    inventory = with_known(tmp_path)
    del inventory["redis_passwords"]["redis_exporter"]
    (one,) = problems(inventory)
    assert (one.variable, "is not set" in one.message) == ("redis_passwords.redis_exporter", True)


def test_a_path_belongs_to_one_exporter(tmp_path: Path) -> None:
    others = {"node": NODE, "redis-broker": NODE}
    found = problems(with_known(tmp_path, celery_exporter_others=others))
    assert [one.variable for one in found] == [f"celery_exporter_others.{name}" for name in others]


def test_the_port_of_the_exporter_of_redis_must_be_free(tmp_path: Path) -> None:
    (one,) = problems(with_known(tmp_path, celery_exporter_redis_port=6380))
    assert (one.variable, "is the port of" in one.message) == ("celery_exporter_redis_port", True)
    (one,) = problems(with_known(tmp_path, celery_exporter_redis_port=9100))
    assert "is the port of celery_exporter_node_enabled" in one.message
    off = {"celery_exporter_redis_port": 6380, "celery_exporter_redis_enabled": False}
    assert problems(with_known(tmp_path, **off)) == []


@pytest.mark.parametrize(
    ("more", "variable", "words"),
    [
        ({"celery_exporter_auth_password": None}, "auth_password", "is not set"),
        ({"celery_exporter_auth_password": "short"}, "auth_password", "is shorter than 16"),
        ({"celery_exporter_auth_user": "a:b"}, "auth_user", "is not a name"),
        ({"celery_exporter_listen": "0.0.0.0:9808"}, "listen", "others can reach"),
        ({"celery_exporter_listen": "9808"}, "listen", "is not an address with a port"),
        ({"celery_exporter_port": 6380}, "port", "is the port of redis_results_port"),
        ({"celery_exporter_port": 0}, "port", "is not a TCP port"),
        ({"celery_exporter_interval": 0}, "interval", "is below 5"),
        ({"celery_exporter_others": {"metrics": NODE}}, "others.metrics", "can have as a path"),
        ({"celery_exporter_others": {"a;b": NODE}}, "others['a;b']", "can have as a path"),
        ({"celery_exporter_others": {"node": 9100}}, "others.node", "not an address of the host"),
        *(
            ({"celery_exporter_others": {"node": address}}, "others.node", "not an address of")
            for address in (
                "127.0.0.1:9100",
                "http://127.0.0.1:9100",
                "https://127.0.0.1:9100/metrics",
                "http://node1:9100/metrics",
                "http://127.0.0.1:9100/$host",
                "http://127.0.0.1:9100/a;return 200",
                "http://127.0.0.1:9100/a b",
                "http://127.0.0.1:9100/a{}",
                "http://unix:/run/../x y.sock:/metrics",
            )
        ),
    ],
)
def test_a_mistake_is_refused(
    tmp_path: Path, more: dict[str, Any], variable: str, words: str
) -> None:
    found = problems(with_exporter(tmp_path, **more))
    assert [one.variable for one in found] == [f"celery_exporter_{variable}"]
    assert words in found[0].message


def test_the_name_of_its_user_must_not_be_too_long(tmp_path: Path) -> None:
    name = "a" * 23
    assert problems(with_exporter(tmp_path, celery_app_name=name)) == []
    (one,) = problems(with_exporter(tmp_path, celery_app_name=name + "b"))
    assert one.variable == "celery_exporter_enabled"
    assert problems({**valid(tmp_path), "celery_app_name": name + "b"}) == []


def test_a_port_of_an_exporter_that_is_off_collides_with_nothing(tmp_path: Path) -> None:
    inventory = with_exporter(tmp_path, celery_exporter_port=6380)
    assert problems({**inventory, "celery_exporter_enabled": False}) == []
