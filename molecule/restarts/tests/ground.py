"""Helpers of these tests: the load, the ways to run its workers, and the record of what happened to the tasks."""

from __future__ import annotations

import gzip
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from support import resp
from support.inventory import (
    ROOT,
    Fleet,
    ansible_environment,
    inventory_arguments,
    inventory_sources,
    load_fleet,
)
from support.waiting import wait_for

from scripts.restarts import origin, verdicts
from scripts.restarts.record import LoadRecord, RecordMark
from scripts.restarts.summary import Origin, RestartSummary, Rules, summarise

APP = "load"
ROLL = "playbooks/restart_workers.yml"
SEED = int(os.environ.get("CELERY_FLEET_SEED", "20"))
VISIBILITY_TIMEOUT = 120  # seconds, as in the application and the inventory
BOOT = 60.0  # seconds within which all workers have to consume
#: Whether runs are for the pages: each fault separately and often. Otherwise they are as short as possible.
SOAK = origin.is_soak()
LEAD = 20.0 if SOAK else 10.0  # seconds of load before anything is done: long tasks run by then
TAIL = 15.0 if SOAK else 5.0  # seconds of load after it
# Seconds of load after the action has begun, so that short runs can be compared.
LEAST = 75.0 if SOAK else 0.0
# A run ends with its last ETA. This one is still longer than the lease of the scenario `delivery`.
LOAD = () if SOAK else ("--eta=18",)
LONGEST = 600.0  # seconds after which the sender stops by itself
# A message in the broker's hash of unacknowledged messages comes back after this time and a sweep; then it must run.
REST = VISIBILITY_TIMEOUT + 75.0
# These variables keep a deploy by the tests short.
QUICK: Mapping[str, object] = {"celery_restart_batch": 9, "celery_restart_min_capacity": 30}

_EVERYTHING = """
SELECT json_build_object(
  'sends', (SELECT coalesce(json_agg(s), '[]') FROM
    (SELECT task, kind, queue, seconds, attempts, sent, ready, refused
       FROM sends WHERE run = :'run') s),
  'runs', (SELECT coalesce(json_agg(r), '[]') FROM
    (SELECT task, attempt, node, pid, started, ended, retry_at, message
       FROM runs WHERE starts_with(task, :'run' || '.')) r),
  'workers', (SELECT coalesce(json_agg(w), '[]') FROM
    (SELECT node, event, queues, processes, at FROM workers
    ORDER BY at) w),
  'revoked', (SELECT coalesce(json_agg(v), '[]') FROM
    (SELECT task, node, at FROM revoked WHERE starts_with(task, :'run' || '.') ORDER BY at) v),
  'held_up', (SELECT coalesce(json_agg(h), '[]') FROM
    (SELECT task, attempt, node, at FROM held_up WHERE starts_with(task, :'run' || '.')) h))
"""
# Tasks of a run that have not ended. They are not lost yet, because some may wait or run.
_OPEN = """
SELECT count(*) FROM sends s WHERE run = :'run' AND NOT refused AND NOT EXISTS
  (SELECT FROM runs r WHERE r.task = s.task AND r.attempt >= s.attempts - 1 AND r.ended IS NOT NULL)
  AND NOT EXISTS (SELECT FROM revoked v WHERE v.task = s.task)
"""
_REFUSED = "SELECT count(*) FROM sends WHERE run = :'run' AND refused"


@dataclass(frozen=True)
class Way:
    """One way to run the workers.

    Attributes:
        name: In results and in the table.
        units: Units of a host with all its workers; None for the fleet's, which the inventory names.
        late: Whether a stock unit acknowledges late; for the fleet the inventory decides.
        visibility_timeout: That of a stock unit in seconds; None for the application's.
    """

    name: str
    units: tuple[str, ...]
    late: bool = False
    visibility_timeout: int | None = None


FLEET = Way("fleet", ())
PLAIN = Way("plain", ("plain-fast", "plain-medium", "plain-slow"))
MULTI = Way("multi", ("celery",))
PLAIN_LATE = Way("plain-late", PLAIN.units, late=True)
MULTI_LATE = Way("multi-late", MULTI.units, late=True)
WAYS = (FLEET, PLAIN, MULTI, PLAIN_LATE, MULTI_LATE)


