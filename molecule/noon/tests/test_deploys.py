"""Deploys under load: a good release arrives, a bad one goes back by itself, and no task is lost or runs twice."""

from __future__ import annotations

import json
import time

from deploys import BROKEN, BROKEN_VARIABLES, Deploys
from ground import FLEET, SOAK, Case, Ground, assert_nothing_lost_or_doubled
from support.waiting import wait_for

LONGEST = 1800.0  # seconds of load

#: Releases that are deployed one after the other, and the broken ones that are refused. Without a soak there is one of
#: each way back: before any worker restarts, from the canary by its start and by its tasks, and from the commands.
GOOD = ("one", "two") if SOAK else ("one",)
BAD = (
    BROKEN
    if SOAK
    else {name: BROKEN[name] for name in ("import", "start", "failures", "migration")}
)


def deploy_while_another_is_refused(ground: Ground, deploys: Deploys, case: Case) -> None:
    """Begin a second deploy while the first one has the lease."""
    other = Case("second deploy", ground.results / "second-deploy")
    other.log.unlink(missing_ok=True)
    with deploys.deploying(case, deploys.release("three")) as run:
        wait_for("the deploy has the lease", 120, lambda: "Plan: " in run.text)
        refused = deploys.deploy(other, deploys.release("refused"))
        assert refused.status != 0, refused.end
        assert "load is being changed by" in refused.words, refused.end
        assert "Nothing was changed. Wait for its end and run again" in refused.words, refused.end
        done = run.result()
    assert done.status == 0, done.end


def test_deploys_at_noon(ground: Ground, deploys: Deploys) -> None:
    """Deploys, then back to the release before the last, which site.yml keeps until the next deploy.

    Meanwhile, no request to the web process fails, and beat sends in each minute once.
    """

    def deploy(case: Case) -> None:
        releases = [deploys.record()["current"]]
        for name in GOOD:
            done = deploys.deploy(case, deploys.release(name))
            assert done.status == 0, done.end
            assert "passed as the canary" in done.text
            record = deploys.record()
            assert record["hold"] is None
            assert record["history"][-1]["result"] == "deployed"
            assert record["history"][-1]["canary"]["tasks"] > 20
            assert deploys.runs() == set(deploys.pins().values()) == {record["current"]}
            releases.append(record["current"])
        done = deploys.back(case, "-e", "why='it is noon'")
        assert done.status == 0, done.end
        record = deploys.record()
        assert record["current"] == releases[-2] != releases[-1]
        assert record["hold"]["why"] == "it is noon"
        assert deploys.runs() == {record["current"]}

        held = deploys.site(case, deploys.release("ignored"))
        assert held.status == 0, held.end
        assert "is held by" in held.words
        assert deploys.runs() == {record["current"]}

        deploy_while_another_is_refused(ground, deploys, case)
        assert deploys.record()["hold"] is None
        deploys.settled()

    def act(case: Case) -> None:
        began = time.time()
        with deploys.requests() as answers:
            deploy(case)
        failed = len(answers) - answers.count(200)
        case.report["web"] = {"requests": len(answers), "failed": failed}
        case.report["beat"] = deploys.slots(began, time.time())

    summary = ground.measure("deploys", FLEET, act, longest=LONGEST)
    assert_nothing_lost_or_doubled(summary)
    assert summary.report["web"]["requests"] > 100
    assert summary.report["web"]["failed"] == 0, summary.report
    assert summary.report["beat"]["slots"] >= 3
    assert summary.report["beat"]["doubled"] == summary.report["beat"]["missed"] == 0, (
        summary.report
    )


def test_bad_releases_are_refused_and_go_back(ground: Ground, deploys: Deploys) -> None:
    before = deploys.record()["current"]

    def act(case: Case) -> None:
        for name, (change, words) in BAD.items():
            variables = json.dumps(BROKEN_VARIABLES.get(name, {}))
            done = deploys.deploy(case, deploys.release(name, change), "-e", variables)
            assert done.status != 0, f"{name} was deployed:\n{done.end}"
            assert words in done.words, f"{name}:\n{done.end}"
            assert "Traceback (most recent" not in done.text.partition("PLAY RECAP")[2]
            assert deploys.runs() == {before}, name
            record = deploys.record()
            assert record["current"] == before
            assert record["hold"]["release"] == before, name

    assert_nothing_lost_or_doubled(ground.measure("bad releases", FLEET, act, longest=LONGEST))
    leftovers = "ls /run/systemd/system /etc/systemd/system | grep '\\.next\\.' ; exit 0"
    assert [ground.fleet.must(host, leftovers) for host in ground.workers] == ["", "", ""]
