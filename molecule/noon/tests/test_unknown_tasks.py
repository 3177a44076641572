"""Tasks that only one of two releases knows wait for its workers, and each runs once."""

from __future__ import annotations

import time

import pytest
from deploys import Deploys, with_fresh
from ground import FLEET, Case, Ground, assert_nothing_lost_or_doubled
from support.waiting import wait_for

NUMBER = 20
LONGEST = 3600.0  # seconds of load


@pytest.mark.soak
def test_tasks_wait_for_workers_that_know_them(ground: Ground, deploys: Deploys) -> None:
    def all_ran(name: str) -> None:
        wait_for(f"{name} run", 120, lambda: len(deploys.fresh(name)) == NUMBER, pause=2)
        assert deploys.fresh(name) == [1] * NUMBER

    def act(case: Case) -> None:
        # No worker knows them yet.
        early = f"early-{int(time.time())}"
        deploys.send_fresh(early, NUMBER)
        time.sleep(15)
        assert deploys.fresh(early) == []
        done = deploys.deploy(case, deploys.release("fresh", with_fresh))
        assert done.status == 0, done.end
        all_ran(early)
        knowing = deploys.settled()

        # The next release has no such task, and old workers run it as long as there are any.
        late = f"late-{int(time.time())}"
        with deploys.deploying(case, deploys.release("without")) as run:
            wait_for("the canary has passed", 400, lambda: "passed as the canary" in run.text)
            deploys.send_fresh(late, NUMBER)
            done = run.result()
        assert done.status == 0, done.end
        assert deploys.settled() != knowing
        last = f"last-{int(time.time())}"
        deploys.send_fresh(last, NUMBER)
        time.sleep(15)
        assert deploys.fresh(last) == []

        # Those that are left run after the way back.
        done = deploys.back(case)
        assert done.status == 0, done.end
        assert deploys.settled() == knowing
        all_ran(late)
        all_ran(last)

    summary = ground.measure("tasks that one release knows", FLEET, act, longest=LONGEST)
    assert_nothing_lost_or_doubled(summary)
