"""The action plugins in real runs of ansible-playbook, on hosts that do not exist."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from tests.unit.preflight.inventory import GROUPS, ROOT, changed, valid

pytestmark = pytest.mark.slow

INVENTORY = (ROOT / "playbooks/check_inventory.yml").read_text()
HOSTS = """
- hosts: fleet
  gather_facts: false
  tasks:
    - name: Collect facts about the hosts
      celery_fleet.core.host_facts:
    - name: Show what roles read
      ansible.builtin.debug:
        msg: python={{ ansible_facts['fleet'].python_version }}
      when: ansible_facts['fleet'].reachable
    - name: Check the hosts
      celery_fleet.core.preflight_hosts:
      run_once: true
"""


def run(
    directory: Path, playbook: str, variables: dict[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook with the test inventory; all hosts have the variables."""
    children = {
        group: {"hosts": dict.fromkeys(hosts)}
        for group, hosts in GROUPS.items()
        if group not in ("all", "fleet")
    }
    inventory = {"all": {"children": {"fleet": {"children": children}}, "vars": variables}}
    (directory / "hosts.yml").write_text(json.dumps(inventory), encoding="utf-8")
    play = directory / "play.yml"
    play.write_text(playbook, encoding="utf-8")
    return play_of(directory, play, *options)


def play_of(
    directory: Path, playbook: Path | str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the inventory of a directory, as a user does in the checkout."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={directory / 'hosts.yml'}",
            *options,
            str(playbook),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_another_strategy_of_ansible_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_STRATEGY", "free")
    done = run(tmp_path, INVENTORY, valid(tmp_path / "source"), "--check")
    assert done.returncode != 0
    assert "ansible.cfg: strategy" in done.stdout


def test_a_valid_inventory_passes_with_its_warnings(tmp_path: Path) -> None:
    variables = valid(tmp_path / "source")
    variables["celery_worker_instances"]["discounts"]["drain_timeout"] = 60
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("celery_app_env: {MODE: 0755}\n")
    done = run(tmp_path, INVENTORY, variables, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]: preflight: celery_worker_instances.discounts.drain_timeout" in done.stderr
    assert "[WARNING]: preflight: celery_app_env.MODE = 0755 (all hosts)" in done.stderr


@pytest.mark.parametrize("playbook", ["check_inventory", "preflight"])
def test_an_inventory_without_the_fleet_is_refused(tmp_path: Path, playbook: str) -> None:
    (tmp_path / "hosts.yml").write_text("workers: {hosts: {worker1: }}\n")
    done = play_of(tmp_path, f"playbooks/{playbook}.yml", "--tags=other")
    assert done.returncode != 0
    assert "fleet\n           is a group that the inventory lacks" in done.stdout


def test_an_invalid_inventory_is_refused_at_once_without_its_secrets(tmp_path: Path) -> None:
    mark = "hush-this-is-it-5fe2"
    variables = valid(tmp_path / "source")
    variables["redis_passwords"] = {"workerr": mark, f"beat:{mark}": None}
    variables["redis_pasword"] = mark
    variables["celery_app_env"] = {"A": "{{ redis_pasword | from_json }}", "B": "{{ nosuch }}"}
    variables = changed(variables, "celery_worker_instances/discounts/concurrrency", 4)
    done = run(tmp_path, INVENTORY, variables, "-vvv", "--limit=worker1")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert mark not in output
    for text in (
        "celery_worker_instances.discounts.concurrrency = 4 (all hosts)",
        "did you mean concurrency?",
        "celery_app_env.B = {{ nosuch }} (all hosts)",
        "redis_passwords.beat (all hosts)",
        "No host was contacted.",
    ):
        assert text in output


@pytest.mark.parametrize("playbook", ["check_inventory", "preflight"])
def test_a_way_to_the_hosts_that_can_not_be_rendered_hides_no_other_mistake(
    tmp_path: Path, playbook: str
) -> None:
    """Ansible itself renders it before it calls an action."""
    vault = VaultLib([("x", VaultSecret(b"a password that this run does not have"))])
    variables = {
        **valid(tmp_path / "source"),
        "redis_pasword": "x",
        "preflight_allowed_variables": "not a list",
        **{
            name: f"{{{{ no_{name} }}}}"
            for name in (
                *("ansible_connection", "ansible_host", "ansible_port", "ansible_user"),
                *("ansible_become_user", "ansible_become_method", "ansible_ssh_common_args"),
                *("ansible_ssh_private_key_file", "ansible_ssh_pass"),
            )
        },
        "ansible_become_password": {"__ansible_vault": vault.encrypt("hush").decode()},
    }
    done = run(tmp_path, (ROOT / f"playbooks/{playbook}.yml").read_text(), variables)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Task failed" not in output
    assert "redis_pasword (all hosts)" in output
    assert "preflight_allowed_variables" in output
    for name in ("connection", "host", "port", "user", "ssh_pass"):
        assert f"can't be rendered: 'no_ansible_{name}' is undefined" in output
    reason = "is encrypted, but none of the given vault passwords opens it"
    assert f"ansible_become_password (all hosts)\n           {reason}" in output


def test_hosts_that_can_not_be_reached_are_named_together(tmp_path: Path) -> None:
    variables = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_ssh_retries": 0}
    variables["preflight_hosts_hint"] = "run make demo"
    done = run(tmp_path, HOSTS, variables)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "host (all hosts)" in output
    assert "Connection refused" in output
    assert f"try `ansible -i {tmp_path / 'hosts.yml'} <host> -m ansible.builtin.ping`" in output
    assert (
        "look at ansible_host, ansible_user and ansible_become. If the host is not there: run make demo"
        in output
    )
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "goes_back", "refusals"),
    [((), False, 0), (("--skip-tags=pki",), False, 1), ((), True, 1)],
)
def test_a_run_without_the_role_pki_needs_the_clients_keys(
    tmp_path: Path, options: tuple[str, ...], goes_back: bool, refusals: int
) -> None:
    asked = {host: {"needs_client_key": True} for host in GROUPS["fleet"]}
    playbook = HOSTS.replace(
        "preflight_hosts:\n", f"preflight_hosts: {{asked: {json.dumps(asked)}}}\n"
    )
    variables = {"ansible_connection": "local", "__celery_release_goes_back": goes_back}
    done = run(tmp_path, playbook, variables, *options)
    words = " ".join((done.stdout + done.stderr).split())
    assert words.count("has no certificate for its clients of Redis yet") == refusals
    assert words.count("pki_mode (all hosts)") == refusals


