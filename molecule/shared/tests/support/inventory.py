"""The hosts under test and their variables from the inventory."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[4]

# Connection variables and those of the example's database, in addition to those of the roles.
OTHER_NAMES = (
    *("ansible_host", "ansible_port", "ansible_user"),
    *("ansible_ssh_private_key_file", "ansible_ssh_common_args"),
    *("group_names", "postgresql_.*"),
)


class Variables(dict[str, Any]):
    """The variables of one host, including secrets; pytest shows only how many there are."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


#: Seconds that celery-fleet may take for an answer, unless a test chooses others: the hosts of two scenarios share a
#: machine, and a slow answer is no wrong one. Tests of the default unset CELERY_FLEET_TIMEOUT.
ANSWER = 60


@dataclass(frozen=True)
class Done:
    """The result of a command on a host."""

    status: int
    output: str
    errors: str


@dataclass(frozen=True)
class Fleet:
    """The hosts under test and what is expected of them.

    Attributes:
        expected: Variables by host.
        containers: Container by host.
        state: Directory of the scenario's keys, secrets and transcripts.
        sources: The inventories that were read, relative to the root of the checkout.
        machines: ssh configuration by host, for hosts that are not containers.
    """

    expected: Mapping[str, Variables]
    containers: Mapping[str, str]
    state: Path
    sources: tuple[str, ...] = ()
    machines: Mapping[str, str] = field(default_factory=dict)

    def hosts(self, group: str = "all") -> list[str]:
        """Return the hosts of a group of the inventory; ValueError if there are none."""
        found = [
            name
            for name, variables in sorted(self.expected.items())
            if group == "all" or group in variables["group_names"]
        ]
        if not found:
            raise ValueError(f"the group {group!r} has no host in the inventory")
        return found

    def one(self, group: str) -> str:
        """Return the first host of a group."""
        return self.hosts(group)[0]

    def of(self, group: str) -> Variables:
        """Return the variables of the first host of a group."""
        return self.expected[self.one(group)]

    def connect(self, name: str) -> Host:
        """Return a testinfra host as root, containers by `docker exec`, four times as fast as SSH; machines by SSH."""
        if config := self.machines.get(name):
            return testinfra.get_host(f"ssh://{name}?sudo=true", ssh_config=config)
        return testinfra.get_host(f"docker://{self.containers[name]}")

    def way(self, name: str, words: Sequence[str]) -> list[str]:
        """Return the command that runs another one as root on a host, with its own standard input."""
        if config := self.machines.get(name):
            return ["ssh", "-F", config, name, shlex.join(["sudo", "--non-interactive", *words])]
        return ["docker", "exec", "--interactive", self.containers[name], *words]

    def execute(
        self, name: str, command: str | Sequence[str], stdin: str = "", timeout: float = 120
    ) -> Done:
        """Run a command (by a shell, if it is a text) as root on a host, with text on its standard input."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        words = ["env", f"CELERY_FLEET_TIMEOUT={ANSWER}", *words]
        done = subprocess.run(
            self.way(name, words),
            input=stdin.encode(),
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        return Done(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def must(self, name: str, command: str | Sequence[str], stdin: str = "") -> str:
        """Return a command's output; AssertionError with its message if it fails."""
        done = self.execute(name, command, stdin)
        shown = command if isinstance(command, str) else shlex.join(command)
        assert done.status == 0, (
            f"{shown[:200]} on {name}: status {done.status}: {done.errors[-2000:]}"
        )
        return done.output


def group_names(variables: Mapping[str, Any]) -> list[str]:
    """Return a host's groups by the names that the roles have for them; `fleet_groups` may name others instead."""
    found, other = variables["group_names"], variables["fleet_groups"]
    return sorted(
        {name for name in found if name not in other}
        | {name for name, given in other.items() if given in found}
    )


def services(variables: Mapping[str, Any]) -> list[str]:
    """Return the bundle's services that the inventory puts on a host."""
    app, groups = variables["celery_app_name"], variables["group_names"]
    names = []
    if "redis" in groups:
        names += [f"redis@{app}-broker", f"redis@{app}-results"]
    if "celery_workers" in groups:
        names += [f"{app}-worker@{name}" for name in variables["celery_worker_host_instances"]]
    if "celery_beat" in groups:
        names.append(f"{app}-beat")
    if has_web(variables):
        names.append(f"{app}-web")
    if "flower" in groups:
        names.append(f"{app}-flower")
    return [f"{name}.service" for name in names]


