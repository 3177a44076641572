"""The plan's parts are the plays of site.yml."""

from __future__ import annotations

import yaml
from fleet_control.plan import PARTS

from tests.contract.test_repository import ROOT


def test_every_part_has_the_hosts_and_tags_of_its_play() -> None:
    plays = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    found = {}
    for play in plays:
        for role in play.get("roles", []):
            if role["role"] == "fleet":
                continue
            hosts = tuple(play["hosts"].split(":"))
            # `verify` alone proves what is there; the plan has a part of it that comes with a deploy only.
            tags = {*play["tags"], *role["tags"]} - {"verify"}
            found[role["role"]] = (hosts, tags)
    end = next(play for play in plays if play.get("name") == "End what moved to another host")
    found["celery_runtime_surplus"] = (("fleet",), set(end["tags"]))
    found["verify"] = (("celery_workers", "celery_beat", "celery_producers"), found["verify"][1])
    assert {part.name: (part.groups, set(part.tags)) for part in PARTS} == found
    order = [name for name in found if name != "celery_runtime_surplus"]
    assert [part.name for part in PARTS if part.name in order] == order
    # Workers serve elsewhere before, beat starts after.
    names = [part.name for part in PARTS]
    at = names.index("celery_runtime_surplus")
    assert names[at - 1 : at + 2] == ["celery_worker", "celery_runtime_surplus", "celery_beat"]


def test_whatever_the_tags_a_run_is_alone_planned_and_confirmed() -> None:
    plays = {
        play["name"]: play for play in yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    }
    for name in ("Keep other runs out", "Plan", "Ask whoever runs this", "Let other runs in"):
        assert plays[name]["tags"] == ["always"], name