@pytest.mark.parametrize("options", [(), ("--check",)])
def test_facts_of_a_host_are_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, HOSTS, {"ansible_connection": "local"}, *options)
    assert "python=3." in done.stdout, done.stdout + done.stderr
    assert "can't be used" not in done.stdout + done.stderr


@pytest.mark.parametrize("packages", [[], ["python3.9-venv"]])
def test_an_interpreter_is_only_searched_for_if_no_package_provides_it(
    tmp_path: Path, packages: list[str]
) -> None:
    variables = {
        "ansible_connection": "local",
        "celery_release_python": "/no/such/python3.9",
        "celery_runtime_packages": packages,
    }
    done = run(tmp_path, HOSTS, variables)
    output = done.stdout + done.stderr
    # It is not searched for on a host with only Redis.
    refused = "celery_release_python = /no/such/python3.9 (worker1, worker2, control1)" in output
    assert refused is (packages == []), output
    assert "python=3." in output


def test_a_port_that_a_stranger_has_is_refused(tmp_path: Path) -> None:
    """The facts of celery_app say which ports a host needs."""
    playbook = HOSTS.replace(
        "  tasks:\n",
        "  tasks:\n    - ansible.builtin.import_role: {name: celery_fleet.core.celery_app, rolespec_validate: false}\n",
        1,
    )
    variables = {**valid(tmp_path / "source"), "ansible_connection": "local"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run(tmp_path, playbook, {**variables, "flower_port": port})
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert f"flower_port = {port} (control1)" in output
    assert "is taken on this host by" in output
    assert "celery_producer_web_port" not in output


TWICE = """
- hosts: fleet
  gather_facts: false
  any_errors_fatal: true
  tasks:
    - name: Refuse
      ansible.builtin.fail:
        msg: "{{ words | default('mend the inventory') }}"
"""


def test_a_refusal_is_printed_once(tmp_path: Path) -> None:
    output = run(tmp_path, INVENTORY, {}, "-v")
    assert (output.stdout + output.stderr).count("This inventory is refused") == 1
    output = run(tmp_path, TWICE, {})
    assert (output.stdout + output.stderr).count("mend the inventory") == 1
    for host in GROUPS["fleet"]:
        assert f"fatal: [{host}]: FAILED!" in output.stdout
    assert output.stdout.count("the same as on ") == len(GROUPS["fleet"]) - 1


def test_refusals_that_differ_are_all_printed(tmp_path: Path) -> None:
    output = run(tmp_path, TWICE, {"words": "mend {{ inventory_hostname }}"})
    for host in GROUPS["fleet"]:
        assert (output.stdout + output.stderr).count(f"mend {host}") == 1


def test_other_failures_keep_ansibles_own_message(tmp_path: Path) -> None:
    """Only Ansible's [ERROR] says which expression of the inventory failed."""
    task = "- hosts: redis\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug: {msg: '{{ a }}'}\n"
    output = run(tmp_path, task, {"a": "{{ nosuch }}"})
    assert "[ERROR]" in output.stdout
    assert f"Origin: {tmp_path / 'hosts.yml'}" in output.stdout


QUIET = """
- name: A play without a result
  hosts: fleet
  gather_facts: false
  tasks:
    - name: Nothing here
      ansible.builtin.debug: {msg: no}
      when: false
    - name: End it
      ansible.builtin.meta: end_play
- name: A play for some hosts
  hosts: fleet
  gather_facts: false
  tasks:
    - name: Not here either
      ansible.builtin.debug: {msg: no}
      when: false
    - name: On Redis's host only
      ansible.builtin.debug: {msg: only here}
      when: inventory_hostname == 'redis1'
    - name: That may take long
      ansible.builtin.command: "true"
      when: false
- name: A play without hosts
  hosts: nobody
"""
HIDDEN = ("A play without a result", "Nothing here", "End it", "Not here either", "skipping: [")
# While a task may take long, its header says what the run waits for.
SHOWN = (
    "A play for some hosts",
    "On Redis's host only",
    "That may take long",
    "A play without hosts",
)


def test_what_no_host_does_is_not_printed(tmp_path: Path) -> None:
    brief = run(tmp_path, QUIET, {}).stdout
    assert [text for text in SHOWN if text not in brief] == []
    assert [text for text in HIDDEN if text in brief] == []
    order = [brief.index(text) for text in ("A play for some", "On Redis's", "ok: [redis1]")]
    assert order == sorted(order)


@pytest.mark.parametrize("option", ["-v", ""])
def test_all_of_it_is_printed_on_request(
    tmp_path: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not option:
        monkeypatch.setenv("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "yes")
    whole = run(tmp_path, QUIET, {}, *option.split()).stdout
    assert [text for text in (*SHOWN, *HIDDEN) if text not in whole] == []
    assert whole.count("skipping: [") >= 3 * len(GROUPS["fleet"])
