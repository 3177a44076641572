"""Secrets of the inventory are only in files for root or systemd."""

from __future__ import annotations

from typing import Any

import pytest

from tests.render.fleet import Fleet, Host


def holders(fleet: Fleet) -> list[tuple[str, Host, dict[str, Any]]]:
    """Yield each secret with each file that has it."""
    return [
        (name, host, item)
        for host in fleet.hosts.values()
        for item in host.files.values()
        for name, secret in fleet.secrets.items()
        if secret in item["content"]
    ]


def test_every_secret_is_in_a_file(fleet: Fleet) -> None:
    assert len(fleet.secrets) > 10
    found = {name for name, _, _ in holders(fleet)}
    # The authority's secrets stay on the control node, and nginx's passwords are on a host as hashes.
    away = {"pki_ca", "pki_ca_passphrase ", "web", "celery_producer_web_auth_password "}
    away |= {"exporter", "celery_exporter_auth_password "}
    escaped = {"celery_app_secret_env SOME_KEY", "postgresql_password "}
    assert set(fleet.secrets) - found <= away | escaped


def test_files_with_a_secret_are_closed_to_other_users(fleet: Fleet) -> None:
    for name, host, item in holders(fleet):
        where = f"{name} in {item['dest']} on {host.name}"
        assert int(item.get("mode", "0644"), 8) & 0o007 == 0, where
        assert item.get("secret") is True, f"{where} is shown in a diff"
        # Redis reads its users and passwords itself; everything else is read by systemd as root.
        own = ("/users.acl", "/login.conf", "/logins.conf")
        group = "redis" if item["dest"].endswith(own) else "root"
        assert (item.get("owner", "root"), item.get("group", "root")) == ("root", group), where


def test_files_marked_as_secret_are_closed_to_other_users(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        for item in host.files.values():
            if item.get("secret"):
                assert int(item["mode"], 8) & 0o007 == 0, item["dest"]


def printed(fleet: Fleet) -> list[str]:
    return [name for name, secret in fleet.secrets.items() if secret in fleet.output]


def test_no_secret_is_printed(fleet: Fleet) -> None:
    assert printed(fleet) == []


def test_no_address_of_a_redis_outside_is_printed(outside: Fleet) -> None:
    assert "celery_app_broker_url " in outside.secrets
    assert printed(outside) == []


def test_each_host_has_its_own_key(fleet: Fleet) -> None:
    for name, host, _ in holders(fleet):
        if name.startswith("key of "):
            assert name.removeprefix("key of ").partition("/")[2] == host.name


@pytest.mark.parametrize("user", ["worker", "beat", "producer", "flower", "operator", "admin"])
def test_a_password_of_redis_is_only_in_files_of_its_user(fleet: Fleet, user: str) -> None:
    found = {
        item["dest"].rpartition("/")[2]
        for name, _, item in holders(fleet)
        if name in (f"redis_{user}", f"redis_passwords {user}")
    }
    assert found == {"users.acl"} | ({f"{user}.json"} if user != "admin" else set())
