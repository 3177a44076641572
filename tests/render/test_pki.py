"""Certificates as hosts get them, and where clients show them to Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.render.fleet import Fleet, Host
from tests.render.units import parse, whole

DIRECTORY = "/etc/celery-fleet/other-shop"
PAIR = (f"{DIRECTORY}/pki/client.crt", f"{DIRECTORY}/pki/client.key")
CREDENTIALS = [f"client.crt:{PAIR[0]}", f"client.key:{PAIR[1]}"]


def processes(fleet: Fleet) -> list[tuple[Host, str]]:
    """Return everything that runs Celery."""
    return [
        (host, unit)
        for host in fleet.hosts.values()
        for unit in host.units
        if unit.startswith("other-shop-") and "ExecStart=/usr/bin/python3" in whole(host, unit)
        if "LoadCredential=settings.json" in whole(host, unit)
    ]


def test_each_host_has_its_own_certificate(fleet: Fleet) -> None:
    keys = set()
    for host in fleet.hosts.values():
        directory = f"/etc/celery-fleet/{host.variables['celery_app_name']}/pki"
        key = host.files[f"{directory}/host.key"]
        assert (key["mode"], key["secret"]) == ("0600", True)
        keys.add(key["content"])
        assert f"{directory}/client.key" not in host.files
        authority = host.text(f"{directory}/ca.crt")
        assert host.text(f"{directory}/host.crt").endswith(authority)
        assert authority.count("BEGIN CERTIFICATE") == 1
    assert len(keys) == len(fleet.hosts)


def test_by_default_only_servers_show_a_certificate(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        for path, item in host.files.items():
            content = item.get("content") or ""
            if path.endswith(".json"):
                assert "ssl_keyfile" not in content, path
            if path.endswith("redis.conf"):
                assert "\ntls-auth-clients no\n" in content


def test_with_mutual_every_process_has_a_certificate_by_credential(flower_alone: Fleet) -> None:
    found = processes(flower_alone)
    assert {unit.partition("@")[0] for _, unit in found} == {
        "other-shop-worker",
        "other-shop-beat.service",
        "other-shop-flower.service",
    }
    for host, unit in found:
        assert parse(whole(host, unit))["Service"]["LoadCredential"][1:] == CREDENTIALS
        # A new certificate needs a restart.
        assert set(PAIR) <= set(host.units[unit]["files"])
        # With the host's key it could pretend to be a server.
        assert "host.key" not in whole(host, unit)
        key = host.files[PAIR[1]]
        assert (key["mode"], key["secret"]) == ("0600", True)
        assert key["content"] != host.files[f"{DIRECTORY}/pki/host.key"]["content"]
        assert host.text(PAIR[0]).endswith(host.text(f"{DIRECTORY}/pki/ca.crt"))


def test_with_mutual_all_settings_name_the_certificate(flower_alone: Fleet) -> None:
    seen = set()
    for host in flower_alone.hosts.values():
        for path, item in host.files.items():
            if "/credentials/" not in path or not path.endswith(".json"):
                continue
            if path.endswith(
                "/redis-exporter.json"
            ):  # logins of Debian's exporter, which gets the files as arguments
                continue
            document = json.loads(item["content"])
            if path.endswith("/backup.json"):
                assert tuple(document["client"].values()) == PAIR
                continue
            celery = document["celery"]
            for name in ("broker_use_ssl", "redis_backend_use_ssl"):
                if name in celery:
                    tls = celery[name]
                    assert (tls["ssl_certfile"], tls["ssl_keyfile"]) == PAIR
                    seen.add((path.rpartition("/")[2], name))
        cli = json.loads(host.text(f"{DIRECTORY}/cli.json"))
        assert tuple(cli["redis"]["client"].values()) == PAIR
    assert {name for name, _ in seen} == {
        *(
            "worker.json",
            "beat.json",
            "schedule.json",
            "producer.json",
            "operator.json",
            "flower.json",
            "exporter.json",
        )
    }


@pytest.mark.parametrize(
    ("whole", "limited", "noted"),
    [(True, [], True), (False, [], False), (False, ["worker2"], False), (False, ["redis1"], True)],
)
def test_only_a_roll_of_all_workers_is_recorded(
    whole: bool, limited: list[str], noted: bool
) -> None:
    """This also holds if the limit leaves out the first host, which knows nothing of the rolling restart."""
    loader = DataLoader()
    path = Path(__file__).parents[2] / "roles/pki/vars/main.yml"
    own = loader.load_from_file(str(path), trusted_as_template=True)
    hosts = limited or ["redis1", "worker1", "worker2"]
    roll = {"__celery_restart_roll": {"whole": whole}}
    variables = {
        "inventory_hostname": hosts[0],
        "ansible_play_hosts": hosts,
        "__celery_app_groups": {"celery_workers": ["worker1", "worker2"]},
        "hostvars": {
            host: roll if host in hosts and host != "redis1" else {}
            for host in ("redis1", "worker1", "worker2")
        },
        "__preflight_hosts": {"missing": {}},
    }
    expression = own["__pki_roll_was_whole"]
    assert Templar(loader=loader, variables=variables).template(expression) is noted


def test_redis_requires_a_certificate_once_all_processes_have_one(flower_alone: Fleet) -> None:
    """Nothing shows yet that any process has one."""
    (host,) = (host for host in flower_alone.hosts.values() if "redis" in str(host.units))
    for kind in ("broker", "results"):
        text = host.text(f"/etc/celery-fleet/redis/other-shop-{kind}/redis.conf")
        assert "\ntls-auth-clients optional\n" in text
        unit = host.units[f"redis@other-shop-{kind}.service"]
        assert f"{DIRECTORY}/pki/ca.crt" in unit["files"]
        # Not the clients': the server that runs may ask for one before they have it.
        shown = (unit["redis"]["certificate"], unit["redis"]["key"])
        assert shown == (f"{DIRECTORY}/pki/host.crt", f"{DIRECTORY}/pki/host.key")
        assert unit["redis"]["staged_key"] == f"/run/redis-other-shop-{kind}/host.key"
