"""What the role `prometheus` refuses before it installs anything: its own tasks, run by Ansible on a directory."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.render.fleet import ROOT, ansible

pytestmark = pytest.mark.slow

ROLE = ROOT / "roles/prometheus"
GIVEN = {
    "celery_app_name": "shop",
    "celery_exporter_auth_password": "a-password",
    "__prometheus_fleet_host": "localhost",
}
AUTHORITIES = "celery-fleet/shop/pki/ca.crt"
OURS = "# Written by Celery Fleet for shop."
FILES = (
    *("prometheus/prometheus.yml", "prometheus/alertmanager.yml"),
    *("default/prometheus", "default/prometheus-alertmanager"),
)


def run(
    directory: Path,
    changed: str = "",
    *,
    packaged: Iterable[str] = FILES,
    deployed: bool = True,
    **given: Any,
) -> str:
    """Run the tasks that come before the installation, and return what Ansible prints.

    Args:
        directory: Its `etc` is the host's.
        changed: What `dpkg --verify` prints.
        packaged: Which files come from Debian's packages.
        deployed: Whether the fleet's host has its authorities.
        given: Variables of the inventory; None removes one.
    """
    tasks = itertools.takewhile(lambda task: "ansible.builtin.apt" not in task, tasks_of(directory))
    # Its status says that files differ.
    listed = changed.replace("/etc/", f"{directory}/etc/")
    program(directory, "dpkg", f"cat <<'END'\n{listed}\nEND\nexit 1")
    # So does this one's that a package is missing.
    files = "\n".join(f"{directory}/etc/{name}" for name in packaged)
    program(directory, "dpkg-query", f"cat <<'END'\n{files}\nEND\nexit 1")
    if deployed:
        write(directory, AUTHORITIES, "the authorities")
    done = play(
        directory, [*tasks, {"ansible.builtin.debug": {"msg": "it would install now"}}], given
    )
    output = " ".join((done.stdout + done.stderr).split())
    assert (done.returncode == 0) == ("it would install now" in output), output
    return output


def tasks_of(directory: Path) -> list[dict[str, Any]]:
    """Return the role's tasks, for the files below a directory."""
    text = (ROLE / "tasks/main.yml").read_text()
    for place in ("etc", "proc", "var"):
        text = text.replace(f"/{place}/", f"{directory}/{place}/")
    return list(yaml.safe_load(text))


