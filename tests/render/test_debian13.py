"""What differs on Debian 13, and with Valkey instead of Redis."""

from __future__ import annotations

import pytest

from tests.render.fleet import Fleet, Host
from tests.render.units import parse, whole


def server(fleet: Fleet) -> Host:
    (found,) = [host for host in fleet.hosts.values() if "redis" in host.parts]
    return found


def users(host: Host) -> dict[str, str]:
    return {path: item["group"] for path, item in host.files.items() if path.endswith("users.acl")}


@pytest.mark.parametrize("kind", ["broker", "results"])
def test_valkey_runs_as_its_own_user(valkey: Fleet, kind: str) -> None:
    host = server(valkey)
    app = host.variables["celery_app_name"]
    service = parse(whole(host, f"redis@{app}-{kind}.service"))["Service"]
    assert (service["User"][-1], service["Group"][-1]) == ("valkey", "valkey")
    # The drop-in replaces the template's.
    configuration = f"/etc/celery-fleet/redis/{app}-{kind}/redis.conf"
    assert service["ExecStart"] == [f"/usr/bin/valkey-server {configuration}"]


def test_valkeys_own_user_reads_the_file_of_users(valkey: Fleet, local: Fleet) -> None:
    assert set(users(server(valkey)).values()) == {"valkey"}
    assert set(users(server(local)).values()) == {"redis"}


def test_valkey_checks_its_configuration_itself(valkey: Fleet, local: Fleet) -> None:
    for fleet, flavor in ((valkey, "valkey"), (local, "redis")):
        checks = server(fleet).parts["redis"]["checks"]
        assert [check["flavor"] for check in checks if "redis" in check] == [flavor] * 2


def test_valkeys_package_is_installed_and_debians_instance_does_not_run(valkey: Fleet) -> None:
    host = server(valkey)
    assert host.parts["redis"]["packages"] == ["valkey-server"]
    assert host.links["/etc/systemd/system/valkey-server.service"] == "/dev/null"
    assert "/etc/systemd/system/redis-server.service" not in host.links


def test_clients_may_use_setinfo_if_the_server_knows_it(valkey: Fleet, local: Fleet) -> None:
    """Debian 12's Redis refuses to start with such a rule."""
    for fleet, known in ((valkey, True), (local, False)):
        host = server(fleet)
        for path in users(host):
            lines = host.text(path).splitlines()
            others = [line for line in lines if line.split()[1] not in ("default", "admin")]
            assert {"+client|setinfo" in line for line in others} == {known}
