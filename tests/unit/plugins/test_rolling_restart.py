"""How the action `rolling_restart` works with Ansible: lost hosts, and leftovers of earlier runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PATH = Path(__file__).resolve().parents[3] / "plugins/action/rolling_restart.py"


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fleet_roll_under_test", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def action(plugin: ModuleType, **methods: Any) -> Any:
    """Return the action without a task; calls to hosts are replaced."""
    made = object.__new__(plugin.ActionModule)
    vars(made).update(methods)
    return made


def test_a_host_that_is_lost_while_its_files_are_written(plugin: ModuleType) -> None:
    def lost(options: Any) -> Any:
        raise AnsibleConnectionFailure("timed out")

    with pytest.raises(plugin.host_restarts.ConnectionLostError, match="timed out"):
        action(plugin, _reconcile=lost).reconcile()


def test_files_that_can_t_be_written_are_an_error(plugin: ModuleType) -> None:
    failed = action(plugin, _reconcile=lambda options: {"failed": True, "msg": "disk full"})
    with pytest.raises(plugin.host_restarts.ReconcileFailedError, match="disk full"):
        failed.reconcile()


def test_second_instances_that_were_left_behind_are_found(plugin: ModuleType) -> None:
    files = [{"path": "/etc/celery-fleet/shop/worker-a.next.env"}]
    assert plugin._left({"__celery_worker_left": {"files": files}}) == ["a.next"]
    assert plugin._left({}) == []


def test_a_leftover_second_instance_that_does_not_answer_is_removed(
    plugin: ModuleType, tmp_path: Path
) -> None:
    h1 = {"celery_app_name": "shop", "celery_worker_host_instances": ["a"]}
    h1["__celery_worker_left"] = {"files": [{"path": "/etc/x/worker-a.next.env"}]}
    args = {"hosts": ["h1"], "inventory": ["h1"], "instances": {"a": {"queues": ["q"]}}}
    args |= {"force": True, "only": [], "app": "shop", "min_capacity": 50, "batch": 4, "report": ""}
    made = action(
        plugin,
        _args=args,
        _variables={"hostvars": {"h1": h1}},
        _state=plugin.state.RollState(tmp_path),
        _check_lease=lambda: None,
        _census=dict,
    )
    assert made._open()["hosts"]["finish"] == ["h1"]
    assert made._state.worker("a.next@h1").need == "remove"


def test_the_lease_is_renewed_during_a_phase(
    plugin: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *given: {})
    kept: list[bool] = []

    def roll(kind: str) -> bool:
        kept.append(not plugin.lease._is_idle(tmp_path))
        return False

    task = SimpleNamespace(args={"directory": str(tmp_path), "phase": "start"})
    action(plugin, _task=task, _roll=roll).run()
    assert kept == [True]
    assert plugin.lease._is_idle(tmp_path)
