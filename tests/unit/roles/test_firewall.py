"""The role's own tasks by Ansible, between namespaces that stand for hosts: a table is kept, or taken back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible
from tests.support.networks import HOST, NEIGHBOUR, STRANGER, Network, network, tool

PORTS = [6379, 6380]
PLAY = """
- hosts: fleet
  gather_facts: false
  any_errors_fatal: true
  pre_tasks:
    - celery_fleet.core.fleet_facts:
  roles:
    - {role: celery_fleet.core.firewall}
"""


@pytest.fixture
def lan() -> Iterator[Network]:
    with network(PORTS) as made:
        yield made


def shell(directory: Path, name: str, who: int) -> str:
    """What Ansible takes for a host's shell; systemd is one that writes down what it is told."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    for program in ("systemd-run", "systemctl"):
        path = programs / program
        path.write_text(f'#!/bin/sh\necho "{program} $*" >> {directory}/calls\n')
        path.chmod(0o755)
    enter = f"nsenter --target={who} --net"
    if os.geteuid() != 0:
        enter += " --user --preserve-credentials"
    path = directory / name
    path.write_text(f'#!/bin/sh\nPATH={programs}:$PATH exec {enter} /bin/sh "$@"\n')
    path.chmod(0o755)
    return str(path)


def run(lan: Network, directory: Path, **given: Any) -> tuple[int, str]:
    """The role on a host of Redis and one of workers, up to the files, which nobody writes."""
    hosts = {
        "redis1": {"ansible_shell_executable": shell(directory, "redis1", lan.host)},
        "worker1": {"ansible_shell_executable": shell(directory, "worker1", lan.others), **given},
    }
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "celery_app_name": "shop",
        "celery_app_module": "app",
        "celery_app_source": {"path": "app"},
        "celery_app_broker_host": HOST[0],
        "celery_app_results_host": HOST[0],
        "celery_app_directory": str(directory / "etc"),
        "celery_worker_instances": {"one": {}},
        "firewall_enabled": True,
    }
    inventory = {
        "all": {"vars": shared},
        "fleet": {
            "children": {
                "redis": {"hosts": {"redis1": hosts["redis1"]}},
                "celery_workers": {"hosts": {"worker1": hosts["worker1"]}},
            }
        },
    }
    (directory / "hosts.yml").write_text(json.dumps(inventory))
    (directory / "play.yml").write_text(PLAY)
    stub = directory / "systemd_unit/tasks"
    stub.mkdir(parents=True, exist_ok=True)
    (stub / "main.yml").write_text('[{debug: {msg: "settles {{ systemd_unit_part }}"}}]\n')
    done = ansible(
        "ansible-playbook",
        f"--inventory={directory}/hosts.yml",
        str(directory / "play.yml"),
        ANSIBLE_COLLECTIONS_PATH=replaced(
            directory,
            actions=[ROOT / "tests/render/action/fleet_facts.py"],
            parts={"roles/systemd_unit": directory / "systemd_unit"},
        ),
        RENDERED_FOR_SYSTEMD="252",
        PATH=f"{os.environ['PATH']}:/usr/sbin:/sbin",
    )
    return done.returncode, done.stdout + done.stderr


def tables(lan: Network) -> str:
    return lan.on(lan.host, tool("nft"), "list", "tables").stdout


@pytest.mark.slow
def test_a_table_through_which_the_fleet_gets_is_kept(lan: Network, tmp_path: Path) -> None:
    status, output = run(lan, tmp_path, firewall_address=NEIGHBOUR[0])
    assert status == 0, output
    assert output.count("settles firewall") == 2
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert not lan.reaches(STRANGER[0], PORTS[0])
    # The way back is there before the table, and gone in the end.
    calls = (tmp_path / "calls").read_text().splitlines()
    armed = next(n for n, call in enumerate(calls) if call.startswith("systemd-run "))
    assert "systemctl stop shop-firewall-back.timer" in calls[armed:]


@pytest.mark.slow
def test_a_table_that_cuts_a_host_off_is_taken_back(lan: Network, tmp_path: Path) -> None:
    status, output = run(lan, tmp_path, firewall_address="192.0.2.9")
    assert status != 0
    assert "settles firewall" not in output, "nothing was written"
    assert "worker1 does not reach 10.9.0.1:6379 (no answer from 10.9.0.1 within 5 s)" in output
    assert f"It comes from {NEIGHBOUR[0]}; firewall_address of worker1 is 192.0.2.9" in output
    assert "redis1 has what was there before" in output
    assert "Nor does it without the table" not in output
    assert "celery_fleet_shop" not in tables(lan)
    assert lan.reaches(STRANGER[0], PORTS[0])


@pytest.mark.slow
def test_what_another_firewall_drops_is_told_apart(lan: Network, tmp_path: Path) -> None:
    lan.load(
        "table inet theirs {\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n"
        "\t\ttcp dport 6380 drop\n\t}\n}\n"
    )
    status, output = run(lan, tmp_path, firewall_address=NEIGHBOUR[0])
    assert status != 0
    assert "6379" not in output.split("would cut hosts off")[1].split("It was taken back")[0]
    assert "Nor does it without the table" in output
    assert tables(lan).split() == ["table", "inet", "theirs"]
