"""Ask running workers whether they work: ``python -m celery_fleet.probe`` with JSON on stdin.

    {"settings": {… the operator's settings.json …},
     "nodes": {"discounts@worker1": {"queues": ["discounts"], "pid": 4711, "release": "…"}},
     "schedule": {"entry": {"task": "…", "queue": "…"}}, "timeout": 20}

sends ``celery_fleet.canary`` to every node at once by its direct queue and waits for the answers.
A node without one whose slots all run tasks is busy, which counts as well and ends the wait for it;
the canary that still waits for it is taken back. Then the nodes are asked which queues they consume and
which tasks they know. ``pid`` and ``release`` (optional) refuse the answer of another process, ``tasks``
must be known there. Prints one JSON object; the status is 0 if all is well and 1 if not. Never takes longer than
``timeout`` and a second.

Instead of nodes or beside them, in this order:

    "resume": true or {"wait": 20, "nodes": [names]}       -> "resumed": {node: standing}
    "pause": {"seconds": 60, "wait": 30, "nodes": [names]} -> "paused": {node: standing}
    "census": true    -> "census": {node: {"queues", "processes", "pid", "state"}}
    "forget": [names] -> "forgotten": {node: {"canaries", "tasks", "bindings"}}

A standing is {"state", "seconds", "running", "unacked", "handed_back", "held", "polling"}; see
:mod:`celery_fleet.drain` and :mod:`celery_fleet.command`.

Redis rights beyond what sending and inspecting need: LRANGE and LREM on ``*.dq2``, and SREM and ZREM on
the bindings to forget.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_fleet import command, versions
from celery_fleet.errors import FleetError, one_line
from celery_fleet.redact import redact, redact_all, secrets_in
from celery_fleet.settings import FleetSettings, parse

TIMEOUT = 20.0
SHORTEST_TIMEOUT = 2.0

#: Seconds between two looks for answers.
PAUSE = 0.01

#: Seconds until those that have not answered are asked whether they are busy, and between two questions.
PATIENCE = 2.0
ASK_EVERY = 1.0

#: The part of the timeout that canaries may take; the rest is for asking.
CANARY_PART = 0.6

#: Socket timeout in seconds; kombu and redis-py try a few times within the overall limit.
SOCKET_TIMEOUT = 3.0


@dataclass(frozen=True)
class Node:
    """What a worker should be; None where it does not matter."""

    name: str
    queues: tuple[str, ...] = ()
    pid: int | None = None
    release: str | None = None
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scheduled:
    """A schedule's entry: its task and queue, None where routing decides."""

    name: str
    task: str
    queue: str | None = None


@dataclass(frozen=True)
class Request:
    """What to probe; see the module's text."""

    settings: FleetSettings
    nodes: tuple[Node, ...]
    schedule: tuple[Scheduled, ...] = ()
    timeout: float = TIMEOUT
    resume: command.Resume | None = None
    pause: command.Pause | None = None
    census: bool = False
    forget: tuple[str, ...] = ()


@dataclass
class NodeReport:
    """What one node showed."""

    state: str = "unknown"
    seconds: float | None = None
    answer: dict[str, Any] | None = None
    queues: list[str] | None = None
    running: int | None = None
    slots: int | None = None
    errors: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report's public form."""
        return {"ok": not self.errors and self.state in ("answered", "busy"), **vars(self)}


@dataclass
class Report:
    """All that was found; filled in by one thread, printed by another at the deadline."""

    nodes: dict[str, NodeReport] = field(default_factory=dict)
    schedule: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    #: What was asked of all workers at once, by the answer's name.
    answers: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def as_dict(self, seconds: float, secrets: Iterable[str]) -> dict[str, Any]:
        """The report's public form, without secrets."""
        nodes = {name: node.as_dict() for name, node in list(self.nodes.items())}
        errors = list(self.errors)
        for name, node in nodes.items():
            errors += [f"{name}: {error}" for error in node["errors"]]
        schedule = dict(self.schedule)
        for name, entry in schedule.items():
            errors += [f"schedule {name}: {error}" for error in entry["errors"]]
        ok = self.done and not errors and all(node["ok"] for node in nodes.values())
        result = {
            "ok": ok,
            "seconds": round(seconds, 3),
            "errors": errors,
            "nodes": nodes,
            "schedule": schedule,
            **self.answers,
        }
        return dict(redact_all(result, list(secrets)))


