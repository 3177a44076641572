"""Daemons are asked whether they accept the files of a call.

They are asked as soon as the files are written, and before a unit takes up what an earlier run wrote.

Runs on the host, inside the `settle` module, as root. How a daemon is asked is in `daemon_checks`.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import systemd
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.daemon_checks import (
    Checks,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import Host
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.outcome import (
    Report,
    SettleError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.wanted import (
    Part,
    units_of,
)


class Validation:
    """Asks the daemons of all parts; each method raises SettleError with what one of them refuses."""

    def __init__(self, parts: Sequence[Part], host: Host, report: Report) -> None:
        self.parts = parts
        self.host = host
        self.report = report
        self._written: Checks | None = None

    def of_written(self) -> None:
        """Ask about what this call has written."""
        checks = self._checks(self.report.changed)
        for refusal in checks.refusals():
            raise SettleError(f"{refusal}\nAll files of this call are as they were.")
        self._written = checks

    def of_earlier(self, taken_up: Iterable[str]) -> None:
        """Ask about what units are about to take up: a run that was killed may have written it and not asked."""
        checks = self._checks(taken_up)
        if self._written is not None:
            checks.leave_out(self._written)
        for refusal in checks.refusals():
            raise SettleError(
                f"{refusal}\nIt lies there from before this run; no unit was started or restarted with it."
            )

    def taken_up(self, states: Mapping[str, systemd.UnitState], disk: Disk) -> list[str]:
        """Return the files that pending units will read; of their own sources those that are ours."""
        ours = {file.dest for _, wanted in self.parts for file in wanted.files}
        units = {unit.name: unit for _, unit in units_of(self.parts)}
        paths: list[str] = []
        for item in self.report.pending:
            if item.unit in units:
                for pattern in units[item.unit].files:
                    paths += disk.match(pattern) if glob.has_magic(pattern) else [pattern]
                sources = systemd.sources_to_be(states[item.unit], disk, self.host.places.units)
                paths += [path for path in sources if path in ours]
        return paths

    def _checks(self, changed: Iterable[str]) -> Checks:
        return Checks(
            [check for _, wanted in self.parts for check in wanted.checks],
            changed,
            [unit.name for _, unit in units_of(self.parts)],
            self.host.places.units,
            self.host.run,
        )
