"""How tasks become root: scripts get their input on standard input, after the password."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.unit.preflight.test_playbook import play_of

pytestmark = pytest.mark.slow

PASSWORD = "not-a-real-root-password"
# These fake programs ask like the real ones without a terminal, read one line, and run the command with the remaining
# input.
ASK = f"""printf %s "$prompt" >&2
IFS= read -r word
[ "$word" = {PASSWORD} ] || exit 1
"""
SU = f"""#!/bin/sh
prompt='Password: '
{ASK}while [ "$1" != -c ]; do shift; done
exec /bin/sh "$@"
"""
SUDO = f"""#!/bin/sh
while [ "$1" != -u ]; do [ "$1" != -p ] || prompt=$2; shift; done
shift 2
{ASK}exec "$@"
"""
# Without a terminal it can't ask.
DOAS = '#!/bin/sh\nwhile [ "$1" != -c ]; do shift; done\nexec /bin/sh "$@"\n'
PLAY = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - celery_fleet.core.host_facts:
    - ansible.builtin.assert:
        that: ansible_facts.fleet.reachable
        fail_msg: "{{ ansible_facts.fleet.reason }}"
"""


@pytest.mark.parametrize(
    ("method", "program", "password"),
    [
        ("ansible.builtin.sudo", SUDO, PASSWORD),
        ("ansible.builtin.su", SU, PASSWORD),
        ("community.general.doas", DOAS, ""),
    ],
)
def test_scripts_reach_a_host_by_every_way_to_become_root(
    tmp_path: Path, method: str, program: str, password: str
) -> None:
    executable = tmp_path / "become"
    executable.write_text(program)
    executable.chmod(0o755)
    name = method.rpartition(".")[2]
    given = {
        "ansible_connection": "local",
        "ansible_become_method": method,
        "ansible_become_exe": str(executable),
        "ansible_become_user": "root",
        "ansible_user": "deploy",
    }
    if password:
        given["ansible_become_password"] = password
    words = " ".join(f"{key}={shlex.quote(value)}" for key, value in given.items())
    (tmp_path / "hosts.yml").write_text(f"[redis]\n{name}1 {words}\n[fleet:children]\nredis\n")
    (tmp_path / "play.yml").write_text(PLAY)
    done = play_of(tmp_path, tmp_path / "play.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
