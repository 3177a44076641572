"""The schedule with which roles compare a release and a running beat, in real runs of ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_repository import ROOT

# Each is set for the group of beat, which does not contain the workers.
BEATS: dict[str, Any] = {
    "celery_beat_schedule": {"mine": {"task": "app.x", "interval": 5, "queue": "own"}},
    "celery_beat_schedule_policy": "refuse",
}
TOLD = "{{ [DEMANDS.schedule, DEMANDS.policy, PROBED, REPORTED, POLICY, RESTARTED, QUEUES] | to_json }}"


def told(directory: Path, beat: list[str]) -> dict[str, list[Any]]:
    """Return each host's schedule in every place that reads it."""
    verify = yaml.safe_load((ROOT / "roles/verify/tasks/main.yml").read_text())
    probe_action, report_action = (
        f"celery_fleet.core.{name}" for name in ("send_canaries", "service_report")
    )
    (probe,) = [task[probe_action] for task in verify if probe_action in task]
    refusal, table = [task[report_action] for task in verify if report_action in task]
    assert [refusal[key] == table[key] for key in ("schedule", "policy")] == [True, True]
    restart = yaml.safe_load((ROOT / "roles/celery_restart/vars/main.yml").read_text())
    roles = ("celery_app", "celery_release", "redis")
    play = {
        "hosts": "fleet",
        "gather_facts": False,
        "vars": {
            "__celery_release_source": {"queues": [], "id": "r1"},
            "DEMANDS": "{{ __celery_release_demands }}",
            "PROBED": probe["schedule"],
            "REPORTED": refusal["schedule"],
            "POLICY": refusal["policy"],
            "RESTARTED": restart["__celery_restart_turns"]["schedule"],
            "QUEUES": "{{ __celery_app_facts.queues }}",
        },
        "tasks": [
            # Imported only for their variables.
            *(
                {
                    "import_role": {
                        "name": f"celery_fleet.core.{role}",
                        "rolespec_validate": False,
                    },
                    "when": False,
                }
                for role in roles
            ),
            {"copy": {"dest": f"{directory}/{{{{ inventory_hostname }}}}", "content": TOLD}},
        ],
    }
    hosts = {
        "fleet": {
            "hosts": {"worker1": {}, "control1": {}},
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "celery_app_name": "shop",
                "celery_app_module": "app",
                "celery_app_source": {"path": "."},
                "celery_worker_instances": {"all": {"queues": ["q"]}},
            },
            "children": {
                "celery_workers": {"hosts": {"worker1": {}}},
                "celery_beat": {"hosts": dict.fromkeys(beat), "vars": BEATS},
            },
        }
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={directory}/hosts.yml",
            str(directory / "play.yml"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((directory / name).read_text()) for name in ("worker1", "control1")}


@pytest.mark.slow
def test_the_schedule_is_that_of_beats_host_on_all_hosts(tmp_path: Path) -> None:
    mine = BEATS["celery_beat_schedule"]
    wanted = [mine, "refuse", mine, mine, "refuse", mine]
    for host, found in told(tmp_path, ["control1"]).items():
        assert found[:-1] == wanted, host
        assert found[-1] == ["own", "q"], host


@pytest.mark.slow
def test_without_beat_the_codes_schedule_is_ignored(tmp_path: Path) -> None:
    for found in told(tmp_path, []).values():
        assert found[:2] == [{}, "replace"]
