"""Several Redis hosts: what preflight accepts and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.replication import (
    check_first_primary,
    check_leaving,
    check_logins,
    check_ports,
)

from tests.unit.preflight.inventory import GROUPS, problems, secret, valid

if TYPE_CHECKING:
    from pathlib import Path

THREE = {**GROUPS, "redis": ["redis1", "worker1", "worker2"]}


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    """Return a valid inventory with the users of replicas and Sentinels."""
    found = valid(tmp_path / "source")
    passwords = {**found["redis_passwords"], "replica": secret(61), "sentinel": secret(62)}
    return {**found, "redis_passwords": passwords}


def test_three_hosts_are_accepted(variables: dict[str, Any]) -> None:
    assert problems(variables, groups=THREE) == []


def test_an_even_number_of_hosts_is_refused(variables: dict[str, Any]) -> None:
    [found] = problems(variables, groups={**GROUPS, "redis": GROUPS["fleet"]})
    assert "only replaced by a majority" in found.message
    assert found.remedy == "put 5 hosts into it, or 3"


@pytest.mark.parametrize("user", ["replica", "sentinel"])
def test_a_user_without_a_password_is_refused(variables: dict[str, Any], user: str) -> None:
    passwords = {name: text for name, text in variables["redis_passwords"].items() if name != user}
    [found] = problems({**variables, "redis_passwords": passwords}, groups=THREE)
    assert (found.variable, found.hosts) == (f"redis_passwords.{user}", tuple(THREE["redis"]))
    assert "several hosts" in found.message


@pytest.mark.parametrize(
    ("name", "value", "message", "remedy"),
    [
        ("redis_sentinel_quorum", 4, "3 hosts have 3 Sentinels", "from 1 to 3"),
        ("redis_sentinel_quorum", 0, "3 hosts have 3 Sentinels", "from 1 to 3"),
        ("redis_min_replicas_to_write", 3, "3 hosts have 2 replicas", "from 0 to 2"),
        ("redis_min_replicas_to_write", -1, "3 hosts have 2 replicas", "from 0 to 2"),
        ("redis_sentinel_down_after", 0.2, "would replace the primary", "at least 1"),
        (
            "celery_app_broker_host",
            "redis.example.com",
            "is not the first host of redis",
            "redis1 begins",
        ),
        ("celery_app_results_host", "control1", "is not the first host of redis", "redis1 begins"),
    ],
)
def test_what_can_not_work_is_refused(
    variables: dict[str, Any], name: str, value: object, message: str, remedy: str
) -> None:
    [found] = [
        one for one in problems({**variables, name: value}, groups=THREE) if one.variable == name
    ]
    assert message in found.message
    assert remedy in found.remedy


def test_one_host_needs_none_of_it(tmp_path: Path) -> None:
    assert problems(valid(tmp_path / "source")) == []


@pytest.mark.parametrize(
    ("having", "is_refused"),
    [
        ([], False),
        (["redis1"], False),
        (["redis1", "redis2"], False),
        (["redis2"], True),
        (["redis2", "redis3"], True),
    ],
)
def test_an_empty_first_host_never_replaces_the_data_of_another(
    having: list[str], is_refused: bool
) -> None:
    redis = ["redis1", "redis2", "redis3"]
    facts = {
        host: {"reachable": True, "redis_data": {"/data": "redis"} if host in having else {}}
        for host in redis
    }
    found = list(check_first_primary(facts, redis))
    assert bool(found) is is_refused
    if found:
        assert found[0].remedy == "write redis2 before redis1 in the group"
    assert list(check_first_primary(facts, ["redis1"])) == []


@pytest.mark.parametrize(
    ("redis", "answering", "refused"),
    [
        (["redis1", "redis2", "redis3"], [], ()),
        (["redis1", "redis2", "redis3", "redis4", "redis5"], [], ()),
        (["redis1", "redis2", "redis4"], [], ("redis3",)),
        (["redis1"], [], ("redis2", "redis3")),
        # redis6 is not in the inventory any more.
        (["redis1", "redis2", "redis3"], ["redis6"], ("redis6",)),
    ],
)
def test_a_host_whose_sentinel_runs_does_not_just_leave(
    redis: list[str], answering: list[str], refused: tuple[str, ...]
) -> None:
    mark = {"app": "shop", "ports": {"broker": 6379, "sentinel": 26379}}
    other = {"app": "other", "ports": {"sentinel": 26380}}
    facts = {
        host: {
            "claims": {"app": "shop"},
            "marks": [other, mark] if host < "redis4" else [other],
            "sentinels": answering,
        }
        for host in ("redis1", "redis2", "redis3", "redis4", "redis5")
    }
    found = list(check_leaving(facts, redis))
    assert bool(found) is bool(refused)
    if found:
        assert found[0].message.startswith(f"lacks {', '.join(refused)}, ")
        assert f"remove_fleet --limit {','.join(refused)}" in found[0].remedy


def test_a_host_may_stay_alone_with_its_own_sentinel() -> None:
    mark = {"app": "shop", "ports": {"broker": 6379, "sentinel": 26379}}
    facts = {"redis1": {"claims": {"app": "shop"}, "marks": [mark], "sentinels": []}}
    assert list(check_leaving(facts, ["redis1"])) == []


@pytest.mark.parametrize(
    ("changed", "redis", "is_refused"),
    [
        (["admin"], 3, False),
        (["replica", "sentinel", "worker"], 3, False),
        (["admin", "replica"], 3, True),
        (["admin", "sentinel"], 3, True),
        (["admin", "replica"], 1, False),
    ],
)
def test_the_password_of_a_run_changes_apart_from_those_of_servers(
    changed: list[str], redis: int, is_refused: bool
) -> None:
    hosts = [f"redis{number}" for number in range(redis)]
    facts = {host: {"changed_logins": changed} for host in hosts}
    assert bool(list(check_logins(facts, hosts))) is is_refused


@pytest.mark.parametrize(
    ("redis", "port", "is_refused"),
    [(3, 6379, False), (3, 6390, True), (1, 6390, False)],
)
def test_servers_with_replicas_keep_their_ports(redis: int, port: int, is_refused: bool) -> None:
    hosts = [f"redis{number}" for number in range(redis)]
    ports = {"broker": 6379, "results": 6380, "sentinel": 26379}
    mark = {"app": "shop", "ports": ports}
    claims = {"app": "shop", "ports": {**ports, "broker": port}}
    facts = {host: {"claims": claims, "marks": [mark]} for host in hosts}
    found = list(check_ports(facts, hosts))
    assert [one.variable for one in found] == ["celery_app_broker_port"] * is_refused
    # A host of Redis without replicas may get another port in the run that gives it some.
    alone = {"app": "shop", "ports": {"broker": 6379, "results": 6380}}
    grows = {host: {"claims": claims, "marks": [alone]} for host in hosts}
    assert list(check_ports(grows, hosts)) == []
