"""The action `release`: what it sends to each host, and how packages get from one host to another."""

from __future__ import annotations

import json
import os
import tarfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease, wheels
from ansible_collections.celery_fleet.core.plugins.plugin_utils.scripts import facts, virtualenvs

from tests.unit.plugins.test_action_remedies import action
from tests.unit.release import notes

NEEDED = {"file": "requirements.txt", "digest": "d", "local": False, "pins": []}
PLATFORM = "/usr/bin/python3.11 cpython-311-x86_64-linux-gnu linux-x86_64 ID=debian VERSION_ID=12"
NAME = wheels.name_of("d", PLATFORM, "", "")
HOUSED = wheels.name_of("d", PLATFORM, "")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which the control node keeps the packages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lease, "held", lambda *_, **__: nullcontext())
    name = wheels.name_of(NAME, "/inventory", "/opt/shop", "shop")
    return tmp_path / f"celery-fleet/wheels/{name}.tar"


class Host:
    """A host without the release; it records what was sent to it, and the arguments of the module."""

    def __init__(self, name: str, virtualenvs: list[str] | None = None, **result: Any) -> None:
        self.sent: dict[str, str] = {}
        self.called: dict[str, Any] = {}
        self.name = name
        self.seen = {"platform": PLATFORM, "virtualenvs": virtualenvs or []}
        self.result = result
        self.facts: dict[str, Any] = {}
        # What the release's note says now, and once it is built.
        self.note = self.written = ""
        self.secrets: list[str] = []

    def _fetch(self, remote: str, path: str) -> None:
        assert remote == self.called["hand_over"]
        Path(path).write_text(f"of {self.name}")

    def _execute(self, _name: str, args: dict[str, Any], _variables: dict[str, Any]) -> Any:
        self.called, self.note = args, self.written
        handed = {"handed_over": bool(args.get("hand_over"))}
        return {"changed": True, "packages": [], **handed, **self.result}

    def build(self, *hosts: str, check: bool = False, more: Any = None, **needed: Any) -> Any:
        args = {
            "id": "r1",
            "archive": "/cache/r1.tar.gz",
            "root": "/opt/shop",
            "python": "/usr/bin/python3",
            "user": "shop",
            "requirements": {**NEEDED, **needed},
            "hosts": hosts,
            **(more or {}),
        }
        shell = SimpleNamespace(tmpdir="", join_path=lambda *parts: "/".join(parts))
        made = action("release", args)
        made._task.check_mode = check
        vars(made).update(
            _connection=SimpleNamespace(_shell=shell, fetch_file=self._fetch),
            _low_level_execute_command=lambda *_, **__: {"rc": 0, "stdout": self.note},
            _make_tmp_path=lambda: "/tmp/made",
            _transfer_file=lambda local, remote: self.sent.update({remote: local}),
            ask=lambda _script, _request: self.seen,
            execute=self._execute,
            secrets=self.secrets,
        )
        variables = {"inventory_hostname": self.name, "inventory_dir": "/inventory"}
        return made.run(task_vars={**variables, "ansible_facts": self.facts})


def test_the_next_host_gets_the_packages_of_the_first(kept: Path) -> None:
    first, second = Host("worker1"), Host("worker2")
    first.build("worker1", "worker2")
    assert first.called["virtualenv"] == NAME
    assert "wheels" not in first.called
    assert kept.read_text() == "of worker1"
    second.build("worker1", "worker2")
    assert second.sent[second.called["wheels"]] == str(kept)
    assert "hand_over" not in second.called


@pytest.mark.parametrize("there", [True, False])
def test_tasks_whose_queue_no_worker_consumes_are_named(there: bool) -> None:
    note = {
        "tasks": ["app.x"],
        "application": {
            "goes_to": {"app.x\r\033[2K": {"goes_to": "celery", "fixed": False}},
        },
    }
    host = Host("worker1")
    host.note, host.written = (json.dumps(note) if there else ""), json.dumps(note)
    found = host.build("worker1", more={"demands": {"queues": ["mail"]}})
    assert bool(host.called) is not there
    (warning,) = found["warnings"]
    assert warning.startswith("release r1: no worker of the inventory consumes the queue celery")
    # The application chose the name, which must not hide what the run has printed.
    assert warning.isprintable()
    assert "app.x" in warning


