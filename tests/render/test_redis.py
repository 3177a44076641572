"""Redis's configuration and users for the delivered fleets."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from tests.outage import wait_for
from tests.programs import DURABLE
from tests.render.conftest import ONE_REDIS, RENDERS
from tests.render.fleet import Fleet, Host
from tests.render.units import parse, render, whole
from tests.support.redis_server import redis_server

DIRECTORY = "/etc/celery-fleet/redis"


def configuration(text: str) -> dict[str, str]:
    """Return the directives of a redis.conf; each must occur once."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition(" ")
            assert key not in found, key
            found[key] = value.strip('"')
    return found


@pytest.fixture(scope="session", params=ONE_REDIS)
def fleet(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Fleet:
    """Return each fleet with one host of Redis."""
    return pytestconfig.stash[RENDERS][str(request.param)].result()


@pytest.fixture(params=["broker", "results"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(fleet: Fleet) -> Host:
    (found,) = [
        host for host in fleet.hosts.values() if any("redis@" in unit for unit in host.units)
    ]
    return found


@pytest.fixture
def name(host: Host, kind: str) -> str:
    return f"{host.variables['celery_app_name']}-{kind}"


@pytest.fixture
def conf(host: Host, name: str) -> dict[str, str]:
    return configuration(host.text(f"{DIRECTORY}/{name}/redis.conf"))


def test_there_is_no_plaintext(conf: dict[str, str], host: Host, kind: str) -> None:
    assert conf["port"] == "0"
    assert int(conf["tls-port"]) == host.variables[f"celery_app_{kind}_port"]
    assert set(conf["tls-protocols"].split()) == {"TLSv1.2", "TLSv1.3"}
    assert "unixsocket" not in conf
    assert "requirepass" not in conf


def test_its_certificate_and_key_are_installed(conf: dict[str, str], host: Host, name: str) -> None:
    assert conf["tls-cert-file"] in host.files
    assert conf["tls-ca-cert-file"] in host.files
    unit = f"redis@{name}.service"
    (credential,) = parse(whole(host, unit))["Service"]["LoadCredential"]
    given, _, path = credential.partition(":")
    assert conf["tls-key-file"] == f"/run/credentials/{unit}/{given}"
    assert host.files[path]["mode"] == "0600"


def test_each_instance_has_its_own_file_of_users(
    conf: dict[str, str], host: Host, name: str
) -> None:
    assert conf["aclfile"] == f"{DIRECTORY}/{name}/users.acl"
    item = host.files[conf["aclfile"]]
    assert (item["group"], item["mode"], item["secret"]) == ("redis", "0640", True)


def test_no_task_is_ever_evicted(conf: dict[str, str], host: Host, kind: str) -> None:
    assert conf["maxmemory-policy"] == "noeviction"
    assert conf["maxmemory-clients"] == "0"
    assert conf["maxmemory"] == host.variables[f"redis_{kind}_maxmemory"]


def test_the_broker_survives_a_restart(conf: dict[str, str], kind: str) -> None:
    assert conf["appendonly"] == ("yes" if kind == "broker" else "no")
    assert (conf["save"] == "") == (kind == "broker"), "it must save its data in exactly one way"


def test_a_crash_of_the_host_loses_no_more_than_the_last_second(conf: dict[str, str]) -> None:
    """As delivery.md, redis.md and architecture.md promise it."""
    assert conf["appendfsync"] == "everysec"
    assert ("--appendfsync", conf["appendfsync"]) == DURABLE[
        2:4
    ]  # the options that tests of the delivery use
    # This also holds while the file is rewritten.
    assert conf.get("no-appendfsync-on-rewrite", "no") == "no"


def test_its_data_is_in_its_own_directory(conf: dict[str, str], host: Host, name: str) -> None:
    service = parse(whole(host, f"redis@{name}.service"))["Service"]
    assert conf["dir"] == f"/var/lib/{service['StateDirectory'][-1]}"
    assert service["StateDirectoryMode"] == ["0700"]
    assert (conf["daemonize"], conf["supervised"]) == ("no", "systemd")


def test_the_oom_kill_of_a_child_that_saves_does_not_stop_it(host: Host, name: str) -> None:
    service = parse(whole(host, f"redis@{name}.service"))["Service"]
    assert service["OOMPolicy"] == ["continue"]


def test_the_two_instances_share_nothing(host: Host) -> None:
    app = host.variables["celery_app_name"]
    one, two = (
        configuration(host.text(f"{DIRECTORY}/{app}-{k}/redis.conf")) for k in ("broker", "results")
    )
    for key in ("tls-port", "dir", "aclfile", "tls-key-file"):
        assert one[key] != two[key]


def test_one_user_for_each_component(host: Host, fleet: Fleet, name: str, kind: str) -> None:
    users = {
        line.split()[1]: line.split()
        for line in host.text(f"{DIRECTORY}/{name}/users.acl").splitlines()
    }
    expected = {"default", "worker", "producer", "flower", "operator", "admin"}
    expected |= {"exporter", "redis_exporter", "backup"} & set(host.variables["redis_passwords"])
    # Neither beat nor this client of one fleet has results.
    more = {"beat", *host.variables["celery_app_clients"]} if kind == "broker" else set()
    assert set(users) == expected | more
    assert users["default"][2] == "off"
    for user, words in users.items():
        if user != "default":
            (password,) = [word[1:] for word in words if word.startswith(">")]
            assert password in (
                fleet.secrets.get(f"redis_{user}"),
                fleet.secrets.get(f"redis_passwords {user}"),
                fleet.secrets.get(f"celery_app_client_passwords {user}"),
            )


def test_every_queue_can_be_used(host: Host, fleet: Fleet) -> None:
    app = host.variables["celery_app_name"]
    lines = host.text(f"{DIRECTORY}/{app}-broker/users.acl").splitlines()
    users = {line.split()[1]: line.split() for line in lines}
    for other in fleet.hosts.values():
        for name in other.variables.get("celery_worker_host_instances", []):
            assert f"~{name}" in users["worker"]
            assert f"%W~{name}" in users["producer"]
            assert f"%W~{name}" in users["beat"]


def test_debians_own_instance_goes_on_if_it_was_there_before(host: Host) -> None:
    """The package is installed on these hosts. If a run installs it, its instance is masked: see test_debian13.py."""
    assert "redis-server" not in host.parts["redis"].get("packages", [])
    assert "/etc/systemd/system/redis-server.service" not in host.links


def test_a_cache_evicts_and_writes_nothing(odd: Fleet) -> None:
    (host,) = odd.hosts.values()
    found = configuration(host.text(f"{DIRECTORY}/other-shop-cache/redis.conf"))
    assert (found["maxmemory"], found["maxmemory-policy"]) == ("128mb", "allkeys-lru")
    assert (found["appendonly"], found["save"], found["tls-port"]) == ("no", "", "6381")
    assert found["tls-auth-clients"] == "no"
    assert "redis@other-shop-cache.service" in host.units


def test_the_application_gets_the_url_of_its_cache(odd: Fleet, local: Fleet) -> None:
    (host,) = odd.hosts.values()
    (line,) = (
        line
        for line in host.text("/etc/celery-fleet/other-shop/credentials/secret.env").splitlines()
        if line.startswith("CELERY_FLEET_CACHE_URL=")
    )
    pool = redis.ConnectionPool.from_url(line.partition("=")[2].strip('"'))
    assert pool.connection_class is redis.SSLConnection
    # The other options are redis-py's.
    assert (
        pool.connection_kwargs.items()
        >= {
            "username": "cache",
            "password": "not-a-real-one-of/the:cache",
            "host": "staging1.example.com",
            "port": 6381,
            "db": 0,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": "/etc/celery-fleet/other-shop/pki/ca.crt",
        }.items()
    )
    for other in local.hosts.values():
        assert not [path for path in other.files if "cache" in path]


@pytest.mark.parametrize("flavor", ["redis", "valkey"])
@pytest.mark.parametrize("directory", [DIRECTORY, "/etc/celery-fleet/promos-redis"])
def test_applications_of_a_host_may_have_different_directories(flavor: str, directory: str) -> None:
    """Each run writes the template, so its text is the same for all of them."""
    template = render("systemd/redis@.service.j2", {})
    own = {
        "__celery_app_slice": "promos.slice",
        "redis_config_directory": directory,
        "redis_flavor": flavor,
        "redis_replicated": False,
        "redis_tls_directory": "/etc/celery-fleet/promos/pki",
    }
    service = parse(template + render("systemd/redis.conf.j2", own))["Service"]
    assert service["ExecStart"] == [f"/usr/bin/{flavor}-server {directory}/%i/redis.conf"]


def test_what_a_killed_server_was_writing_is_removed(tmp_path: Path) -> None:
    """With a large store, each such file may have tens of gigabytes, and Redis removes none."""
    service = parse(render("systemd/redis@.service.j2", {}))["Service"]
    data = tmp_path / "shop-results"
    (data / "appendonlydir").mkdir(parents=True)
    for path in (data / "role.conf", data / "temp-rewriteaof-bg-7.aof", tmp_path / "temp-other"):
        path.touch()
    with redis_server(data, "--save", "900 1", "--rdb-key-save-delay", "20000000") as server:
        server.client.save()
        server.client.set("result", "x")
        server.signal(signal.SIGTERM)
        wait_for(lambda: list(data.glob("temp-*.rdb")), "it writes its data")
        server.kill()
        server.start()
    assert len(list(data.glob("temp-*"))) == 2
    for line in service["ExecStartPre"]:
        if "temp-" in line:
            line = line.removeprefix("-").replace("/var/lib/celery-fleet-redis/%i", str(data))
            subprocess.run(shlex.split(line), check=True)
    assert {path.name for path in data.iterdir()} == {"appendonlydir", "dump.rdb", "role.conf"}
    assert (tmp_path / "temp-other").exists()


def test_a_large_store_has_time_to_write_its_data_as_it_stops() -> None:
    """Killed before, it would start with what it last saved in the background."""
    service = parse(render("systemd/redis@.service.j2", {}))["Service"]
    gigabytes, speed = 50, 0.1
    assert int(service["TimeoutStopSec"][-1].removesuffix("s")) >= gigabytes / speed


@pytest.mark.parametrize(
    ("maxmemory", "for_a_copy", "for_a_return"),
    [
        ("50gb", 12800 << 20, 2560 << 20),
        ("256MB", 256 << 20, (256 << 20) // 20),
        (8_000_000, 256 << 20, 1 << 20),
    ],
)
def test_a_primary_keeps_more_for_its_replicas_if_it_has_more_data(
    tmp_path: Path, maxmemory: object, for_a_copy: int, for_a_return: int
) -> None:
    """With Redis's defaults, a copy that took minutes failed at 64 MB of writes, and began again."""
    own = {"kind": "results", "maxmemory": maxmemory}
    variables = {
        "redis_instance": {**dict.fromkeys(("port", "name", "appendonly"), ""), **own},
        "redis_replication": dict.fromkeys(("host", "min_replicas", "priority"), ""),
        **dict.fromkeys(("redis_bind", "redis_tls_directory", "redis_config_directory"), ""),
        "__redis_auth_clients": "",
    }
    found = configuration(render("redis/redis.conf.j2", variables))
    with redis_server(tmp_path) as server:
        for name in ("client-output-buffer-limit", "repl-backlog-size"):
            server.client.config_set(name, found[name])
        limits = server.client.config_get()
    # Redis calls replicas slaves there.
    assert f"slave {for_a_copy} 0 0" in limits["client-output-buffer-limit"]
    assert int(limits["repl-backlog-size"]) == for_a_return


@pytest.mark.parametrize(
    ("role", "waits", "starts_with"),
    [
        (None, "", "replicaof redis1 6379\n"),
        ("replicaof redis3 6379\n", "", "replicaof redis3 6379\n"),
        ("appendonly yes\n", "13.0", ""),
    ],
    ids=["first start", "replica", "primary"],
)
def test_a_primary_that_was_down_waits_until_it_is_replaced(
    replicated: Fleet, tmp_path: Path, role: str | None, waits: str, starts_with: str
) -> None:
    """Otherwise it may come back while the Sentinels promote another one, and lose what it accepts meanwhile."""
    host = replicated.hosts["worker1"]
    name = f"{host.variables['celery_app_name']}-broker"
    unit = host.text(f"/etc/systemd/system/redis@{name}.service.d/10-fleet.conf")
    (tmp_path / "first.conf").write_text(host.text(f"{DIRECTORY}/{name}/first.conf"))
    if role is not None:
        (tmp_path / "role.conf").write_text(role)
    places = {
        f"{DIRECTORY}/%i": str(tmp_path),
        "/var/lib/celery-fleet-redis/%i": str(tmp_path),
        "exec sleep": f"echo > {tmp_path}/waited",
    }
    for line in parse(unit)["Service"]["ExecStartPre"]:
        for place, here in places.items():
            line = line.replace(place, here)
        subprocess.run(shlex.split(line), check=True)
    waited = tmp_path / "waited"
    assert (waited.read_text().strip() if waited.exists() else "") == waits
    assert (tmp_path / "role.conf").read_text() == starts_with


@pytest.mark.parametrize("unit", ["redis@{}-broker.service.d/10-fleet.conf", "{}-sentinel.service"])
def test_half_a_copy_does_not_count_as_a_first_start(
    replicated: Fleet, tmp_path: Path, unit: str
) -> None:
    """If the disk is full, the copy fails and systemd tries again."""
    host = replicated.hosts["worker1"]
    app = host.variables["celery_app_name"]
    lines = parse(host.text(f"/etc/systemd/system/{unit.format(app)}"))["Service"]["ExecStartPre"]
    (line,) = [line for line in lines if "first.conf" in line]
    line = re.sub(r"/(etc|var)/\S*/(?=\w+\.\w+)", f"{tmp_path}/", line)
    cut_off = tmp_path / "cp"
    cut_off.write_text('#!/bin/sh\necho half > "$2"\nexit 1\n')
    cut_off.chmod(0o755)
    (tmp_path / "first.conf").write_text("whole\n")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(shlex.split(line), env=path, check=False).returncode
    made = tmp_path / ("sentinel.conf" if "sentinel" in unit else "role.conf")
    assert not made.exists()
    subprocess.run(shlex.split(line), check=True)
    assert made.read_text() == "whole\n"


def test_a_sentinel_forgets_who_has_left_the_inventory(replicated: Fleet, tmp_path: Path) -> None:
    """Otherwise it would count that for the majority, and report it as missing, for ever."""
    host = replicated.hosts["worker1"]
    app = host.variables["celery_app_name"]
    members = ("redis1", "worker1", "worker2")
    kept = [
        f"sentinel monitor {app}-broker worker2 6379 2",
        *(f"sentinel known-replica {app}-broker {name} 6379" for name in members),
        *(f"sentinel known-sentinel {app}-broker {name} 26379 0123abcd" for name in members),
        "sentinel current-epoch 3",
    ]
    gone = [
        f"sentinel known-replica {app}-broker redis9 6379",
        f"sentinel known-sentinel {app}-broker redis1.example.com 26379 4567cdef",
    ]
    place = f"/var/lib/celery-fleet-redis/{app}-sentinel"
    (tmp_path / "sentinel.conf").write_text("\n".join([*kept, *gone]) + "\n")
    unit = parse(host.text(f"/etc/systemd/system/{app}-sentinel.service"))
    for line in unit["Service"]["ExecStartPre"]:
        if place in line:
            # systemd's `$$` is a `$`.
            words = shlex.split(line.replace(place, str(tmp_path)).replace("$$", "$"))
            subprocess.run(words, check=True)
    assert (tmp_path / "sentinel.conf").read_text().splitlines() == kept
