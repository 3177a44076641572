"""What `rollback_app.yml` refuses, because it carries out only a part of the plan, and what it leaves for later."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import left_queues
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import going_back
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import PlanItem

WORKER = PlanItem("h1", "celery_worker", "shop-worker@mail.service", "restart", ("release",))


@pytest.mark.parametrize("part", ["celery_runtime", "redis"])
def test_what_processes_need_is_done_by_another_run_first(part: str) -> None:
    due = PlanItem("h1", part, "redis@shop-broker.service", "live", ("user worker changed",))
    words = going_back.refusal([WORKER, due], "a" * 12)
    assert "these changes: redis@shop-broker on h1. " in words
    assert f"ansible-playbook celery_fleet.core.deploy_app -e release={'a' * 12}" in words


def test_a_release_that_a_host_would_have_to_build_again_is_refused() -> None:
    build = PlanItem("h2", "celery_release", "", "build", ("release 3f0c2d3e5a6b",))
    assert "these changes: celery_release on h2. " in going_back.refusal([WORKER, build], "a" * 12)


def test_the_rest_is_left_to_a_whole_run() -> None:
    items = [WORKER, PlanItem("h1", "pki", "", "renew", ("it ends soon",))]
    assert not going_back.refusal(items, "a" * 12)
    assert going_back.notes(items) == ["Not part of going back, and left to site.yml: pki."]
    assert not going_back.notes([WORKER])


@pytest.mark.parametrize(
    "why", ["user worker: what was allowed before still is", left_queues.TASKS_WAIT]
)
def test_what_is_left_to_the_end_of_a_run_does_not_prevent_it(why: str) -> None:
    left = PlanItem("h1", "redis", "redis@shop-broker.service", "live", (why,))
    assert not going_back.refusal([WORKER, left], "a" * 12)
