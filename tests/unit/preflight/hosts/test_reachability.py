"""Hosts that can't be used are named, all at once."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.action import host_facts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.capacity import (
    demands,
    worker_bytes,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.hosts.reachability import (
    check_facts,
    missing,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from scripts.ports import free_port
from tests.unit.preflight.inventory import ROOT, model, valid

PROBE = ROOT / "plugins/plugin_utils/scripts/facts.py"
# An interpreter that all users may run, unlike that of a virtualenv.
INTERPRETER = "/usr/bin/python3"
GOOD: dict[str, Any] = {
    "reachable": True,
    "reason": "",
    "uid": 0,
    "distribution": "debian",
    "distribution_version": "12",
    "distribution_name": "Debian GNU/Linux 12 (bookworm)",
    "systemd_version": 252,
    "systemd_is_init": True,
    "python_version": "3.11.2",
    "clock_offset": 0.0,
}


UBUNTU = {
    "distribution": "ubuntu",
    "distribution_like": ["debian"],
    "distribution_version": "24.04",
    "distribution_name": "Ubuntu 24.04.3 LTS",
    "systemd_version": 255,
    "python_version": "3.12.3",
}


@pytest.mark.parametrize("pattern", ["ubuntu-24.04", "ubuntu-*"])
def test_a_distribution_that_the_inventory_allows_passes(pattern: str) -> None:
    asked = {"a": {"distributions": [pattern]}}
    assert check_facts({"a": {**GOOD, **UBUNTU}}, {}, None, asked) == []


def test_a_good_host_passes() -> None:
    assert check_facts({"a": GOOD}, {}) == []


@pytest.mark.parametrize(
    ("change", "variable", "message", "severity"),
    [
        ({"reachable": False, "reason": "no route"}, "host", "no route", Severity.ERROR),
        ({"uid": 1000}, "ansible_become", "root", Severity.ERROR),
        ({"distribution_version": "14"}, "distribution", "not tested", Severity.WARNING),
        ({"distribution_version": ""}, "distribution", "not tested", Severity.WARNING),
        (UBUNTU, "distribution", "not tested", Severity.WARNING),
        ({"distribution": "fedora"}, "distribution", "neither Debian", Severity.ERROR),
        (
            {"distribution": "rhel", "distribution_like": ["fedora"]},
            "distribution",
            "neither Debian",
            Severity.ERROR,
        ),
        ({"versions": {"nginx-common": "1.18.0-6"}}, "nginx-common", "older", Severity.ERROR),
        ({"versions": {"nftables": "0.9.8-3"}}, "nftables", "older", Severity.ERROR),
        ({"systemd_is_init": False}, "systemd", "process 1", Severity.ERROR),
        ({"systemd_version": 247}, "systemd", "older than 252", Severity.ERROR),
        ({"python_version": "3.9.2"}, "python", "older", Severity.ERROR),
        (
            {"interpreter": {"path": "3.12", "exists": False, "others": ["/opt/a", "/opt/b"]}},
            "celery_release_python",
            "does not exist on the host, which has /opt/a, /opt/b",
            Severity.ERROR,
        ),
        (
            {"interpreter": {"path": "/opt/python3", "exists": True, "version": "3.9.2"}},
            "celery_release_python",
            "is Python 3.9.2, older than 3.11",
            Severity.ERROR,
        ),
        (
            {
                "interpreter": {
                    "path": "/opt/python3",
                    "exists": True,
                    "version": "3.12.1",
                    "places": ["/opt/python3", "/home/admin/.pyenv/versions/3.12.1"],
                }
            },
            "celery_release_python",
            "leads below /home",
            Severity.ERROR,
        ),
        ({"unresolved_names": ["redis1"]}, "celery_app_broker_host", "resolve", Severity.ERROR),
        ({"active_units": ["redis-server.service"]}, "redis", "Debian's own", Severity.ERROR),
        (
            {"packages": ["nginx", "openssl"], "claims": {"nginx": ["shop_web"]}},
            "nginx",
            "is not Debian's",
            Severity.ERROR,
        ),
        ({"redis_flavor": "valkey"}, "redis_flavor", "in none of", Severity.ERROR),
        (
            {"redis_flavor": "valkey", "versions": {"valkey-server": ""}},
            "redis_flavor",
            "in none of",
            Severity.ERROR,
        ),
        (
            {
                "redis_flavor": "valkey",
                "distribution_version": "13",
                "versions": {"valkey-server": "", "redis-server": "5:7.0.15-1"},
            },
            "redis_flavor",
            "in none of",
            Severity.ERROR,
        ),
        (
            {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "valkey"}},
            "redis_flavor",
            "/data/shop-broker, which valkey wrote",
            Severity.ERROR,
        ),
        ({"clock_offset": -9.0}, "clock", "behind", Severity.WARNING),
        ({"clock_offset": 90.0}, "clock", "ahead", Severity.ERROR),
        ({"free_bytes": {"/var": 10**9}}, "disk", "954 MiB left below /var", Severity.WARNING),
        ({"free_bytes": {"/var": 10**8}}, "disk", "95 MiB left below /var", Severity.ERROR),
    ],
)
def test_an_unusable_host_is_refused(
    change: dict[str, Any], variable: str, message: str, severity: Severity
) -> None:
    (found,) = check_facts({"a": {**GOOD, **change}}, {})
    assert (found.variable, found.severity, found.hosts) == (variable, severity, ("a",))
    assert message in found.message


@pytest.mark.parametrize(
    "change",
    [
        {"distribution_version": "13"},
        {"interpreter": {}},
        {"interpreter": {"path": "/p", "exists": True, "version": "3.11.2", "places": ["/p"]}},
        # The build checks an interpreter that only the application may run.
        {"interpreter": {"path": "/p", "exists": True, "version": "", "places": ["/p"]}},
        {"redis_flavor": "valkey", "distribution_version": "13"},
        {"redis_flavor": "valkey", "packages": ["valkey-server"]},
        {"packages": ["nginx", "nginx-common"], "claims": {"nginx": ["shop_web"]}},
        {"packages": ["openssl"], "claims": {"nginx": ["shop_web"]}},
        # The fleet does not use this.
        {"packages": ["nginx"], "claims": {"nginx": []}},
        # Packages from other sources than Debian.
        {"redis_flavor": "valkey", "versions": {"valkey-server": "8.1.1-1~bpo12+1"}},
        {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "redis"}},
        # The owner is no server's user: the directory was made by hand, and systemd gives it to the server.
        {"redis_flavor": "redis", "redis_data": {"/data/shop-broker": "root"}},
    ],
)
def test_a_usable_host_is_accepted(change: dict[str, Any]) -> None:
    assert check_facts({"a": {**GOOD, **change}}, {}) == []


def test_the_same_problem_of_several_hosts_is_reported_once() -> None:
    gone = {"reachable": False, "reason": "timed out"}
    (found,) = check_facts({"a": gone, "b": GOOD, "c": gone}, {"a": "make demo", "c": "make demo"})
    assert found.hosts == ("a", "c")
    assert found.remedy.endswith("If the host is not there: make demo")


# What Ansible says of OpenSSH's refusal, by a jump host, whose own connection then ends.
CHANGED_KEY = """\
Failed to connect to the host via ssh: @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r
Add correct host key in /home/admin/.ssh/known_hosts to get rid of this message.\r
Offending ED25519 key in /home/admin/.ssh/known_hosts:7\r
Host key for [10.0.0.5]:2222 has changed and you have requested strict checking.\r
Host key verification failed.\r
kex_exchange_identification: Connection closed by remote host\r
Connection closed by UNKNOWN port 65535
"""
UNKNOWN_KEY = """\
Data could not be sent to remote host "{}". Make sure this host can be reached over ssh: Host key verification failed.\r
"""


def test_a_changed_host_key_has_a_remedy_of_its_own() -> None:
    gone = host_facts._unreachable(CHANGED_KEY)
    assert gone["reason"] == (
        "Offending ED25519 key in /home/admin/.ssh/known_hosts:7. Host key for [10.0.0.5]:2222 has changed and you "
        "have requested strict checking. Host key verification failed"
    )
    groups = {"celery_workers": ["a", "b"]}
    spared = missing({"a": gone, "b": GOOD}, groups)
    assert set(spared) == {"a"}
    # The hint says how to make hosts; this one is there.
    (left_out,) = check_facts({"a": gone, "b": GOOD}, {"a": "make demo"}, spared)
    (refused,) = check_facts({"a": gone}, {"a": "make demo"})
    for found in (left_out, refused):
        assert "find out why the key has changed" in found.remedy
        assert "`ssh-keygen -R '[10.0.0.5]:2222'`" in found.remedy
        assert "once it is back" not in found.remedy
        assert "make demo" not in found.remedy


GONE: dict[str, object] = {"reachable": False, "reason": "No route to host"}


@pytest.mark.parametrize(
    ("groups", "gone", "spared"),
    [
        ({"redis": ["a", "b", "c"]}, "c", "c"),
        ({"redis": ["a", "b", "c"]}, "bc", ""),
        ({"redis": ["a", "b", "c", "d", "e"]}, "de", "de"),
        # The first host has the lease of the run.
        ({"redis": ["a", "b", "c"]}, "a", ""),
        ({"redis": ["a"], "celery_workers": ["b", "c"]}, "a", ""),
        ({"celery_beat": ["a", "b"], "redis": ["c"]}, "b", "b"),
        ({"celery_beat": ["a", "b"], "redis": ["c"]}, "ab", ""),
        # A host with another task that no other host can take over.
        ({"redis": ["a", "b", "c"], "flower": ["c"]}, "c", ""),
        ({"redis": ["a", "b", "c"], "celery_workers": ["b", "c"]}, "c", "c"),
        ({"redis": ["a", "b", "c"], "celery_workers": ["c"]}, "c", ""),
        ({"redis": ["a"]}, "d", ""),
    ],
)
def test_a_run_leaves_out_hosts_that_others_replace(
    groups: dict[str, list[str]], gone: str, spared: str
) -> None:
    hosts = sorted({host for members in groups.values() for host in members} | set(gone))
    facts = {host: GONE if host in gone else GOOD for host in hosts}
    assert set(missing(facts, groups, "a")) == set(spared)


def test_the_name_of_a_host_that_is_left_out_need_not_be_in_the_dns() -> None:
    forgotten = {**GOOD, "unresolved_names": ["c"]}
    facts = {"a": forgotten, "b": forgotten, "c": GONE}
    spared = missing(facts, {"redis": ["a", "b", "c"]}, "a")
    assert [found.severity for found in check_facts(facts, {}, spared)] == [Severity.WARNING]
    assert any("can't resolve" in found.message for found in check_facts(facts, {}))


def test_a_run_of_one_missing_host_alone_is_refused() -> None:
    """Otherwise `--limit` would end as if it had done its work."""
    assert missing({"c": GONE}, {"redis": ["a", "b", "c"]}, "a") == {}
    assert missing({"c": GONE}, {"celery_workers": ["b", "c"]}, "a") == {}


def test_unknown_host_keys_have_one_remedy() -> None:
    gone = {host: host_facts._unreachable(UNKNOWN_KEY.format(host)) for host in ("a", "b")}
    (found,) = check_facts(gone, {})
    assert found.hosts == ("a", "b")
    assert found.message == "can't be used: Host key verification failed"
    assert "known_hosts" in found.remedy
    assert "ssh-keygen -R" not in found.remedy


def test_the_command_to_try_names_the_inventory_that_was_given() -> None:
    gone = {"a": {"reachable": False, "reason": "timed out"}}
    (found,) = check_facts(gone, {}, sources=["/srv/my inventory", "a,"])
    assert "`ansible -i '/srv/my inventory' -i a, <host> -m ansible.builtin.ping`" in found.remedy
    # Nothing was given, so that of ansible.cfg is meant, which this command reads, too.
    (found,) = check_facts(gone, {})
    assert "`ansible <host> -m ansible.builtin.ping`" in found.remedy


def test_if_the_hosts_clocks_agree_the_control_nodes_is_wrong() -> None:
    ahead = {**GOOD, "clock_offset": 30.0}
    (found,) = check_facts({"a": ahead, "b": {**GOOD, "clock_offset": 31.0}}, {})
    assert (found.variable, found.hosts) == ("clock", ("a", "b"))
    assert "of the control side is behind those of all hosts" in found.message
    # A single host, or another host with the right time, proves nothing about the control node.
    for facts in ({"a": ahead}, {"a": ahead, "b": GOOD}):
        (found,) = check_facts(facts, {})
        assert (found.value, found.hosts) == ("+30 s", ("a",))


MIB = 2**20
BIG = {**GOOD, "memory_bytes": 2048 * MIB, "processors": 4}


@pytest.mark.parametrize(
    ("options", "mib"),
    [
        ({}, None),
        ({"concurrency": 4}, None),
        ({"memory_max": "512M", "concurrency": 4}, 512),
        ({"memory_max": "1.5G"}, 1536),
        ({"memory_max": "25%"}, 512),
        ({"memory_max": "infinity"}, None),
        ({"memory_max": 1048576}, 1),
        ({"concurrency": 2, "max_memory_per_child": 102400}, 200),
        # As many processes as processors.
        ({"max_memory_per_child": 102400}, 400),
        ({"autoscale": {"min": 3, "max": 10, "wait": "30s"}, "max_memory_per_child": 102400}, 1000),
        # The lower of both limits applies.
        ({"concurrency": 2, "max_memory_per_child": 102400, "memory_max": "64M"}, 64),
        # Celery only checks the memory of processes.
        ({"concurrency": 2, "max_memory_per_child": 102400, "pool": "threads"}, None),
    ],
)
def test_the_memory_that_a_worker_may_use_is_computed(
    options: dict[str, Any], mib: int | None
) -> None:
    bound = worker_bytes(options, 4, 2048 * MIB)
    assert bound == (None if mib is None else mib * MIB)


def test_overcommitted_memory_is_a_warning() -> None:
    asked: dict[str, Any] = {
        "workers": {"a": {"concurrency": 8, "max_memory_per_child": 204800}, "b": {"memory_max": "512M"}},
        "redis": {"redis_broker_maxmemory": 256 * MIB},
    }  # fmt: skip
    (found,) = check_facts({"x": BIG}, {}, None, {"x": asked})
    assert (found.variable, found.severity) == ("memory", Severity.WARNING)
    assert "is 2.0 GiB, but its processes may use 2.3 GiB: worker a 1.6 GiB" in found.message
    asked["workers"]["a"]["concurrency"] = 6
    assert check_facts({"x": BIG}, {}, None, {"x": asked}) == []


def test_hosts_with_releases_need_room_for_them() -> None:
    facts = {**GOOD, "free_bytes": {"/opt": 10**8, "/var": 10**10}}
    assert check_facts({"x": facts}, {}, None, {"x": {"release": False}}) == []
    (found,) = check_facts({"x": facts}, {}, None, {"x": {"release": True}})
    assert (found.variable, found.value, found.severity) == ("disk", "/opt", Severity.ERROR)
    assert "celery_release_keep" in found.remedy


@pytest.mark.parametrize(
    ("flavor", "version", "right"),
    [
        ("redis", "5:7.0.15-1~deb12u3", True),
        ("redis", "5:8.0.2-3", True),
        ("redis", "5:6.0.16-1", False),
        ("redis", "", True),
        ("valkey", "8.1.1+dfsg1-3", True),
        ("valkey", "7.2.4-1", True),
        ("valkey", "1:7.1-1", False),
        ("valkey", "", True),
    ],
)
def test_the_version_of_the_server_must_be_supported(
    flavor: str, version: str, right: bool
) -> None:
    # The version of the other server does not matter.
    other = {"redis": "valkey", "valkey": "redis"}[flavor]
    versions = {f"{flavor}-server": version, f"{other}-server": "1.0" if version else ""}
    facts = {**GOOD, "distribution_version": "13", "redis_flavor": flavor, "versions": versions}
    found = check_facts({"x": facts}, {}, None, {"x": {"redis": {}}})
    assert [one.variable for one in found] == ([] if right else [f"{flavor}-server"])
    assert check_facts({"x": facts}, {}, None, {"x": {}}) == []


def test_the_demands_of_an_inventory_on_each_host(tmp_path: Path) -> None:
    variables = valid(tmp_path)
    variables["celery_worker_defaults"] = {"memory_max": "512M"}
    hosts = {
        "worker2": {"celery_worker_host_instances": ["discounts"], "redis_broker_maxmemory": "9gb"}
    }
    found: dict[str, Any] = demands(model(variables, hosts))
    pki = {
        "distributions": [],
        "certificate": [],
        "needs_client_key": False,
        "authorities": {"directory": "/inventory/pki", "bundle": ""},
    }
    assert found["redis1"] == {
        "release": False,
        **pki,
        "redis": {"redis_broker_maxmemory": 256 * MIB, "redis_results_maxmemory": 256 * MIB},
    }
    assert found["worker2"] == {
        "release": True,
        **pki,
        "workers": {"discounts": {"concurrency": 4, "memory_max": "512M"}},
    }
    assert set(found["worker1"]["workers"]) == {"discounts", "maintenance", "analytics"}


def test_a_directory_that_is_missing_is_refused_before_a_worker_needs_it(tmp_path: Path) -> None:
    variables = valid(tmp_path)
    paths = ["/srv/a", "-/srv/b", "+/srv/c", f"/var/lib/{variables['celery_app_name']}/x"]
    variables["celery_worker_defaults"] = {"read_write_paths": paths}
    asked: dict[str, Any] = demands(model(variables, {}))
    assert set(asked["worker1"]["paths"]) == {"/srv/a", "/srv/c"}
    assert "paths" not in asked["redis1"]
    found = check_facts({"worker1": {**GOOD, "missing": ["/srv/c"]}}, {}, None, asked)
    assert [(one.value, one.hosts) for one in found] == [("/srv/c", ("worker1",))]
    assert "-/srv/c" in found[0].remedy
    assert check_facts({"worker1": {**GOOD, "missing": []}}, {}, None, asked) == []
    # Files that the run itself makes need not exist.
    variables["celery_app_directories"] = {"/srv/a": {}}
    made: dict[str, Any] = demands(model(variables, {}))
    assert set(made["worker1"]["paths"]) == {"/srv/c"}


def test_a_certificate_that_is_missing_is_refused_before_nginx_refuses_it(tmp_path: Path) -> None:
    path = "/etc/letsencrypt/live/shop.org/privkey.pem"
    variables = {**valid(tmp_path), "celery_producer_web_certificate_key": path}
    asked: dict[str, Any] = demands(model(variables, {}))
    (found,) = check_facts({"control1": {**GOOD, "missing": [path]}}, {}, None, asked)
    assert (found.variable, found.value) == ("celery_producer_web_certificate_key", path)
    assert "certbot" in found.remedy
    assert "paths" not in asked["worker1"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"vm.overcommit_memory": "0", "net.core.somaxconn": "4096"}, []),
        ({"vm.overcommit_memory": "1", "net.core.somaxconn": "511"}, []),
        ({"vm.overcommit_memory": "2", "net.core.somaxconn": "4096"}, ["vm.overcommit_memory"]),
        ({"vm.overcommit_memory": "0", "net.core.somaxconn": "128"}, ["net.core.somaxconn"]),
        # The kernel does not say.
        ({"vm.overcommit_memory": "", "net.core.somaxconn": ""}, []),
    ],
)
def test_settings_of_the_kernel_that_harm_redis_are_named(
    settings: dict[str, str], names: list[str]
) -> None:
    facts = {"a": {**GOOD, "kernel": settings}, "b": {**GOOD, "kernel": settings}}
    # The other host has no Redis.
    found = check_facts(facts, {}, asked={"a": {"redis": {}}, "b": {}})
    assert [(one.variable, one.hosts) for one in found] == [(name, ("a",)) for name in names]
    for one in found:
        assert one.severity == Severity.WARNING
        assert f"write {one.variable} = " in one.remedy


@pytest.mark.parametrize("facts", [None, [], {}, "x", {"reachable": True}])
def test_missing_facts_are_a_problem(facts: Any) -> None:
    assert check_facts({"a": facts}, {})


@pytest.mark.slow
def test_the_probe_runs_on_this_machine(tmp_path: Path) -> None:
    for name, text in (("a", '{"format": 1, "app": "a"}'), ("b", "[]"), ("c", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fleet.json").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = probed(tmp_path, server.getsockname()[1])
    assert facts["memory_bytes"] > 0
    assert facts["kernel"]["vm.overcommit_memory"] in ("0", "1", "2")
    assert int(facts["kernel"]["net.core.somaxconn"]) > 0
    assert facts["free_bytes"]["/no/such/place"] > 0
    assert facts["unresolved_names"] == ["no-such-name.invalid"]
    assert facts["active_units"] == []
    assert facts["firewall_unconfirmed"] is False
    assert probed(tmp_path, 1, rollback="a/fleet.json")["firewall_unconfirmed"] is True
    assert facts["versions"]["dpkg"][0].isdigit()
    assert facts["versions"]["no-such-package"] == ""
    system = subprocess.run([INTERPRETER, "--version"], capture_output=True, text=True, check=True)
    assert facts["missing"] == [f"{tmp_path}/none"]
    assert facts["interpreter"] == {
        "path": INTERPRETER,
        "exists": True,
        "version": system.stdout.removeprefix("Python ").strip(),
        "places": [os.path.realpath(INTERPRETER), "/usr"],
    }
    assert facts["python_version"].startswith("3.")
    assert [mark.get("app") for mark in facts["marks"]] == ["a", None, None]
    assert [bool(mark.get("error")) for mark in facts["marks"]] == [False, True, True]
    assert facts["files"] == [f"{tmp_path}/a/fleet.json"]
    assert facts["certificate"].startswith('{"format"')
    assert facts["record"] == json.loads(facts["certificate"])
    assert facts["has_client_key"]
    missing = probed(tmp_path, 1, "no/such/file")
    assert (missing["certificate"], missing["has_client_key"]) == ("", False)
    assert missing["record"] is None
    assert facts["redis_data"] == {str(tmp_path): tmp_path.owner()}
    (listeners,) = facts["listeners"].values()
    with open("/proc/self/comm", encoding="utf-8") as stream:
        assert [who["command"] for who in listeners] == [stream.read().strip()]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("12:cpu:/x.service\n1:name=systemd:/docker/0/shop.slice/redis@shop-broker.service\n0::/\n",
         "redis@shop-broker.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.scope\n", "x.scope"),
        ("0::/\n", "no unit"),
        ("", "no unit"),
    ],
)  # fmt: skip
def test_the_unit_of_a_process_is_read_from_its_control_group(text: str, unit: str) -> None:
    assert runpy.run_path(str(PROBE))["unit_of"](text) == unit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "exists"), [("", None), ("/no/such/python3", False), ("/etc/hostname", True)]
)
def test_an_interpreter_that_can_not_be_run(tmp_path: Path, path: str, exists: bool | None) -> None:
    found = probed(tmp_path, 1, interpreter=path)["interpreter"]
    found.pop("others", None)
    assert found == (
        {"path": path, "exists": exists, "version": "", "places": [path]} if path else {}
    )


@pytest.mark.slow
def test_an_interpreter_is_found_by_its_version(tmp_path: Path) -> None:
    name = os.path.basename(os.path.realpath(INTERPRETER))
    found = probed(tmp_path, 1, interpreter=name.removeprefix("python"))["interpreter"]
    assert (found["path"], found["exists"]) == (f"/usr/bin/{name}", True)
    assert found["version"].startswith(f"{name.removeprefix('python')}.")
    missing = probed(tmp_path, 1, interpreter="3.99")["interpreter"]
    assert (missing["path"], missing["exists"]) == ("3.99", False)
    assert f"/usr/bin/{name}" in missing["others"]


@pytest.mark.slow
def test_a_link_to_an_interpreter_is_followed(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to("/home/admin/bin/python3")
    found = probed(tmp_path, 1, interpreter=str(tmp_path / "python3"))["interpreter"]
    assert found["places"] == ["/home/admin/bin/python3"]


def test_a_package_that_is_only_there_for_a_build_does_not_count_as_installed(
    tmp_path: Path,
) -> None:
    """Otherwise no run would install it, and it would be removed after the build."""
    packages = runpy.run_path(str(PROBE))["packages"]
    packages.__globals__["FOR_BUILDS"] = str(tmp_path / "build-packages")
    before = packages()
    assert {"dpkg", "base-files"} <= before.keys()
    (tmp_path / "build-packages").write_text("dpkg\nno-such-package\n")
    assert before.keys() - packages().keys() == {"dpkg"}


def test_sentinels_outside_of_the_inventory_are_found_if_they_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known = [("redis2", port), ("redis3", free_port()), ("redis4", port), ("redis4", port)]
        lines = [f"sentinel known-sentinel shop-broker {host} {at} abc" for host, at in known]
        lines += ["sentinel known-replica shop-broker redis5 6379", "sentinel current-epoch 3"]
        data, hosts = tmp_path / "sentinel.conf", tmp_path / "hosts"
        data.write_text("\n".join(lines))
        hosts.write_text("".join(f"127.0.0.1 {host}\n" for host, _ in known))
        others = runpy.run_path(str(PROBE))["others"]
        assert others(str(data), str(hosts), ["redis1", "redis2"]) == ["redis4"]
        assert others(str(data), str(hosts), ["redis1", "redis2", "redis4"]) == []
    assert others(str(tmp_path / "none"), str(hosts), []) == []


def test_changed_passwords_are_found_without_their_text(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    path.write_text("user default off\nuser admin on >one +acl\nuser replica on >two +psync\n")

    def digest(word: str) -> str:
        return hashlib.sha256(f"salt{word}".encode()).hexdigest()

    changed = runpy.run_path(str(PROBE))["changed_logins"]
    wanted = {"admin": digest("one"), "replica": digest("other"), "new": digest("three")}
    assert changed(str(path), "salt", wanted) == ["replica"]
    assert changed(str(tmp_path / "none"), "salt", wanted) == []


def test_a_changed_password_is_found_at_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "users.acl"
    queues = " ".join(f"~rückstände-{number} ~rückstände-{number}??[369]" for number in range(5000))
    path.write_text(f"user worker on >w +get {queues}\nuser admin on >old +acl\n", "utf-8")
    assert path.stat().st_size > 200_000
    changed = runpy.run_path(str(PROBE))["changed_logins"]
    wanted = {"admin": hashlib.sha256(b"saltnew").hexdigest()}
    assert changed(str(path), "salt", wanted) == ["admin"]


def probed(
    tmp_path: Path,
    port: int,
    certificate: str = "a/fleet.json",
    interpreter: str = INTERPRETER,
    app: str = "a",
    targets: Sequence[tuple[str, int]] = (),
    rollback: str = "none",
) -> dict[str, Any]:
    """Return the probe's answer about this machine."""
    answer = subprocess.run(
        [sys.executable, "-S", "-I", "-c", PROBE.read_text(encoding="utf-8")],
        input=json.dumps(
            {
                "paths": ["/opt", "/no/such/place"],
                "names": ["localhost", "no-such-name.invalid"],
                "units": ["no-such.service"],
                "rollback": f"{tmp_path}/{rollback}",
                "versions": ["dpkg", "no-such-package"],
                "marks": f"{tmp_path}/*/fleet.json",
                "ports": [port, 1],
                "interpreter": interpreter,
                "directories": [str(tmp_path), f"{tmp_path}/none"],
                "record": f"{tmp_path}/{certificate}",
                "certificate": f"{tmp_path}/{certificate}",
                "client_key": f"{tmp_path}/{certificate}",
                "files": [f"{tmp_path}/a/fleet.json", f"{tmp_path}/none"],
                "data": [str(tmp_path), f"{tmp_path}/none"],
                "app": app,
                "targets": targets,
                "logins": {"path": f"{tmp_path}/none", "salt": "", "wanted": {}},
                "sentinel": {
                    "data": f"{tmp_path}/none",
                    "hosts": f"{tmp_path}/none",
                    "members": [],
                },
            }
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.startswith('{"clock"')
    facts: dict[str, Any] = json.loads(answer.stdout)
    return facts


@pytest.fixture
def dropping() -> Iterator[int]:
    """Return a port that answers no new connection, as behind a firewall: the queue of its listener is full."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.slow
def test_a_new_host_tells_which_port_of_redis_does_not_answer(
    tmp_path: Path, dropping: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/fleet.json").write_text('{"format": 1, "app": "a"}')
    # If nothing listens, a refusal says that the way is open.
    targets = [("127.0.0.1", dropping), ("127.0.0.1", 1), ("no-such-name.invalid", 1)]
    found = probed(tmp_path, 1, app="b", targets=targets)["silent"]
    assert found == {f"127.0.0.1:{dropping}": "timed out"}
    # Processes of a deployed application know it better, and each try is a line in Redis's log.
    assert probed(tmp_path, 1, app="a", targets=targets)["silent"] == {}


def test_a_port_of_redis_that_a_firewall_closes_to_a_new_host_is_a_warning() -> None:
    new = {**GOOD, "claims": {"app": "shop"}, "silent": {"redis1:6379": "timed out"}}
    hosts = {"redis1": {**GOOD, "claims": {"app": "shop"}}, "worker1": new, "worker2": new}
    (found,) = check_facts(hosts, {})
    assert (found.severity, found.hosts) == (Severity.WARNING, ("worker1", "worker2"))
    assert (found.variable, found.value) == ("redis", "redis1:6379")
    assert "timed out" in found.message
    assert "docs/network.md" in found.remedy
    # The fleet's own table lets a new host in during this run, and that is checked then.
    mark = {"app": "shop", "units": ["redis@shop-broker.service", "shop-firewall.service"]}
    assert check_facts({**hosts, "redis1": {**hosts["redis1"], "marks": [mark]}}, {}) == []


POLICY = """nginx-common:
  Installed: (none)
  Candidate: 1.24.0-2ubuntu7
  Version table:
     1.24.0-2ubuntu7 500
valkey-server:
  Installed: (none)
  Candidate: (none)
  Version table:
nftables:
  Installed: (none)
  Candidate: 1.0.9-1build1
"""


def test_the_probe_reports_versions_that_apt_would_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-cache").write_text(f"#!/bin/sh\ncat <<'E'\n{POLICY}E\n")
    (tmp_path / "apt-cache").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    probe = runpy.run_path(str(PROBE))
    asked = ["nginx-common", "valkey-server", "nftables"]
    assert probe["candidates"](asked) == {
        "nginx-common": "1.24.0-2ubuntu7",
        "nftables": "1.0.9-1build1",
    }
