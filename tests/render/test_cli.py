"""The files that the operator's command reads on a host agree with the inventory."""

from __future__ import annotations

import json
from typing import Any

from celery_fleet.cli import application
from celery_fleet.cli.application import Application
from tests.render.fleet import Fleet, Host

RELEASE = {"celery_workers", "celery_beat", "celery_producers"}


def site(host: Host) -> Application:
    directory = host.variables["celery_app_config_directory"]
    raw: dict[str, Any] = json.loads(host.text(f"{directory}/cli.json"))
    return application.parse(raw)


def test_each_host_names_its_own_units(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        files = " ".join(host.unit_files())
        found = site(host)
        assert found.units, host.name
        for unit in found.units:
            template = f"{unit.partition('@')[0]}@.service" if "@" in unit else unit
            assert unit == "nginx.service" or template in files, f"{unit} on {host.name}"
        own = {unit for unit in host.units if not unit.endswith((".target", ".timer"))}
        assert own == set(found.units), host.name


def test_all_hosts_know_the_whole_fleet(fleet: Fleet) -> None:
    every = [site(host) for host in fleet.hosts.values()]
    assert len({tuple(one.workers.items()) for one in every}) == 1
    for one in every:
        assert set(one.hosts) == set(fleet.hosts)
        assert set(one.queues) >= {queue for queues in one.workers.values() for queue in queues}
        for worker in one.workers:
            assert worker.partition("@")[2] in one.in_group("celery_workers")


def test_the_runtime_with_the_command_is_where_the_file_says(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        found = site(host)
        for name in (
            "cli/__main__.py",
            "cli/commands/status.py",
            "system/exec.py",
            "ops/questions.py",
        ):
            assert f"{found.runtime}/celery_fleet/{name}" in host.files, (host.name, name)
        assert host.files["/usr/local/bin/celery-fleet"]["mode"] == "0755"


def test_bash_completes_the_command(fleet: Fleet) -> None:
    path = "/usr/share/bash-completion/completions/celery-fleet"
    for host in fleet.hosts.values():
        # It is installed for all users, so they need no line in their own files.
        assert "celery-fleet completion bash" in host.text(path)
        assert host.files[path].get("mode", "0644") == "0644"


def test_commands_can_be_run_on_every_host_with_a_release(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        found = site(host)
        has = bool(RELEASE.intersection(found.hosts[host.name]))
        for name in ("exec.env", "credentials/exec.env", "credentials/producer.json"):
            assert (f"{found.directory}/{name}" in host.files) is has, (host.name, name)
        asks = has or "redis" in found.hosts[host.name]
        assert (f"{found.directory}/credentials/operator.json" in host.files) is asks


def test_files_of_the_web_process_stay_until_it_has_ended(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        path = f"{host.variables['celery_app_config_directory']}/credentials/producer.json"
        assert path not in host.parts["celery_cli"]["owned"]["files"], host.name
        surplus = host.parts["celery_runtime_surplus"]["owned"]["files"]
        assert (path in surplus) is (path not in host.files), host.name


def test_files_that_two_roles_write_are_the_same(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        seen: dict[str, Any] = {}
        for part, wanted in host.parts.items():
            for item in wanted.get("files", []):
                assert seen.setdefault(item["dest"], item) == item, f"{part}: {item['dest']}"


def test_commands_get_the_environment_of_the_applications_processes(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        directory = host.variables["celery_app_config_directory"]
        for own, copy in (
            ("app.env", "exec.env"),
            ("credentials/secret.env", "credentials/exec.env"),
        ):
            if f"{directory}/{copy}" in host.files:
                assert host.text(f"{directory}/{copy}") == host.text(f"{directory}/{own}")
