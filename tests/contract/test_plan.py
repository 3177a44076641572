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
    found["verify"] = (("celery_workers", "celery_beat", "celery_producers"), found["verify"][1])
    assert {part.name: (part.groups, set(part.tags)) for part in PARTS} == found
    assert [part.name for part in PARTS] == list(found)
