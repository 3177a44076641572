"""The place of a mistake in the user's files, with real files as Ansible reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import (
    origin,
    report,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Control,
    Problem,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.run import check

from tests.unit.preflight.inventory import GROUPS, model, valid

TEXT = """\
celery_worker_instances:
  discounts:
    concurrency: 4
    overlap:
    queues: [discounts, null]
  "a b": {}
celery_app_env:
  LIST: "{{ nosuch }}"
"""


@pytest.fixture
def read(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "all.yml"
    path.write_text(TEXT, encoding="utf-8")
    found: dict[str, Any] = DataLoader().load_from_file(str(path), trusted_as_template=True)
    return found


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("celery_worker_instances", 1),
        ("celery_worker_instances.discounts", 2),
        ("celery_worker_instances.discounts.concurrency", 3),
        # Values without their own tag: null, and a missing key.
        ("celery_worker_instances.discounts.overlap", 4),
        ("celery_worker_instances.discounts.queues[0]", 5),
        ("celery_worker_instances.discounts.nosuch.at.all", 2),
        ("celery_worker_instances['a b']", 6),
        ("celery_app_env.LIST", 8),
        ("celery_app_env.(a name that is not shown)", 7),
        ("celery_worker_instance", None),
        ("fleet", None),
    ],
)
def test_a_value_has_a_file_and_a_line(
    read: dict[str, Any], tmp_path: Path, variable: str, line: int | None
) -> None:
    found = origin.find(read, variable)
    assert found == (None if line is None else (str(tmp_path / "all.yml"), line))


def test_an_ansible_without_tags_gives_no_place(
    read: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "_Origin", None)
    assert origin.find(read, "celery_app_env") is None
    # Its tags may also be of another kind.
    monkeypatch.setattr(origin, "_Origin", object())
    assert origin.find(read, "celery_app_env") is None


def test_a_problem_names_its_places(read: dict[str, Any], tmp_path: Path) -> None:
    control = Control("2.19.14", "3.11.2", tmp_path)
    # The values themselves are needed, because copies have no tags.
    tagged: Any = model(valid(tmp_path / "source"), control=control)
    for host in tagged.raw:
        tagged.raw[host].update(read)
        tagged.hosts[host]["celery_worker_instances"]["discounts"]["concurrency"] = "four"
    (found,) = [one for one in check(tagged) if one.variable.endswith(".concurrency")]
    assert found.places == ("all.yml:3",)
    assert "   In: all.yml:3\n   Remedy:" in report.block("x", [found], GROUPS, GROUPS["fleet"])
    assert " In: all.yml:3. Remedy:" in report.line(found, GROUPS, GROUPS["fleet"])


def test_only_some_of_many_places_are_named() -> None:
    problem = Problem("a", "b", "c", places=tuple(f"{number}.yml:1" for number in range(5)))
    assert "In: 0.yml:1, 1.yml:1, 2.yml:1 and 2 more." in report.line(problem, {}, ())


def test_a_path_elsewhere_is_absolute() -> None:
    assert origin.shown(("/a/b.yml", 3), Path("/a")) == "b.yml:3"
    assert origin.shown(("/c/b.yml", 3), Path("/a")) == "/c/b.yml:3"


def test_a_variable_that_a_second_file_overrides_is_in_the_second(
    read: dict[str, Any], tmp_path: Path
) -> None:
    second = tmp_path / "second.yml"
    second.write_text("celery_worker_instances: {}\n", encoding="utf-8")
    # This is what Ansible does, which keeps the key of the first file.
    read |= DataLoader().load_from_file(str(second), trusted_as_template=True)
    assert origin.find(read, "celery_worker_instances") == (str(second), 1)


def test_a_value_of_the_command_line_has_no_place(read: dict[str, Any]) -> None:
    """Ansible keeps the key of the file that the option -e overrides."""
    overridden = {key: {"DJANGO-X": "y"} for key in read if key == "celery_app_env"}
    assert origin.find(read, "celery_app_env") is not None
    assert origin.find(overridden, "celery_app_env.DJANGO-X") is None


@pytest.mark.parametrize(
    ("file", "line", "remedy"),
    [
        ("hosts", "celery_app_cache=false", "in INI write True or False"),
        ("hosts.ini", "celery_app_cache=yes", "in INI write True or False"),
        ("hosts", "celery_app_external_queues=[mail]", "in INI write a list as in Python"),
        ("hosts", "celery_app_env={A: b}", "in INI write a mapping as in Python"),
        # A file without an end in group_vars is YAML.
        ("group_vars/all", 'celery_app_cache: "false"', "write true or false, without quotes"),
        ("group_vars/all.yml", 'celery_app_cache: "false"', "write true or false, without quotes"),
    ],
)
def test_a_wrong_text_in_ini_gets_the_remedy_for_ini(
    tmp_path: Path, file: str, line: str, remedy: str
) -> None:
    hosts = tmp_path / ("hosts" if file.startswith("group_vars") else file)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / file).write_text(f"[all:vars]\n{line}\n" if file == hosts.name else f"{line}\n")
    with hosts.open("a") as stream:
        stream.write("[all]\nworker1\n")
    loader = DataLoader()
    inventory = InventoryManager(loader, sources=[str(hosts)])
    given = VariableManager(loader, inventory).get_vars(host=inventory.get_host("worker1"))
    name = line.split("=")[0].split(":")[0]
    made = model({**valid(tmp_path / "source"), name: given[name]})
    (one,) = [one for one in check(made) if one.variable == name]
    assert one.remedy.startswith(remedy)
