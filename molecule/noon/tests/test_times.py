"""How long a deploy and a way back take by themselves: no task runs, so no worker has anything to drain."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict

import pytest
from deploys import Deployed, Deploys
from ground import Case, Ground


def seconds_of(run: Callable[[], Deployed]) -> float:
    began = time.monotonic()
    done = run()
    assert done.status == 0, done.end
    return round(time.monotonic() - began, 1)


@pytest.mark.soak
def test_times_of_a_deploy_and_a_way_back(ground: Ground, deploys: Deploys) -> None:
    """The canary is not observed, which would only add its seconds. The page shows these times beside the goals."""
    case = Case("times", ground.results / "times")
    case.log.unlink(missing_ok=True)
    case.path("json").unlink(missing_ok=True)
    before = deploys.settled()
    source = deploys.release("timed")
    deploy = seconds_of(lambda: deploys.deploy(case, source, "-e", "celery_canary_seconds=0"))
    assert deploys.settled() != before
    back = seconds_of(lambda: deploys.back(case))
    assert deploys.settled() == before
    print(f"a deploy to {len(ground.workers)} hosts took {deploy} s, a way back {back} s")
    times = {"hosts": len(ground.workers), "deploy": deploy, "back": back, **asdict(ground.origin)}
    case.path("json").write_text(json.dumps(times) + "\n")