def parse_request(raw: object) -> Request:
    """Check the request.

    Raises:
        FleetError: naming the field that is wrong.
    """
    if not isinstance(raw, Mapping):
        raise FleetError("the request must be a JSON object")
    nodes = raw.get("nodes", {})
    if not isinstance(nodes, Mapping):
        raise FleetError("nodes must map node names to what is expected of them")
    schedule = raw.get("schedule") or {}
    if not isinstance(schedule, Mapping):
        raise FleetError("schedule must map entry names to task and queue")
    timeout = raw.get("timeout", TIMEOUT)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise FleetError(f"timeout must be a number of seconds, not {timeout!r}")
    forget = raw.get("forget") or ()
    if not isinstance(forget, (list, tuple)):
        raise FleetError("forget must be a list of node names")
    for name in forget:
        _check_name(str(name))
    pause, resume = _pause(raw.get("pause")), _resume(raw.get("resume"))
    # Whoever asks to wait wants the answer, too.
    waits = sum(asked.wait + command.ANSWER for asked in (pause, resume) if asked is not None)
    return Request(
        settings=parse(raw.get("settings"), "settings"),
        nodes=tuple(_node(str(name), item) for name, item in nodes.items()),
        schedule=tuple(_scheduled(str(name), item) for name, item in schedule.items()),
        timeout=max(float(timeout), waits, SHORTEST_TIMEOUT),
        resume=resume,
        pause=pause,
        census=bool(raw.get("census")),
        forget=tuple(str(name) for name in forget),
    )


def _check_name(name: str) -> None:
    if "@" not in name:
        raise FleetError(f"node {name!r} is not a node's name: it must read worker@host")


def _pause(raw: object) -> command.Pause | None:
    if not raw:
        return None
    if not isinstance(raw, Mapping) or "seconds" not in raw:
        raise FleetError("pause must be a mapping such as {seconds: 60, wait: 30}")
    seconds = _seconds("pause.seconds", raw["seconds"])
    return command.Pause(seconds, _seconds("pause.wait", raw.get("wait", 0)), _names(raw))


def _resume(raw: object) -> command.Resume | None:
    if not raw:
        return None
    options = raw if isinstance(raw, Mapping) else {}
    return command.Resume(_seconds("resume.wait", options.get("wait", TIMEOUT)), _names(options))


def _seconds(what: str, raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or raw < 0:
        raise FleetError(f"{what} must be a number of seconds, not {raw!r}")
    return float(raw)


def _names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(name) for name in raw.get("nodes") or ())


def _node(name: str, raw: object) -> Node:
    _check_name(name)
    raw = {} if raw is None else raw
    if not isinstance(raw, Mapping):
        raise FleetError(f"node {name}: must be a mapping such as {{queues: […]}}")
    pid = raw.get("pid")
    release = raw.get("release")
    return Node(
        name=name,
        queues=tuple(str(queue) for queue in raw.get("queues") or ()),
        pid=None if pid is None else int(pid),
        release=None if release is None else str(release),
        tasks=tuple(str(task) for task in raw.get("tasks") or ()),
    )


def _scheduled(name: str, raw: object) -> Scheduled:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("task"), str):
        raise FleetError(f"schedule {name}: must be a mapping with a task")
    queue = raw.get("queue") or (raw.get("options") or {}).get("queue")
    return Scheduled(name, raw["task"], None if queue is None else str(queue))


def make_app(settings: FleetSettings) -> Any:
    """A bare Celery app that talks to the fleet's broker and gives up quickly.

    Raises:
        FleetError: where the settings lack a URL.
    """
    from celery import Celery

    conf = dict(settings.celery)
    for name in ("broker_url", "result_backend"):
        if not conf.get(name):
            raise FleetError(f"settings: {name} is missing, so there is nobody to ask")
    transport = {
        **(conf.get("broker_transport_options") or {}),
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "max_retries": 1,
    }
    conf.update(
        broker_transport_options=transport,
        broker_connection_retry=False,
        broker_connection_timeout=SOCKET_TIMEOUT,
        broker_pool_limit=None,
        redis_socket_timeout=SOCKET_TIMEOUT,
        redis_socket_connect_timeout=SOCKET_TIMEOUT,
        result_backend_always_retry=False,
        task_publish_retry=False,
        task_serializer="json",
        task_always_eager=False,
        task_send_sent_event=False,
        worker_direct=False,
    )
    # loader and fixups are named, so that nothing of an application in the environment comes in.
    app = Celery("celery_fleet.probe", set_as_current=False, loader="app", fixups=[])
    app.conf.update(conf)
    return app


