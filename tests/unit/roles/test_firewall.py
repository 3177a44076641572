"""The role's own tasks in Ansible, with network namespaces as hosts: a table is kept, or rolled back."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import firewall
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible
from tests.support.networks import HOST, NEIGHBOUR, STRANGER, Network, network, tool

PORTS = [6379, 6380]
PLAY = """
- hosts: fleet
  gather_facts: false
  any_errors_fatal: true
  pre_tasks:
    - celery_fleet.core.host_facts:
  roles:
    - celery_fleet.core.celery_app
    - {role: celery_fleet.core.firewall}
"""


@pytest.fixture
def lan() -> Iterator[Network]:
    with network(PORTS) as made:
        yield made


# The parts of systemd that the script uses: the rollback that was armed last, and a service that loads the table.
SYSTEMD_RUN = """#!/bin/sh
echo "systemd-run $*" >> {directory}/calls
while [ "$1" != /bin/sh ]; do shift; done
printf '%s\\0' "$@" > {directory}/armed
"""
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> {directory}/calls
case "$*" in
    "stop shop-firewall-rollback.timer") [ -e {directory}/armed ] || exit 5 ;;
    "start shop-firewall-rollback.service") exec xargs -0 -a {directory}/armed env ;;
    "restart shop-firewall.service") exec {nft} -f {directory}/etc/firewall.nft ;;
    "disable --now shop-firewall.service") exec {nft} delete table inet celery_fleet_shop ;;
esac
"""
RECONCILE = """
- loop: "{{ systemd_unit_wanted.files | default([]) | selectattr('content', 'defined') }}"
  copy: {content: "{{ item.content }}", dest: "{{ item.dest }}"}
- when: systemd_unit_wanted.files is defined
  command: nft -f "{{ systemd_unit_wanted.files[0].dest }}"
"""


def programs(directory: Path) -> Path:
    """Put systemd's programs into a directory for PATH."""
    made = directory / "bin"
    made.mkdir(exist_ok=True)
    for name, text in (("systemd-run", SYSTEMD_RUN), ("systemctl", SYSTEMCTL)):
        (made / name).write_text(text.format(directory=directory, nft=tool("nft")))
        (made / name).chmod(0o755)
    return made


def shell(directory: Path, name: str, who: int) -> str:
    """Write a program that Ansible uses as a host's shell."""
    enter = f"nsenter --target={who} --net"
    if os.geteuid() != 0:
        enter += " --user --preserve-credentials"
    path = directory / name
    path.write_text(f'#!/bin/sh\nPATH={programs(directory)}:$PATH exec {enter} /bin/sh "$@"\n')
    path.chmod(0o755)
    return str(path)


def run(lan: Network, directory: Path, **given: Any) -> tuple[int, str]:
    """Run the role on a Redis host and a worker host."""
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
        "celery_app_config_directory": str(directory / "etc"),
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
    (stub / "main.yml").write_text(RECONCILE)
    (directory / "etc").mkdir()
    done = ansible(
        "ansible-playbook",
        f"--inventory={directory}/hosts.yml",
        str(directory / "play.yml"),
        ANSIBLE_COLLECTIONS_PATH=replaced(
            directory,
            actions=[ROOT / "tests/render/action/host_facts.py"],
            parts={"roles/systemd_unit": directory / "systemd_unit"},
        ),
        RENDERED_FOR_SYSTEMD="252",
        PATH=f"{os.environ['PATH']}:/usr/sbin:/sbin",
    )
    return done.returncode, done.stdout + done.stderr


@dataclass(frozen=True)
class Trial:
    """The script on the host of Redis, and the table that it may roll back."""

    lan: Network
    directory: Path

    @property
    def file(self) -> Path:
        return self.directory / "etc/firewall.nft"

    def table(self, *fleet: str) -> str:
        return firewall.ruleset("shop", redis=PORTS, web=[], fleet=fleet, more=[])

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.lan.load(text)

    def on(self, *command: str, text: str = "") -> str:
        path = f"{programs(self.directory)}:{os.environ['PATH']}"
        return self.lan.on(self.lan.host, *command, text=text, PATH=path).stdout

    def ask(self, do: str) -> Any:
        asked = {"do": do, "app": "shop", "file": str(self.file), "seconds": 60}
        script = host_scripts.script("firewall")
        return json.loads(self.on(sys.executable, "-S", "-I", "-c", script, text=json.dumps(asked)))

    def end_timer(self) -> None:
        """Begin the rollback; then systemd has no unit for it any more."""
        self.on("systemctl", "start", "shop-firewall-rollback.service")
        (self.directory / "armed").unlink()


@pytest.fixture
def trial(lan: Network, tmp_path: Path) -> Trial:
    made = Trial(lan, tmp_path)
    made.file.parent.mkdir()
    return made


