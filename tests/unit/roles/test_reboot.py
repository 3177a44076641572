"""Reboots of hosts: the role's own tasks in Ansible.

A host of Redis reboots only while each primary has all its replicas. Afterwards only the run's own pause ends.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible

PLAY = """
- hosts: {host}
  gather_facts: false
  any_errors_fatal: true
  roles: [celery_fleet.core.celery_app]
  tasks:
    - import_role:
        name: celery_fleet.core.celery_pause
        tasks_from: {tasks}
        rolespec_validate: false
    - debug: {{msg: it goes on}}
"""
# A file for each answer; the last one stays.
COMMAND = """#!/bin/sh
echo "$*" >> {directory}/calls
for file in {directory}/answers/*; do break; done
cat "$file"
[ "$(ls {directory}/answers | wc -l)" = 1 ] || rm "$file"
exit {status}
"""
ONLINE = "slave{}:ip=redis{},port=6379,state=online,offset=7,lag=0\n"
BOTH = "role:master\n" + ONLINE.format(0, 2) + ONLINE.format(1, 3)
COPYING = BOTH.replace("redis3,port=6379,state=online", "redis3,port=6379,state=send_bulk")


def run(
    directory: Path,
    answers: list[str],
    *options: str,
    host: str = "redis1",
    timeout: int = 20,
    tasks: str = "replicas",
    status: int = 0,
) -> tuple[int, str, list[str]]:
    """Run tasks of the role on a host; return the exit status, the output, and the commands that they ran.

    The commands end with `status`.
    """
    (directory / "bin").mkdir()
    command = directory / "bin/celery-fleet"
    command.write_text(COMMAND.format(directory=directory, status=status))
    command.chmod(0o755)
    (directory / "answers").mkdir()
    for number, answer in enumerate(answers):
        (directory / f"answers/{number}").write_text(answer)
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "celery_app_name": "shop",
        "celery_app_module": "app",
        "celery_app_source": {"path": "app"},
        "celery_worker_instances": {"one": {}},
        "celery_worker_host_instances": ["one"],
        # Nothing is asked of the health check, which may be off.
        "celery_health_enabled": False,
        "celery_pause_reboot_timeout": timeout,
    }
    redis = {f"redis{number}": {} for number in (1, 2, 3)}
    groups = {"redis": {"hosts": redis}, "celery_workers": {"hosts": {"worker1": {}}}}
    inventory = {"all": {"vars": shared}, "fleet": {"children": groups}}
    (directory / "hosts.yml").write_text(json.dumps(inventory))
    (directory / "play.yml").write_text(PLAY.format(host=host, tasks=tasks))
    done = ansible(
        "ansible-playbook",
        f"--inventory={directory}/hosts.yml",
        str(directory / "play.yml"),
        *options,
        ANSIBLE_COLLECTIONS_PATH=replaced(directory),
        PATH=f"{directory}/bin:{os.environ['PATH']}",
    )
    calls = directory / "calls"
    return (
        done.returncode,
        done.stdout + done.stderr,
        (calls.read_text().splitlines() if calls.exists() else []),
    )


@pytest.mark.slow
def test_a_host_of_redis_waits_while_a_replica_copies(tmp_path: Path) -> None:
    status, output, calls = run(tmp_path, [COPYING, BOTH])
    assert status == 0, output
    assert "it goes on" in output
    words = [f"--app shop redis {kind} -- info replication" for kind in ("broker", "results")]
    assert calls == [words[0], *words]


@pytest.mark.slow
@pytest.mark.parametrize("answer", [COPYING, ""], ids=["copying", "silent"])
def test_without_all_replicas_a_host_of_redis_does_not_reboot(tmp_path: Path, answer: str) -> None:
    status, output, _ = run(tmp_path, [answer], timeout=1)
    assert status != 0
    assert "A primary of Redis still lacks a replica after 1 s" in output
    assert "it goes on" not in output


@pytest.mark.slow
def test_a_host_without_redis_does_not_wait(tmp_path: Path) -> None:
    status, output, calls = run(tmp_path, [""], host="worker1")
    assert (status, calls) == (0, []), output


def test_it_waits_before_and_after_a_reboot() -> None:
    """Before, because the hosts that the run begins with may lack a replica; after, because the run ends well then."""
    tasks = yaml.safe_load((ROOT / "roles/celery_pause/tasks/reboot.yml").read_text())
    waits = [task.get("ansible.builtin.import_tasks") == "replicas.yml" for task in tasks]
    (reboot,) = [at for at, task in enumerate(tasks) if "ansible.builtin.reboot" in task]
    assert (waits[0], any(waits[reboot:])) == (True, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "answer", "goes_on"),
    [
        (0, '{"changed": ["host:worker1"], "pauses": []}', True),
        # Another person has ended this pause, and perhaps made another one.
        (1, '{"changed": [], "pauses": [{"target": "host:worker1", "why": "disk"}]}', True),
        (1, '{"changed": ["host:worker1"], "pauses": []}', False),
        (3, "", False),
    ],
    ids=["ended", "ended before", "a worker does not obey", "silent"],
)
def test_after_a_reboot_only_its_own_pause_ends(
    tmp_path: Path, status: int, answer: str, goes_on: bool
) -> None:
    ended, output, calls = run(
        tmp_path,
        [answer],
        "--start-at-task=reboot | Resume the workers",
        host="worker1",
        tasks="reboot",
        status=status,
    )
    assert calls == ["--app shop --format json resume --why reboot_hosts.yml --host=worker1"], (
        output
    )
    assert ("it goes on" in output, ended == 0) == (goes_on, goes_on), output
