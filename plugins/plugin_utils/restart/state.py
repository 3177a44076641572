"""The state of a roll that the forks of one run share: a JSON file on the control node, protected by a lock.

Ansible runs each host's task in a separate process, and these processes share nothing. The file lists the hosts that
take part, the running turns, the results and any failure. `order` uses it to decide which turns may begin. A process
that no longer reads the file does not delay the others: it loses its place in the order. If it dies during a turn, the
turn has failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import order
from .order import FleetWorker, Kind, Policy, RollError, Turn

# Seconds after which a silent host loses its place in the order. Seconds at the beginning of a phase in which hosts
# keep their places even if they have not asked yet, and in which the host of the canary does.
_SILENT, _GATHERING, _GATHERING_CANARY = 3.0, 3.0, 30.0
_NAME = "roll.json"


class RollState:
    """Shared state of one roll, in a directory that only its user can enter."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self._clock = clock

    # -- a whole roll ----------------------------------------------------------------------------------

    def open(self, workers: Sequence[FleetWorker], policy: Policy, report: str = "") -> None:
        """Begin a roll; this ends an earlier roll of the same run.

        Args:
            workers: All workers of the fleet.
            policy: Limits of the roll.
            report: File for the report, written whenever a host leaves; empty for none.

        Raises:
            RollError: No roll can be computed from these workers, or the report can't be written.
        """
        order.check(workers)
        data = {
            "workers": [asdict(worker) for worker in workers],
            "policy": asdict(policy),
            "report": report,
            "since": time.time(),
            "clock": self._clock(),
            "hosts": {},
            "heard": {},
            "turns": {},
            "failure": None,
            "reported": False,
        }
        if report:
            try:
                _replace(Path(report), _report(data, self._clock()))
            except OSError as error:
                raise RollError(
                    f"celery_restart_report: {report} can't be written: {error.strerror}. Name a file in a directory "
                    "on the control node that exists and is writable"
                ) from None
        with self._locked():
            self._write(data)

    @property
    def exists(self) -> bool:
        """Return whether the run has begun a roll."""
        return (self.directory / _NAME).is_file()

    def report(self) -> dict[str, Any]:
        """Return the report of the roll; its times are in seconds since the beginning."""
        with self._locked():
            return _report(self._read(), self._clock())

    @property
    def failure(self) -> str:
        """Return the first failure; empty if there is none."""
        with self._locked():
            return _failure(self._read())

    # -- a host and its turns --------------------------------------------------------------------------

    def join(self, host: str) -> None:
        """Let the calling process take this host's turns from now on."""
        with self._changing() as data:
            data["hosts"][host] = {"process": os.getpid(), "seen": self._clock()}

    def leave(self, host: str) -> bool:
        """End the host's part; return whether it should print the report, as the last host after a failure.

        With fewer forks than hosts there may be a last host twice; only the first prints the report.
        """
        with self._changing() as data:
            data["hosts"].pop(host, None)
            last = bool(data["failure"]) and not data["hosts"] and not data["reported"]
            data["reported"] = data["reported"] or last
            if data["report"]:
                # It was writable when the roll began. If the disk is full by now, that must not hide the failure.
                with contextlib.suppress(OSError):
                    _replace(Path(data["report"]), _report(data, self._clock()))
            return last

    def waiting(self, host: str, kind: Kind) -> list[FleetWorker]:
        """Return the host's workers that still wait for their turn of this kind."""
        with self._locked():
            state = self._state(self._read())
            return [worker for worker in order.waiting(state, kind) if worker.host == host]

    def worker(self, node: str) -> FleetWorker:
        """Return a worker as it was when the roll began."""
        with self._locked():
            data = self._read()
        return next(_worker(raw) for raw in data["workers"] if raw["node"] == node)

    def consumers(self, queues: Sequence[str]) -> dict[str, list[str]]:
        """Return the nodes that consume each of these queues now."""
        with self._locked():
            return order.consumers(self._state(self._read()), queues)

    def begin(self, host: str, kind: Kind) -> list[Turn]:
        """Begin as many turns of a host as possible now; this also marks the host as alive."""
        with self._changing() as data:
            data["hosts"][host] = {"process": os.getpid(), "seen": self._clock()}
            self._fail_dead(data)
            begun: list[Turn] = []
            while turn := order.next_turn(
                self._state(data, self._late(data, host, kind)), host, kind
            ):
                begun.append(turn)
                data["turns"][turn.node] = {
                    **asdict(turn),
                    "process": os.getpid(),
                    "began": self._clock(),
                    "ended": None,
                    "outcome": "",
                    "figures": {},
                }
            return begun

    def end(self, node: str, outcome: str, figures: Mapping[str, Any] | None = None) -> None:
        """End a turn.

        Args:
            node: Node name of the worker.
            outcome: `done`, `failed`, or `unneeded` if there was nothing left to do.
            figures: Measurements of the turn.
        """
        with self._changing() as data:
            turn = data["turns"][node]
            turn.update(ended=self._clock(), outcome=outcome, figures=dict(figures or {}))

    def postpone(self, node: str) -> None:
        """Postpone a worker that should be started but already serves. It is restarted when the rules allow it."""
        with self._changing() as data:
            del data["turns"][node]
            for worker in data["workers"]:
                if worker["node"] == node:
                    worker.update(presence="serving", need="restart")

    def fail(self, host: str, message: str) -> None:
        """Let no more turns begin. Only the first failure is kept, because later ones may be its consequences."""
        with self._changing() as data:
            self._fail(data, host, message)

    # -- the file --------------------------------------------------------------------------------------

    def _fail(self, data: dict[str, Any], host: str, message: str) -> None:
        if data["failure"] is None:
            data["failure"] = {"host": host, "message": message, "at": self._clock()}

    def _fail_dead(self, data: dict[str, Any]) -> None:
        """Fail the turns of processes that have died."""
        for node, turn in data["turns"].items():
            if turn["ended"] is None and not _alive(turn["process"]):
                turn.update(ended=self._clock(), outcome="failed")
                self._fail(
                    data,
                    turn["host"],
                    f"{turn['host']}: the process that was to {turn['kind']} {node} has died",
                )
        data["hosts"] = {
            host: entry for host, entry in data["hosts"].items() if _alive(entry["process"])
        }

    def _late(self, data: dict[str, Any], host: str, kind: Kind) -> frozenset[str]:
        """Return hosts that have not asked yet in this phase, during its first seconds: they should still come.

        Otherwise the first process to ask would be the pilot, and not the announced worker.
        """
        heard = data["heard"].setdefault(kind, {"since": self._clock(), "hosts": []})
        if host not in heard["hosts"]:
            heard["hosts"].append(host)
        waited = self._clock() - heard["since"]
        chosen = data["policy"]["canary"]
        expected = {
            worker.host
            for worker in order.waiting(self._state(data), kind)
            if waited < (_GATHERING_CANARY if worker.node == chosen else _GATHERING)
        }
        return frozenset(expected - set(heard["hosts"]))

    def _state(
        self, data: Mapping[str, Any], late: frozenset[str] = frozenset()
    ) -> order.RollSnapshot:
        turns: dict[str, Any] = data["turns"]
        as_turns = {
            node: Turn(
                node,
                entry["host"],
                entry["kind"],
                entry["overlapped"],
                tuple(entry["gap"]),
                entry["observed"],
            )
            for node, entry in turns.items()
        }
        over = {node for node, entry in turns.items() if entry["ended"] is not None}
        now = self._clock()
        return order.RollSnapshot(
            workers=tuple(_worker(raw) for raw in data["workers"]),
            policy=Policy(**data["policy"]),
            joined=late.union(
                host for host, entry in data["hosts"].items() if now - entry["seen"] < _SILENT
            ),
            active={node: turn for node, turn in as_turns.items() if node not in over},
            ended={node: turn for node, turn in as_turns.items() if node in over},
            proved=any(
                entry["kind"] == "restart" and entry["outcome"] == "done"
                for entry in turns.values()
            ),
            failed=data["failure"] is not None,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.directory / "lock", "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with self._locked():
            data = self._read()
            yield data
            self._write(data)

    def _read(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.directory / _NAME).read_text())
        return data

    def _write(self, data: Mapping[str, Any]) -> None:
        _replace(self.directory / _NAME, data)


