"""Render what `site.yml` would put on the hosts of a delivered inventory, with Ansible itself.

This is a dry run of the delivered playbook over a copy of the inventory, with two replaced action plugins:
`host_plan`, which renders and then writes down what it would send to the host, and `host_facts`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tests.collection import replaced
from tests.support.certificates import Authority, text_of

ROOT = Path(__file__).resolve().parents[2]
# The replacements for the delivered plugins.
ACTIONS = Path(__file__).with_name("action")
CONNECTIONS = Path(__file__).with_name("connection")
UNITS = "/etc/systemd/system/"
# Files that exist only on this machine and are not delivered.
_LOCAL = shutil.ignore_patterns("demo.yml", ".secrets", "pki")

PRODUCTION: dict[str, Any] = {
    "redis_passwords": {
        user: f"not-a-real-one-of-{user}"
        for user in ("worker", "beat", "producer", "flower", "operator", "admin")
    },
    "pki_ca_passphrase": "not-a-real-passphrase",
    "flower_auth_password": "not-a-real-flower-password",
    "flower_cookie_secret": "not-a-real-flower-cookie-secret",
    "celery_producer_web_auth_password": "not-a-real-web-password",
    "celery_app_env": {"SOME_SWITCH": "on"},
    "celery_app_secret_env": {"SOME_KEY": "not a real “KEY”: $HOME\\ 'x' \"y\""},
    "postgresql_password": "not:a/real@one? 100% “sure” #5",
    # The inventory's own source is in a repository that does not exist.
    "celery_app_source": {"path": "examples/flexiprice/backend"},
}
# The inventories that are rendered, with the variables that their users must fill in.
FILLED_IN: dict[str, dict[str, Any]] = {"local": {}, "production": PRODUCTION}


# One host for everything, with options that the delivered inventories leave at their defaults, and an unusual name.
ODD: dict[str, Any] = {
    **PRODUCTION,
    "celery_app_name": "other-shop",
    "celery_app_log_destination": "file",
    "celery_app_log_format": "%(levelname)s %(message)s",
    "celery_app_task_log_format": "%(task_name)s %(message)s",
    "celery_app_log_rotate": {"when": "weekly", "size": "100M"},
    "flower_url_prefix": "/tools/flower/",
    "flower_loglevel": "WARNING",
    "celery_producer_web_listen": "0.0.0.0:5000",
    # Strings, as `-e` passes them.
    "celery_health_interval": "300",
    "celery_health_thresholds": {"starting_seconds": {"bad": 240}},
    "web_proxy_read_timeout": "10",
    "celery_worker_defaults": {
        "time_limit": 1800,
        "soft_time_limit": 1500,
        "memory_max": "512M",
        "memory_high": "448M",
        "cpu_quota": "150%",
        "tasks_max": "64",
    },
    "celery_app_delivery": "at_least_once",
    "celery_worker_requeue_on_crash": False,
    "celery_worker_max_crashes_per_task": 5,
    "celery_app_cache": True,
    "redis_passwords": {
        **PRODUCTION["redis_passwords"],
        "cache": "not-a-real-one-of/the:cache",
        "exporter": "not-a-real-one-of-exporter",
        "redis_exporter": "not-a-real-one-of-redis-exporter",
        "backup": "not-a-real-one-of-backup",
    },
    "redis_backup": {
        "to": "/mnt/backup/other-shop",
        "every": "6h",
        "encrypt_for": "-----BEGIN PGP PUBLIC KEY BLOCK-----\nnot a real key\n",
    },
    "celery_exporter_enabled": True,
    "celery_exporter_auth_password": "not-a-real-password-of-prometheus",
    "celery_exporter_node_enabled": True,
    "celery_exporter_redis_enabled": True,
    "celery_exporter_flower_enabled": True,
    "celery_exporter_others": {"postgres": "http://127.0.0.1:9187/metrics"},
    "celery_app_external_queues": ["letters"],
    "celery_app_clients": {
        "partner": {"queues": ["discounts"], "consume": ["letters"], "addresses": ["198.51.100.7"]}
    },
    "celery_app_client_passwords": {"partner": "not-a-real-one-of-partner"},
    "celery_worker_instances": {
        "discounts": {"concurrency": 1, "fetch": "stock"},
        "maintenance": {"concurrency": 1},
        "analytics": {"concurrency": 1, "memory_max": "768M"},
    },
}
# A Redis that the fleet does not run, a certificate of certbot's, declared directories, and options for each unit.
OUTSIDE: dict[str, Any] = {
    **PRODUCTION,
    "fleet_groups": {"redis": "none_of_the_fleet"},
    "celery_app_broker_url": "rediss://shop:not-a-real-one-of-a-service@redis.example.org:6379/0",
    "celery_app_redis_ca": Authority("service").pem,
    "celery_app_lease_host": "control1",
    "celery_exporter_enabled": True,
    "celery_exporter_listen": "127.0.0.1:9808",
    "celery_exporter_node_enabled": True,
    "celery_exporter_redis_enabled": True,
    "celery_app_directories": {"/srv/media": {}},
    "celery_beat_unit": {"memory_max": "256M"},
    "flower_unit": {"memory_max": "512M"},
    "celery_producer_web": {
        "command": ["python", "-m", "uvicorn", "app.main:app", "--fd", "3"],
        "memory_max": "1G",
    },
    "celery_producer_web_server_names": ["shop.example.org"],
    "celery_producer_web_certificate": "/etc/letsencrypt/live/shop.example.org/fullchain.pem",
    "celery_producer_web_certificate_key": "/etc/letsencrypt/live/shop.example.org/privkey.pem",
}
# Redis with replicas and Sentinels on three of the hosts, and all users that are optional.
REPLICATED: dict[str, Any] = {
    **PRODUCTION,
    **{
        name: ODD[name]
        for name in ODD
        if name.startswith(("celery_exporter_", "celery_app_client"))
    },
    "celery_app_external_queues": ODD["celery_app_external_queues"],
    "redis_backup": ODD["redis_backup"],
    "fleet_groups": {"redis": "trio"},
    # A run installs it.
    "rendered_without": ["redis-server"],
    "redis_passwords": {
        **{name: text for name, text in ODD["redis_passwords"].items() if name != "cache"},
        "replica": "not-a-real-one-of-replica",
        "sentinel": "not-a-real-one-of-sentinel",
    },
}
# Valkey on Debian 13, with certificates for all clients, and a site without a password. Checks by this machine's own
# systemd are left out.
VALKEY: dict[str, Any] = {
    **PRODUCTION,
    "redis_flavor": "valkey",
    "pki_mode": "mutual",
    "celery_producer_web_listen": "127.0.0.1:5000",
    "celery_producer_web_protected_paths": [],
}
# All renders by title: the inventory, and the variables for all of its hosts.
WANTED: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, given) for name, given in FILLED_IN.items()},
    "odd": ("staging", ODD),
    # Also without a firewall, and with clients that present a certificate.
    "flower-alone": (
        "staging",
        {
            **ODD,
            "celery_producer_web": {},
            "celery_producer_web_protected_paths": [],
            "firewall_enabled": False,
            "celery_health_enabled": False,
            "fleet_block_needrestart": False,
            "celery_beat_scheduler": "database",
            "celery_beat_schedule_on_edit": "reset",
            "pki_mode": "mutual",
        },
    ),
    "outside": ("local", OUTSIDE),
    "replicated": ("local", REPLICATED),
    "debian13": ("staging", VALKEY),
}


@dataclass
class Host:
    """One host: the roles' variables, and what each part of the plan contains, in order."""

    name: str
    variables: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        return {
            item["dest"]: item for part in self.parts.values() for item in part.get("files", [])
        }

    @cached_property
    def units(self) -> dict[str, dict[str, Any]]:
        return {
            item["name"]: item for part in self.parts.values() for item in part.get("units", [])
        }

    @cached_property
    def links(self) -> dict[str, str]:
        return {
            i["path"]: i["target"] for part in self.parts.values() for i in part.get("links", [])
        }

    def text(self, path: str) -> str:
        content: str = self.files[path]["content"]
        return content

    def unit_files(self) -> dict[str, str]:
        """Return the content of everything below systemd's directory, by its path there."""
        return {
            p.removeprefix(UNITS): f["content"]
            for p, f in self.files.items()
            if p.startswith(UNITS)
        }


