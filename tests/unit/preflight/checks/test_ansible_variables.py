"""Ansible's own variables that would make it reach another machine, or not as root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Severity,
)

from tests.unit.preflight.inventory import GROUPS, problems, valid


def found(directory: Path, given: dict[str, Any]) -> list[tuple[str, Severity, str, str]]:
    return [
        (one.variable, one.severity, one.message, one.remedy)
        for one in problems({**valid(directory), **given})
    ]


@pytest.mark.parametrize("name", ["local", "ansible.builtin.local"])
def test_several_hosts_that_are_this_machine_are_refused(tmp_path: Path, name: str) -> None:
    (one,) = problems({**valid(tmp_path), "ansible_connection": name})
    assert (one.variable, one.severity) == ("ansible_connection", Severity.ERROR)
    assert one.hosts == tuple(GROUPS["fleet"])
    assert "ansible_host" in one.remedy


def test_one_host_may_be_this_machine(tmp_path: Path) -> None:
    groups = {group: ["here"] for group in GROUPS}
    assert problems({**valid(tmp_path), "ansible_connection": "local"}, groups=groups) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/opt/shop/current/venv/bin/python", "is below /opt/shop"),
        ("{{ celery_app_root }}/releases/1a2b/venv/bin/python3", "is below /opt/shop"),
        ("/srv/tools/.venv/bin/python", "is the Python of a virtualenv"),
        ("/usr/bin/python3", ""),
        ("/opt/python3.12/bin/python3", ""),
        ("auto_silent", ""),
        ("{{ ansible_facts.python.executable }}", ""),
    ],
)
def test_the_python_of_a_virtualenv_is_a_warning(tmp_path: Path, path: str, reason: str) -> None:
    given = found(tmp_path, {"ansible_python_interpreter": path})
    if not reason:
        assert given == []
        return
    ((variable, severity, message, remedy),) = given
    assert (variable, severity) == ("ansible_python_interpreter", Severity.WARNING)
    assert message.startswith(reason)
    assert "/usr/bin/python3" in remedy


@pytest.mark.parametrize("off", [False, "no", "False", "{{ not true }}"])
@pytest.mark.parametrize("variable", ["ansible_user", "ansible_ssh_user"])
def test_a_user_who_does_not_become_root_is_refused(
    tmp_path: Path, variable: str, off: Any
) -> None:
    given = found(tmp_path, {"ansible_become": off, variable: "deploy"})
    ((name, severity, message, remedy),) = given
    assert (name, severity) == ("ansible_become", Severity.ERROR)
    assert "deploy, who is not root" in message
    assert "ansible_become: true" in remedy


@pytest.mark.parametrize(
    "given",
    [
        {"ansible_become": False},
        {"ansible_become": False, "ansible_user": "root"},
        {"ansible_become": True, "ansible_user": "deploy"},
        {"ansible_user": "deploy"},
        # Preflight can't know this without the hosts.
        {"ansible_become": "{{ ansible_facts.user_id != 'root' }}", "ansible_user": "deploy"},
    ],
)
def test_settings_that_may_lead_to_root_are_accepted(tmp_path: Path, given: dict[str, Any]) -> None:
    assert found(tmp_path, given) == []


@pytest.mark.parametrize("name", ["ansible_user", "ansible_ssh_user", "ansible_become_password"])
def test_a_login_that_can_not_be_rendered_is_refused(tmp_path: Path, name: str) -> None:
    """Ansible could not run the first task on the host, which collects the facts."""
    ((variable, severity, message, _),) = found(tmp_path, {name: "{{ ansible_facts.user_id }}"})
    assert (variable, severity) == (name, Severity.ERROR)
    assert "can't be rendered" in message
