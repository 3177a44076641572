"""The firewall's table: nft accepts it, and real packets show what it lets through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    desired_state,
    plan_rest,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import HostReport
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import firewall
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import Facts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts

from tests.support.networks import HOST, NEIGHBOUR, OWN, STRANGER, Network, network, tool
from tests.unit.preflight import oracle
from tests.unit.preflight.inventory import valid

REDIS = [6379, 6380]
WEB = 5000
OTHER = 5432
# Debian's default table.


def ruleset(**given: Any) -> str:
    options: dict[str, Any] = {
        "redis": REDIS,
        "web": [],
        "fleet": [*NEIGHBOUR],
        "more": [],
        **given,
    }
    return firewall.ruleset("flash-promos", **options)


def state(**given: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "hostvars": {
            "a": {},
            "b": {"ansible_host": "192.0.2.2"},
            "c": {"firewall_address": ["192.0.2.3", "2001:db8::3"]},
        },
        "enabled": True,
        "redis": [6379, "6380"],
        "web": "",
        "clients": [],
        "packages": [],
        **given,
    }
    facts = {
        "name": "shop",
        "directory": "/etc/celery-fleet/shop",
        "host": "a",
        "groups": {"fleet": ["a", "b", "c"]},
    }
    return firewall.state(cast(Facts, facts), **options)


@pytest.mark.parametrize(
    ("text", "local", "port", "upstream"),
    [
        ("", True, 0, "/run/shop-web.sock"),
        ("127.0.0.1:5000", True, 5000, "127.0.0.1:5000"),
        ("127.0.0.7:5000", True, 5000, "127.0.0.7:5000"),
        ("[::1]:5000", True, 5000, "[::1]:5000"),
        ("0.0.0.0:5000", False, 5000, "127.0.0.1:5000"),
        ("[::]:5000", False, 5000, "[::1]:5000"),
        ("192.0.2.7:80", False, 80, "192.0.2.7:80"),
        ("[2001:db8::7]:80", False, 80, "[2001:db8::7]:80"),
    ],
)
def test_addresses_of_a_web_process_are_parsed(
    text: str, local: bool, port: int, upstream: str
) -> None:
    assert firewall.is_local(text) is local
    assert firewall.web_port(text) == port
    assert firewall.upstream("shop", text) == upstream


@pytest.mark.parametrize(
    "text", ["5000", "localhost:5000", "::1:5000", "[127.0.0.1]:80", "0.0.0.0:0", "0.0.0.0:x"]
)
def test_an_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ADDRESS:PORT"):
        firewall.listen_address(text)


def test_a_host_lets_in_the_addresses_of_the_inventory() -> None:
    text = state(clients=["10.0.0.0/8"], web="0.0.0.0:5000")["files"][0]["content"]
    redis, web = text.split("chain redis")[1].split("chain web")
    assert "ip saddr { 10.0.0.0/8, 192.0.2.2, 192.0.2.3 } return" in redis
    assert "ip6 saddr { 2001:db8::3 } return" in redis
    assert "ip saddr { 192.0.2.2, 192.0.2.3 } return" in web
    assert "tcp dport { 6379, 6380 } jump redis" in text
    assert "tcp dport { 5000 } jump web" in text


@pytest.mark.parametrize(
    "given",
    [{"enabled": False}, {"redis": []}, {"redis": [], "web": "127.0.0.1:5000"}],
    ids=["off", "nothing", "loopback"],
)
def test_without_ports_to_close_the_firewall_is_removed(given: dict[str, Any]) -> None:
    wanted, full = state(**given), state()
    assert set(wanted) == {"owned"}
    assert {item["dest"] for item in full["files"]} < set(wanted["owned"]["files"])
    assert {item["name"] for item in full["units"]} < set(wanted["owned"]["units"])
    # The copy of the previous table goes as well, but not while a new one is tried.
    copy = "/etc/celery-fleet/shop/firewall.nft.before"
    assert copy in wanted["owned"]["files"]
    assert copy not in full["owned"]["files"]
    assert {"path": copy} in full["data"]


@pytest.mark.parametrize("pending", [True, False])
def test_a_table_that_was_not_confirmed_is_in_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pending: bool
) -> None:
    """Otherwise a run that repeats an interrupted one would find it in place and not try it; a rollback would win."""
    facts = {**oracle.FACTS, "firewall_unconfirmed": pending}
    monkeypatch.setitem(cast(Any, oracle.RUN), "ansible_facts", {"fleet": facts})
    wanted = oracle.wanted_by({**valid(tmp_path), "firewall_enabled": True}, "firewall")
    report = HostReport()
    commands = desired_state.parse({"commands": wanted.get("commands")})
    plan_rest.add_rest([("firewall", commands)], {}, Disk(), "/", report)
    assert [item.unit for item in report.pending] == ["shop-firewall.service"] * pending


@pytest.mark.parametrize("missing", [[], ["h2"]])
def test_a_host_of_redis_that_is_down_need_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    """Otherwise its silence would look like a table that cuts every host off."""
    found = {"missing": dict.fromkeys(missing, "is down")}
    monkeypatch.setitem(cast(Any, oracle.RUN), "__preflight_hosts", found)
    hosts = ["h1", "h2", "h3"]
    targets = oracle.value_of(valid(tmp_path), "__firewall_targets", hosts)
    asked = [host for host in hosts if host not in missing]
    ports = (6379, 6380, 26379)
    assert [tuple(one) for one in targets] == [(host, port) for host in asked for port in ports]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"web": [WEB]},
        {"redis": [], "web": [WEB]},
        {"fleet": []},
        {
            "fleet": ["192.0.2.1"],
            "more": ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.1", "fd00::/8", "fd00::1"],
        },
        {"redis": [6379, 6379]},
    ],
)
def test_nft_accepts_the_table(given: dict[str, Any]) -> None:
    done = subprocess.run(
        [*OWN, tool("nft"), "--check", "--file", "-"],
        input=ruleset(**given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nft_refuses_a_mistake() -> None:
    text = ruleset().replace("counter drop", "counter perhaps")
    done = subprocess.run(
        [*OWN, tool("nft"), "--check", "--file", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "perhaps" in done.stderr
    assert done.returncode != 0


# --- real packets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lan() -> Iterator[Network]:
    with network([*REDIS, WEB, OTHER]) as made:
        yield made


@pytest.fixture(autouse=True)
def emptied(request: pytest.FixtureRequest) -> None:
    if "lan" in request.fixturenames:
        made: Network = request.getfixturevalue("lan")
        made.load("flush ruleset\n")


@pytest.mark.slow
@pytest.mark.parametrize("version", [0, 1], ids=["ipv4", "ipv6"])
def test_the_fleet_gets_through_and_strangers_do_not(lan: Network, version: int) -> None:
    neighbour, stranger = NEIGHBOUR[version], STRANGER[version]
    assert all(lan.reaches(stranger, port) for port in (*REDIS, WEB, OTHER)), "without a table"
    lan.load(ruleset(web=[WEB]))
    assert all(lan.reaches(neighbour, port) for port in (*REDIS, WEB, OTHER))
    assert not any(lan.reaches(stranger, port) for port in (*REDIS, WEB))
    assert lan.reaches(stranger, OTHER), "a port that is not ours"
    # The host itself may use any of its addresses.
    assert all(lan.reaches("", port, HOST[version]) for port in (*REDIS, WEB))
    assert lan.reaches("", REDIS[0], ("127.0.0.1", "::1")[version])


@pytest.mark.slow
def test_further_clients_only_reach_redis(lan: Network) -> None:
    lan.load(ruleset(web=[WEB], more=["10.9.0.64/27"]))
    assert lan.reaches(STRANGER[0], REDIS[0])
    assert not lan.reaches(STRANGER[0], WEB)
    assert not lan.reaches(STRANGER[1], REDIS[0])


@pytest.mark.slow
def test_other_rules_are_left_alone_and_cannot_open_ports(lan: Network) -> None:
    theirs = (
        "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority {}; policy {};\n"
        "\t\t{}\n\t}}\n}}\n"
    )
    for priority in ("filter - 100", "filter + 100"):
        lan.load("flush ruleset\n" + theirs.format(priority, "accept", "tcp dport 6379 accept"))
        lan.load(ruleset())
        assert not lan.reaches(STRANGER[0], 6379)
        assert lan.reaches(NEIGHBOUR[0], 6379)
    # Packets that they drop stay dropped.
    lan.load("flush ruleset\n" + theirs.format("filter", "accept", f"tcp dport {OTHER} drop"))
    before = lan.on(lan.host, tool("nft"), "list", "table", "inet", "filter").stdout
    lan.load(ruleset())
    lan.load(ruleset(fleet=[]))
    assert lan.on(lan.host, tool("nft"), "list", "table", "inet", "filter").stdout == before
    assert not lan.reaches(NEIGHBOUR[0], OTHER)
    assert not lan.reaches(NEIGHBOUR[0], 6379), "the table was replaced, not added to"


@pytest.mark.slow
def test_two_applications_have_separate_tables(lan: Network) -> None:
    lan.load(ruleset())
    other = firewall.ruleset("shop", redis=[], web=[WEB], fleet=[STRANGER[0]], more=[])
    lan.load(other)
    assert lan.reaches(STRANGER[0], WEB)
    assert not lan.reaches(NEIGHBOUR[0], WEB)
    assert lan.reaches(NEIGHBOUR[0], REDIS[0])
    assert not lan.reaches(STRANGER[0], REDIS[0])


@pytest.mark.slow
def test_a_client_that_is_no_longer_allowed_is_cut_off_at_once(lan: Network) -> None:
    call = f"""