def units(variables: Mapping[str, Any]) -> list[str]:
    """Return all units that must be up on a host: the services, and the sockets, timers and targets around them."""
    app, groups = variables["celery_app_name"], set(variables["group_names"])
    names = services(variables)
    if variables["celery_health_enabled"]:
        names.append(f"{app}-health.timer")
    if has_web(variables):
        names.append(f"{app}-web.socket")
    if has_web(variables) or "flower" in groups:
        names.append("nginx.service")
    if groups & {"celery_workers", "celery_beat", "celery_producers", "flower"}:
        names += [f"{app}.target", f"{app}-servers.target"]
    return names


def has_web(variables: Mapping[str, Any]) -> bool:
    """Return whether the application's web process runs on a host."""
    return "celery_producers" in variables["group_names"] and bool(
        variables["celery_producer_web"].get("command")
    )


def role_names() -> list[str]:
    """Return every role of the project that has variables."""
    return sorted(path.parent.parent.name for path in ROOT.glob("roles/*/defaults/main.yml"))


def inventory_sources() -> tuple[str, ...]:
    """Return the inventories under test, relative to the root of the checkout."""
    return tuple(os.environ.get("CELERY_FLEET_INVENTORIES", "inventories/local").split(","))


def inventory_arguments(sources: Sequence[str] = ()) -> list[str]:
    """Return the options of ansible-playbook for inventories; for those under test if none are given.

    An environment from `make new-env` has its vault's password next to it.
    """
    chosen = [ROOT / source for source in sources or inventory_sources()]
    passwords = [path / ".vault-password" for path in chosen]
    return [
        *(f"--inventory={path}" for path in chosen),
        *(f"--vault-password-file={path}" for path in passwords if path.exists()),
    ]


def clean_environment() -> dict[str, str]:
    """Return the environment of an operator's shell, without what Molecule sets for its own calls of Ansible."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}


def ansible_environment() -> dict[str, str]:
    """Return the same environment with the checkout's Ansible configuration."""
    return {
        **clean_environment(),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }


def expect_playbook(roles: list[str], output: Path) -> list[dict[str, Any]]:
    """Return a playbook that writes each host's variables to a separate file in `output`.

    The roles are imported for their defaults and constants, which Ansible shows in no other way; none of their
    tasks runs.
    """
    names = [*OTHER_NAMES, *(f"{role}_.*" for role in roles), "celery_.*"]
    write = {
        "dest": f"{output}/{{{{ inventory_hostname }}}}.json",
        "content": f"{{{{ lookup('expected', '{'|'.join(names)}') | to_json }}}}",
        "mode": "0600",
    }
    task = {
        "name": "Write the variables of each host",
        "ansible.builtin.copy": write,
        "delegate_to": "localhost",
        "tags": ["expect"],
    }
    play = {
        "name": "Render what the tests expect",
        "hosts": "all",
        "gather_facts": False,
        "become": False,
        "any_errors_fatal": True,
        "roles": [{"role": f"celery_fleet.core.{role}", "when": False} for role in roles],
        "tasks": [task],
    }
    return [play]


@functools.cache
def load_fleet(sources: tuple[str, ...] = ()) -> Fleet:
    """Find out once per run what the inventory expects; this takes about two seconds.

    `sources` are inventories of another application on the same hosts, relative to the root of the checkout.
    """
    scenario = os.environ.get("MOLECULE_SCENARIO_NAME") or os.environ.get(
        "CELERY_FLEET_SCENARIO", "demo"
    )
    record = ROOT / ".state" / scenario / "fleet.json"
    if not record.exists():
        raise pytest.UsageError(f"the hosts of {scenario!r} do not exist: {record} is not there")
    hosts = json.loads(record.read_text())["hosts"]
    containers, machines = (
        {name: host[way] for name, host in hosts.items() if way in host}
        for way in ("container", "ssh_config")
    )

    # The directory has secrets, so other users must not read it, and it is removed at the end.
    with tempfile.TemporaryDirectory(prefix="expect-", dir=record.parent) as directory:
        playbook = Path(directory) / "playbook.yml"
        playbook.write_text(
            yaml.safe_dump(expect_playbook(role_names(), Path(directory)), sort_keys=False)
        )
        done = subprocess.run(
            ["ansible-playbook", *inventory_arguments(sources), "--tags=expect", str(playbook)],
            cwd=ROOT,
            env={
                **ansible_environment(),
                "ANSIBLE_LOOKUP_PLUGINS": f"{ROOT}/molecule/shared/plugins/lookup",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise pytest.UsageError(
                f"Ansible can't render the inventory:\n{done.stdout}\n{done.stderr}"
            )
        files = Path(directory).glob("*.json")
        expected = {path.stem: Variables(json.loads(path.read_text())) for path in files}
    for variables in expected.values():
        variables["group_names"] = group_names(variables)
        variables["services"] = services(variables) if "fleet" in variables["group_names"] else []
        variables["units"] = units(variables) if "fleet" in variables["group_names"] else []
    return Fleet(expected, containers, record.parent, sources or inventory_sources(), machines)
