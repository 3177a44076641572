from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl, cli
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    settings as desired_settings,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.redis_address import (
    redis_address,
    replicated,
)

from celery_fleet.common.redis_client import Server, server_of
from tests.facts import facts

PASSWORD = "a/b@c:d;e"
SENTINELS = [{"host": "redis1", "port": 26379}, {"host": "fd00::2", "port": "26380"}]
VERIFIED = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt", "ssl_check_hostname": True}


def following(kind: str) -> Any:
    return {"host": "redis1", "port": 6379, "name": f"shop-{kind}", "sentinels": SENTINELS}


def settings(component: str, **given: Any) -> dict[str, Any]:
    known = {"broker": following("broker"), "results": following("results"), **given}
    made: dict[str, Any] = desired_settings.process_settings(facts(**known), component, PASSWORD)
    return made


@pytest.mark.parametrize("component", ["worker", "producer", "flower", "operator"])
@pytest.mark.parametrize("mutual", [False, True])
def test_broker_and_results_are_primaries_that_sentinels_know(component: str, mutual: bool) -> None:
    client = {"certificate": "/h.crt", "key": "/h.key"} if mutual else {}
    pins = settings(component, client=client)["celery"]
    shown = {"ssl_certfile": "/h.crt", "ssl_keyfile": "/h.key"} if mutual else {}
    assert pins["redis_username"] == component
    for kind, url, tls, options in (
        ("broker", "broker_url", "broker_use_ssl", "broker_transport_options"),
        ("results", "result_backend", "redis_backend_use_ssl", "result_backend_transport_options"),
    ):
        login = f"{component}:a%2Fb%40c%3Ad%3Be"
        assert pins[url].split(";") == [
            f"sentinel://{login}@redis1:26379/0",
            f"sentinel://{login}@[fd00::2]:26380/0",
        ]
        assert pins[tls] == {**VERIFIED, **shown}
        assert pins[options]["master_name"] == f"shop-{kind}"
        assert pins[options]["sentinel_kwargs"] == {
            "username": component,
            "password": PASSWORD,
            "ssl": True,
            **VERIFIED,
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            "retry": None,
        }
        # Programs with only the standard library read the same.
        assert server_of(pins[url], pins[tls], pins[options]) == Server(
            f"shop-{kind}",
            0,
            "/ca.crt",
            component,
            PASSWORD,
            certificate=shown.get("ssl_certfile"),
            key=shown.get("ssl_keyfile"),
            sentinels=(
                Server("redis1", 26379, "/ca.crt", component, PASSWORD),
                Server("fd00::2", 26380, "/ca.crt", component, PASSWORD),
            ),
        )


@pytest.mark.parametrize("replicas", [0, 1])
def test_senders_wait_for_replicas_of_the_broker(replicas: int) -> None:
    found = settings("producer", broker={**following("broker"), "wait_replicas": replicas})[
        "celery"
    ]
    expected = {"wait_replicas": 1} if replicas else {}
    options = found["broker_transport_options"]
    assert {name: options[name] for name in options if "replicas" in name} == expected
    alone = {"host": "redis1", "port": 6379, "wait_replicas": replicas}
    options = settings("producer", broker=alone)["celery"]["broker_transport_options"]
    assert "wait_replicas" not in options


def test_other_transport_options_stay() -> None:
    own = {"broker_transport_options": {"socket_timeout": 7}}
    pins = settings("worker", settings=own)["celery"]
    options = pins["broker_transport_options"]
    assert (options["socket_timeout"], options["master_name"]) == (7, "shop-broker")
    policy = settings("operator")["celery"]["result_backend_transport_options"]["retry_policy"]
    assert policy["max_retries"] == 1


def test_nothing_waits_longer_than_a_new_primary_takes() -> None:
    for component in ("worker", "beat", "producer"):
        pins = settings(component)["celery"]
        assert pins["broker_transport_options"]["socket_timeout"] == 5
        assert pins["redis_socket_timeout"] == 5
    assert settings("operator")["celery"]["broker_transport_options"]["socket_timeout"] == 3


def test_an_own_address_of_the_inventory_comes_first() -> None:
    address: Any = {**following("broker"), "url": "redis://u:p@elsewhere:1/2"}
    found = redis_address("worker", PASSWORD, address, facts())
    assert found == ("redis://u:p@elsewhere:1/2", False, {})


@pytest.mark.parametrize("url", ["sentinel://h", "sentinel://h;redis://h", "sentinel://u:p@"])
def test_a_list_of_sentinels_without_its_parts_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not a list of Sentinels"):
        server_of(url, None, {} if url == "sentinel://h" else {"master_name": "shop"})


def test_several_hosts_have_sentinels_on_the_inventorys_port() -> None:
    address: Any = {"host": "redis1", "port": 6379, "url": ""}
    hosts = ["redis1", "redis2", "redis3"]
    found = replicated("shop-broker", address, hosts, "26400")
    assert found["name"] == "shop-broker"
    assert found["sentinels"] == [{"host": host, "port": 26400} for host in hosts]
    assert replicated("shop-broker", address, hosts[:1], 26400) == address
    elsewhere = {**address, "url": "rediss://redis.example.org"}
    assert replicated("shop-broker", elsewhere, hosts, 26400) == elsewhere


def test_the_operators_command_knows_the_sentinels() -> None:
    made = cli.application(facts(broker=following("broker")), "/python")["redis"]["instances"]
    assert made["broker"]["name"] == "shop-broker"
    assert made["broker"]["sentinels"] == SENTINELS
    assert not {"name", "sentinels"} & set(made["results"])


def test_only_servers_with_replicas_have_users_for_them() -> None:
    passwords = {"worker": "one", "admin": "two"}
    both = {**passwords, "replica": "three", "sentinel": "four"}
    for kind in ("broker", "results"):
        plain, more = (acl.acl(kind, known, ["mail"]).splitlines() for known in (passwords, both))
        known_to_both = [one for one in more if one.split()[1] not in ("replica", "sentinel")]
        assert plain == [one.replace(" +wait", "") for one in known_to_both]
        assert len(more) == len(plain) + 2
    assert acl.acl("cache", both, []) == acl.acl("cache", passwords, [])


def test_everyone_may_ask_a_sentinel_and_only_ask() -> None:
    passwords = {"worker": "one", "partner": "two", "sentinel": "three", "admin": "four"}
    health = acl.sentinel_acl({"operator": "five"}).splitlines()[-1]
    assert health.endswith(" +sentinel|masters +sentinel|ckquorum")
    lines = acl.sentinel_acl(passwords, clients={"partner": {}}).splitlines()
    ask = "resetchannels -@all +ping +sentinel|get-master-addr-by-name +sentinel|masters"
    assert lines[:3] == [
        "user default off resetpass -@all",
        f"user worker on >one {ask}",
        f"user partner on >two {ask}",
    ]
    assert [line.split()[1] for line in lines[3:]] == ["sentinel", "admin"]