@dataclass
class Case:
    """One run of the load, while it lasts.

    Attributes:
        run: Its name; the ids of its tasks begin with it.
        stem: Path of its files without their suffixes; they replace those of the previous run of this kind.
        marks: What was done to the fleet.
        report: The report of the rolling restart, if there is one.
    """

    run: str
    stem: Path
    marks: list[RecordMark] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def path(self, kind: str) -> Path:
        """Return the path of one of its files."""
        return self.stem.with_name(f"{self.stem.name}.{kind}")

    @property
    def log(self) -> Path:
        """Return the path of the file with the output of playbooks."""
        return self.path("log")

    def mark(
        self, what: str, host: str = "", node: str = "", *, fatal: bool = False, pid: int = 0
    ) -> None:
        """Note what is done to the fleet at this moment."""
        self.marks.append(RecordMark(time.time(), what, host, fatal, node, pid))

    @contextmanager
    def lasting(self, what: str, host: str = "") -> Iterator[None]:
        """Note what is done to the fleet or to one host until the block ends."""
        began = time.time()
        try:
            yield
        finally:
            self.marks.append(RecordMark(began, what, host, until=time.time()))


class Ground:
    """The hosts, and what a test can do to them."""

    def __init__(self, fleet: Fleet, family: str = "") -> None:
        """Take the name of the directory for its results as `family`."""
        self.fleet = fleet
        self.workers = fleet.hosts("celery_workers")
        self.control = fleet.one("celery_producers")
        self.instances = fleet.of("celery_workers")["celery_worker_instances"]
        # Not in the scenario's state, which is removed with its hosts.
        self.results = origin.results(family)
        self.results.mkdir(parents=True, exist_ok=True)
        self.now_running: Way | None = None
        #: The commit of the checkout when the tests began.
        scenario = Path(fleet.sources[-1]).parts[1]
        self.origin = Origin(origin.commit(scenario), scenario, origin.command_of(scenario))
        #: More arguments for the sender; see `load.send`.
        self.load_options: tuple[str, ...] = LOAD
        self._base = fleet
        #: The variables of the last deploy, also if tests before this process made it.
        self._deployed = fleet.state / "deployed"

    def units(self, way: Way) -> Sequence[str]:
        """Return for each host the units of all its workers."""
        return way.units or [f"{APP}-worker@{name}" for name in self.instances]

    def queues(self, delivery: str = "") -> list[str]:
        """Return what the workers consume; if a promise is given, only that of workers with this promise."""
        return [
            queue
            for name, options in self.instances.items()
            if delivery in ("", options.get("delivery"))
            for queue in options.get("queues") or [name]
        ]

    # --- the record ------------------------------------------------------------------------------

    def ask(self, text: str, **values: object) -> str:
        """Return what a statement prints in the record's database."""
        command = ["runuser", "-u", "postgres", "--", "psql", "-X", "-qAt", "-v", "ON_ERROR_STOP=1"]
        command += [word for key, value in values.items() for word in ("-v", f"{key}={value}")]
        return self.fleet.must(self.control, [*command, "-d", "load", "-f", "-"], f"{text};\n")

    def read(self, case: Case) -> LoadRecord:
        """Return the record of a run; of the workers, all that they ever did."""
        rows = json.loads(self.ask(_EVERYTHING, run=case.run))
        rows["marks"] = [asdict(mark) for mark in case.marks]
        rows["at_most_once"] = self.queues("at_most_once")
        with gzip.open(case.path("record.json.gz"), "wt") as stream:
            json.dump(rows, stream)
        return LoadRecord.of(rows)

    def waiting(self) -> int:
        """Return how many messages the broker holds: in queues, and fetched but not acknowledged."""
        with resp.session(self.fleet, "broker", "worker") as broker:
            queued = sum(broker.send("LLEN", queue) for queue in self.queues())
            return int(queued) + len(broker.send("ZRANGE", "unacked_index", 0, -1))

    def refused(self, case: Case) -> int:
        """Return how many tasks of a case its sender has not been able to send yet."""
        return int(self.ask(_REFUSED, run=case.run))

    # --- the load --------------------------------------------------------------------------------

    @contextmanager
    def loaded(self, *words: str) -> Iterator[None]:
        """Send with more arguments until the block ends."""
        before = self.load_options
        self.load_options = (*before, *words)
        try:
            yield
        finally:
            self.load_options = before

    def start_load(self, run: str, seconds: float, long: Sequence[float] = ()) -> None:
        """Send from the producer's host, with its rights, in a unit that outlives this command."""
        variables = self.fleet.expected[self.control]
        release = f"{variables['celery_app_root']}/current"
        environment = {
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            "CELERY_FLEET_COMPONENT": "producer",
            "CELERY_FLEET_SETTINGS": f"{variables['celery_app_config_directory']}/credentials/producer.json",
            "PYTHONPATH": f"{variables['celery_app_runtime']}:{release}/source",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        words = [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit=load-{run}",
            "--working-directory=/",
        ]
        words += [f"--setenv={key}={value}" for key, value in environment.items()]
        words += [
            f"--property=EnvironmentFile={variables['celery_app_config_directory']}/credentials/secret.env"
        ]
        words += [f"{release}/venv/bin/python", "-m", "load.send", f"--run={run}", f"--seed={SEED}"]
        words += [f"--seconds={seconds}", *(("--long", *map(str, long)) if long else ())]
        words += self.load_options
        self.fleet.must(self.control, words)

    def must_be_sending(self, run: str) -> None:
        """Raise AssertionError with the sender's output if it has ended."""
        unit = f"load-{run}.service"
        answer = self.fleet.execute(self.control, ["systemctl", "is-active", "--quiet", unit])
        if answer.status:
            journal = ["journalctl", "--no-pager", "--output=cat", "--lines=100", f"--unit={unit}"]
            raise AssertionError(self.fleet.must(self.control, journal))

    def stop_load(self, run: str) -> None:
        """Tell the sender to stop, and wait until it has recorded everything that it sent."""
        self.fleet.execute(self.control, ["systemctl", "stop", f"load-{run}.service"])

    def settle(self, run: str, seconds: float, way: Way) -> None:
        """Wait until each task has ended, or until no other task waits or runs any more."""
        quiet: list[float] = []
        # A running task that was acknowledged early is not in the broker. It sleeps for 20 s at most, or 8 s if the
        # fleet has such tasks.
        silence = 10 if way is FLEET or way.late else 25

        def settled() -> bool:
            if int(self.ask(_OPEN, run=run)) == 0:
                return True
            if self.waiting():
                quiet.clear()
            else:
                quiet.append(time.monotonic())
            return bool(quiet) and quiet[-1] - quiet[0] > silence

        wait_for(f"the tasks of {run} come to rest", seconds, settled, pause=2)

    # --- the ways --------------------------------------------------------------------------------

    def switch(self, way: Way) -> None:
        """Run the workers in this way only."""
        if self.now_running == way:
            return
        own = self.units(way)
        others = {unit for other in WAYS for unit in self.units(other)} - set(own)
        environment = 'LOAD_ACKNOWLEDGE="late"\n' if way.late else ""
        if way.visibility_timeout is not None:
            environment += f'LOAD_VISIBILITY_TIMEOUT="{way.visibility_timeout}"\n'

        def turn(name: str) -> None:
            self.fleet.must(name, ["systemctl", "stop", *sorted(others)])
            self.fleet.must(name, "cat > /etc/stock/acknowledge.env", environment)
            # This one is stopped too, because it may run with another environment.
            if way is not FLEET:
                self.fleet.must(name, ["systemctl", "stop", *own])
            self.fleet.must(name, ["systemctl", "start", *own])

        since = time.time()
        self.everywhere(turn)
        # The fleet's units only count as started once they consume.
        if way is not FLEET:
            self.wait_for_workers(since)
        self.now_running = way

    def everywhere(self, act: Callable[[str], object], hosts: Iterable[str] = ()) -> None:
        """Call `act` for all or some worker hosts at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(act, hosts or self.workers))

    def deploy(self, layer: str = "", variables: Mapping[str, object] = {}) -> None:
        """Deploy the scenario's inventory, with another one and some variables, unless the fleet is like that already.

        This can't be done under load: all workers are stopped first. Otherwise Redis's new rules, which come before the
        workers, would refuse workers whose queues are removed.
        """
        wanted = json.dumps([layer, variables])
        if wanted != (self._deployed.read_text() if self._deployed.exists() else '["", {}]'):
            every = ["systemctl", "stop", "load-worker@*.service", *PLAIN.units, *MULTI.units]
            self.everywhere(lambda name: self.fleet.must(name, every))
            self.site(self.results / "deploy.log", layer, variables)
            self._deployed.write_text(wanted)
            self.now_running = FLEET
        self.fleet = load_fleet((*inventory_sources(), layer)) if layer else self._base
        self.instances = self.fleet.of("celery_workers")["celery_worker_instances"]

    def site(
        self, log: Path, layer: str = "", variables: Mapping[str, object] = {}, status: int = 0
    ) -> None:
        """Run `site.yml` while anything may run. Nothing is known of the fleet until the next deploy.

        Its status is 2 if it leaves out a host.
        """
        self._deployed.write_text("")
        more = [f"--inventory={ROOT / layer}"] if layer else []
        with playbook(
            *more, "-e", json.dumps({**QUICK, **variables}), "site.yml", log=log
        ) as process:
            assert process.wait() == status, end_of(log)

    def wait_for_workers(self, since: float) -> None:
        """Wait until each worker of each host has begun to consume after this moment."""
        wanted = len(self.workers) * len(self.instances)
        text = "SELECT count(DISTINCT node) FROM workers WHERE event = 'ready' AND at > :'since'::float8"
        wait_for(
            f"{wanted} workers consume",
            BOOT,
            lambda: int(self.ask(text, since=since)) >= wanted,
        )

    def left(self, since: float) -> list[str]:
        """Return the nodes that were told to stop after this moment, in their order."""
        text = (
            "SELECT node FROM workers WHERE event = 'leaving' AND at > :'since'::float8 ORDER BY at"
        )
        return self.ask(text, since=since).split()

    def node_of(self, case: Case, seconds: float) -> str:
        """Return the node that runs the task of a case with this sleep."""
        text = "SELECT node FROM runs JOIN sends USING (task) WHERE run = :'run' AND seconds = :seconds"
        return self.ask(text, run=case.run, seconds=seconds).strip()

    def roll(self, case: Case, *arguments: str) -> int:
        """Restart all workers of the fleet; return how ansible-playbook ended."""
        with self.rolling(case, *arguments) as process:
            return process.wait()

    @contextmanager
    def rolling(self, case: Case, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Restart all workers while the block runs; at its end the case gets the report."""
        report = case.path("report.json")
        with playbook(
            "-e", f"celery_restart_report={report}", *arguments, ROLL, log=case.log
        ) as process:
            yield process
        if report.exists():
            case.report = json.loads(report.read_text())

    def restart(self, way: Way) -> None:
        """Restart them as users of a stock unit do, one host after another."""
        for name in self.workers:
            self.fleet.must(name, ["systemctl", "restart", *self.units(way)])

    # --- one run -----------------------------------------------------------------------------------

    def measure(
        self,
        name: str,
        way: Way,
        act: Callable[[Case], None],
        *,
        long: Sequence[float] = (),
        rest: float = REST,
        longest: float = LONGEST,
    ) -> RestartSummary:
        """Run the load, do something to the fleet at the same time, and judge what became of the tasks.

        Args:
            name: Name of the case, in results and in the table.
            way: How the workers are run.
            act: What is done, after `LEAD` seconds; it returns when it is over.
            long: Lengths of naps in seconds, which are sent first.
            rest: Seconds after the load within which all waiting tasks must have run.
            longest: Seconds after which the load ends, even if `act` has not returned.
        """
        self.switch(way)
        stem = f"{way.name}-{name}".replace(" ", "-")
        # The ids of tasks begin with the run's name, so it must only have letters, digits and `-`, and be new.
        run = f"{stem}-{int(time.time())}"
        case = Case(run, self.results / stem)
        for kind in ("log", "report.json", "recovery.json", "summary.json"):
            case.path(kind).unlink(missing_ok=True)
        self.start_load(run, longest, long)
        try:
            self.sleep(LEAD)
            self.must_be_sending(run)
            began = time.time()
            act(case)
            ended = time.time()
            self.sleep(max(TAIL, began + LEAST - ended))
            self.must_be_sending(run)
        finally:
            self.stop_load(run)
        self.settle(run, rest, way)
        record = self.read(case)
        rules = self.rules() if way is FLEET else None
        summary = summarise(
            name, way.name, SEED, record, (began, ended), rules, case.report, self.origin
        )
        verdicts.wrote(summary, case.path("summary.json"))
        return summary

    def sleep(self, seconds: float) -> None:
        """Let the load run. If a sleep lasts much longer, the machine itself stood still: raise AssertionError."""
        began = time.monotonic()
        time.sleep(seconds)
        late = time.monotonic() - began - seconds
        assert late < 5, f"the machine stood still for {late:.0f} s: such a run proves nothing"

    def rules(self) -> Rules:
        """Return the inventory's settings of a rolling restart."""
        variables = self.fleet.of("celery_workers")
        capacity: dict[str, int] = {}
        for name in self.workers:
            for worker in self.fleet.expected[name]["celery_worker_host_instances"]:
                options = self.fleet.expected[name]["celery_worker_instances"][worker]
                for queue in options.get("queues") or [worker]:
                    capacity[queue] = capacity.get(queue, 0) + options["concurrency"]
        share = variables["celery_restart_min_capacity"] / 100
        return Rules(capacity, share, variables["celery_restart_batch"])


@contextmanager
def playbook(
    *arguments: str, log: Path, root: Path = ROOT, sources: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ansible-playbook in a separate process group, which is gone when the block ends.

    `root` is the checkout, or another version of it. `sources` are inventories other than those under test.
    """
    command = ["ansible-playbook", *inventory_arguments(sources), *arguments]
    with log.open("ab") as stream:
        stream.write(f"$ {shlex.join(command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**ansible_environment(), "ANSIBLE_CONFIG": str(root / "ansible.cfg")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)


def end_of(path: Path) -> str:
    """Return the last lines of a log, for the message of a failing test."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-40:])


def assert_nothing_lost_or_doubled(summary: RestartSummary) -> None:
    """Check the result of a run without faults."""
    assert (summary.lost, summary.lost_causes) == (0, {})
    assert (summary.doubled, summary.doubled_causes) == (0, {})
    assert summary.refused == 0


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to its group, as a lost terminal or a lack of memory would."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
