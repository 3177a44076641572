"""Actions that get no answer from a host, or can't write: what they end with says what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail

PLUGINS = Path(__file__).resolve().parents[3] / "plugins/action"
#: What a host says where nothing of ours could run on it.
NO_ANSWER = {"rc": 1, "stdout": "", "stderr": "No space left on device"}
AGAIN = "run the same command again."


def action(name: str, args: dict[str, Any], **methods: Any) -> Any:
    """An action whose host, where it is asked, gives no answer."""
    spec = importlib.util.spec_from_file_location(f"{name}_without_answer", PLUGINS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = object.__new__(module.ActionModule)
    vars(made).update(
        _task=SimpleNamespace(
            args=args, async_val=0, check_mode=False, action=name, delegate_to="redis1"
        ),
        _connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir="")),
        _low_level_execute_command=lambda *_, **__: NO_ANSWER,
        **methods,
    )
    return made


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("fleet_lease", {"app": "shop", "state": "present"}),
        ("fleet_packages", {"do": "begin"}),
    ],
)
def test_a_host_without_an_answer(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(AnsibleActionFail) as failed:
        action(name, args).run(task_vars={"inventory_hostname": "redis1"})
    assert "No space left on device" in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


def test_a_host_whose_firewall_can_t_be_tried() -> None:
    with pytest.raises(AnsibleActionFail) as failed:
        action("fleet_firewall", {})._ask(do="try")
    assert "No space left on device" in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


def test_workers_that_can_t_be_asked_before_a_roll() -> None:
    made = action(
        "fleet_roll",
        {},
        _interpreter=lambda: "/opt/shop/pins/worker-a/venv/bin/python",
        probe=lambda request: {"errors": ["the broker can't be asked"]},
    )
    with pytest.raises(AnsibleActionFail) as failed:
        made._census()
    for words in ("the broker can't be asked", "None was stopped", "celery-fleet status"):
        assert words in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


def test_a_plan_that_can_t_be_written(tmp_path: Path) -> None:
    path = tmp_path / "not-there/plan.json"
    args = {
        "hosts": [],
        "missing": {},
        "workers": [],
        "instances": {},
        "app": "shop",
        "drain": 0,
        "min_capacity": 50,
        "batch": 4,
        "restart_all": False,
        "only": [],
        "path": str(path),
    }
    variables = {"hostvars": {}, "ansible_run_tags": ["all"], "ansible_skip_tags": []}
    with pytest.raises(AnsibleActionFail) as failed:
        action("fleet_plan_report", args).run(task_vars=variables)
    assert f"fleet_plan_json: {path} can't be written" in str(failed.value)
    assert str(failed.value).endswith(AGAIN)
