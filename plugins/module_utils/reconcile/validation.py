"""Lets daemons check the files of a call.

They check files as soon as these are written, and before a unit reads what an earlier run wrote.

Runs on the host, inside the `reconcile` module, as root. `daemon_checks` runs the checks.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence

from . import systemd
from .daemon_checks import DaemonChecks
from .desired_state import Part, units_of
from .fingerprint import Disk
from .host import Host
from .report import HostReport, ReconcileError


class Validation:
    """Runs the checks of all parts; each method raises ReconcileError if a daemon refuses a file."""

    def __init__(self, parts: Sequence[Part], host: Host, report: HostReport) -> None:
        self.parts = parts
        self.host = host
        self.report = report
        self._written: DaemonChecks | None = None

    def check_written(self, paths: Iterable[str] | None = None) -> None:
        """Check the files that this call has written, or these."""
        checks = self._checks(self.report.changed if paths is None else paths)
        for refusal in checks.refusals():
            raise ReconcileError(f"{refusal}\nAll files of this call were restored.")
        self._written = checks

    def check_earlier(self, taken_up: Iterable[str]) -> None:
        """Check the files that units are about to read: a killed run may have written them without checking."""
        checks = self._checks(taken_up)
        if self._written is not None:
            checks.leave_out(self._written)
        for refusal in checks.refusals():
            raise ReconcileError(
                f"{refusal}\nAn earlier run wrote it; no unit was started or restarted with it."
            )

    def taken_up(self, states: Mapping[str, systemd.UnitState], disk: Disk) -> list[str]:
        """Return the files that pending units will read, including those of their unit files that are ours."""
        ours = {file.dest for _, wanted in self.parts for file in wanted.files}
        units = {unit.name: unit for _, unit in units_of(self.parts)}
        paths: list[str] = []
        for item in self.report.pending:
            if item.unit in units:
                for pattern in units[item.unit].files:
                    paths += disk.match(pattern) if glob.has_magic(pattern) else [pattern]
                sources = systemd.sources_to_be(states[item.unit], disk, self.host.paths.units)
                paths += [path for path in sources if path in ours]
        return paths

    def _checks(self, changed: Iterable[str]) -> DaemonChecks:
        return DaemonChecks(
            [check for _, wanted in self.parts for check in wanted.checks],
            changed,
            [unit.name for _, unit in units_of(self.parts)],
            self.host.paths.units,
            self.host.run,
        )