def table(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the report's turns as rows of a table, heading first."""
    rows: list[tuple[str, ...]] = [
        ("WORKER", "TURN", "AT", "DRAINED", "HANDED BACK", "STARTED", "GATE", "TOTAL")
    ]
    for turn in report["turns"]:
        kind = turn["kind"] + (", overlapped" if turn["overlapped"] else "")
        if turn["outcome"] != "done":
            kind += f", {turn['outcome'] or 'not ended'}"
        rows.append(
            (
                turn["node"],
                kind,
                f"{turn['at']:.1f} s",
                _seconds(turn.get("drained_in")),
                str(turn.get("handed_back", "")),
                _seconds(turn.get("started_in")),
                _seconds(turn.get("gate")),
                _seconds(turn["total"]),
            )
        )
    return rows


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _report(data: Mapping[str, Any], now: float) -> dict[str, Any]:
    turns = sorted(data["turns"].values(), key=lambda turn: float(turn["began"]))
    begin = float(data["clock"])
    ends = [turn["ended"] for turn in turns if turn["ended"] is not None]
    over = max(ends) if len(ends) == len(turns) and ends else now
    return {
        "format": 1,
        "since": round(data["since"], 3),
        "seconds": round(over - begin, 3),
        "policy": data["policy"],
        "order": [turn["node"] for turn in turns],
        "turns": [
            {
                **{key: turn[key] for key in ("node", "host", "kind", "overlapped", "gap")},
                "outcome": turn["outcome"],
                "at": round(turn["began"] - begin, 3),
                "total": round(
                    (now if turn["ended"] is None else turn["ended"]) - turn["began"], 3
                ),
                **turn["figures"],
            }
            for turn in turns
        ],
        "canary": next(
            (
                {"node": turn["node"], **turn["figures"]["canary"]}
                for turn in turns
                if "canary" in turn["figures"]
            ),
            {},
        ),
        "missing": [w["node"] for w in data["workers"] if w["presence"] == "missing"],
        "failure": _failure(data),
    }


def _failure(data: Mapping[str, Any]) -> str:
    failure = data["failure"]
    return str(failure["message"]) if failure else ""


def _worker(raw: Mapping[str, Any]) -> FleetWorker:
    return FleetWorker(**{**raw, "queues": tuple(raw["queues"])})


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _replace(path: Path, content: Any) -> None:
    """Write a JSON file atomically: readers see either the old or the new content."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, indent=1)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