def test_a_refusal_does_not_print_control_characters_of_a_name() -> None:
    host = Host("worker1")
    host.note = notes.note({"e\r\033[2K": notes.entry(goes_to="r", queue="r", fixed=True)})
    with pytest.raises(AnsibleActionFail, match="to the queue r, which no worker") as failed:
        host.build("worker1", more={"demands": {"queues": ["q"]}})
    assert not {"\r", "\033"} & set(str(failed.value))


def test_a_host_with_the_virtualenv_only_gets_the_code(kept: Path) -> None:
    host = Host("worker1", [NAME])
    host.build("worker1", "worker2")
    assert list(host.sent.values()) == ["/cache/r1.tar.gz"]
    assert not {"wheels", "hand_over"} & host.called.keys()
    assert not kept.exists()


def test_the_packages_of_an_only_host_are_not_fetched(kept: Path) -> None:
    host = Host("worker1")
    host.build("worker1", "worker1")
    assert not {"wheels", "hand_over"} & host.called.keys()
    assert not kept.exists()


def test_projects_of_the_source_have_a_virtualenv_for_each_release() -> None:
    host = Host("worker1", [NAME])
    host.build("worker1", "worker2", local=True)
    assert host.called["virtualenv"] == wheels.name_of("d", PLATFORM, "", "r1")
    assert host.called["local"]


def test_if_a_host_fails_the_others_do_not_try(kept: Path) -> None:
    with pytest.raises(AnsibleActionFail, match="no index"):
        Host("worker1", failed=True, msg="no index").build("worker1", "worker2")
    second = Host("worker2")
    with pytest.raises(AnsibleActionFail, match="the same failed on worker1"):
        second.build("worker1", "worker2")
    assert second.called == {}
    assert not kept.exists()


def test_packages_that_fail_elsewhere_are_not_kept(kept: Path) -> None:
    Host("worker1").build("worker1", "worker2")
    assert kept.exists()
    Host("worker2", failed=True, msg="no such file").build("worker1", "worker2")
    assert not kept.exists()


def test_the_password_of_a_proxy_is_also_hidden_in_its_encoded_form() -> None:
    """pip names the proxy in the command lines of its processes, which it prints if one fails."""
    logins = [{"host": "proxy", "user": "deploy", "password": "a/b@c d"}]
    host = Host("worker1", failed=True, msg="broken")
    host.build("worker1", more={"index": {"proxy": "http://proxy:3128", "logins": logins}})
    assert {"a/b@c d", "a%2Fb%40c%20d"} <= set(host.secrets)


@pytest.mark.parametrize("note", ["{", "[]", "null"])
def test_a_release_whose_note_is_damaged_is_named(note: str) -> None:
    host = Host("worker1")
    host.note = note
    with pytest.raises(AnsibleActionFail, match=r"release r1: its release\.json can't be read"):
        host.build("worker1")


def test_an_interpreter_that_does_not_run_is_an_error() -> None:
    host = Host("worker1")
    host.seen["platform"] = ""
    with pytest.raises(
        AnsibleActionFail, match=r"celery_release_python: /usr/bin/python3 does not run"
    ):
        host.build("worker1", "worker2")
    assert host.called == {}


def test_a_version_selects_the_interpreter_that_preflight_has_found() -> None:
    host = Host("worker1")
    host.build("worker1", more={"python": 3.12})
    # A package that this run has installed provides it.
    assert host.called["python"] == "/usr/bin/python3.12"
    host.facts = {"fleet": {"interpreter": {"path": "/opt/python3.12/bin/python3.12"}}}
    host.build("worker1", more={"python": 3.12})
    assert host.called["python"] == "/opt/python3.12/bin/python3.12"
    host.build("worker1")
    assert host.called["python"] == "/usr/bin/python3"


def test_the_platform_names_interpreter_and_distribution() -> None:
    told = virtualenvs.platform("/usr/bin/python3").split()
    assert told[0].startswith("/usr/bin/python3.")
    assert told[1].startswith("cpython-3")
    assert "ID=debian" in told
    assert virtualenvs.platform("/nowhere/python3") == ""