@dataclass(frozen=True)
class _Load:
    """How many tasks a node without an answer runs; None where it did not say."""

    running: int | None
    slots: int | None
    pid: int | None

    @classmethod
    def of(cls, canary: str, active: Any, stats: Any) -> _Load:
        """From its replies: only tasks that this very process started are in them."""
        running = [
            task for task in active or () if task.get("worker_pid") and task.get("id") != canary
        ]
        pool = (stats or {}).get("pool") or {}
        return cls(
            running=None if active is None else len(running),
            slots=pool.get("max-concurrency") if isinstance(pool, Mapping) else None,
            pid=(stats or {}).get("pid"),
        )

    @property
    def full(self) -> bool:
        """Whether there is no slot for the canary."""
        return bool(self.slots) and (self.running or 0) >= (self.slots or 0)


class Probe:
    """One run; fills in its report step by step."""

    def __init__(self, app: Any, request: Request, report: Report) -> None:
        self._app = app
        self._request = request
        self._report = report
        self._start = time.monotonic()
        self._sent: dict[str, float] = {}
        self._waiting: dict[str, str] = {}

    def run(self) -> None:
        """Send, wait, ask."""
        for node in self._request.nodes:
            self._report.nodes[node.name] = NodeReport()
        try:
            if self._reachable():
                self._command()
                if self._request.nodes:
                    self._send()
                    self._wait()
                self._ask()
                self._report.done = True
        except Exception as exc:  # noqa: BLE001  # whatever fails belongs into the report
            self._report.errors.append(_explain(exc))

    def _left(self) -> float:
        return self._request.timeout - (time.monotonic() - self._start)

    def _reachable(self) -> bool:
        """Whether broker and result backend let us in: kombu would try again until the deadline."""
        from celery_fleet import _celery57 as adapter
        from celery_fleet import broker

        asked = [("broker", adapter.endpoints(self._app))]
        if self._request.nodes:  # only canaries have results
            asked.append(("result backend", adapter.result_endpoints(self._app)))
        for what, endpoints in asked:
            trouble = broker.ask_endpoints(endpoints) if endpoints else None
            if trouble is not None:
                self._report.errors.append(f"{what} {trouble}")
        return not self._report.errors

    def _command(self) -> None:
        """What is asked of all workers at once, and what is to be forgotten."""
        request = self._request
        if request.resume is not None:
            self._keep("resumed", command.resume(self._app, request.resume, self._left))
        if request.pause is not None:
            self._keep("paused", command.pause(self._app, request.pause, self._left))
        if request.census:
            self._report.answers["census"] = command.census(self._app)
        if request.forget:
            self._keep("forgotten", command.forget(self._app, request.forget))

    def _keep(self, name: str, answer: command.Answer) -> None:
        self._report.answers[name] = answer.nodes
        self._report.errors += answer.errors

    # --- canaries ---

    def _send(self) -> None:
        from celery.utils.nodenames import worker_direct

        with self._app.connection_for_write() as connection:
            # Both connections first: a canary's time is the worker's, not that of a TLS handshake.
            connection.ensure_connection(max_retries=1)
            self._app.backend.get_task_meta(str(uuid.uuid4()), cache=False)
            producer = self._app.amqp.Producer(connection, auto_declare=False)
            for node in self._request.nodes:
                task_id = str(uuid.uuid4())
                self._waiting[node.name] = task_id
                self._sent[node.name] = time.monotonic()
                self._app.send_task(
                    command.CANARY,
                    task_id=task_id,
                    queue=worker_direct(node.name),
                    producer=producer,
                    expires=self._request.timeout,
                    ignore_result=False,
                    retry=False,
                )

    def _wait(self) -> None:
        expected = {node.name: node for node in self._request.nodes}
        end = self._start + self._request.timeout * CANARY_PART
        ask_at = time.monotonic() + PATIENCE
        while self._waiting and time.monotonic() < end:
            for name, task_id in list(self._waiting.items()):
                if self._collect(expected[name], task_id):
                    del self._waiting[name]
            if self._waiting and time.monotonic() >= ask_at:
                self._let_busy_go(expected)
                ask_at = time.monotonic() + ASK_EVERY
            if self._waiting:
                time.sleep(PAUSE)

    def _let_busy_go(self, expected: Mapping[str, Node]) -> None:
        """A node that is as expected and whose slots all run tasks need not be waited for."""
        active = self._inspect("active", list(self._waiting), ASK_EVERY)
        stats = self._inspect("stats", list(active), ASK_EVERY)
        for name, task_id in list(self._waiting.items()):
            load = _Load.of(task_id, active.get(name), stats.get(name))
            if load.full and expected[name].pid in (None, load.pid):
                self._judge_silent(name, task_id, load)
                del self._waiting[name]

    def _collect(self, node: Node, task_id: str) -> bool:
        from kombu.exceptions import ContentDisallowed, DecodeError

        report = self._report.nodes[node.name]
        try:
            meta = self._app.backend.get_task_meta(task_id, cache=False)
        except (ContentDisallowed, DecodeError):
            # An application with another result serializer has answered all the same.
            meta = {"status": "SUCCESS", "result": {}}
        if meta["status"] in ("PENDING", "RECEIVED", "STARTED"):
            return False
        report.state = "answered"
        report.seconds = round(time.monotonic() - self._sent[node.name], 3)
        if meta["status"] != "SUCCESS":
            report.errors.append(
                f"the canary ended as {meta['status']}: {one_line(meta.get('result'))}"
            )
            return True
        report.answer = dict(meta["result"] or {})
        report.errors += _unexpected(node, report.answer)
        return True

    def _take_back(self, node: str, task_id: str) -> bool:
        """Remove a canary that still waits in the node's direct queue; False if it is not there."""
        from celery.utils.nodenames import worker_direct

        from celery_fleet import _celery57 as adapter

        wanted = task_id.encode()
        with self._app.connection_for_write() as connection:
            channel = connection.default_channel
            for key in adapter.priority_keys(channel, worker_direct(node).name):
                for message in channel.client.lrange(key, 0, -1):
                    if wanted in message:
                        return bool(channel.client.lrem(key, 1, message))
        return False

    # --- questions ---

    def _ask(self) -> None:
        names = [node.name for node in self._request.nodes]
        queues = self._inspect("active_queues", names)
        for node in self._request.nodes:
            self._judge_queues(node, queues.get(node.name))
        if self._waiting:
            active = self._inspect("active", [name for name in self._waiting if name in queues])
            stats = self._inspect("stats", list(active))
            for name, task_id in self._waiting.items():
                load = _Load.of(task_id, active.get(name), stats.get(name))
                self._judge_silent(name, task_id, load)
        if self._request.schedule or any(node.tasks for node in self._request.nodes):
            # A single node can't answer for the whole fleet: entries are for whom they are given.
            replies = self._inspect("registered", list(queues))
            # A registered task may carry options after its name: "app.add [rate_limit=10/m]".
            registered = {
                node: {str(task).partition(" [")[0] for task in tasks}
                for node, tasks in replies.items()
            }
            for node in self._request.nodes:
                self._judge_tasks(node, registered.get(node.name))
            for entry in self._request.schedule:
                self._judge_entry(entry, queues, registered)

    def _inspect(self, method: str, nodes: list[str], longest: float = 3.0) -> dict[str, Any]:
        """One question to some nodes; those that do not answer in time are not in the result."""
        if not nodes:
            return {}
        timeout = max(0.5, min(longest, self._left() / 4))
        inspect = self._app.control.inspect(destination=nodes, timeout=timeout, limit=len(nodes))
        return dict(getattr(inspect, method)() or {})

    def _judge_queues(self, node: Node, reply: Any) -> None:
        report = self._report.nodes[node.name]
        if reply is None:
            if report.state == "answered":
                report.errors.append("answers its canary but no questions (remote control is off?)")
            return
        own = f"{node.name}.dq2"
        report.queues = sorted(queue["name"] for queue in reply if queue["name"] != own)
        missing = [queue for queue in node.queues if queue not in report.queues]
        if missing:
            report.errors.append(
                f"does not consume {', '.join(missing)} (it consumes"
                f" {', '.join(report.queues) or 'nothing'}); restart it or add the consumer again"
            )
        if own not in {queue["name"] for queue in reply}:
            report.errors.append(
                self._namesakes(node)
                or f"does not consume its direct queue {own} (worker_direct is off?)"
            )

    def _namesakes(self, node: Node) -> str | None:
        """What is wrong where more than one worker answers to a name: the answer may have been the other's.

        Celery keeps one answer for each name, and we wait for no more than one; only here is it worth the time.
        """
        timeout = max(0.5, min(2.0, self._left() / 4))
        replies = self._app.control.broadcast(
            "stats", destination=[node.name], reply=True, timeout=timeout
        )
        answers = [reply[node.name] for reply in replies or () if node.name in reply]
        if len(answers) < 2:
            return None
        processes = ", ".join(sorted(str(answer.get("pid")) for answer in answers))
        known = node.pid or (self._report.nodes[node.name].answer or {}).get("pid")
        ours = f"; the fleet's is {known}" if known else ""
        return (
            f"{len(answers)} workers answer to this name, the processes {processes}{ours}: end the other, on whatever"
            " host it runs, or start it with a name of its own (--hostname)"
        )

    def _judge_tasks(self, node: Node, registered: set[str] | None) -> None:
        missing = [task for task in node.tasks if task not in (registered or ())]
        # One that answers no question at all is told of already.
        if registered is not None and missing:
            self._report.nodes[node.name].errors.append(
                f"does not know {', '.join(missing)}: such tasks would be dropped; deploy a release"
                " that has them, or mend the routes and the schedule"
            )

    def _judge_silent(self, name: str, task_id: str, load: _Load) -> None:
        report = self._report.nodes[name]
        taken_back = None
        try:
            taken_back = self._take_back(name, task_id)
        except Exception as exc:  # noqa: BLE001  # a leftover canary must not hide the verdict
            report.errors.append(f"the canary could not be taken back: {_explain(exc)}")
        report.running, report.slots = load.running, load.slots
        if load.full:
            report.state = "busy"
            report.answer = {"node": name, "pid": load.pid}
            expected = next(node for node in self._request.nodes if node.name == name)
            report.errors += _unexpected(Node(name, pid=expected.pid), report.answer)
            return
        report.state = "no answer"
        waited = f"no answer within {self._request.timeout * CANARY_PART:.0f} s"
        if load.running is None:
            # A solo pool can't answer either while it runs its task: the unit's status tells.
            why = "it took the canary" if taken_back is False else "it is not running"
            report.errors.append(
                f"{waited}: {why} or hangs; see journalctl and systemctl status of its unit"
            )
        else:
            report.errors.append(
                f"{waited} though {load.running} of {load.slots} slots are in use;"
                " see journalctl and systemctl status of its unit"
            )

    def _judge_entry(
        self, entry: Scheduled, queues: Mapping[str, Any], registered: Mapping[str, Any]
    ) -> None:
        queue = entry.queue or self._route(entry.task)
        consumers = sorted(
            node for node, reply in queues.items() if queue in {item["name"] for item in reply}
        )
        able = [node for node in consumers if entry.task in registered.get(node, ())]
        errors = []
        if not consumers:
            errors.append(f"no worker asked consumes its queue {queue}")
        elif not able:
            errors.append(
                f"task {entry.task} is not registered by any consumer of its queue {queue}"
                f" ({', '.join(consumers)}): tasks sent there are dropped"
            )
        elif len(able) < len(consumers):
            lacking = ", ".join(node for node in consumers if node not in able)
            errors.append(
                f"task {entry.task} is not registered by {lacking}, a consumer of {queue}"
            )
        self._report.schedule[entry.name] = {
            "ok": not errors,
            "task": entry.task,
            "queue": queue,
            "nodes": able,
            "errors": errors,
        }

    def _route(self, task: str) -> str:
        options = self._app.amqp.router.route({}, task)
        queue = options.get("queue")
        return str(getattr(queue, "name", queue) or self._app.conf.task_default_queue)


