"""Measure deployed fleets, and preflight, which needs none."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.bench.figures import Ratio, profile_text, ratio, report
from scripts.bench.fleets import PLACE, fleet, whole_inventory
from scripts.bench.runs import (
    ROOT,
    SITE,
    calls,
    in_turn,
    ping,
    processor_seconds,
    profile,
    run,
    second_run,
)

DEMO = ROOT / "inventories" / "local"


def second(rounds: int) -> str:
    """Measure the second run on the demo."""
    run(SITE)
    found = in_turn(
        rounds,
        {"`ansible all -m ping`": lambda: ping(DEMO), "second run": lambda: second_run(DEMO)},
    )
    one = ratio(
        "second run as a multiple of the ping", found, "second run", "`ansible all -m ping`", 12
    )
    return _with_profile(found, one, DEMO)


def queues(rounds: int) -> str:
    """Compare many queues on a host with few."""
    with fleet("3-queues", 1, 3) as few, fleet("24-queues", 1, 24) as many:
        found = in_turn(
            rounds, {"3 queues": lambda: second_run(few), "24 queues": lambda: second_run(many)}
        )
        one = ratio("24 queues as a multiple of 3", found, "24 queues", "3 queues", 1.2)
        return _with_profile(found, one, many)


def hosts(rounds: int) -> str:
    """Compare many hosts with few."""
    with fleet("4-hosts", 3, 1) as few, fleet("16-hosts", 15, 1) as many:
        found = in_turn(
            rounds,
            {
                "ping of 4 hosts": lambda: ping(few),
                "4 hosts": lambda: second_run(few),
                "ping of 16 hosts": lambda: ping(many),
                "16 hosts": lambda: second_run(many),
            },
        )
        one = ratio("16 hosts as a multiple of 4", found, "16 hosts", "4 hosts", 4)
        return _with_profile(found, one, many)


def _with_profile(found: Mapping[str, Sequence[float]], one: Ratio, inventory: Path) -> str:
    text = report(found, [one], [str(calls(inventory))])
    if not one.is_met:
        text += "\n\n" + profile_text(profile(inventory))
    return text


def preflight(rounds: int) -> str:
    """Compare the whole command with one that does nothing for the same inventory."""
    directory = PLACE / "preflight"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.yml").write_text(json.dumps(whole_inventory(50, 24), indent=1))
    nothing = PLACE / "nothing.yml"
    play = {
        "hosts": "fleet",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.debug": {}, "run_once": True}],
    }
    nothing.write_text(json.dumps([play]))
    plays = {"check": ROOT / "playbooks" / "check_inventory.yml", "nothing": nothing}

    # Other processes of this machine slow preflight down, so measure processor seconds, too.
    spent: dict[str, list[float]] = {name: [] for name in plays}

    def seconds(name: str) -> float:
        command = ["ansible-playbook", "--inventory", str(directory), str(plays[name])]
        before = processor_seconds()
        took = run(command)[0]
        spent[name].append(processor_seconds() - before)
        return took

    found = in_turn(
        rounds,
        {
            "a task that does nothing": lambda: seconds("nothing"),
            "preflight of 50 hosts with 24 queues": lambda: seconds("check"),
        },
    )
    whole = statistics.median(found["preflight of 50 hosts with 24 queues"])
    note = (
        "processor's seconds: {check:.2f} of preflight, {nothing:.2f} of a task that does nothing"
    )
    medians = {name: statistics.median(values) for name, values in spent.items()}
    text = report(
        found, [Ratio("seconds of the whole command", whole, 3)], [note.format(**medians)]
    )
    shutil.rmtree(directory)
    return text
