"""What the forks of one run tell each other during a roll: a JSON file on the control side, under a lock.

Ansible runs each host's task in a process of its own, and those share nothing. Here stands which hosts take part,
whose turn it is, what came of it and whether anything failed; `order` decides from that who may begin. A process that
has gone silent keeps nobody waiting: it loses its place in the order, and where it dies in the middle of a turn, that
is the failure of this turn.
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

from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart import order
from ansible_collections.celery_fleet.core.plugins.plugin_utils.restart.order import (
    Kind,
    Policy,
    RollError,
    Turn,
    Worker,
)

# Seconds after which a host that takes part and has not asked again loses its place in the order; and seconds of a
# step's beginning in which hosts that have not asked yet keep theirs.
_SILENT, _GATHERING = 3.0, 3.0
_NAME = "ledger.json"


class Ledger:
    """One roll's book, in a directory that only its user can enter."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory = directory
        self._clock = clock

    # -- a whole roll ----------------------------------------------------------------------------------

    def open(self, workers: Sequence[Worker], policy: Policy, report: str = "") -> None:
        """Begin a book; one of an earlier roll in the same run is closed by that.

        Args:
            workers: All of the fleet, as they were found.
            policy: How careful the roll is.
            report: File for the report, written whenever a host leaves; empty for none.

        Raises:
            RollError: No roll can be computed from these workers, or the report can't be written.
        """
        order.check(workers)
        book = {
            "workers": [asdict(worker) for worker in workers],
            "policy": asdict(policy),
            "report": report,
            "since": time.time(),
            "clock": self._clock(),
            "hosts": {},
            "heard": {},
            "turns": {},
            "failure": None,
            "told": False,
        }
        if report:
            try:
                _replace(Path(report), _report(book, self._clock()))
            except OSError as error:
                raise RollError(
                    f"celery_restart_report: {report} can't be written: {error.strerror}. Name a file in a directory "
                    "that exists on this side and may be written to"
                ) from None
        with self._locked():
            self._write(book)

    def report(self) -> dict[str, Any]:
        """What a person or a program wants to know of the roll, in seconds since its beginning."""
        with self._locked():
            return _report(self._read(), self._clock())

    @property
    def failure(self) -> str:
        """What failed first; empty while nothing has."""
        with self._locked():
            return _failure(self._read())

    # -- a host and its turns --------------------------------------------------------------------------

    def join(self, host: str) -> None:
        """The calling process takes this host's turns from now on."""
        with self._changing() as book:
            book["hosts"][host] = {"process": os.getpid(), "seen": self._clock()}

    def leave(self, host: str) -> bool:
        """It takes no more of them. Whether it was the last one after a failure, who tells what became of all.

        With fewer forks than hosts there may be a last one twice: the first of them tells.
        """
        with self._changing() as book:
            book["hosts"].pop(host, None)
            tells = bool(book["failure"]) and not book["hosts"] and not book["told"]
            book["told"] = book["told"] or tells
            if book["report"]:
                # It could be written when the roll began. A disk that is full by now must not hide what failed.
                with contextlib.suppress(OSError):
                    _replace(Path(book["report"]), _report(book, self._clock()))
            return tells

    def waiting(self, host: str, kind: Kind) -> list[Worker]:
        """Workers of the host whose turn of this kind has not begun."""
        with self._locked():
            state = self._state(self._read())
            return [worker for worker in order.waiting(state, kind) if worker.host == host]

    def worker(self, node: str) -> Worker:
        """A worker as it was found."""
        with self._locked():
            book = self._read()
        return next(_worker(raw) for raw in book["workers"] if raw["node"] == node)

    def consumers(self, queues: Sequence[str]) -> dict[str, list[str]]:
        """Nodes that consume each of these queues now."""
        with self._locked():
            return order.consumers(self._state(self._read()), queues)

    def begin(self, host: str, kind: Kind) -> list[Turn]:
        """Begin as many turns of a host as may begin now; the host is heard of by that."""
        with self._changing() as book:
            book["hosts"][host] = {"process": os.getpid(), "seen": self._clock()}
            self._bury(book)
            begun: list[Turn] = []
            while turn := order.next_turn(
                self._state(book, self._late(book, host, kind)), host, kind
            ):
                begun.append(turn)
                book["turns"][turn.node] = {
                    **asdict(turn),
                    "process": os.getpid(),
                    "began": self._clock(),
                    "ended": None,
                    "outcome": "",
                    "figures": {},
                }
            return begun

    def end(self, node: str, outcome: str, figures: Mapping[str, Any] | None = None) -> None:
        """A turn is over.

        Args:
            node: Whose turn it was.
            outcome: `done`, `failed`, or `unneeded` where nothing had to be done any more.
            figures: What was measured.
        """
        with self._changing() as book:
            turn = book["turns"][node]
            turn.update(ended=self._clock(), outcome=outcome, figures=dict(figures or {}))

    def postpone(self, node: str) -> None:
        """A worker that was to be started turned out to serve: it is restarted when it is its turn for that."""
        with self._changing() as book:
            del book["turns"][node]
            for worker in book["workers"]:
                if worker["node"] == node:
                    worker.update(presence="serving", need="restart")

    def fail(self, host: str, message: str) -> None:
        """Nothing begins any more. Only the first failure is kept: later ones may be its consequences."""
        with self._changing() as book:
            self._fail(book, host, message)

    # -- the file --------------------------------------------------------------------------------------

    def _fail(self, book: dict[str, Any], host: str, message: str) -> None:
        if book["failure"] is None:
            book["failure"] = {"host": host, "message": message, "at": self._clock()}

    def _bury(self, book: dict[str, Any]) -> None:
        """Turns of processes that have died."""
        for node, turn in book["turns"].items():
            if turn["ended"] is None and not _alive(turn["process"]):
                turn.update(ended=self._clock(), outcome="failed")
                self._fail(
                    book,
                    turn["host"],
                    f"{turn['host']}: the process that was to {turn['kind']} {node} has died",
                )
        book["hosts"] = {
            host: entry for host, entry in book["hosts"].items() if _alive(entry["process"])
        }

    def _late(self, book: dict[str, Any], host: str, kind: Kind) -> frozenset[str]:
        """Hosts that nobody has heard of in this step, in its first seconds: they come yet, unless forks are few.

        Else the first process to ask would be the pilot, and not the one that was announced.
        """
        heard = book["heard"].setdefault(kind, {"since": self._clock(), "hosts": []})
        if host not in heard["hosts"]:
            heard["hosts"].append(host)
        if self._clock() - heard["since"] >= _GATHERING:
            return frozenset()
        expected = {worker.host for worker in order.waiting(self._state(book), kind)}
        return frozenset(expected - set(heard["hosts"]))

    def _state(self, book: Mapping[str, Any], late: frozenset[str] = frozenset()) -> order.State:
        turns: dict[str, Any] = book["turns"]
        as_turns = {
            node: Turn(node, entry["host"], entry["kind"], entry["overlapped"], tuple(entry["gap"]))
            for node, entry in turns.items()
        }
        over = {node for node, entry in turns.items() if entry["ended"] is not None}
        now = self._clock()
        return order.State(
            workers=tuple(_worker(raw) for raw in book["workers"]),
            policy=Policy(**book["policy"]),
            joined=late.union(
                host for host, entry in book["hosts"].items() if now - entry["seen"] < _SILENT
            ),
            active={node: turn for node, turn in as_turns.items() if node not in over},
            ended={node: turn for node, turn in as_turns.items() if node in over},
            proved=any(
                entry["kind"] == "restart" and entry["outcome"] == "done"
                for entry in turns.values()
            ),
            failed=book["failure"] is not None,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.directory / "lock", "w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with self._locked():
            book = self._read()
            yield book
            self._write(book)

    def _read(self) -> dict[str, Any]:
        book: dict[str, Any] = json.loads((self.directory / _NAME).read_text())
        return book

    def _write(self, book: Mapping[str, Any]) -> None:
        _replace(self.directory / _NAME, book)


def table(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The report's turns as rows for a person, the heading first."""
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


def _report(book: Mapping[str, Any], now: float) -> dict[str, Any]:
    turns = sorted(book["turns"].values(), key=lambda turn: float(turn["began"]))
    begin = float(book["clock"])
    ends = [turn["ended"] for turn in turns if turn["ended"] is not None]
    over = max(ends) if len(ends) == len(turns) and ends else now
    return {
        "format": 1,
        "since": round(book["since"], 3),
        "seconds": round(over - begin, 3),
        "policy": book["policy"],
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
        "missing": [w["node"] for w in book["workers"] if w["presence"] == "missing"],
        "failure": _failure(book),
    }


def _failure(book: Mapping[str, Any]) -> str:
    failure = book["failure"]
    return str(failure["message"]) if failure else ""


def _worker(raw: Mapping[str, Any]) -> Worker:
    return Worker(**{**raw, "queues": tuple(raw["queues"])})


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _replace(path: Path, content: Any) -> None:
    """Write whole or not at all: whoever reads meanwhile sees the old text."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, indent=1)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
