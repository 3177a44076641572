"""Preflight's checks of backups of Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.preflight.inventory import problems, secret, valid

V = "redis_backup"
PUBLIC = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n…\n-----END PGP PUBLIC KEY BLOCK-----\n"
SECRET = PUBLIC.replace("PUBLIC", "PRIVATE")
SSH_KEY = PUBLIC.replace("PGP PUBLIC KEY BLOCK", "OPENSSH " + "PRIVATE KEY").replace(
    "…", "not-a-real-key"
)
BY_SSH = {
    "to": "me@backup1:/srv/shop",
    "ssh_key": SSH_KEY,
    "ssh_known_hosts": "backup1 ssh-ed25519 A",
}
Found = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """Return a function for the variable, message and remedy of each problem."""

    def look(options: Any, password: str | None = secret(30), **more: Any) -> Any:
        inventory = {**valid(tmp_path), V: options, **more}
        if password:
            inventory["redis_passwords"]["backup"] = password
        return [(one.variable, one.message, one.remedy) for one in problems(inventory)]

    return look


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"to": "/mnt/backup/shop"},
        {"to": "/mnt/backup", "every": "30min", "keep": 1, "encrypt_for": PUBLIC},
        {"to": "/var/lib/backups", "every": "1d"},
        BY_SSH,
        {**BY_SSH, "to": "backup-1.example.org:shop"},
        {"to": "rsync://backup1/shop/redis", "encrypt_for": PUBLIC},
        {"to": "rsync://me@backup1:8730/shop", "encrypt_for": PUBLIC},
        {"command": ["/usr/local/bin/store", "--quick"], "every": "12h"},
    ],
    ids=str,
)
def test_valid_options_are_accepted(found: Found, options: dict[str, Any]) -> None:
    assert found(options) == []


@pytest.mark.parametrize(
    ("options", "where", "message", "remedy"),
    [
        ({"every": "1h"}, V, "neither to nor command", "/mnt/backup/shop"),
        ({"to": "/mnt/x", "command": ["a"]}, V, "both to and command", "write it as"),
        ({"command": [""]}, f"{V}.command", "names no program", "store-backup"),
        ({"command": []}, f"{V}.command", "names no program", "store-backup"),
        ({"command": ["a"], "keep": 3}, f"{V}.keep", "has no effect with command", "remove it"),
        ({"to": "/mnt/x", "kept": 3}, f"{V}.(a key that is not shown)", "not a known", "keep"),
        ({"to": "/mnt/x", "keep": 0}, f"{V}.keep", "below 1", "write 1 or more"),
        ({"to": "/mnt/x", "every": "daily"}, f"{V}.every", "another form", "30min, 6h or 1d"),
        ({"to": "/mnt/x", "every": "0h"}, f"{V}.every", "another form", "30min, 6h or 1d"),
        ({"to": "backups"}, f"{V}.to", "another form", "/mnt/backup/shop"),
        ({"to": "/mnt/a b"}, f"{V}.to", "another form", "/mnt/backup/shop"),
        ({"to": "/mnt/%i"}, f"{V}.to", "another form", "/mnt/backup/shop"),
        ({"to": "/mnt/../etc"}, f"{V}.to", "leads through ..", "whole path"),
        ({"to": "/var/lib/celery-fleet-redis"}, f"{V}.to", "is where Redis", "another machine"),
        ({"to": "/var/lib/celery-fleet-redis/x"}, f"{V}.to", "is where Redis", "another machine"),
        ({"to": "/var/lib"}, f"{V}.to", "is where Redis", "another machine"),
        ({"to": "/var/lib/shop-backup/x"}, f"{V}.to", "is where Redis", "another machine"),
        ({"to": "/home"}, f"{V}.to", "is not visible", "another machine"),
        ({"to": "/tmp/backups"}, f"{V}.to", "is not visible", "another machine"),
        ({"to": "/mnt/x", "encrypt_for": ""}, f"{V}.encrypt_for", "PGP", "lookup"),
        ({"to": "/mnt/x", "encrypt_for": "/k.asc"}, f"{V}.encrypt_for", "PGP", "lookup"),
        ({"to": "/mnt/x", "encrypt_for": SECRET}, f"{V}.encrypt_for", "private key", "--export"),
        ({**BY_SSH, "ssh_key": "/etc/id"}, f"{V}.ssh_key", "PRIVATE KEY", "lookup"),
        ({**BY_SSH, "to": "/mnt/x", "ssh_key": ""}, f"{V}.ssh_known_hosts", "no effect", "remove"),
        (
            {"to": "me@backup1:x", "ssh_known_hosts": "backup1 A"},
            f"{V}.ssh_key",
            "is not set",
            "ssh-keygen",
        ),
        (
            {"to": "me@backup1:x", "ssh_key": SSH_KEY},
            f"{V}.ssh_known_hosts",
            "is not set",
            "ssh-keyscan",
        ),
        ({"to": "rsync://backup1/shop"}, f"{V}.to", "is not encrypted", "encrypt_for"),
    ],
)
def test_a_mistake_is_refused_with_a_remedy(
    found: Found, options: dict[str, Any], where: str, message: str, remedy: str
) -> None:
    (one,) = found(options)
    assert (one[0], message in one[1], remedy in one[2]) == (where, True, True), one


def test_backups_need_a_user_in_redis(found: Found) -> None:
    (one,) = found({"to": "/mnt/x"}, None)
    assert one[:2] == ("redis_passwords.backup", "is not set, but redis_backup is")
    assert found({}, None) == []


def test_keys_are_never_shown(found: Found) -> None:
    for options in ({**BY_SSH, "to": "/mnt/x"}, {"to": "/mnt/x", "ssh-key": SSH_KEY}):
        assert "not-a-real-key" not in str(found(options))
