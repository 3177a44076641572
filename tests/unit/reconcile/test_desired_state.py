"""The format of the desired state that a role gives to `reconcile`."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    Check,
    DesiredState,
    DesiredStateError,
    Directory,
    File,
    Link,
    Owned,
    PlannedCommand,
    RedisAccess,
    Release,
    Unit,
    parse,
    parse_parts,
)

REDIS = {"host": "redis1", "port": 1, "ca": "/ca", "user": "admin", "password": "hush"}


def test_a_complete_desired_state_is_parsed() -> None:
    assert parse(
        {
            "sysusers": [{"dest": "/s", "content": "u x\n"}],
            "directories": [{"path": "/d", "mode": "0750"}],
            "files": [
                {"dest": "/f", "content": 5, "mode": "0600", "group": "g", "secret": True},
                {"dest": "/to-come", "content": None},
            ],
            "links": [{"path": "/l", "target": "t"}],
            "checks": [
                {"command": ["nginx", "-t"], "files": ["/f"]},
                {"redis": "/redis.conf", "files": ["/redis.conf"]},
            ],
            "units": [
                {"name": "a.service", "files": ["/f"], "timeout": "5", "values": [1]},
                {"name": "redis@a.service", "on_change": "live", "redis": {**REDIS, "port": "1"}},
            ],
            "releases": [
                {"path": "/r/1", "what": "release", "demands": {"policy": "add"}},
                {"path": "/r/2", "what": "Flower"},
            ],
            "commands": [{"subject": "shop", "text": "migrate (once per release)"}],
            "packages": ["nginx"],
            "owned": {"units": ["a@*"], "files": ["/f*"]},
        }
    ) == DesiredState(
        sysusers=(File("/s", "u x\n"),),
        directories=(Directory("/d", mode=0o750),),
        files=(File("/f", "5", group="g", mode=0o600, secret=True), File("/to-come", None)),
        links=(Link("/l", "t"),),
        checks=(
            Check(("/f",), command=("nginx", "-t")),
            Check(("/redis.conf",), redis="/redis.conf", flavor="redis"),
        ),
        units=(
            Unit("a.service", files=("/f",), timeout=5.0, values=[1]),
            Unit(
                "redis@a.service",
                on_change="live",
                redis=RedisAccess("redis1", 1, "/ca", "admin", "hush"),
            ),
        ),
        releases=(Release("/r/1", "release", {"policy": "add"}), Release("/r/2", "Flower")),
        commands=(PlannedCommand("shop", "migrate (once per release)"),),
        packages=("nginx",),
        owned=Owned(("a@*",), ("/f*",)),
    )


def test_several_parts_are_parsed() -> None:
    assert parse_parts([["a", {}], ("b", {"packages": ["x"]})]) == [
        ("a", DesiredState()),
        ("b", DesiredState(packages=("x",))),
    ]
    for raw in ({"a": {}}, ["a"], [["a"]]):
        with pytest.raises(DesiredStateError, match="parts: "):
            parse_parts(raw)


def test_passwords_are_not_printed() -> None:
    assert "hush" not in repr(parse({"units": [live()]}))


def live(**redis: Any) -> dict[str, Any]:
    return {"name": "r", "on_change": "live", "redis": {**REDIS, **redis}}


def test_an_empty_desired_state_is_parsed() -> None:
    assert parse({}) == parse({"files": None, "owned": None}) == DesiredState()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"file": []}, "reconcile: unknown key file; known are checks, "),
        ({"files": {"dest": "/f"}}, "files: must be a list, not dict"),
        ({"files": ["/f"]}, "files: each item must be a dictionary, not str"),
        ({"files": [{"dest": "/f", "content": "", "mod": 1}]}, r"files\[0\]: unknown key mod"),
        # YAML reads 0644 without quotes as the number 420.
        (
            {"files": [{"dest": "/f", "content": "", "mode": 420}]},
            "octal string such as '0644', not 420",
        ),
        ({"directories": [{"path": "/d", "mode": "u=rw"}]}, r"directories\[0\].mode: must be"),
        ({"units": [{"name": "a", "files": "/f"}]}, r"units\[0\].files: must be a list of strings"),
        (
            {"units": [{"name": "a", "on_change": "kill"}]},
            "one of restart, reload, live, nothing, not 'kill'",
        ),
        ({"units": [{"name": "a", "on_change": "live"}]}, "on_change live needs redis"),
        ({"units": [{**live(), "on_change": "reload"}]}, "on_change live needs redis"),
        ({"units": [live(port="x")]}, r"units\[0\].redis.port: must be a number"),
        ({"units": [live(db=1)]}, r"units\[0\].redis: unknown key db"),
        ({"units": [{**live(), "redis": {"host": "a"}}]}, "redis: port, ca, user, password is"),
        (
            {"checks": [{"command": "nginx -t", "files": []}]},
            r"checks\[0\].command: must be a list",
        ),
        ({"checks": [{"files": []}]}, r"checks\[0\]: must have either command or redis"),
        ({"files": [{"content": ""}]}, r"files\[0\]: dest is missing"),
        ({"units": [{}]}, r"units\[0\]: name is missing"),
        (
            {"releases": [{"path": "/r", "what": "r", "demands": "a.x"}]},
            r"releases\[0\].demands: must",
        ),
        ({"commands": [{"subject": "shop"}]}, r"commands\[0\]: text is missing"),
        ({"units": [{"name": "a", "started": False}]}, r"units\[0\]: unknown key started"),
        ({"links": [{"path": "/l"}]}, r"links\[0\]: target is missing"),
        ({"owned": {"unit": []}}, "owned: unknown key unit"),
    ],
)
def test_a_mistake_is_refused_with_its_place(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(DesiredStateError, match=words):
        parse(raw)