def tables(lan: Network) -> str:
    return lan.on(lan.host, tool("nft"), "list", "tables").stdout


@pytest.mark.slow
def test_a_table_that_lets_the_fleet_through_is_kept(lan: Network, tmp_path: Path) -> None:
    status, output = run(lan, tmp_path, firewall_address=NEIGHBOUR[0])
    assert status == 0, output
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert not lan.reaches(STRANGER[0], PORTS[0])
    calls = (tmp_path / "calls").read_text()
    options = next(line for line in calls.splitlines() if line.startswith("systemd-run "))
    assert "--unit=shop-firewall-rollback --description=shop: rolls back" in options
    assert "--service-type=oneshot --on-active=60s" in options
    assert calls.endswith("systemctl stop shop-firewall-rollback.timer\n")
    assert "restart shop" not in calls
    assert "disable --now shop" not in calls


@pytest.mark.slow
def test_a_table_that_cuts_a_host_off_is_rolled_back(lan: Network, tmp_path: Path) -> None:
    status, output = run(lan, tmp_path, firewall_address="192.0.2.9")
    assert status != 0
    for port in PORTS:
        assert (
            f"worker1 gets no answer from 10.9.0.1:{port}. It comes from {NEIGHBOUR[0]}" in output
        )
    assert "firewall_address of worker1 is 192.0.2.9" in output
    assert "celery_fleet_shop" not in tables(lan)
    assert not (tmp_path / "etc/firewall.nft").exists()
    assert lan.reaches(STRANGER[0], PORTS[0])


@pytest.mark.slow
def test_a_rollback_restores_the_previous_table(trial: Trial, tmp_path: Path) -> None:
    lan, file, table, ask, write = trial.lan, trial.file, trial.table, trial.ask, trial.write
    write(table(NEIGHBOUR[0]))
    assert ask("arm") == {"error": ""}
    write(table("192.0.2.1"))
    assert not lan.reaches(NEIGHBOUR[0], PORTS[0])
    # A run that repeats an interrupted one keeps the table from before both.
    assert ask("arm") == {"error": ""}
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    write(table("192.0.2.1"))
    assert not lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert ask("back") == {"error": ""}
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert file.read_text() == table(NEIGHBOUR[0])
    # A reboot in between ends the timer, and loads the new table. The copy shows that no run has confirmed it.
    assert ask("arm") == {"error": ""}
    write(table("192.0.2.1"))
    (tmp_path / "armed").unlink()
    assert Path(f"{file}.before").read_text() == table(NEIGHBOUR[0])
    assert ask("arm") == {"error": ""}
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert ask("keep") == {"error": ""}
    # A rollback that comes too late changes nothing.
    assert ask("back") == {"error": ""}
    assert file.read_text() == table(NEIGHBOUR[0])
    # If there was no table, there is none after the next run has begun.
    file.unlink()
    assert ask("arm") == {"error": ""}
    write(table("192.0.2.1"))
    assert ask("arm") == {"error": ""}
    assert not file.exists()
    assert lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert ask("keep") == {"error": ""}
    assert not list(file.parent.iterdir())
    # No files of either are left.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["armed", "bin", "calls", "etc"]


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False], ids=["no table", "a table"])
def test_a_timer_that_comes_before_the_new_table_does_not_end_the_trial(
    trial: Trial, first: bool
) -> None:
    """Another application's run may hold the host's lock for longer, so the new table is written afterwards."""
    old, bad = trial.table(NEIGHBOUR[0]), trial.table("192.0.2.1")
    good = trial.table(NEIGHBOUR[0], "192.0.2.1")
    if not first:
        trial.write(old)

    def wait() -> None:
        assert trial.ask("arm") == {"error": ""}
        trial.end_timer()

    # A run that is killed meanwhile leaves the copy to the next one.
    wait()
    wait()
    trial.write(bad)
    assert not trial.lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert trial.ask("back") == {"error": ""}
    assert trial.lan.reaches(NEIGHBOUR[0], PORTS[0])
    assert [path.read_text() for path in trial.file.parent.iterdir()] == [old] * (not first)
    wait()
    trial.write(good)
    assert trial.ask("keep") == {"error": ""}
    assert [path.read_text() for path in trial.file.parent.iterdir()] == [good]


@pytest.mark.slow
def test_a_table_that_the_timer_has_rolled_back_is_not_kept(trial: Trial) -> None:
    trial.write(trial.table(NEIGHBOUR[0]))
    assert trial.ask("arm") == {"error": ""}
    trial.write(trial.table("192.0.2.1"))
    trial.end_timer()
    assert trial.file.read_text() == trial.table(NEIGHBOUR[0])
    assert trial.ask("keep") == {"error": "exit status 5"}