def program(directory: Path, name: str, script: str) -> None:
    """Replace a program of the host."""
    path = directory / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def play(
    directory: Path, tasks: list[dict[str, Any]], given: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Run tasks of the role."""
    whole = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROLE / name / "main.yml") for name in ("defaults", "vars")],
        "vars": {"ansible_python_interpreter": "/usr/bin/python3"},
        "tasks": tasks,
    }
    (directory / "play.yml").write_text(yaml.safe_dump([whole]))
    variables = {name: value for name, value in (GIVEN | given).items() if value is not None}
    (directory / "given.yml").write_text(yaml.safe_dump(variables))
    return ansible(
        *("ansible-playbook", "--inventory=localhost,", f"--extra-vars=@{directory}/given.yml"),
        str(directory / "play.yml"),
        PATH=f"{directory}/bin:{os.environ['PATH']}",
    )


def accepted(output: str) -> bool:
    return "it would install now" in output


def write(directory: Path, name: str, first_line: str) -> None:
    path = directory / "etc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{first_line}\nmore: 1\n")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("prometheus_listen", "0.0.0.0:9090"),
        pytest.param("prometheus_listen", "prometheus1:9090", marks=pytest.mark.long),
        pytest.param("prometheus_listen", "127.0.0.1", marks=pytest.mark.long),
        ("prometheus_alertmanager_listen", "192.0.2.1:9093"),
    ],
)
def test_an_address_that_other_hosts_may_reach_is_refused(
    tmp_path: Path, name: str, address: str
) -> None:
    output = run(tmp_path, **{name: address})
    assert f"{name}: {address} is not an address of the host itself" in output


def test_an_address_of_the_host_itself_is_accepted(tmp_path: Path) -> None:
    given = {"prometheus_listen": "[::1]:9099", "prometheus_alertmanager_listen": "localhost:9093"}
    assert accepted(run(tmp_path, **given))


@pytest.mark.parametrize("password", [None, pytest.param("", marks=pytest.mark.long)])
def test_a_fleet_without_a_password_for_its_exporters_is_refused(
    tmp_path: Path, password: str | None
) -> None:
    output = run(tmp_path, celery_exporter_auth_password=password)
    assert "celery_exporter_auth_password is not set for localhost" in output


@pytest.mark.parametrize(
    ("name", "first_line"),
    [
        (FILES[0], "global:"),
        *(pytest.param(name, "global:", marks=pytest.mark.long) for name in FILES[1:]),
        (FILES[0], "# Written by Celery Fleet for another."),
        (FILES[0], None),
    ],
)
def test_a_configuration_of_others_is_refused(
    tmp_path: Path, name: str, first_line: str | None
) -> None:
    """This includes a file that was removed on purpose."""
    for other in FILES:
        write(tmp_path, other, OURS)
    if first_line is None:
        (tmp_path / "etc" / name).unlink()
    else:
        write(tmp_path, name, first_line)
    how = "missing  " if first_line is None else "??5??????"
    output = run(tmp_path, "\n".join(f"{how} c /etc/{other}" for other in FILES))
    assert [one for one in FILES if f"etc/{one} was not written for shop." in output] == [name]


@pytest.mark.parametrize(
    ("name", "packaged"),
    [
        (FILES[0], ()),
        *(pytest.param(name, (), marks=pytest.mark.long) for name in FILES[1:]),
        (FILES[1], (FILES[0], FILES[2])),
    ],
)
def test_a_configuration_that_comes_from_no_package_is_refused(
    tmp_path: Path, name: str, packaged: tuple[str, ...]
) -> None:
    """A Prometheus from an archive has its own file there, and dpkg does not know it."""
    for other in packaged:
        write(tmp_path, other, "# Debian's")
    write(tmp_path, name, "global:")
    output = run(tmp_path, packaged=packaged)
    assert [one for one in FILES if f"etc/{one} was not written for shop." in output] == [name]


def test_an_empty_configuration_that_comes_from_no_package_is_refused(tmp_path: Path) -> None:
    write(tmp_path, FILES[0], "")
    assert f"etc/{FILES[0]} was not written for shop." in run(tmp_path, packaged=())


def test_a_host_without_the_packages_and_their_files_is_accepted(tmp_path: Path) -> None:
    assert accepted(run(tmp_path, packaged=()))


def test_the_roles_own_files_stay_its_own_when_the_packages_are_gone(tmp_path: Path) -> None:
    for name in FILES:
        write(tmp_path, name, OURS)
    assert accepted(run(tmp_path, packaged=()))


def test_the_roles_own_files_and_those_of_the_packages_are_replaced(tmp_path: Path) -> None:
    """dpkg does not list files that are unchanged since the package was installed."""
    first, *others = FILES
    write(tmp_path, first, OURS)
    for other in others:
        write(tmp_path, other, "# Debian's")
    assert accepted(run(tmp_path, f"??5?????? c /etc/{first}"))


def test_a_fleet_that_is_not_deployed_is_refused(tmp_path: Path) -> None:
    output = run(tmp_path, deployed=False)
    assert "The authorities of localhost can" in output, output
    assert "run site.yml first" in output


def test_prometheus_gets_the_authorities_that_hosts_trust(tmp_path: Path) -> None:
    """They may be several while they change, and with `pki_source: external` the control node has none."""
    write(tmp_path, AUTHORITIES, "the second authority")
    tasks = tasks_of(tmp_path)
    reads = next(task for task in tasks if "ansible.builtin.slurp" in task)
    files = next(task["loop"] for task in tasks if task["name"].startswith("Write what Prometheus"))
    written = next(item for item in files if item["name"] == "ca.crt")
    done = play(tmp_path, [reads, {"ansible.builtin.debug": {"msg": written["content"]}}], GIVEN)
    assert "the second authority" in done.stdout, done.stdout


def test_a_process_that_was_started_with_other_options_is_restarted(tmp_path: Path) -> None:
    """A run that was killed has written Prometheus's file and not restarted it."""
    names = ("Give each its options", "Look what each was started with")
    tasks = [
        task for task in tasks_of(tmp_path) if task["name"].startswith((*names, "Restart what"))
    ]
    tasks[0]["ansible.builtin.copy"] |= {"owner": os.geteuid(), "group": os.getegid()}
    # The module would ask a real systemd.
    service = tasks[2].pop("ansible.builtin.systemd_service")
    assert service["state"] == "restarted"
    tasks[2]["ansible.builtin.command"] = f"systemctl restart {service['name']}"
    (tmp_path / "etc/default").mkdir(parents=True)
    answers = "*MainPID*alert*) echo 2 ;; *MainPID*) echo 1 ;;"
    asked = tmp_path / "asked"
    program(tmp_path, "systemctl", f'echo "$*" >> {asked}\ncase "$*" in {answers} esac')
    options = {
        1: ["--web.listen-address=127.0.0.1:9090", "--storage.tsdb.retention.time=1d"],
        2: ["--web.listen-address=127.0.0.1:9093", "--cluster.listen-address="],
    }
    for process, words in options.items():
        (tmp_path / f"proc/{process}").mkdir(parents=True)
        (tmp_path / f"proc/{process}/cmdline").write_text("\0".join(["/usr/bin/x", *words, ""]))
    for _ in range(2):
        asked.unlink(missing_ok=True)
        done = play(tmp_path, tasks, GIVEN)
        assert done.returncode == 0, done.stdout
        restarted = [line for line in asked.read_text().splitlines() if line.startswith("restart")]
        assert restarted == ["restart prometheus.service"]
