"""Deploys that are interrupted: what the next run does with them, and what becomes of the tasks."""

from __future__ import annotations

import random
import time

import pytest
from deploys import Deploys
from faults import HOST_LOST, bring_back, lose_host
from ground import FLEET, SEED, SOAK, Case, Ground, assert_nothing_lost_or_doubled, kill
from support.waiting import wait_for

from scripts.restarts import judge

KILLS = 10 if SOAK else 1
LONGEST = 3600.0 * KILLS  # seconds of load


def kill_a_deploy(deploys: Deploys, case: Case, number: int, moment: float) -> None:
    """Kill a deploy after some seconds, and check what the next run makes of it.

    Every other time that is the same deploy, which finishes, and else site.yml, which goes back to the release that the
    killed deploy has held.
    """
    before = str(deploys.record()["current"])
    source = deploys.release(f"killed-{number}")
    with deploys.deploying(case, source) as run:
        time.sleep(moment)
        kill(run.process)
        tasks = [line for line in run.text.splitlines() if line.startswith("TASK [")]
    # Runs read it there, and a killed one may not have written it everywhere.
    record = deploys.record(deploys.ground.fleet.one("redis"))
    print(f"seed {SEED}, kill {number} after {moment:.0f} s: {tasks[-1] if tasks else 'no task'}")
    if number % 2:
        done = deploys.deploy(case, source)
        assert done.status == 0, done.end
        assert deploys.settled() != before
        assert deploys.record()["hold"] is None
        return
    done = deploys.site(case, source)
    assert done.status == 0, done.end
    current = deploys.settled()
    if record["hold"] is not None:
        assert current == before == record["hold"]["release"]
        assert "is held by" in done.words
    else:
        # It was killed before it had changed anything, or when it was done.
        assert current != before


def test_killed_deploys_are_finished_or_taken_back(ground: Ground, deploys: Deploys) -> None:
    numbers = random.Random(SEED)  # noqa: S311  # no secret

    def act(case: Case) -> None:
        began = time.monotonic()
        done = deploys.deploy(case, deploys.release("unkilled"))
        assert done.status == 0, done.end
        part = (time.monotonic() - began) / KILLS
        # Each moment is in another part of a deploy, so they are spread over it but random.
        for number in range(KILLS):
            kill_a_deploy(deploys, case, number + 1, part * (number + numbers.random()))

    summary = ground.measure("deploys killed", FLEET, act, longest=LONGEST)
    assert_nothing_lost_or_doubled(summary)


def stopped(ground: Ground, since: float) -> list[str]:
    """Return the workers that were told to stop after this moment, without second instances."""
    return [node for node in ground.left(since) if ".next@" not in node]


@pytest.mark.soak
def test_a_host_that_is_lost_in_a_deploy_has_it_refused(ground: Ground, deploys: Deploys) -> None:
    """When the host is back, site.yml brings all hosts back to the release that the deploy has held."""
    gone: list[str] = []

    def act(case: Case) -> None:
        before = str(deploys.record()["current"])
        source, since = deploys.release("lost"), time.time()
        with deploys.deploying(case, source) as run:
            wait_for("a second worker restarts", 600, lambda: len(stopped(ground, since)) >= 2, 0.3)
            name = stopped(ground, since)[1].partition("@")[2]
            gone.append(name)
            lose_host(ground, case, name)
            done = run.result()
        assert done.status != 0, "a deploy that lost a host must not succeed"
        assert name in done.words, done.end
        bring_back(ground, gone.pop())
        record = deploys.record()
        assert (record["current"], record["hold"]["release"]) == (before, before)
        done = deploys.site(case, source)
        assert done.status == 0, done.end
        assert deploys.settled() == before

    try:
        summary = ground.measure("a host is lost in a deploy", FLEET, act, longest=LONGEST)
    finally:
        for name in gone:
            bring_back(ground, name)
    assert (summary.lost, summary.lost_causes) == (0, {})
    allowed = (judge.was_cut_off(HOST_LOST), judge.had_ended(HOST_LOST), judge.SENT_BY_RERUN)
    assert not summary.unexpected(allowed), summary.doubled_causes