def _unexpected(node: Node, answer: Mapping[str, Any]) -> list[str]:
    errors = []
    pid, release = answer.get("pid"), answer.get("release")
    if node.pid is not None and pid is not None and pid != node.pid:
        errors.append(
            f"process {pid} answered, not {node.pid}: two workers carry this name, or it was"
            " restarted meanwhile"
        )
    if node.release is not None and release is not None and release != node.release:
        errors.append(f"it runs release {release}, not {node.release}")
    return errors


def _explain(exc: BaseException) -> str:
    return redact(f"{type(exc).__name__}: {one_line(exc)}")


def run(raw: object) -> dict[str, Any]:
    """Probe what ``raw`` asks for; returns the report by its deadline, whatever hangs."""
    start = time.monotonic()
    report = Report()
    secrets = secrets_in(raw)
    try:
        versions.require()
        request = parse_request(raw)
        app = make_app(request.settings)
    except FleetError as exc:
        report.errors.append(one_line(exc))
        return report.as_dict(time.monotonic() - start, secrets)
    thread = threading.Thread(target=Probe(app, request, report).run, daemon=True)
    thread.start()
    thread.join(request.timeout)
    if thread.is_alive():
        report.errors.append(
            f"not finished within {request.timeout:g} s: the broker or the result backend does not"
            " answer; see systemctl status of their units"
        )
    return report.as_dict(time.monotonic() - start, secrets)


def main() -> int:
    """Read the request, print the report; see the module's text."""
    try:
        raw = json.loads(sys.stdin.read())
    except json.JSONDecodeError as exc:
        result: dict[str, Any] = {
            "ok": False,
            "errors": [f"the request is not JSON (line {exc.lineno}, {exc.msg})"],
        }
    else:
        result = run(raw)
    print(json.dumps(result), flush=True)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    # A thread that hangs in a socket must not keep the process alive.
    os._exit(main())
