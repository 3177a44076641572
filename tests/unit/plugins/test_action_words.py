"""Actions return, or fail with, the output of a unit or a program, without secrets of the application."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import lease

from tests.unit.plugins.test_action_remedies import action

WORDS = "failed: quite-secret, postgresql://shop:other@db/shop"
CLEAN = "failed: ***, postgresql://***@db/shop"
#: The application's secret environment, as Ansible renders it for the action.
TEMPLAR = SimpleNamespace(template=lambda text: {"PASSWORD": "quite-secret"})
UNIT = "shop-worker@a.service"
RUN = {"ansible_run_tags": [], "ansible_skip_tags": [], "inventory_hostname": "h1", "groups": {}}


def free(*_: Any, **__: Any) -> Any:
    """Return a lease that no other run holds."""
    return nullcontext()


def answering(name: str, args: dict[str, Any], answer: dict[str, Any], **methods: Any) -> Any:
    """Make an action whose host gives this answer."""
    done = {"rc": 0, "stdout": json.dumps(answer), "stderr": ""}
    methods = {"_low_level_execute_command": lambda *_, **__: done, **methods}
    made = action(name, args, _templar=TEMPLAR)
    vars(made).update(methods)
    return made


def test_output_of_awaited_services_is_redacted() -> None:
    answer = {"journals": {UNIT: WORDS}, "errors": {UNIT: WORDS}, "units": {}}
    answer["units"] = {UNIT: {"StatusText": WORDS}}
    found = answering("wait_for_services", {"timeout": 0}, answer).run(task_vars={})
    assert found["journals"] == found["errors"] == {UNIT: CLEAN}
    assert found["units"] == {UNIT: {"StatusText": CLEAN}}


def test_a_failed_canary_and_its_workers_journal_are_redacted() -> None:
    node = {"host": "h1", "worker": "a", "unit": UNIT, "queues": ["q"]}
    args = {"nodes": {"a@h1": node}, "hosts": ["h1"], "settings": {}, "schedule": {}, "routes": {}}
    args |= {"timeout": 1, "pins": "/pins", "runtime": "/r", "user": "shop", "strict": True}
    answer = {"nodes": {"a@h1": {"ok": False, "errors": [WORDS], "state": "x"}}, "errors": [WORDS]}
    made = answering("send_canaries", args, {**answer, "journals": {UNIT: WORDS}})
    found = made.run(task_vars={"inventory_hostname": "h1"})
    assert found["failed"]
    assert found["msg"].count(CLEAN) == 2
    assert "quite-secret" not in str(found)
    assert "other@" not in str(found)


def test_no_worker_is_expected_for_an_external_queue() -> None:
    node = {"host": "h1", "worker": "a", "unit": UNIT, "queues": ["q"]}
    entries = {name: {"task": "t", "interval": 5, "queue": name} for name in ("q", "letters")}
    args = {"nodes": {"a@h1": node}, "hosts": ["h1"], "settings": {}, "schedule": entries}
    # `-e verify_canary_timeout=60` is text.
    args |= {"routes": {}, "timeout": "60", "pins": "/pins", "runtime": "/r", "user": "shop"}
    asked: list[dict[str, Any]] = []

    def execute(*_: Any, in_data: bytes) -> dict[str, Any]:
        asked.append(json.loads(in_data))
        return {"rc": 0, "stdout": '{"nodes": {}, "errors": []}', "stderr": ""}

    made = answering(
        "send_canaries",
        {**args, "external": ["letters"]},
        {},
        _low_level_execute_command=execute,
    )
    made.run(task_vars={"inventory_hostname": "h1"})
    assert list(asked[0]["schedule"]) == ["q"]
    assert asked[0]["timeout"] == 60


def test_one_entry_is_sent_for_each_task_and_queue() -> None:
    node = {"host": "h1", "worker": "a", "unit": UNIT, "queues": ["q"]}
    loaded = [
        {"name": f"{task} {number}", "task": task, "queue": queue, "source": source}
        for number in range(10_000)
        for task, queue, source in (("t", "q", "code"), ("u", "q", "code"), ("v", "q", "database"))
    ]
    args = {"nodes": {"a@h1": node}, "hosts": ["h1"], "settings": {}, "routes": {}}
    args |= {"timeout": 1, "pins": "/pins", "runtime": "/r", "user": "shop", "loaded": loaded}
    args |= {"schedule": {"ours": {"task": "w", "interval": 5, "queue": "q"}}}
    asked: list[dict[str, Any]] = []

    def execute(*_: Any, in_data: bytes) -> dict[str, Any]:
        asked.append(json.loads(in_data))
        return {"rc": 0, "stdout": '{"nodes": {}, "errors": []}', "stderr": ""}

    made = answering("send_canaries", args, {}, _low_level_execute_command=execute)
    made.run(task_vars={"inventory_hostname": "h1"})
    assert list(asked[0]["schedule"]) == ["t 0", "u 0", "ours"]


def test_output_of_a_workers_turn_is_redacted() -> None:
    answer = {"units": {UNIT: {"status": WORDS}}, "journals": {UNIT: WORDS}, "error": WORDS}
    found = answering("rolling_restart", {}, answer).move({"journals": [UNIT]})
    assert found == {"units": {UNIT: {"status": CLEAN}}, "journals": {UNIT: CLEAN}, "error": CLEAN}


def test_errors_of_a_probe_are_redacted() -> None:
    place = {"settings": {}, "runtime": "/r", "user": "shop"}
    made = answering("rolling_restart", {}, {"errors": [WORDS]}, _place=place, _python="/p")
    assert made.probe({"census": True}) == {"errors": [CLEAN]}
    made._low_level_execute_command = lambda *_, **__: {"rc": 1, "stderr": WORDS}
    assert made.probe({"census": True})["errors"] == [f"the probe can't be run: {CLEAN}"]


def test_errors_of_pausing_workers_are_redacted() -> None:
    args = {"configuration": "/c", "root": "/o", "user": "shop", "settings": {}}
    assert answering("pause_workers", args, {"errors": [WORDS]})._ask({"settings": {}}) == {
        "errors": [CLEAN]
    }


FAILED = {"failed": True, "msg": WORDS}
REDACTED = {"failed": True, "msg": CLEAN}


def test_the_error_of_a_unit_that_does_not_start_is_redacted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = answering(
        "reconcile", {"wanted": {}}, {}, _loader=None, _execute_module=lambda **_: FAILED
    )
    monkeypatch.setattr(lease, "held", free)
    assert made.run(task_vars={}) == {**REDACTED, "changed": False}


def test_the_error_of_a_plan_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = answering("host_plan", {}, {}, _loader=None, _execute_module=lambda **_: FAILED)
    part = SimpleNamespace(name="redis", variable="x")
    monkeypatch.setitem(type(made).act.__globals__, "parts_of", lambda *_: [part])
    monkeypatch.setattr(made, "_value", lambda name: {})
    found = made.run(task_vars=dict(RUN))
    assert found == {**REDACTED, "changed": False}


def test_the_error_of_a_workers_files_is_redacted() -> None:
    turns = {"_variables": {}, "_turns": {"wanted": {"files": []}}, "_loader": None}
    made = answering("rolling_restart", {}, {}, _execute_module=lambda **_: FAILED, **turns)
    assert made._reconcile({}) == REDACTED


def test_the_error_of_a_release_is_redacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip or the application itself may have printed it."""
    seen = {"platform": "python3.11", "virtualenvs": []}
    made = answering("release", {}, seen, _execute_module=lambda **_: FAILED)
    made._connection._shell.join_path = lambda *parts: "/".join(parts)
    vars(made).update(_make_tmp_path=lambda: "/tmp", _transfer_file=lambda *_: None)
    needed = {"file": "requirements.txt", "digest": "d", "local": False}
    args = {
        "id": "r1",
        "root": "/opt/shop",
        "python": "python3",
        "requirements": needed,
        "user": "shop",
    }
    assert made._build(dict(args), "/a", {}) == REDACTED
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as failed:
        made._build({**args, "hosts": ["h1", "h2"]}, "/a", {"inventory_hostname": "h1"})
    assert CLEAN in str(failed.value)


def test_the_error_of_a_schedule_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    args = {
        "do": "plan",
        "app": "shop",
        "root": "/o",
        "runtime": "/r",
        "release": "r",
        "timeout": 1,
    }
    answer = {"ok": False, "error": WORDS}
    made = answering("database_schedule", {**args, "settings": {}}, answer)
    found = made.run(task_vars={"inventory_hostname": "h1"})
    assert CLEAN in found["items"][0]["why"][0]
    monkeypatch.setattr(lease, "held", free)
    made._task.args["do"] = "sync"
    with pytest.raises(AnsibleActionFail) as failed:
        made.run(task_vars={"inventory_hostname": "h1"})
    assert CLEAN in str(failed.value)