@dataclass
class Fleet:
    """All hosts by name, and every secret of the inventory."""

    hosts: dict[str, Host]
    secrets: dict[str, str]
    output: str


def ansible(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs with the delivered configuration."""
    return subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CONNECTION_PLUGINS": str(CONNECTIONS),
            "ANSIBLE_NOCOLOR": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def copy_inventory(name: str, directory: Path) -> Path:
    """Make a copy of a delivered inventory, as it is in a fresh checkout."""
    return Path(shutil.copytree(ROOT / "inventories" / name, directory / name, ignore=_LOCAL))


def give_addresses(inventory: Path) -> list[str]:
    """Write next to an inventory how to reach its hosts, and a group of three; return their names, in its order."""
    names = _hosts(yaml.safe_load((inventory / "hosts.yml").read_text())["fleet"])
    hosts = {name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(names, 1)}
    trio: dict[str, Any] = {"hosts": {name: {} for name in names[:3]}}
    (inventory / "addresses.yml").write_text(
        json.dumps({"all": {"hosts": hosts, "children": {"trio": trio}}})
    )
    return names


@dataclass(frozen=True)
class Prepared:
    """A copy of an inventory whose hosts are never contacted.

    Attributes:
        directory: The directory of everything that belongs to it.
        inventory: The copy, with certificates next to it.
        names: The names of its hosts.
        options: Options for ansible-playbook.
    """

    directory: Path
    inventory: Path
    names: list[str]
    options: tuple[str, ...]


def prepare(name: str, directory: Path, given: dict[str, Any]) -> Prepared:
    """Copy an inventory below `inventories/` into a directory, with what a run needs on the control side."""
    inventory = copy_inventory(name, directory)
    connection = directory / "connection.json"
    # No host is contacted; but what is done on the control side also needs a connection.
    connection.write_text(
        json.dumps(
            {
                **given,
                "ansible_connection": "here",
                "ansible_user": "root",
                "ansible_become": False,
                "pki_directory": f"{inventory}/pki",
            }
        )
    )
    options = (f"--inventory={inventory}", f"--extra-vars=@{connection}")
    names = give_addresses(inventory)
    authority = Authority("fleet")
    kinds = ("hosts", "clients") if given.get("pki_mode") == "mutual" else ("hosts",)
    for kind in kinds:
        (inventory / "pki" / kind).mkdir(parents=True)
    (inventory / "pki/ca.crt").write_text(authority.pem)
    passphrase = str(given.get("pki_ca_passphrase", "")) or secrets.token_hex()
    if "pki_ca_passphrase" not in given:  # otherwise the first run creates it
        (inventory / ".secrets").mkdir()
        (inventory / ".secrets/pki_ca").write_text(passphrase + "\n")
    (inventory / "pki/ca.key").write_text(text_of(authority.key, passphrase))
    for number, host in enumerate(names, 1):
        for kind in kinds:
            called = [f"DNS:{host}", f"IP:192.0.2.{number}"] if kind == "hosts" else []
            certificate, key = authority.issue(called, days=300)
            (inventory / f"pki/{kind}/{host}.crt").write_text(certificate)
            (inventory / f"pki/{kind}/{host}.key").write_text(key)
    return Prepared(directory, inventory, names, options)


def render(title: str, parent: Path) -> Fleet:
    """Render one of WANTED.

    Args:
        title: Its title.
        parent: The directory in which to put the inventory's copy, its certificates and its secrets.
    """
    name, given = WANTED[title]
    systemd = 257 if title == "debian13" else 252
    directory = parent / f"rendered-{title}"
    shutil.rmtree(directory, ignore_errors=True)  # of a process that was killed
    directory.mkdir()
    made = prepare(name, directory, given)
    rendered = directory / "rendered"
    rendered.mkdir()
    done = ansible(
        "ansible-playbook",
        *made.options,
        "--check",
        "--diff",
        # Verbose output must not contain a secret either.
        "-vvv",
        "celery_fleet.core.site",
        ANSIBLE_COLLECTIONS_PATH=replaced(directory, actions=ACTIONS.glob("*.py")),
        PYTHONPATH=str(ROOT),
        RENDERED=str(rendered),
        RENDERED_FOR_SYSTEMD=str(systemd),
        XDG_CACHE_HOME=str(directory / "cache"),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    hosts = {host: Host(host) for host in made.names}
    for path in rendered.iterdir():
        call = json.loads(path.read_text())
        hosts[call["host"]] = Host(call["host"], call["variables"], call["parts"])
    return Fleet(hosts, _secrets(made.inventory, given), done.stdout + done.stderr)


def _hosts(group: dict[str, Any]) -> list[str]:
    """Return the hosts of a group and its children, each once, in their order."""
    found = list(group.get("hosts") or {})
    for child in (group.get("children") or {}).values():
        found += _hosts(child or {})
    return list(dict.fromkeys(found))


def _secrets(inventory: Path, given: dict[str, Any]) -> dict[str, str]:
    """Return every secret by a name: generated ones, given ones, and the private keys."""
    found = {path.name: path.read_text().strip() for path in inventory.glob(".secrets/*")}
    found.update(
        {
            f"key of {p.parent.name}/{p.stem}": p.read_text().splitlines()[1]
            for p in inventory.glob("pki/*/*.key")
        }
    )
    for name, value in given.items():
        if re.search(r"password|passphrase|secret|broker_url", name):
            parts = value.items() if isinstance(value, dict) else [("", value)]
            found.update({f"{name} {part}": str(secret) for part, secret in parts})
    return found
