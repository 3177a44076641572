"""The role's own tasks before and after the installation of packages, run by Ansible on a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.render.fleet import ROOT, ansible

# What nginx-common's postinst does with its example site, followed by the start of the service.
POSTINST = """
cd {nginx} && mkdir -p sites-available sites-enabled
echo 'server { listen 80; }' > sites-available/default
[ -e sites-enabled/default ] || ln -s ../sites-available/default sites-enabled/default
cat sites-enabled/* > served
"""


def task(given: dict[str, Any], nginx: Path) -> dict[str, Any]:
    """Return a task of the role, with the packages' own scripts in place of apt."""
    if "ansible.builtin.apt" in given:
        script = POSTINST.replace("{nginx}", str(nginx))
        return {"ansible.builtin.command": {"argv": ["/bin/sh", "-ec", script]}}
    return given


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "a package that was removed"])
def test_nginx_never_serves_its_example_site(tmp_path: Path, before: str) -> None:
    """This includes the start of the service by its package, because the run may end right after that."""
    nginx = tmp_path / "etc/nginx"
    if before == "nothing":
        nginx.mkdir(parents=True)
    else:
        (nginx / "sites-available").mkdir(parents=True)
        (nginx / "sites-available/default").write_text("server { listen 80; }\n")
        (nginx / "sites-enabled").mkdir()
        (nginx / "sites-enabled/default").symlink_to("../sites-available/default")
    text = (ROOT / "roles/fleet/tasks/install.yml").read_text()
    tasks = yaml.safe_load(text.replace("/etc/", f"{tmp_path}/etc/").replace("owner: root", ""))
    tasks = [task(one, nginx) for one in tasks if "celery_fleet.core.reconcile" not in one]
    for one in tasks:
        one.get("ansible.builtin.file", {}).pop("group", None)
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "ansible_become": False,
            "ansible_python_interpreter": "/usr/bin/python3",
            "__fleet_packages": ["nginx-light"],
        },
        "tasks": tasks,
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = ansible("ansible-playbook", "--inventory=localhost,", str(tmp_path / "play.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (nginx / "served").read_text() == ""
    assert list((nginx / "sites-enabled").iterdir()) == []
