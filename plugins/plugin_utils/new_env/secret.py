"""The secrets of an environment: which there are, how they are made, and how they get into its vault."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from ansible.parsing.vault import VaultLib, VaultSecret

from .environment import FLOWER, Environment

# Preflight asks for a password of each, whether or not the fleet has such a process.
REDIS_USERS: Final = ("worker", "beat", "producer", "flower", "operator", "admin")
PREFIX: Final = "FLEET_SECRET_"


def names(environment: Environment) -> tuple[str, ...]:
    """The secrets that an environment needs, each by its variable; those of Redis as `redis_passwords.user`."""
    found = [f"redis_passwords.{user}" for user in REDIS_USERS]
    found.append("pki_ca_passphrase")
    if environment.has(FLOWER):
        found += ["flower_auth_password", "flower_cookie_secret"]
    if environment.protected:
        found.append("celery_producer_web_auth_password")
    if environment.database is not None:
        found.append("database_password")
    return tuple(found)


def make(environment: Environment) -> dict[str, str]:
    """A random value of 192 bits for each, of letters and digits that no file format and no URL has to quote."""
    return {name: secrets.token_hex(24) for name in names(environment)}


def password() -> str:
    """A random password for a vault, 256 bits."""
    return secrets.token_urlsafe(32)


def variable(name: str) -> str:
    """The environment variable that a secret is taken from with SECRETS=env."""
    return PREFIX + name.replace("redis_passwords.", "redis_").upper()


def exports(values: Mapping[str, str]) -> str:
    """A file for `.` of a shell, which sets the environment variables."""
    return "".join(f"export {variable(name)}={value}\n" for name, value in values.items())


def encrypted(text: str, vault_id: str, vault_password: bytes) -> str:
    """A text as `ansible-vault encrypt` would write it, labelled with the vault's id."""
    vault = VaultLib([(vault_id, VaultSecret(vault_password))])
    sealed: bytes = vault.encrypt(text, vault_id=vault_id)
    return sealed.decode()
