"""Ask running workers whether they work: ``python -m celery_fleet.ops.probe`` with JSON on stdin.

    {"settings": {… the operator's settings.json …},
     "nodes": {"discounts@worker1": {"queues": ["discounts"], "pid": 4711}},
     "schedule": {"entry": {"task": "…", "queue": "…"}}, "timeout": 20}

sends ``celery_fleet.canary`` to all nodes at once through their direct queues and waits for the answers. A node
without a free slot can't answer. It is reported as busy, which also passes and ends the wait for it, and its
canary is taken back. Then the nodes are asked which queues they consume and which tasks they know. ``pid`` (optional)
rejects the answer of another process; the node must know the ``tasks``. Prints one JSON object; the status is 0 if all
is well and 1 if not. Never takes longer than ``timeout`` plus one second.

Instead of nodes or in addition to them, in this order:

    "resume": true or {"wait": 20, "nodes": [names]}       -> "resumed": {node: status}
    "pause": {"seconds": 60, "wait": 30, "nodes": [names]} -> "paused": {node: status}
    "census": true    -> "census": {node: {"queues", "processes", "pid", "state", "ended"}}
    "forget": [names] -> "forgotten": {node: {"canaries", "tasks", "bindings"}}

A status is {"state", "seconds", "running", "unacked", "handed_back", "held", "polling"}; see
:mod:`celery_fleet.worker.drainer` and :mod:`celery_fleet.ops.fleet_commands`.

In addition to what sending and inspecting need, it needs these rights in Redis: LRANGE and LREM on ``*.dq2``, and
SREM and ZREM on the bindings to forget.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from celery_fleet.common.answering import serve
from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact
from celery_fleet.compat import versions
from celery_fleet.delivery.keys import CANARY, direct_queue
from celery_fleet.ops import fleet_commands as command
from celery_fleet.ops.app import make_app
from celery_fleet.ops.probe_report import NodeLoad, NodeReport, ProbeReport, unexpected
from celery_fleet.ops.probe_request import Node, ProbeRequest, Scheduled, parse_request

#: Seconds between two checks for answers.
PAUSE = 0.01

#: Seconds until nodes without an answer are asked whether they are busy.
PATIENCE = 2.0

#: Seconds between two such questions.
ASK_EVERY = 1.0

#: The fraction of the timeout that canaries may take; the rest is for questions.
CANARY_PART = 0.6


class Probe:
    """One run of the probe; fills in its report step by step."""

    def __init__(self, app: Any, request: ProbeRequest, report: ProbeReport) -> None:
        self._app = app
        self._request = request
        self._report = report
        self._start = time.monotonic()
        self._sent: dict[str, float] = {}
        self._waiting: dict[str, str] = {}

    def run(self) -> None:
        """Send the canaries, wait for answers, and ask questions."""
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
        except Exception as exc:  # noqa: BLE001  # any error belongs in the report
            self._report.errors.append(_explain(exc))

    def _left(self) -> float:
        return self._request.timeout - (time.monotonic() - self._start)

    def _reachable(self) -> bool:
        """Return whether broker and result backend accept a connection; kombu itself would retry until the deadline."""
        from celery_fleet.compat import broker as compat_broker
        from celery_fleet.supervision import broker

        asked = [("broker", compat_broker.endpoints(self._app))]
        if self._request.nodes:  # only canaries have results
            asked.append(("result backend", compat_broker.result_endpoints(self._app)))
        for what, endpoints in asked:
            trouble = broker.ask_endpoints(endpoints) if endpoints else None
            if trouble is not None:
                self._report.errors.append(f"{what} {trouble}")
        return not self._report.errors

    def _command(self) -> None:
        """Carry out the commands to all workers."""
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
            # Connect to both first: the measured time is the worker's, without our TLS handshakes.
            connection.ensure_connection(max_retries=1)
            self._app.backend.get_task_meta(str(uuid.uuid4()), cache=False)
            producer = self._app.amqp.Producer(connection, auto_declare=False)
            for node in self._request.nodes:
                task_id = str(uuid.uuid4())
                self._waiting[node.name] = task_id
                self._sent[node.name] = time.monotonic()
                self._app.send_task(
                    CANARY,
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
        """Stop waiting for nodes that are the expected process and have no free slot."""
        active = self._inspect("active", list(self._waiting), ASK_EVERY)
        stats = self._inspect("stats", list(active), ASK_EVERY)
        for name, task_id in list(self._waiting.items()):
            load = NodeLoad.of(task_id, active.get(name), stats.get(name))
            if load.full and expected[name].pid in (None, load.pid):
                self._judge_silent(name, task_id, load)
                del self._waiting[name]

    def _collect(self, node: Node, task_id: str) -> bool:
        from kombu.exceptions import ContentDisallowed, DecodeError

        report = self._report.nodes[node.name]
        try:
            meta = self._app.backend.get_task_meta(task_id, cache=False)
        except (ContentDisallowed, DecodeError):
            # The application uses another result serializer, but the worker has answered.
            meta = {"status": "SUCCESS", "result": {}}
        if meta["status"] in ("PENDING", "RECEIVED", "STARTED"):
            return False
        report.state = "answered" if meta["status"] == "SUCCESS" else "failed"
        report.seconds = round(time.monotonic() - self._sent[node.name], 3)
        if meta["status"] != "SUCCESS":
            report.errors.append(
                f"the canary ended as {meta['status']}: {one_line(meta.get('result'))}"
            )
            return True
        report.answer = dict(meta["result"] or {})
        report.errors += unexpected(node, report.answer)
        return True

    def _take_back(self, node: str, task_id: str) -> bool:
        """Remove a canary that still waits in the node's direct queue; return False if it is not there."""
        from celery.utils.nodenames import worker_direct

        from celery_fleet.compat import queues as compat_queues

        wanted = task_id.encode()
        with self._app.connection_for_write() as connection:
            channel = connection.default_channel
            for key in compat_queues.priority_keys(channel, worker_direct(node).name):
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
                load = NodeLoad.of(task_id, active.get(name), stats.get(name))
                self._judge_silent(name, task_id, load)
        if self._request.schedule or any(node.tasks for node in self._request.nodes):
            # Entries may have their consumers on other nodes, so the caller passes a schedule only with all nodes.
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
        """Ask some nodes one question; nodes that do not answer in time are missing in the result."""
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
        own = direct_queue(node.name)
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
        """Return an error if several workers have the node's name: the answer may have come from the wrong one.

        Celery keeps only one answer for each name, and the other questions wait for only one. This one takes longer, so
        it is asked only if the first answer looks wrong.
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
            f"{len(answers)} workers use this node name, the processes {processes}{ours}: stop the others, which may"
            " run on any host, or start them with another --hostname"
        )

    def _judge_tasks(self, node: Node, registered: set[str] | None) -> None:
        missing = [task for task in node.tasks if not _knows(registered or (), task)]
        # A node that answers no question has been reported already.
        if registered is not None and missing:
            self._report.nodes[node.name].errors.append(
                f"does not know {', '.join(missing)}: such tasks would be dropped; deploy a release"
                " that has them, or correct the routes and the schedule"
            )

    def _judge_silent(self, name: str, task_id: str, load: NodeLoad) -> None:
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
            report.errors += unexpected(expected, report.answer)
            return
        if load.halted:
            report.state = load.halted
            report.errors.append(f"is {load.halted}: it takes no tasks")
            return
        report.state = "no answer"
        waited = f"no answer within {self._request.timeout * CANARY_PART:.0f} s"
        if load.running is None:
            # A solo pool can't answer either while it runs a task; the unit's status shows that.
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
        queue = entry.queue
        consumers = sorted(
            node for node, reply in queues.items() if queue in {item["name"] for item in reply}
        )
        able = [node for node in consumers if _knows(registered.get(node, ()), entry.task)]
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


def _knows(registered: Collection[str], task: str) -> bool:
    """Return whether a worker knows a task. Each one knows Celery's own, which `registered` leaves out."""
    return task in registered or task.startswith("celery.")


def _explain(exc: BaseException) -> str:
    return redact(f"{type(exc).__name__}: {one_line(exc)}")


def run(request: ProbeRequest) -> dict[str, Any]:
    """Carry out a request; return the report by its deadline, even if something hangs."""
    start = time.monotonic()
    report = ProbeReport()
    try:
        versions.require()
        app = make_app(request.settings)
    except FleetError as exc:
        report.errors.append(one_line(exc))
        return report.as_dict(time.monotonic() - start, request.secrets)
    thread = threading.Thread(target=Probe(app, request, report).run, daemon=True)
    thread.start()
    thread.join(request.timeout)
    if thread.is_alive():
        report.errors.append(
            f"not finished within {request.timeout:g} s: the broker or the result backend does not"
            " answer; see systemctl status of their units"
        )
    return report.as_dict(time.monotonic() - start, request.secrets)


if __name__ == "__main__":
    serve(parse_request, run)
