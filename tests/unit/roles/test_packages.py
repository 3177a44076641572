"""The role's own tasks before and after the installation of packages, run by Ansible on a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.debian_host import DebianHost
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


def play(directory: Path, tasks: list[dict[str, Any]], **given: Any) -> None:
    """Run tasks on this machine."""
    whole = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": tasks,
        **given,
        "vars": {
            "ansible_become": False,
            "ansible_python_interpreter": "/usr/bin/python3",
            **given.get("vars", {}),
        },
    }
    (directory / "play.yml").write_text(yaml.safe_dump([whole]))
    done = ansible("ansible-playbook", "--inventory=localhost,", str(directory / "play.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


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
    play(tmp_path, tasks, vars={"__fleet_packages": ["nginx-light"]})
    assert (nginx / "served").read_text() == ""
    assert list((nginx / "sites-enabled").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("tasks", ["fleet/tasks/install.yml", "prometheus/tasks/main.yml"])
def test_packages_are_installed_after_a_dpkg_that_was_killed(tmp_path: Path, tasks: str) -> None:
    host = DebianHost(tmp_path)
    host.apt("update")
    host.interrupt()
    text = (ROOT / "roles" / tasks).read_text().replace("/var/lib/dpkg", str(host.dpkg))
    found = yaml.safe_load(text)
    last = next(at for at, one in enumerate(found) if "ansible.builtin.apt" in one)
    install = {"ansible.builtin.command": "apt-get --yes install make"}
    play(tmp_path, [found[last - 1], install], environment=host.environment)
    assert host.has() == {"make", "tool"}
    assert (host.root / "etc/tool.conf").read_text() == "as before\n"
