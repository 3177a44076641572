"""Valid options, for tests that change one of them, and how Ansible would read the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env import secret
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.environment import (
    Environment,
    Project,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.files import files
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.reading import environment
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.write import GeneratedFile

ROOT = Path(__file__).resolve().parents[3]
#: Prefix of a command that must react to Ctrl-C even if the tests ignore it, as if run in the background.
HEEDING = ("env", "--default-signal=INT")
PASSWORD = b"a password of these tests"
SMALL = {
    "NAME": "shop",
    "HOSTS": "one",
    "APP": "flexiprice",
    "MODULE": "app.celery_app",
    "SOURCE": "examples/flexiprice/backend",
}
GIT = {
    "SOURCE": "https://git.example.com/team/shop.git",
    "VERSION": "v1.0.0",
    "DIRECTORY": "backend",
}
TWO = {**SMALL, "HOSTS": "one,two", "ADDRESSES": "one=10.1.0.1,two=10.1.0.2"}
LARGE = {
    **SMALL,
    **GIT,
    "HOSTS": "redis1,control1,worker1,worker2.example.com",
    "QUEUES": "orders=4,mail=2,Big.Jobs,9lives=1",
    "ROUTES": "shop.tasks.send_*=mail,shop.tasks.*=orders",
    "WEB": "gunicorn 'shop.wsgi:application'",
    "PROTECT": "/admin/,/api/v1/",
    "DOMAIN": "shop.example.com",
    "DATABASE": "postgresql://shop@db1.example.com:5433/shop?sslmode=verify-full",
    "SSH_USER": "deploy",
}
# All forms of options for an environment; preflight must accept each.
GOOD: dict[str, dict[str, str]] = {
    "small": SMALL,
    "two": TWO,
    "three": {**SMALL, "HOSTS": "one,two,three"},
    "large": LARGE,
    "git-by-ssh": {**SMALL, **GIT, "SOURCE": "git@git.example.com:team/shop.git"},
    "addresses-alone": {**SMALL, "HOSTS": "10.1.0.1,10.1.0.2"},
    "addresses-of-ipv6": {**SMALL, "HOSTS": "one,two", "ADDRESSES": "one=fd00::1,two=fd00::2"},
    "no-firewall": {**TWO, "FIREWALL": "off"},
    "no-flower": {**TWO, "FLOWER": "off"},
    "workers-alone": {**SMALL, "HOSTS": "one,two", "FLOWER": "off", "BEAT": "off"},
    "by-role": {
        **{key: value for key, value in SMALL.items() if key != "HOSTS"},
        "REDIS": "one",
        "WORKERS": "two,three",
        "BEAT": "two",
        "FLOWER": "one",
    },
    "three-of-redis": {
        **SMALL,
        "HOSTS": "r1,r2,r3,control1,worker1",
        "REDIS": "r1,r2,r3",
        "SECRETS": "env",
    },
    "producers-without-a-site": {**SMALL, "HOSTS": "one,two", "PRODUCERS": "one,two"},
    "own-database": {**TWO, "DATABASE": "postgresql://flexiprice@one/flexiprice"},
    "own-database-of-one-host": {
        **SMALL,
        "DATABASE": "postgresql://flexiprice@localhost/flexiprice",
    },
    "own-database-by-name": {**SMALL, "HOSTS": "one,two", "DATABASE": "postgresql://me@two/it"},
    "another-database": {**SMALL, "DATABASE": "mysql://me@db.example.com/it?charset=utf8mb4"},
    "variables": {**LARGE, "SECRETS": "env"},
    "variables-of-one-host": {**SMALL, "SECRETS": "env"},
    "a-name-that-is-a-word-of-yaml": {
        **SMALL,
        "NAME": "on",
        "HOSTS": "no",
        "APP": "yes",
        "QUEUES": "null=1,1e3",
    },
}


def project(directory: Path) -> Project:
    """Return the checkout, and a directory for the environment."""
    return Project(ROOT, directory)


def made(
    given: Mapping[str, str], directory: Path
) -> tuple[Environment, dict[str, str], dict[str, GeneratedFile]]:
    """Return the environment that some options make, its secrets and its files."""
    wanted = environment(given, project(directory))
    values = secret.make(wanted)
    return wanted, values, files(wanted, project(directory), values, PASSWORD)


def decrypted(text: str, name: str = "shop") -> str:
    """Return the content of a vault."""
    found: bytes = VaultLib([(name, VaultSecret(PASSWORD))]).decrypt(text)
    return found.decode()


def variables(found: Mapping[str, GeneratedFile]) -> dict[str, Any]:
    """Return all variables of `group_vars/all`."""
    result: dict[str, Any] = {}
    for path, file in found.items():
        if path.startswith("group_vars/all/"):
            text = decrypted(file.text) if file.text.startswith("$ANSIBLE_VAULT") else file.text
            content = yaml.safe_load(text) or {}
            assert not result.keys() & content.keys(), f"{path} sets again what another file sets"
            result |= content
    return result


def inventory(
    found: Mapping[str, GeneratedFile],
) -> tuple[dict[str, list[str]], dict[str, dict[str, Any]]]:
    """Return groups and the hosts' own variables, as Ansible reads them from hosts.yml."""
    tree = yaml.safe_load(found["hosts.yml"].text)
    own = {str(host): dict(its or {}) for host, its in tree["fleet"]["hosts"].items()}
    groups = {"all": list(own), "fleet": list(own)}
    for group, content in tree["fleet"]["children"].items():
        groups[group] = list(content["hosts"])
    if "postgresql" in tree:
        groups["postgresql"] = list(tree["postgresql"]["hosts"])
    return groups, own
