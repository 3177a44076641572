"""If actions get no answer from a host, or can't write, their message says what to do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import plan

PLUGINS = Path(__file__).resolve().parents[3] / "plugins/action"
#: A host's answer if none of our programs could run there.
NO_ANSWER = {"rc": 1, "stdout": "", "stderr": "No space left on device"}
AGAIN = "run the same command again."


def action(name: str, args: dict[str, Any], **methods: Any) -> Any:
    """Make an action whose host gives no answer."""
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
        ("run_lease", {"app": "shop", "state": "present"}),
        ("firewall_rollback", {"do": "arm", "app": "shop", "file": "/etc/x"}),
    ],
)
def test_the_message_for_a_host_without_an_answer_has_the_remedy(
    name: str, args: dict[str, Any]
) -> None:
    of_run = {"ansible_play_hosts_all": ["redis1"], "ansible_forks": 5}
    with pytest.raises(AnsibleActionFail) as failed:
        action(name, args).run(task_vars={"inventory_hostname": "redis1", **of_run})
    assert "No space left on device" in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


@pytest.mark.parametrize(("count", "forks", "seconds"), [(5, 5, 60), (6, 2, 180), (6, 1, 360)])
def test_the_firewalls_rollback_waits_until_all_hosts_have_connected(
    count: int, forks: int, seconds: int
) -> None:
    asked: list[dict[str, Any]] = []

    def ask(script: str, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return {"error": "the timer is gone"}

    hosts = [f"h{number}" for number in range(count)]
    made = action("firewall_rollback", {"do": "end", "app": "shop", "file": "/etc/x"}, ask=ask)
    variables = {"ansible_play_hosts_all": hosts, "ansible_forks": forks}
    cut_off = {"silent": [{"host": "redis1", "port": 6379, "source": "10.0.0.9"}]}
    variables["hostvars"] = {host: {"ansible_host": host} for host in hosts}
    variables["hostvars"]["h0"]["__firewall_connected"] = cut_off
    with pytest.raises(AnsibleActionFail) as failed:
        made.run(task_vars={"inventory_hostname": "h0", **variables})
    assert [one["seconds"] for one in asked] == [seconds]
    assert "h0 gets no answer from redis1:6379" in str(failed.value)
    assert "can't be begun: the timer is gone" in str(failed.value)


def test_workers_that_can_t_be_asked_before_a_rolling_restart() -> None:
    made = action(
        "rolling_restart",
        {},
        _interpreter=lambda: "/opt/shop/pins/worker-a/venv/bin/python",
        probe=lambda request: {"errors": ["the broker can't be asked"]},
    )
    with pytest.raises(AnsibleActionFail) as failed:
        made._census()
    for words in ("the broker can't be asked", "None was stopped", "celery-fleet status"):
        assert words in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


def planned(
    *items: plan.PlanItem,
    found: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    **args: Any,
) -> dict[str, Any]:
    """Run `plan_report` for a host of which `host_plan` found these items, or for several hosts."""
    plans = found or {"redis1": {"items": [item.as_dict() for item in items]}}
    whole = {
        "hosts": list(plans),
        "missing": {},
        "workers": [],
        "instances": {},
        "app": "shop",
        "drain": 0,
        "min_capacity": 50,
        "batch": 4,
        "restart_all": False,
        "only": [],
        **args,
    }
    variables = {
        "hostvars": {host: {**(own or {}), "__fleet_plan": made} for host, made in plans.items()},
        "groups": {"fleet": list(plans), "redis": [*plans, *whole["missing"]]},
        "ansible_run_tags": ["all"],
        "ansible_skip_tags": [],
    }
    done: dict[str, Any] = action("plan_report", whole).run(task_vars=variables)
    return done


def test_a_plan_names_the_parts_that_are_due_on_any_host() -> None:
    found = {
        "redis1": {"items": [], "due": ["redis", "pki"]},
        "worker1": {"items": [], "due": ["pki", "celery_worker"]},
    }
    assert planned(found=found)["due"] == ["celery_worker", "pki", "redis"]


LIMITS = {
    "seconds": 60,
    "worker": "",
    "min_tasks": 20,
    "max_failures": 5,
    "max_slowdown": 2,
    "max_memory": 1.5,
    "max_growth": 256,
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LIMITS, "the one of mail@w1, other@w1 that has run most tasks in the last hour"),
        ({**LIMITS, "worker": "mail"}, "mail@w1"),
        ({**LIMITS, "seconds": 0}, ""),
        ({}, ""),
    ],
)
def test_a_plan_says_which_worker_a_deploy_observes(given: dict[str, Any], words: str) -> None:
    units = ("shop-worker@mail.service", "shop-worker@other.service")
    items = [
        plan.PlanItem("w1", "celery_worker", unit, "restart", ("release",)).as_dict()
        for unit in units
    ]
    states = {unit: {"active": "active"} for unit in units}
    instances = {name: {"queues": [name], "concurrency": 2} for name in ("mail", "other")}
    facts = {"celery_app_name": "shop", "celery_worker_instances": instances}
    done = planned(
        found={"w1": {"items": items, "states": states}},
        own=facts,
        workers=["w1"],
        instances=instances,
        canary=given,
    )
    said = [line for line in done["plan"]["notes"] if "is the canary" in line]
    wanted = f"{words} is the canary: the others wait while it is observed for 60 s"
    assert said == ([wanted] if words else [])


def test_the_plan_has_a_remark_of_several_hosts_once() -> None:
    told = {"items": [], "states": {}, "remarks": ["release r1 has no task shop.new"]}
    done = planned(found={"w1": told, "w2": told})
    assert done["plan"]["notes"].count("release r1 has no task shop.new") == 1


def test_a_canary_that_does_not_restart_is_refused_by_the_plan() -> None:
    unit = "shop-worker@mail.service"
    item = plan.PlanItem("w1", "celery_worker", unit, "restart").as_dict()
    instances = {"mail": {"queues": ["mail"], "concurrency": 2}}
    with pytest.raises(AnsibleActionFail, match="celery_canary_worker is none"):
        planned(
            found={"w1": {"items": [item], "states": {unit: {"active": "active"}}}},
            own={"celery_app_name": "shop"},
            workers=["w1"],
            instances=instances,
            canary={**LIMITS, "worker": "none"},
        )


def test_a_plan_that_leaves_old_users_on_a_host_of_redis_is_refused() -> None:
    unit, missing = "redis@shop-broker.service", {"redis3": "can't be reached: timed out"}
    memory = plan.PlanItem("redis1", "redis", unit, "live", ("setting maxmemory 1mb → 2mb",))
    assert planned(memory, missing=missing)["changes"]
    users = plan.PlanItem("redis1", "redis", unit, "live", ("user worker changed",))
    with pytest.raises(AnsibleActionFail) as failed:
        planned(users, missing=missing)
    assert "redis3 (can't be reached: timed out)" in str(failed.value)


def test_a_plan_that_can_t_be_written_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "not-there/plan.json"
    with pytest.raises(AnsibleActionFail) as failed:
        planned(path=str(path))
    assert f"fleet_plan_json: {path} can't be written" in str(failed.value)
    assert str(failed.value).endswith(AGAIN)


WRITE = plan.PlanItem("redis1", "fleet", "", "write", ("/etc/x",))
OTHER = plan.PlanItem("redis1", "fleet", "", "write", ("/etc/y",))


def test_an_approved_plan_is_accepted(tmp_path: Path) -> None:
    approved = tmp_path / "plan.json"
    assert planned(WRITE, path=str(approved))["changes"]
    assert planned(WRITE, approved=str(approved))["changes"]
    # Everything was done in the meantime.
    assert not planned(approved=str(approved))["changes"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            json.dumps(plan.Plan([OTHER], ["redis1"]).as_dict()),
            "not approved: redis1  fleet  write  /etc/x",
        ),
        ("{}", "it is not a plan of format"),
        ("items:", "Expecting value"),
        (None, "can't be read: No such file"),
    ],
)
def test_a_plan_that_was_not_approved_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    approved = tmp_path / "plan.json"
    if content is not None:
        approved.write_text(content)
    with pytest.raises(AnsibleActionFail) as failed:
        planned(WRITE, approved=str(approved))
    assert str(failed.value).startswith("fleet_plan_approved: ")
    assert words in str(failed.value)
    assert "Nothing was changed." in str(failed.value)
