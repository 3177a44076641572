"""The playbook in real runs, over hosts that do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.preflight.inventory import GROUPS, secret, valid
from tests.unit.preflight.test_playbook import play_of

pytestmark = pytest.mark.slow


def run(directory: Path, *options: str, **more: Any) -> tuple[int, str]:
    """Run the playbook; return its exit status and output."""
    children = {
        group: {"hosts": dict.fromkeys(hosts)}
        for group, hosts in GROUPS.items()
        if group not in ("all", "fleet")
    }
    given = valid(directory / "source")
    variables = {
        **given,
        "redis_passwords": {**given["redis_passwords"], "exporter": secret(30)},
        "celery_exporter_auth_password": secret(31),
        "ansible_host": "{{ inventory_hostname }}.example.org",
        "celery_exporter_enabled": True,
        **more,
    }
    inventory = {"all": {"children": {"fleet": {"children": children}}, "vars": variables}}
    place = directory / "inventory"
    place.mkdir(exist_ok=True)
    (place / "hosts.yml").write_text(json.dumps(inventory))
    done = play_of(place, "playbooks/monitoring.yml", *options)
    return done.returncode, done.stdout + done.stderr


def test_it_writes_what_the_inventory_says_and_only_then(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--check", "--diff", "--limit=worker1")
    assert status == 0, output
    assert "+- alert: CeleryWorkerDown" in output.replace("  ", "")
    assert not (tmp_path / "inventory/monitoring").exists()

    status, output = run(tmp_path)
    assert status == 0, output
    files = {
        path.name: yaml.safe_load(path.read_text())
        for path in (tmp_path / "inventory/monitoring").iterdir()
    }
    assert len(files) == 6
    hosts = {target["labels"]["host"] for target in files["targets.json"]}
    assert hosts == set(GROUPS["fleet"])

    status, output = run(tmp_path)
    assert status == 0, output
    assert "changed=0" in output


def test_a_directory_that_the_next_run_would_read_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "inventory/rules"
    options = (f"--inventory={tmp_path}/inventory", f"-ecelery_monitoring_directory={inside}")
    status, output = run(tmp_path, *options)
    assert status != 0
    assert "ignore_patterns = ^(pki|monitoring)$" in " ".join(output.split())
    assert not inside.exists()


def test_without_exporters_there_is_nothing_to_scrape(tmp_path: Path) -> None:
    status, output = run(tmp_path, celery_exporter_enabled=False)
    assert status != 0
    assert "Set celery_exporter_enabled: true for all hosts" in " ".join(output.split())


def test_an_operator_who_is_not_root_needs_no_sudo_on_the_control_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inventories say `ansible_become: true` for all hosts, and that is valid for localhost too."""
    # As root, Ansible would leave it out.
    monkeypatch.setenv("ANSIBLE_BECOME_ALLOW_SAME_USER", "1")
    status, output = run(tmp_path, ansible_become=True, ansible_become_exe="/bin/false")
    assert status == 0, output
