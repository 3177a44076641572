"""The whole fleet works on a machine that only has control groups version 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support import units

if TYPE_CHECKING:
    from ground import Ground


def test_the_machine_has_its_own_kernel(ground: Ground) -> None:
    assert ground.must(["systemd-detect-virt"]).strip() == "qemu"
    assert ground.fleet.execute(ground.name, ["systemd-detect-virt", "--container"]).status != 0


def test_the_machine_only_has_control_groups_of_version_2(ground: Ground) -> None:
    mounts = [line.split() for line in ground.must(["cat", "/proc/mounts"]).splitlines()]
    assert [(where, kind) for _, where, kind, *_ in mounts if kind.startswith("cgroup")] == [
        ("/sys/fs/cgroup", "cgroup2")
    ]
    controllers = ground.must(["cat", "/sys/fs/cgroup/cgroup.controllers"]).split()
    assert {"cpu", "memory", "pids"} <= set(controllers)


def test_all_units_are_up_and_none_has_failed(ground: Ground) -> None:
    assert units.down(ground.fleet) == []
    assert units.failed(ground.fleet, ground.name) == []
    for unit, state in ground.services().items():
        assert (unit, state["NRestarts"], state["UnitFileState"]) == (unit, "0", "enabled")


def test_tasks_and_beat_work(ground: Ground, label: str) -> None:
    ground.send("app.tasks.record_run", label, seconds=0)
    assert [row["attempt"] for row in ground.ended(label)] == [1]
    ground.wait_for_tick()
