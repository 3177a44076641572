"""The examples for pipelines and AWX are valid, and only name what the collection has."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import ansiblelint.schemas
import jsonschema
import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.control import (
    ANSIBLE_BELOW,
    ANSIBLE_FROM,
)

from tests.contract.test_repository import ROOT, options_of, roles

EXAMPLES = ROOT / "examples/automation"
PIPELINES = ("github.yml", "gitlab.yml")


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    return found


def strings(value: object) -> list[str]:
    """Return every text in a document."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [str(value)]


def commands(name: str) -> list[list[str]]:
    """Return the words of every call of ansible-playbook."""
    lines = [line for text in strings(loaded(name)) for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("ansible-playbook ")]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_calls_playbooks_and_sets_variables_that_exist(name: str) -> None:
    variables = {option for role in roles() for option in options_of(role)}
    found = set()
    for words in commands(name):
        (playbook,) = (word for word in words if word.startswith("celery_fleet.core."))
        found.add(playbook.rpartition(".")[2])
        assert (ROOT / f"playbooks/{playbook.rpartition('.')[2]}.yml").is_file()
        given = [words[at + 1] for at, word in enumerate(words) if word == "-e"]
        assert {word.partition("=")[0] for word in given} <= variables
    assert found == {"check_inventory", "plan", "site"}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_deploys_only_an_approved_plan(name: str) -> None:
    (apply,) = (words for words in commands(name) if "celery_fleet.core.site" in words)
    assert "fleet_plan_approved=$PWD/plan.json" in apply
    assert "fleet_confirm=false" in apply


def test_on_github_no_check_of_a_pull_request_waits_in_the_group_of_deploys() -> None:
    # GitHub cancels a run that waits in a group if another one comes.
    group = loaded("github.yml")["concurrency"]["group"]
    only_deploys, _, others = group.partition(" || ")
    assert only_deploys == "${{ github.event_name == 'push' && 'fleet-production'"
    assert "github.ref" in others


def test_jobs_of_github_need_jobs_and_outputs_that_exist() -> None:
    jobs = loaded("github.yml")["jobs"]
    for job in jobs.values():
        assert {job.get("needs", "plan")} <= set(jobs)
        assert all({"run", "uses"} & set(step) for step in job["steps"])
        for needed, output in re.findall(r"needs\.(\w+)\.outputs\.(\w+)", job.get("if", "")):
            assert output in jobs[needed]["outputs"]


def test_jobs_of_gitlab_have_stages_and_parents_that_exist() -> None:
    found = loaded("gitlab.yml")
    jobs = {name: job for name, job in found.items() if isinstance(job, dict) and "script" in job}
    assert set(jobs) == set(found["stages"])
    for job in jobs.values():
        assert job["stage"] in found["stages"]
        assert job.get("extends", ".on_the_fleet") in found
        assert set(job.get("needs", [])) <= set(jobs)


def test_jobs_of_merge_requests_on_gitlab_need_no_protected_variable() -> None:
    found = loaded("gitlab.yml")
    comments = " ".join(
        re.findall(r"^ *# ?(.*)$", (EXAMPLES / "gitlab.yml").read_text(), re.MULTILINE)
    )
    protected = set(re.findall(r"([A-Z_]+)[^.]*? is protected", comments))
    assert protected == {"SSH_KEY"}
    assert "VAULT_PASSWORD is masked and not protected" in comments
    merging = [job for job in found.values() if "merge_request_event" in str(job)]
    for job in [*merging, found["variables"], found["default"]]:
        assert not [name for name in protected if f"${name}" in str(job)]


def test_the_execution_environment_is_valid() -> None:
    schema = Path(ansiblelint.schemas.__file__).with_name("execution-environment.json")
    found = loaded("execution-environment.yml")
    jsonschema.validate(found, json.loads(schema.read_text()))
    least, below = (".".join(map(str, version)) for version in (ANSIBLE_FROM, ANSIBLE_BELOW))
    assert found["dependencies"]["ansible_core"]["package_pip"] == f"ansible-core>={least},<{below}"
    wanted = yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"]
    given = {one["name"]: one["version"] for one in found["dependencies"]["galaxy"]["collections"]}
    assert wanted.items() <= given.items()
