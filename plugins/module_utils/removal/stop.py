"""Stops an application's units, stage by stage.

Runs on the host, inside the `remove_application` module, as root.
"""

from __future__ import annotations

from typing import Any

from .application import InstalledApplication
from .host import ended

# Stages in order; each ends on all hosts before the next begins: checks, then senders, then workers, which drain, and
# Redis when nothing needs it any more.
STAGES = ("watch", "beat", "web", "workers", "flower", "redis", "rest")

# Stages by the beginning of a unit's name, after the application's name.
_KINDS = {
    "health.": "watch",
    "backup.": "watch",
    "beat.": "beat",
    "web.": "web",
    "worker@": "workers",
}
_KINDS |= {"flower.": "flower", "redis@": "redis"}

# Seconds between checks of stopping units.
_LOOK = 0.3


def stage_of(app: str, unit: str) -> str:
    """Return the stage that stops a unit."""
    name = unit.removeprefix(f"{app}-")
    return next((stage for start, stage in _KINDS.items() if name.startswith(start)), "rest")


def stop(there: InstalledApplication, stage: str, patience: float) -> dict[str, Any]:
    """Disable and stop the units of one stage, and wait for a while.

    systemctl is called with --no-block: even if this run ends here, systemd finishes, and the next run waits for it.

    Args:
        there: The application.
        stage: One of `STAGES`.
        patience: Seconds to wait.

    Returns:
        `stopped`, the units that have ended, and `waiting`, the status text by unit.
    """
    host = there.host
    names = [name for name in there.units() if stage_of(there.app, name) == stage]
    states = host.show(names)
    enabled = [
        name
        for name, state in states.items()
        if state.file_state in ("enabled", "enabled-runtime", "linked")
    ]
    if enabled:
        host.command(["systemctl", "disable", "--quiet", *enabled])
    running: list[str] = []
    deadline = host.clock() + patience
    while True:
        waiting = {
            name: state.described for name, state in host.show(names).items() if not ended(state)
        }
        # A timer may have started its service after the units were listed.
        if started := [name for name in waiting if name not in running]:
            host.command(["systemctl", "stop", "--no-block", *started])
            running += started
        elif not waiting or host.clock() >= deadline:
            break
        else:
            host.sleep(_LOOK)
    failed = [name for name, state in host.show(names).items() if state.active == "failed"]
    if failed:
        # Otherwise they are listed until the next boot.
        host.run(["systemctl", "reset-failed", *failed])
    stopped = [name for name in running if name not in waiting]
    return {"stopped": stopped, "waiting": waiting, "changed": bool(enabled or stopped)}
