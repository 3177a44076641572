"""The delivered site.yml with an inventory in INI and several sources that has other names for the fleet's groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.collection import replaced
from tests.render.fleet import ROOT, ansible, prepare
from tests.unit.plays.conftest import STAND_INS

NAMES = {"fleet": "shop", "redis": "celery_redis", "celery_workers": "shop_workers"}


@pytest.mark.long
def test_plays_act_on_renamed_groups_and_leave_groups_with_our_names_alone(tmp_path: Path) -> None:
    made = prepare("local", tmp_path, {"firewall_enabled": True})
    calls = tmp_path / "calls"
    calls.mkdir()
    given = yaml.safe_load((made.inventory / "hosts.yml").read_text())["fleet"]["children"]
    members = {group: list(found["hosts"]) for group, found in given.items()}
    sections = [
        f"[{NAMES.get(group, group)}]\n" + "\n".join(hosts) for group, hosts in members.items()
    ]
    sections.append("[shop:children]\n" + "\n".join(NAMES.get(group, group) for group in members))
    (made.inventory / "hosts.yml").unlink()
    (made.inventory / "hosts.ini").write_text("\n".join(sections) + "\n")
    # Another application's hosts, from a separate source.
    (tmp_path / "others.ini").write_text("[redis]\ncache1\n[fleet]\nvan1\n[celery_workers]\nold1\n")
    (made.inventory / "group_vars/all/groups.yml").write_text(
        yaml.safe_dump({"fleet_groups": NAMES})
    )
    done = ansible(
        "ansible-playbook",
        *made.options,
        f"--inventory={tmp_path / 'others.ini'}",
        "celery_fleet.core.site",
        ANSIBLE_COLLECTIONS_PATH=replaced(tmp_path, parts=STAND_INS),
        PYTHONPATH=str(ROOT),
        CALLS=str(calls),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    found = [json.loads(path.read_text()) for path in calls.iterdir()]
    settled: dict[str, set[str]] = {}
    for call in found:
        settled.setdefault(call["part"] or call["action"], set()).add(call["host"])
    assert settled["redis"] == set(members["redis"])
    assert settled["pki"] == set(made.names)
    assert settled["flower"] == set(members["flower"])
    assert settled["rolling_restart"] == set(members["celery_workers"])
    assert not {"cache1", "van1", "old1"} & {call["host"] for call in found}
