"""Lists and generates the secrets of an environment, and encrypts them for its vault."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from ansible.parsing.vault import VaultLib, VaultSecret

from .environment import FLOWER, REDIS, Environment

# Preflight requires a password for each, even if the fleet has no such process.
REDIS_USERS: Final = ("worker", "beat", "producer", "flower", "operator", "admin")
# In addition, for Redis on several hosts.
REPLICATION_USERS: Final = ("replica", "sentinel")
PREFIX: Final = "FLEET_SECRET_"


def names(environment: Environment) -> tuple[str, ...]:
    """Return the variables of the secrets that an environment needs; those of Redis are `redis_passwords.<user>`."""
    found = [f"redis_passwords.{user}" for user in REDIS_USERS]
    if len(environment.members[REDIS]) > 1:
        found += [f"redis_passwords.{user}" for user in REPLICATION_USERS]
    found.append("pki_ca_passphrase")
    if environment.has(FLOWER):
        found += ["flower_auth_password", "flower_cookie_secret"]
    if environment.protected:
        found.append("celery_producer_web_auth_password")
    if environment.database is not None:
        found.append("database_password")
    return tuple(found)


def make(environment: Environment) -> dict[str, str]:
    """Return a random value of 192 bits for each secret; its letters and digits need no quotes in any file or URL."""
    return {name: secrets.token_hex(24) for name in names(environment)}


def password() -> str:
    """Return a random password for a vault, 256 bits."""
    return secrets.token_urlsafe(32)


def variable(name: str) -> str:
    """Return the environment variable that a secret is read from with SECRETS=env."""
    return PREFIX + name.replace("redis_passwords.", "redis_").upper()


def exports(values: Mapping[str, str]) -> str:
    """Return a file for the shell's `.` command, which sets the environment variables."""
    return "".join(f"export {variable(name)}={value}\n" for name, value in values.items())


def encrypted(text: str, vault_id: str, vault_password: bytes) -> str:
    """Return a text encrypted as by `ansible-vault encrypt`, labelled with the vault's id."""
    vault = VaultLib([(vault_id, VaultSecret(vault_password))])
    sealed: bytes = vault.encrypt(text, vault_id=vault_id)
    return sealed.decode()
