"""After a reboot and after a power cut, everything comes up again by itself, and no task is lost."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ground import BOOT, QUEUE
from support import units
from support.waiting import wait_for

from scripts import vm
from scripts.testhosts.machine import cut

if TYPE_CHECKING:
    from collections.abc import Callable

    from ground import Ground

#: Seconds of a task's first attempt: longer than this test, so that the first attempt never ends.
STAY = 3600.0
#: Number of tasks that wait behind the running ones.
WAITING = 3
#: Seconds after which Redis has written to disk what it received (`appendfsync everysec`).
WRITTEN = 3.0


@dataclass(frozen=True)
class Work:
    """The tasks that ran and waited when the machine went down, and the identifier of its boot."""

    label: str
    running: tuple[str, ...]
    boot: str

    @classmethod
    def begin(cls, ground: Ground, label: str) -> Work:
        """Send a task for each process of a worker, and some that wait behind them."""
        concurrency = ground.variables["celery_worker_instances"][QUEUE]["concurrency"]
        running = tuple(f"{label}-running-{number}" for number in range(concurrency))
        for run_id in running:
            ground.send("app.trials.stay", run_id, seconds=STAY)
        for run_id in running:
            ground.begun(run_id)
        for number in range(WAITING):
            ground.send("app.tasks.record_run", f"{label}-waiting-{number}", seconds=0)
        time.sleep(WRITTEN)
        return cls(label, running, ground.boot_id())

    def is_done(self, ground: Ground) -> None:
        """Check that running tasks were delivered again once and ended, and that waiting ones ran once."""
        visibility = float(ground.variables["celery_app_visibility_timeout"])
        for run_id in self.running:
            rows = ground.ended(run_id, BOOT + visibility)
            assert [row["attempt"] for row in rows] == [1, 2], rows
            assert [row["finished_at"] is not None for row in rows] == [False, True]
            assert rows[0]["task_id"] == rows[1]["task_id"]
        for number in range(WAITING):
            rows = ground.ended(f"{self.label}-waiting-{number}", BOOT)
            assert [row["attempt"] for row in rows] == [1], rows


class Watch:
    """Records how many seconds passed until something happened."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.began, self.note = time.monotonic(), note

    def look(self, what: str) -> None:
        """Record something that happens now."""
        self.note(f"{what} after {time.monotonic() - self.began:.0f} s")


def is_up(ground: Ground, work: Work) -> None:
    """Check that there was another boot, no unit failed, each service has its first process, and beat sends.

    The firewall's table is loaded, too.
    """
    ground.wait_until_up()
    assert ground.boot_id() != work.boot
    assert units.failed(ground.fleet, ground.name) == []
    for unit, state in ground.services().items():
        assert (unit, state["NRestarts"]) == (unit, "0")
    table = f"table inet celery_fleet_{ground.variables['celery_app_name']}"
    assert table in ground.must(["nft", "list", "tables"]).splitlines()
    ground.wait_for_tick()


def test_a_reboot_loses_no_task(ground: Ground, label: str, note: Callable[[str], None]) -> None:
    work = Work.begin(ground, label)
    watch = Watch(note)
    ground.must(["systemctl", "--no-block", "reboot"])

    def rebooted() -> bool:
        # Between two boots, a machine may leave a connection without an answer.
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = ground.fleet.execute(ground.name, ["cat", "/proc/sys/kernel/random/boot_id"])
            return done.status == 0 and done.output.strip() != work.boot
        return False

    wait_for("the machine has rebooted", BOOT, rebooted, pause=1)
    watch.look("SSH")
    vm.wait_for_boot(ground.machine)
    is_up(ground, work)
    watch.look("all units and beat")
    work.is_done(ground)
    watch.look("all tasks")


def test_a_power_cut_loses_no_task(ground: Ground, label: str, note: Callable[[str], None]) -> None:
    """Processes and journals end at once. (qemu's host keeps what the kernel has handed to its disk.)"""
    work = Work.begin(ground, label)
    assert cut(ground.machine)
    watch = Watch(note)
    assert vm.start(ground.machine)
    watch.look("boot")
    is_up(ground, work)
    watch.look("all units and beat")
    work.is_done(ground)
    watch.look("all tasks")