@pytest.mark.parametrize("name", ["virtualenvs", "facts"])
def test_an_interpreter_gets_nothing_of_roots_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It may belong to the application, and `environment:` or sudo may have added passwords."""
    python, seen = tmp_path / "python3", tmp_path / "seen"
    python.write_text(f"#!/bin/sh\nenv >{seen}\n")
    python.chmod(0o755)
    monkeypatch.setenv("HTTPS_PROXY", "http://u:s3cr3t@proxy")
    # Only root can become another user, and that one could not write here.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    {"virtualenvs": virtualenvs.platform, "facts": facts.interpreter}[name](str(python))
    assert "LANG=C.UTF-8" in seen.read_text().splitlines()
    assert "s3cr3t" not in seen.read_text()


def test_only_complete_virtualenvs_are_listed(tmp_path: Path) -> None:
    assert virtualenvs.complete(str(tmp_path)) == []
    for name, note in (("whole", True), ("half", False)):
        path = tmp_path / "virtualenvs" / name
        path.mkdir(parents=True)
        if note:
            (path / "virtualenv.json").write_text("{}")
    found = virtualenvs.main({"root": str(tmp_path), "python": "/usr/bin/python3"})
    assert found["virtualenvs"] == ["whole"]


# --- a wheelhouse ----------------------------------------------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Return a wheelhouse with the packages of the release."""
    path = tmp_path / f"house/debian-12-cpython-311-x86_64-linux-gnu/{HOUSED}.tar"
    path.parent.mkdir(parents=True)
    return path


def filled(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as opened:
        for name in names:
            opened.addfile(tarfile.TarInfo(name))


def test_every_host_gets_its_packages_from_the_wheelhouse(house: Path, kept: Path) -> None:
    filled(house)
    given = {"wheelhouse": str(house.parents[1])}
    # This includes a host that shares them with no other.
    for hosts in (("worker1",), ("worker1", "worker2")):
        host = Host("worker1")
        host.build(*hosts, more=given)
        assert host.sent[host.called["wheels"]] == str(house)
        assert "hand_over" not in host.called
        assert "wheelhouse" not in host.called
    there = Host("worker1", [HOUSED])
    there.build("worker1", more=given)
    assert "wheels" not in there.called
    assert not kept.exists()


@pytest.mark.parametrize("check", [True, False])
def test_packages_that_the_wheelhouse_lacks_are_named(house: Path, check: bool) -> None:
    filled(house.with_name("other.tar"), "Celery-5.6.0-py3-none-any.whl", "a_b-1-py3-none-any.whl")
    house.with_name(".half.tar").write_bytes(b"x")
    host = Host("worker1")
    pins = ["celery==5.6.0", "a.b==1", "kombu==5.6.1"]
    with pytest.raises(AnsibleActionFail) as failed:
        host.build("worker1", check=check, more={"wheelhouse": str(house.parents[1])}, pins=pins)
    for words in (
        "house has no wheels",
        "debian-12-cpython-311-x86_64",
        "It lacks kombu==5.6.1.",
        "core.wheelhouse",
    ):
        assert words in str(failed.value)
    assert host.called == {}


def test_a_plan_of_a_held_release_that_is_not_here_looks_for_no_packages(house: Path) -> None:
    more = {"wheelhouse": str(house.parents[1]), "archive": "", "requirements": {}}
    assert Host("worker1").build("worker1", check=True, more=more)["changed"]
    with pytest.raises(AnsibleActionFail, match="this control node has no copy of it"):
        Host("worker1").build("worker1", more=more)


def test_a_dry_run_of_a_host_without_its_interpreter_is_no_error(house: Path) -> None:
    host = Host("worker1")
    host.seen["platform"] = ""
    assert host.build("worker1", check=True, more={"wheelhouse": str(house.parents[1])})["changed"]


def test_a_wheelhouse_is_filled_once_for_each_platform(house: Path) -> None:
    given = {"wheelhouse": str(house.parents[1]), "only_wheels": True}
    first, second = Host("worker1"), Host("worker2")
    assert first.build(check=True, more=given)["changed"]
    assert first.called == {}
    first.build(more=given)
    assert first.called["only_wheels"]
    assert house.read_text() == "of worker1"
    assert not second.build(more=given)["changed"]
    assert second.called == {}
