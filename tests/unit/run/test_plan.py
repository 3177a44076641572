"""The plan: which parts concern a host, and what a person reads."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    FleetWorker,
    Need,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import (
    PARTS,
    parts_of,
    tag_notes,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.plan import (
    ApprovedError,
    Plan,
    PlanItem,
    beyond,
    drain_notes,
    items_of,
    pause_notes,
    redis_notes,
    redis_pauses,
    scale_notes,
    with_forced,
)


def names(
    groups: set[str], run: tuple[str, ...] = ("all",), skip: tuple[str, ...] = ()
) -> list[str]:
    return [part.name for part in parts_of(groups, run, skip)]


def test_parts_of_a_host_are_those_of_its_groups_in_the_order_of_the_run() -> None:
    assert names({"fleet", "redis"}) == [
        "fleet",
        "pki",
        "firewall",
        "redis",
        "celery_cli",
        "celery_runtime_surplus",
        "celery_exporter",
        "celery_health",
    ]
    everything = names({group for part in PARTS for group in part.groups})
    assert everything == [part.name for part in PARTS]


def test_tags_leave_parts_out() -> None:
    host = {"fleet", "celery_workers"}
    assert names(host, run=("pki",)) == ["fleet", "pki"]
    assert names(host, run=("celery_worker",)) == [
        "fleet",
        "celery_runtime",
        "celery_release",
        "celery_cli",
        "celery_release_commands",
        "celery_worker",
        "celery_runtime_surplus",
        "celery_exporter",
        "celery_health",
    ]
    # Parts that open a port of Redis or of the web process first close it to strangers.
    for tag in ("redis", "celery_producer", "deploy", "configure", "firewall"):
        assert "firewall" in names(host, run=(tag,))
    assert "celery_worker" not in names(host, skip=("celery_worker",))
    # The link to the current release must not move to one that was not built.
    assert names(host, run=("verify",)) == ["fleet"]
    # Without its play nothing would move the link, so the plan does not announce it.
    assert "verify" in names(host)
    assert "verify" not in names(host, skip=("verify",))
    # The exporter's process starts from the runtime, on any host.
    for tag in ("celery_exporter", "celery_health"):
        assert names(host, run=(tag,))[1] == "celery_runtime"
    # The owner's mark is left by every run that changes something.
    assert names(host, skip=("celery_worker",))[0] == "fleet"


ITEMS = [
    PlanItem("worker1", "celery_worker", "flexiprice-worker@analytics.service", "restart",
         ("environment DEBUG changed", "release a1b2 → c3d4")),
    PlanItem("redis1", "redis", "redis@flexiprice-broker.service", "live", ("setting maxmemory 256mb → 512mb",)),
]  # fmt: skip


def test_the_text_has_a_line_for_each_item() -> None:
    text = Plan(ITEMS, ["worker1", "redis1", "control1"], notes=["a note"]).text()
    lines = text.splitlines()
    assert lines[0] == "Plan: 2 hosts to change, 1 as the inventory says."
    assert lines[2:4] == [
        "  worker1  flexiprice-worker@analytics  restart   environment DEBUG changed; release a1b2 → c3d4",
        "  redis1   redis@flexiprice-broker      set live  setting maxmemory 256mb → 512mb",
    ]
    assert lines[-1] == "  a note"


def test_workers_that_restart_though_nothing_differs_stand_at_their_place() -> None:
    def worker(host: str, name: str, need: Need = "restart") -> FleetWorker:
        unit = f"flexiprice-worker@{name}.service"
        return FleetWorker(f"{name}@{host}", host, unit, name, (name,), need=need)

    last = PlanItem("worker1", "verify", "", "link", ("current",))
    workers = [
        worker("worker1", "analytics"),
        worker("worker1", "bulk"),
        worker("worker2", "bulk", ""),
    ]
    found = with_forced([*ITEMS[:1], last, ITEMS[1]], workers, ["worker1", "redis1", "worker2"])
    why = ("celery_restart_all",)
    forced = PlanItem("worker1", "celery_worker", "flexiprice-worker@bulk.service", "restart", why)
    assert found == [ITEMS[0], forced, last, ITEMS[1]]


def test_nothing_to_do_is_said() -> None:
    plan = Plan([], ["a"])
    assert plan.text() == "Plan: nothing to do, 1 host as the inventory says."
    assert plan.as_dict()["changes"] is False


def test_a_host_that_is_left_out_is_named() -> None:
    plan = Plan([], ["a"], missing={"b": "can't be reached: timed out"})
    assert "  b is left out" in plan.text()
    assert "timed out" in plan.text()
    assert plan.as_dict()["missing"] == {"b": "can't be reached: timed out"}


def test_long_reasons_are_cut_in_the_text_alone() -> None:
    reasons = tuple(f"reason {n}" for n in range(100))
    plan = Plan([PlanItem("a", "celery_beat", "x.service", "restart", reasons)], ["a"])
    assert len(plan.text().splitlines()[-1]) < 200
    assert plan.as_dict()["items"][0]["why"] == list(reasons)


def test_changes_without_a_unit_are_named_by_their_part_and_counted() -> None:
    plan = Plan(
        [PlanItem("a", "pki", "", "write", ("/etc/x", "/etc/y", "/etc/z", "/etc/w"))], ["a"]
    )
    assert plan.text().splitlines()[-1].split() == [
        "a",
        "pki",
        "write",
        "/etc/x",
        "and",
        "3",
        "more",
    ]


def test_bookkeeping_is_one_line_of_the_text() -> None:
    """In the JSON each host has its own items, with whole paths."""
    own = [
        PlanItem(host, part, "", "write", (f"/etc/flexiprice/{name}",))
        for host in ("worker1", "redis1")
        for part, name in (("celery_cli", "cli.json"), ("celery_health", "health.json"))
    ]
    link = PlanItem(
        "worker1", "verify", "", "link", ("/opt/flexiprice/current: releases/1 → releases/2",)
    )
    plan = Plan([ITEMS[0], *own, link, ITEMS[1]], ["worker1", "redis1"])
    assert [line.split()[:3] for line in plan.text().splitlines()[2:4]] == [
        ["worker1", "flexiprice-worker@analytics", "restart"],
        ["redis1", "redis@flexiprice-broker", "set"],
    ]
    last = "  2 hosts  bookkeeping                  write     cli.json, health.json, current"
    assert plan.text().splitlines()[4:] == [last]
    assert len(plan.as_dict()["items"]) == 7
    (line,) = Plan([link], ["worker1"]).text().splitlines()[2:]
    assert line == "  worker1  bookkeeping  write  current"
    many = PlanItem(
        "worker1", "celery_runtime", "", "write", tuple(f"/x/{n}.py" for n in range(70))
    )
    (line,) = Plan([many], ["worker1"]).text().splitlines()[2:]
    assert line == "  worker1  bookkeeping  write  0.py, 1.py, 2.py, 3.py, 4.py and 65 more"


@pytest.mark.parametrize(
    "item",
    [
        PlanItem(
            "a", "celery_runtime", "", "remove", ("not in the inventory: delete 1 file", "/x")
        ),
        PlanItem("a", "celery_health", "x-health.timer", "start", ("new",)),
        PlanItem("a", "firewall", "", "write", ("/etc/x.nft",)),
        PlanItem("a", "celery_cli", "", "build", ("celery-fleet 1",)),
    ],
)
def test_what_is_no_bookkeeping_keeps_its_line(item: PlanItem) -> None:
    assert "bookkeeping" not in Plan([item], ["a"]).text()


def test_items_come_from_the_reconcilers_report() -> None:
    pending = [{"part": "redis", "unit": "x.service", "action": "restart", "why": ["y"]}]
    assert items_of("a", pending) == [PlanItem("a", "redis", "x.service", "restart", ("y",))]


@pytest.mark.parametrize(("action", "noted"), [("restart", 1), ("live", 0)])
def test_a_restart_of_redis_is_announced(action: str, noted: int) -> None:
    item = PlanItem("redis1", "redis", "redis@x-broker.service", action)
    notes = redis_notes([item], 1800, moves=False)
    assert len(notes) == noted
    assert all("redis@x-broker on redis1" in note and "1800 s" in note for note in notes)
    assert redis_pauses([item], moves=False) == bool(noted)


def test_a_shorter_drain_is_announced_once_for_each_worker() -> None:
    def item(host: str, worker: str, *why: str) -> PlanItem:
        return PlanItem(host, "celery_worker", f"x-worker@{worker}.service", "restart", why)

    shorter, longer = "drain_timeout 3600 → 300", "drain_timeout 300 → 3600"
    items = [
        item("w1", "mail", "time_limit 3600 → 300", shorter),
        item("w2", "mail", shorter),
        item("w1", "slow", longer),
        item("w1", "other", "concurrency 4 → 3"),
    ]
    (note,) = drain_notes(items)
    assert note.startswith("worker mail: tasks that run when it restarts get 300 s to end, ")
    assert "set its drain_timeout to 3600 in this run" in note


def test_workers_go_on_while_redis_restarts_if_its_primary_can_move() -> None:
    restarts = [
        PlanItem(host, "redis", "redis@x-broker.service", "restart")
        for host in ("redis1", "redis2")
    ]
    assert not redis_pauses(restarts, moves=True)
    (note,) = redis_notes(restarts, 1800, moves=True)
    assert "the workers go on" in note
    # A host that joins has nothing that could restart.
    joins = [
        PlanItem("redis3", "redis", f"{name}.service", "start")
        for name in ("redis@x-broker", "x-sentinel")
    ]
    assert not redis_pauses([*restarts, *joins], moves=True)


@pytest.mark.parametrize(
    ("why", "pauses"),
    [
        ("delivery inherit → at_least_once", True),
        ("fetch stock → atomic", True),
        ("concurrency 3 → 4", False),
    ],
)
def test_workers_pause_if_this_run_changes_whether_they_keep_their_tasks(
    why: str, pauses: bool
) -> None:
    items = [
        PlanItem("redis1", "redis", "redis@x-broker.service", "restart"),
        PlanItem("worker1", "celery_worker", "x-worker@a.service", "restart", (why,)),
    ]
    assert redis_pauses(items, moves=True) is pauses


def test_workers_pause_while_the_only_redis_becomes_one_of_several() -> None:
    items = [
        PlanItem("redis1", "redis", "redis@x-broker.service", "restart"),
        PlanItem("redis1", "redis", "x-sentinel.service", "start", ("new",)),
    ]
    assert redis_pauses(items, moves=True)
    (note,) = redis_notes(items, 1800, moves=True)
    assert "all workers pause" in note


def test_a_tag_that_no_play_has_is_named() -> None:
    assert tag_notes(["all"], []) == []
    assert tag_notes(["celery_worker", "verify"], ["firewall"]) == []
    assert tag_notes(["celery_workers", "redis"], []) == [
        "--tags celery_workers: no play of site.yml has this tag; did you mean celery_worker?"
    ]
    (note,) = tag_notes(["all"], ["xyz"])
    assert note.startswith("--skip-tags xyz: no play of site.yml has this tag; there are all, ")
    assert " celery_worker, " in note


RESTART = PlanItem("worker1", "celery_worker", "shop-worker@a.service", "restart", ("setting x",))
WRITE = PlanItem("worker2", "fleet", "", "write", ("/etc/x",))


def as_json(*items: PlanItem, **missing: str) -> dict[str, Any]:
    return Plan(list(items), ["worker1", "worker2"], missing, ["a note"]).as_dict()


def test_only_approved_changes_may_be_made() -> None:
    approved = as_json(RESTART, WRITE)
    assert beyond(approved, as_json(WRITE, RESTART)) == []
    # This was done in the meantime.
    assert beyond(approved, as_json()) == []
    assert beyond(approved, as_json(RESTART)) == [
        "approved, but no longer to be done: worker2  fleet  write  /etc/x"
    ]
    other = PlanItem(RESTART.host, RESTART.part, RESTART.subject, RESTART.action, ("setting y",))
    assert beyond(as_json(RESTART), as_json(other)) == [
        "not approved: worker1  shop-worker@a  restart  setting y",
        "approved, but no longer to be done: worker1  shop-worker@a  restart  setting x",
    ]
    assert beyond(as_json(RESTART), as_json(RESTART, worker2="is down")) == [
        "not approved: worker2 is left out"
    ]


@pytest.mark.parametrize(
    "approved", [None, [], {}, {"format": 2}, {"format": 1}, {"format": 1, "items": [1]}]
)
def test_a_file_that_is_no_plan_is_refused_as_approval(approved: Any) -> None:
    with pytest.raises(ApprovedError, match="not a plan of format 1"):
        beyond(approved, as_json(RESTART))


def test_the_plan_says_what_operators_have_paused() -> None:
    def unit(status: str) -> dict[str, str]:
        return {"active": "active", "status": status}

    notes = pause_notes(
        {
            "worker1": {
                "shop-worker@mail.service": unit("consuming urgent; paused mail by ana: tests"),
                "shop-worker@all.service": unit("paused a, b by bo"),
                "shop-worker@moved.service": unit("paused by the fleet for 20 s more"),
                "shop-worker@c.service": unit("consuming c; paused d by bo: x; paused e; full"),
                "shop-beat.service": unit("3 entries"),
            },
            "worker2": {"shop-worker@mail.service": {"active": "inactive"}},
        }
    )
    end = "; the run leaves it so, `celery-fleet resume` with --queue, --worker, --host or --all ends it"
    assert notes == [
        f"worker1: shop-worker@mail has paused mail by ana: tests{end}",
        f"worker1: shop-worker@all has paused a, b by bo{end}",
        f"worker1: shop-worker@c has paused d by bo: x; paused e; full{end}",
    ]


def test_what_operators_have_scaled_is_noted() -> None:
    def unit(status: str) -> dict[str, str]:
        return {"active": "active", "status": status}

    def node(worker: str, processes: str) -> dict[str, str]:
        name = f"shop-worker@{worker}.service"
        found = {"host": "worker1", "worker": worker, "unit": name}
        return {**found, "processes": processes} if processes else found

    since = "since 2026-11-23 14:05 UTC"
    states = {
        "worker1": {
            "shop-worker@mail.service": unit(
                f"consuming mail; scaled to 6 by ana {since}: (odd); x (inventory: 4); paused bulk by bo"
            ),
            "shop-worker@auto.service": unit(
                f"consuming a; scaled to 3 {since} (inventory: 2 to 10); full, 3 tasks running"
            ),
            "shop-worker@changed.service": unit(f"scaled to 6 by bo {since} (inventory: 4)"),
            "shop-worker@default.service": unit(f"scaled to 6 by bo {since} (inventory: 8)"),
            "shop-worker@gone.service": unit(f"scaled to 6 by bo {since} (inventory: 4)"),
            "shop-worker@plain.service": unit("consuming plain; paused mail by ana: scaled to 6"),
        }
    }
    wanted = {"mail": "4", "auto": "2 to 10", "changed": "2 to 10", "default": "", "plain": "4"}
    nodes = {f"{worker}@worker1": node(worker, words) for worker, words in wanted.items()}

    def kept(worker: str) -> str:
        return f"the run leaves it so, `celery-fleet scale {worker} --reset` ends it"

    ended = "the run ends it, because the inventory said 4 then"
    assert scale_notes(states, nodes) == [
        f"worker1: shop-worker@mail is scaled to 6 by ana {since}: (odd); x; the inventory says 4; {kept('mail')}",
        f"worker1: shop-worker@auto is scaled to 3 {since}; the inventory says 2 to 10; {kept('auto')}",
        f"worker1: shop-worker@changed is scaled to 6 by bo {since}; the inventory says 2 to 10; {ended}",
        f"worker1: shop-worker@default is scaled to 6 by bo {since}; the inventory says 8; {kept('default')}",
    ]