import socket, sys
with socket.create_connection(("{HOST[0]}", 6379), timeout=60, source_address=("{NEIGHBOUR[0]}", 0)) as one:
    for limit in (60, 2):
        one.settimeout(limit)
        one.sendall(b"x")
        try:
            print(one.recv(1).decode(), flush=True)
        except TimeoutError:
            print("cut off", flush=True)
        sys.stdin.readline()
"""
    lan.load(ruleset())
    enter = ["nsenter", f"--target={lan.others}", "--net"]
    enter += ["--user", "--preserve-credentials"] if os.geteuid() != 0 else []
    with subprocess.Popen(
        [*enter, sys.executable, "-c", call],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdin is not None
        assert caller.stdout.readline() == "x\n"
        lan.load(ruleset(fleet=[STRANGER[0]]))
        caller.stdin.write("\n")
        caller.stdin.flush()
        assert caller.stdout.readline() == "cut off\n"
        caller.stdin.write("\n")


# --- the rollback ------------------------------------------------------------------------------------


def ask(lan: Network, who: int, **asked: Any) -> dict[str, Any]:
    done = lan.on(
        who,
        *(sys.executable, "-S", "-I", "-c", host_scripts.script("firewall")),
        text=json.dumps(asked),
    )
    return dict(
        host_scripts.answer({"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr})
    )


@pytest.mark.slow
def test_a_connection_test_distinguishes_a_refusal_from_silence(lan: Network) -> None:
    # No process listens on the last one, because a refusal is an answer, too.
    targets = [[HOST[0], 6379], [HOST[0], 6380], [HOST[0], 7000]]
    asked = {"do": "connect", "targets": targets, "timeout": 1}
    assert ask(lan, lan.others, **asked) == {"silent": []}
    lan.load(ruleset(fleet=["192.0.2.1"]))
    assert ask(lan, lan.others, **asked)["silent"] == [
        {"host": HOST[0], "port": port, "source": NEIGHBOUR[0]} for port in REDIS
    ]


def test_the_refusal_names_host_source_and_remedy() -> None:
    one = {"host": "redis1", "port": 6379, "source": "10.0.0.5"}
    text = firewall.refusal({"worker2": [one], "worker3": []}, {"worker2": ["192.0.2.4"]})
    assert "worker2 gets no answer from redis1:6379. It comes from 10.0.0.5; " in text
    assert "firewall_address of worker2 is 192.0.2.4" in text
    assert "firewall_redis_clients" in text
    assert firewall.refusal({"worker2": []}, {}) == ""
