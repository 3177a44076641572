"""Deploys under load: a good release arrives, a bad one goes back by itself, and no task is lost or runs twice."""

from __future__ import annotations

import pytest
from deploys import BROKEN, Deploys
from ground import FLEET, Case, Ground, assert_nothing_lost_or_doubled

LONGEST = 1500.0  # seconds of load


@pytest.fixture(scope="module", autouse=True)
def first(ground: Ground, deploys: Deploys) -> None:
    """A release of this scenario serves, deployed by site.yml."""
    case = Case("first", ground.results / "first")
    case.log.unlink(missing_ok=True)
    done = deploys.site(case, deploys.release("first"))
    assert done.status == 0, done.end
    ground.now_running = FLEET


def test_deploys_at_noon(ground: Ground, deploys: Deploys) -> None:
    """Two releases, one after the other, then back to the first one, which site.yml keeps until the next deploy."""
    start = deploys.record()["current"]

    def act(case: Case) -> None:
        for name in ("one", "two"):
            done = deploys.deploy(case, deploys.release(name))
            assert done.status == 0, done.end
            assert "passed as the canary" in done.text
            record = deploys.record()
            assert record["hold"] is None
            assert record["history"][-1]["result"] == "deployed"
            assert record["history"][-1]["canary"]["tasks"] > 20
            assert deploys.runs() == set(deploys.pins().values()) == {record["current"]}
        served = [entry["release"] for entry in deploys.record()["history"]]
        done = deploys.back(case, "-e", "why='it is noon'")
        assert done.status == 0, done.end
        record = deploys.record()
        assert record["current"] == served[-2] != start
        assert record["hold"]["why"] == "it is noon"
        assert deploys.runs() == {record["current"]}

        held = deploys.site(case, deploys.release("ignored"))
        assert held.status == 0, held.end
        assert "is held by" in held.words
        assert deploys.runs() == {record["current"]}

        done = deploys.deploy(case, deploys.release("three"))
        assert done.status == 0, done.end
        assert deploys.record()["hold"] is None

    assert_nothing_lost_or_doubled(ground.measure("deploys", FLEET, act, longest=LONGEST))


def test_bad_releases_are_refused_and_go_back(ground: Ground, deploys: Deploys) -> None:
    before = deploys.record()["current"]

    def act(case: Case) -> None:
        for name, (change, words) in BROKEN.items():
            done = deploys.deploy(case, deploys.release(name, change))
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
