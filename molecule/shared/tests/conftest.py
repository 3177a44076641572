"""What all tests of hosts share: what to expect of a host, how to ask it, and what to show when it fails.

What a test expects is the inventory's: every public variable of the roles, rendered by Ansible for each
host. A test says on which hosts it runs by a marker:

    @pytest.mark.hosts("celery_workers", each="celery_worker_enabled")
    @pytest.mark.unit("{celery_app_name}-worker@{each}.service")
    def test_worker(host, variables, each): ...

`hosts` names a group (default: all hosts); a group without hosts fails, so that a renamed group does not pass
unseen. `each`, the name of a variable that holds a list or a dictionary, runs the test for each item or key.
`unit` names the unit whose journal is shown when the test fails.

The fleet is that of the Molecule scenario, or else the one of CELERY_FLEET_SCENARIO (default: the demo).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
JOURNAL_LINES = 60

# Connection variables, beside those of the roles.
OTHER_NAMES = (
    *("ansible_host", "ansible_port", "ansible_user"),
    *("ansible_ssh_private_key_file", "ansible_ssh_common_args"),
    "group_names",
)


class Variables(dict[str, Any]):
    """The variables of one host, secrets included; pytest shows only how many there are."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


@dataclass(frozen=True)
class Fleet:
    """The hosts under test and what is expected of them.

    Attributes:
        expected: host -> its variables.
        containers: host -> container.
    """

    expected: Mapping[str, Variables]
    containers: Mapping[str, str]

    def hosts(self, group: str = "all") -> list[str]:
        """The hosts of a group of the inventory; ValueError if there are none."""
        found = [
            name
            for name, variables in sorted(self.expected.items())
            if group == "all" or group in variables["group_names"]
        ]
        if not found:
            raise ValueError(f"the group {group!r} has no host in the inventory")
        return found

    def connect(self, name: str) -> Host:
        """A testinfra host, as root. By `docker exec`, which costs a quarter of an SSH command."""
        return testinfra.get_host(f"docker://{self.containers[name]}")


def role_names() -> list[str]:
    """Every role of the project that has variables."""
    return sorted(path.parent.parent.name for path in ROOT.glob("roles/*/defaults/main.yml"))


def expect_playbook(roles: list[str], output: Path) -> list[dict[str, Any]]:
    """A playbook that writes each host's variables to a file of its own in `output`.

    The roles are imported for their defaults and constants, which no other way of asking Ansible shows;
    none of their tasks runs.
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
        "roles": [{"role": role, "when": False} for role in roles],
        "tasks": [task],
    }
    return [play]


@functools.cache
def load_fleet() -> Fleet:
    """Ask the inventory what to expect, once per run; takes about two seconds."""
    scenario = os.environ.get("MOLECULE_SCENARIO_NAME") or os.environ.get(
        "CELERY_FLEET_SCENARIO", "demo"
    )
    inventories = os.environ.get("CELERY_FLEET_INVENTORIES", "inventories/local").split(",")
    record = ROOT / ".state" / scenario / "fleet.json"
    if not record.exists():
        raise pytest.UsageError(f"the hosts of {scenario!r} do not exist: {record} is not there")
    containers = {
        name: host["container"] for name, host in json.loads(record.read_text())["hosts"].items()
    }

    # Holds secrets, so it is removed when the run is done; and it is nobody else's to read meanwhile.
    with tempfile.TemporaryDirectory(prefix="expect-", dir=record.parent) as directory:
        playbook = Path(directory) / "playbook.yml"
        playbook.write_text(
            yaml.safe_dump(expect_playbook(role_names(), Path(directory)), sort_keys=False)
        )
        sources = [f"--inventory={source}" for source in inventories]
        done = subprocess.run(
            ["ansible-playbook", *sources, "--tags=expect", str(playbook)],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOOKUP_PLUGINS": f"{ROOT}/molecule/shared/plugins/lookup:{ROOT}/plugins/lookup",
                "ANSIBLE_NOCOLOR": "1",
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
    return Fleet(expected, containers)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "hosts(group, each=variable): the hosts a test runs on")
    config.addinivalue_line("markers", "unit(name): the unit whose journal is shown on failure")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per host of its group, and per item where it asks for `each`."""
    if "host_name" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("hosts") or pytest.mark.hosts("all").mark
    fleet = load_fleet()
    try:
        hosts = fleet.hosts(*marker.args)
    except ValueError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from error
    variable = marker.kwargs.get("each")
    if variable is None:
        metafunc.parametrize("host_name", hosts, scope="session")
        return
    pairs = [(name, item) for name in hosts for item in fleet.expected[name][variable]]
    if not pairs:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: {variable} is empty on {', '.join(hosts)}"
        )
    metafunc.parametrize(("host_name", "each"), pairs, scope="session")


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """The hosts under test and what is expected of them."""
    return load_fleet()


@pytest.fixture
def host(fleet: Fleet, host_name: str) -> Host:
    """The host of this run of the test, as root."""
    return fleet.connect(host_name)


@pytest.fixture
def variables(fleet: Fleet, host_name: str) -> Variables:
    """The variables of this run's host."""
    return fleet.expected[host_name]


def journal(item: pytest.Item) -> tuple[str, str] | None:
    """The heading and the end of the journal of the unit that `item` is about."""
    marker = item.get_closest_marker("unit")
    values = getattr(item, "funcargs", {})
    if marker is None or "host_name" not in values:
        return None
    fleet, name = load_fleet(), values["host_name"]
    unit = marker.args[0].format_map({**fleet.expected[name], **values})
    status = f"systemctl --no-pager --full status '{unit}'"
    command = f"{status}; journalctl --no-pager --lines={JOURNAL_LINES} --unit='{unit}'"
    return f"{unit} on {name}", fleet.connect(name).run(command).stdout


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal of a failing test's unit; let no test be skipped."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped test proves nothing here: {report.longrepr}"
    if report.failed and call.when != "teardown":
        shown = journal(item)
        if shown is not None:
            report.sections.append(shown)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let no module be skipped."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"a skipped module proves nothing here: {report.longrepr}"
    return report
