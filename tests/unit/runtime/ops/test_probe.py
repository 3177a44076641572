from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import Any

import pytest

from celery_fleet.common.errors import FleetError
from celery_fleet.compat import broker as compat_broker
from celery_fleet.compat import queues as compat_queues
from celery_fleet.ops import app as ops_app
from celery_fleet.ops import fleet_commands as command
from celery_fleet.ops import probe, probe_request
from celery_fleet.ops.fleet_commands import Answer, PauseRequest, ResumeRequest
from celery_fleet.supervision import broker
from tests.unit.runtime.conftest import Run, document

NODE = "discounts@worker1"


def request(**changes: Any) -> probe_request.ProbeRequest:
    raw: dict[str, Any] = {
        "settings": document("operator"),
        "nodes": {NODE: {"queues": ["discounts"]}},
        "timeout": 2,
    }
    return probe_request.parse_request(raw | changes)


class Fleet:
    """The parts of a Celery app, a broker and workers that the probe uses."""

    def __init__(self) -> None:
        self.queues = {NODE: ["discounts", f"{NODE}.dq2"]}
        self.answers: dict[str, Any] = {NODE: {"node": NODE, "pid": 7, "release": "r1"}}
        self.status = "SUCCESS"
        self.active: dict[str, list[dict[str, Any]]] = {}
        self.slots = 2
        self.pid = 7
        self.mode = "consuming"
        self.registered: dict[str, list[str]] = {}
        self.lists: dict[str, list[bytes]] = {}
        #: Processes that answer to each node name; the second one is not the fleet's.
        self.processes: dict[str, list[int]] = {NODE: [7]}
        self.asked: list[str] = []
        self._tasks: dict[str, str] = {}
        self.amqp = self
        self.backend = self
        self.control = self
        self.default_channel = self
        self.client = self

    # Sending.
    @contextmanager
    def connection_for_write(self) -> Any:
        yield self

    def ensure_connection(self, **_: Any) -> None:
        return None

    def Producer(self, *_: Any, **__: Any) -> None:  # noqa: N802  # kombu's name
        return None

    def send_task(self, name: str, task_id: str, queue: Any, **options: Any) -> None:
        assert name == "celery_fleet.canary"
        assert options["expires"] > 0
        node = queue.name.removesuffix(".dq2")
        self._tasks[task_id] = node
        if node not in self.answers:
            self.lists[queue.name] = [b"another", f'{{"id": "{task_id}"}}'.encode()]

    def get_task_meta(self, task_id: str, cache: bool) -> dict[str, Any]:
        node = self._tasks.get(task_id)
        if node not in self.answers:
            return {"status": "PENDING", "result": None}
        return {"status": self.status, "result": self.answers[node]}

    # Taking back.
    def lrange(self, key: str, *_: int) -> list[bytes]:
        return list(self.lists.get(key, []))

    def lrem(self, key: str, _: int, message: bytes) -> int:
        self.lists[key].remove(message)
        return 1

    # Asking.
    def inspect(self, destination: list[str], timeout: float, limit: int) -> Any:
        assert 0 < timeout <= 3
        assert limit == len(destination)
        fleet = self

        class Inspect:
            def _reply(self, what: str, replies: dict[str, Any]) -> dict[str, Any]:
                fleet.asked.append(what)
                return {name: replies[name] for name in destination if name in replies}

            def active_queues(self) -> dict[str, Any]:
                named = {n: [{"name": q} for q in queues] for n, queues in fleet.queues.items()}
                return self._reply("queues", named)

            def active(self) -> dict[str, Any]:
                return self._reply("active", fleet.active)

            def stats(self) -> dict[str, Any]:
                pool = {"max-concurrency": fleet.slots}
                one = {"pid": fleet.pid, "pool": pool, "fleet": {"state": fleet.mode}}
                return self._reply("stats", dict.fromkeys(fleet.active, one))

            def registered(self) -> dict[str, Any]:
                return self._reply("registered", fleet.registered)

        return Inspect()

    def broadcast(
        self, command: str, destination: list[str], reply: bool, timeout: float
    ) -> list[dict[str, Any]] | None:
        assert (command, reply) == ("stats", True)
        assert 0 < timeout <= 2
        found = [{name: {"pid": pid}} for name in destination for pid in self.processes[name]]
        return found or None


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet()
    monkeypatch.setattr(probe, "make_app", lambda _: made)
    monkeypatch.setattr(compat_broker, "endpoints", lambda _: [])
    monkeypatch.setattr(compat_broker, "result_endpoints", lambda _: [])
    monkeypatch.setattr(compat_queues, "priority_keys", lambda _, queue: [queue, f"{queue}9"])
    monkeypatch.setattr(probe, "CANARY_PART", 0.1)
    return made


def test_workers_that_answer_are_well(fleet: Fleet) -> None:
    report = probe.run(request(timeout=60))

    assert report["ok"]
    node = report["nodes"][NODE]
    assert (node["state"], node["queues"], node["answer"]["pid"]) == ("answered", ["discounts"], 7)
    assert node["seconds"] < 5
    assert fleet.asked == ["queues"]


def test_all_nodes_are_asked_at_once(fleet: Fleet) -> None:
    names = [f"w{number}@h" for number in range(100)]
    fleet.answers = {name: {"node": name} for name in names}
    fleet.queues = {name: ["q", f"{name}.dq2"] for name in names}

    report = probe.run(request(timeout=60, nodes={name: {"queues": ["q"]} for name in names}))

    assert report["ok"]
    assert report["seconds"] < 5


def test_a_full_worker_is_busy_and_its_canary_is_removed(fleet: Fleet) -> None:
    fleet.answers = {}
    fleet.active = {NODE: [{"worker_pid": 8}, {"worker_pid": 9}]}

    report = probe.run(request())

    assert report["ok"]
    assert report["nodes"][NODE]["state"] == "busy"
    assert fleet.lists[f"{NODE}.dq2"] == [b"another"]


@pytest.fixture
def patient(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Return a probe whose canaries may take long, with a full worker."""
    monkeypatch.setattr(probe, "CANARY_PART", 0.6)
    monkeypatch.setattr(probe, "PATIENCE", 0.05)
    monkeypatch.setattr(probe, "ASK_EVERY", 0.05)
    fleet.answers = {}
    fleet.active = {NODE: [{"worker_pid": 8}, {"worker_pid": 9}]}
    return fleet


def test_a_full_worker_ends_the_wait(patient: Fleet) -> None:
    report = probe.run(request(timeout=60, nodes={NODE: {"pid": 7}}))

    assert report["ok"]
    assert report["seconds"] < 5
    node = report["nodes"][NODE]
    assert (node["state"], node["running"], node["slots"]) == ("busy", 2, 2)
    assert patient.lists[f"{NODE}.dq2"] == [b"another"]
    assert patient.asked == ["active", "stats", "queues"]


def test_a_worker_that_fills_up_later_ends_the_wait(patient: Fleet) -> None:
    full, patient.active = patient.active, {NODE: [{"worker_pid": 8}]}
    inspect = patient.inspect

    def later(**options: Any) -> Any:
        if len(patient.asked) == 4:
            patient.active = full
        return inspect(**options)

    patient.inspect = later  # type: ignore[method-assign]  # changes its answer

    report = probe.run(request(timeout=60))

    assert report["seconds"] < 5
    assert report["nodes"][NODE]["state"] == "busy"
    assert patient.asked.count("active") == 3


def test_another_process_that_is_full_does_not_end_the_wait(
    patient: Fleet,
) -> None:
    def successor(destination: list[str], timeout: float, limit: int) -> Any:
        if len(patient.asked) >= 4:  # the second round comes too late for it
            patient.answers = {NODE: {"node": NODE, "pid": 9}}
        return inspect(destination, timeout, limit)

    inspect = patient.inspect
    patient.inspect = successor  # type: ignore[method-assign]  # changes its answer

    report = probe.run(request(timeout=60, nodes={NODE: {"pid": 9}}))

    assert report["ok"]
    assert report["seconds"] < 5
    assert report["nodes"][NODE]["state"] == "answered"


@pytest.mark.slow
def test_a_worker_is_not_busy_because_of_a_hanging_canary(patient: Fleet) -> None:
    patient.slots = 1
    patient.active = {NODE: []}
    send = patient.send_task

    def send_and_begin(name: str, task_id: str, queue: Any, **options: Any) -> None:
        send(name, task_id, queue, **options)
        patient.active = {NODE: [{"worker_pid": 8, "id": task_id}]}

    patient.send_task = send_and_begin  # type: ignore[method-assign]  # and begin it

    report = probe.run(request())

    assert report["nodes"][NODE]["state"] == "no answer"


@pytest.mark.parametrize(
    ("active", "message"),
    [
        ([{"worker_pid": 8}], "though 1 of 2 slots are in use"),
        ([{"worker_pid": 8}, {"worker_pid": None}], "though 1 of 2 slots are in use"),
        (None, "it is not running or hangs"),
    ],
)
def test_a_silent_worker_is_not_well(fleet: Fleet, active: Any, message: str) -> None:
    fleet.answers = {}
    if active is None:
        fleet.queues = {}
    else:
        fleet.active = {NODE: active}

    report = probe.run(request())

    assert not report["ok"]
    assert report["nodes"][NODE]["state"] == "no answer"
    assert any(error.startswith(f"{NODE}: no answer within") for error in report["errors"])
    assert any(message in error for error in report["errors"])


@pytest.mark.parametrize("mode", ["paused", "draining"])
def test_a_worker_that_fetches_no_tasks_is_not_called_silent(fleet: Fleet, mode: str) -> None:
    fleet.answers, fleet.active, fleet.mode = {}, {NODE: []}, mode

    report = probe.run(request())

    assert not report["ok"]
    assert report["nodes"][NODE]["state"] == mode
    assert f"{NODE}: is {mode}: it takes no tasks" in report["errors"]


def test_a_queue_that_is_not_consumed_is_named(fleet: Fleet) -> None:
    fleet.queues[NODE] = ["analytics"]

    report = probe.run(request())

    assert not report["ok"]
    assert any("does not consume discounts (it consumes analytics)" in e for e in report["errors"])
    assert any("does not consume its direct queue" in e for e in report["errors"])


def test_a_second_worker_with_the_same_name_is_reported(fleet: Fleet) -> None:
    """A worker that was started by hand answers in place of ours, and its queues would be misleading."""
    fleet.queues[NODE] = ["discounts"]
    fleet.processes[NODE] = [99, 7]

    report = probe.run(request())

    (error,) = report["errors"]
    assert error.startswith(f"{NODE}: 2 workers use this node name, the processes 7, 99")
    assert "the fleet's is 7: stop the others" in error


def test_another_process_with_the_nodes_name_is_an_error(fleet: Fleet) -> None:
    report = probe.run(request(nodes={NODE: {"pid": 9}}))

    assert not report["ok"]
    assert "process 7 answered, not 9" in report["errors"][0]


def test_a_busy_worker_that_is_another_process_is_an_error(fleet: Fleet) -> None:
    fleet.answers = {}
    fleet.active = {NODE: [{"worker_pid": 8}, {"worker_pid": 9}]}

    report = probe.run(request(nodes={NODE: {"pid": 9}}))

    assert not report["ok"]
    assert "process 7 answered, not 9" in report["errors"][0]


def test_a_canary_that_fails_is_reported(fleet: Fleet) -> None:
    fleet.status = "REVOKED"
    fleet.answers = {NODE: "expired"}

    report = probe.run(request())

    assert report["errors"] == [f"{NODE}: the canary ended as REVOKED: expired"]
    assert report["nodes"][NODE]["state"] == "failed"


def test_scheduled_tasks_have_a_worker(fleet: Fleet) -> None:
    fleet.registered = {NODE: ["shop.sum [rate_limit=10/m]"]}
    schedule = {
        "good": {"task": "shop.sum", "queue": "discounts"},
        "unknown": {"task": "shop.other", "queue": "discounts"},
        "nobody": {"task": "shop.sum", "queue": "reports"},
        # Workers don't list Celery's own tasks, but have them.
        "own": {"task": "celery.backend_cleanup", "queue": "discounts"},
    }

    report = probe.run(request(schedule=schedule))

    assert {name: entry["ok"] for name, entry in report["schedule"].items()} == {
        "good": True,
        "unknown": False,
        "nobody": False,
        "own": True,
    }
    assert report["schedule"]["good"]["nodes"] == [NODE]
    assert "schedule nobody: no worker asked consumes its queue reports" in report["errors"]
    assert any("shop.other is not registered by any consumer" in e for e in report["errors"])


def test_a_node_knows_the_tasks_that_its_queues_need(fleet: Fleet) -> None:
    fleet.registered = {NODE: ["shop.sum [rate_limit=10/m]", "shop.add"]}
    report = probe.run(request(nodes={NODE: {"tasks": ["shop.sum", "shop.new"]}}))

    assert not report["ok"]
    assert report["errors"][0].startswith(f"{NODE}: does not know shop.new: such tasks would")
    assert fleet.asked == ["queues", "registered"]
    for task in ("shop.sum", "celery.chord_unlock"):
        assert probe.run(request(nodes={NODE: {"tasks": [task]}}))["ok"]


def test_commands_to_all_workers_need_no_nodes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def answer(_: Any, wanted: Any, *left: Any) -> Answer:
        asked.append(wanted)
        return Answer({NODE: {"state": "paused"}}, ["w@h: no answer"] if not left else [])

    monkeypatch.setattr(command, "pause", answer)
    monkeypatch.setattr(command, "resume", answer)
    monkeypatch.setattr(command, "forget", answer)
    monkeypatch.setattr(command, "census", lambda _: {NODE: {"pid": 7}})
    monkeypatch.setattr(
        compat_broker, "result_endpoints", lambda _: pytest.fail("has no use for it")
    )
    raw = {
        "settings": document("operator"),
        "census": True,
        "forget": ["old@h"],
        "pause": {"seconds": 60, "wait": 3, "nodes": [NODE]},
        "resume": True,
    }

    report = probe.run(probe_request.parse_request(raw))

    assert asked == [ResumeRequest(20.0), PauseRequest(60, 3, [NODE]), ["old@h"]]
    assert report["census"] == {NODE: {"pid": 7}}
    assert (
        report["paused"] == report["resumed"] == report["forgotten"] == {NODE: {"state": "paused"}}
    )
    assert report["errors"] == ["w@h: no answer"]
    assert not report["ok"]


def test_a_plain_report_has_no_further_answers(fleet: Fleet) -> None:
    assert set(probe.run(request())) == {"ok", "seconds", "errors", "nodes", "schedule"}


def test_a_probe_that_waits_for_a_pause_gets_more_time() -> None:
    assert request(pause={"seconds": 90, "wait": 60}).timeout > 60


def test_a_temporary_instance_is_a_node_as_well(fleet: Fleet) -> None:
    name = "discounts.next@worker1"
    fleet.queues = {name: ["discounts", f"{name}.dq2"]}
    fleet.answers = {name: {"node": name, "pid": 7}}

    report = probe.run(request(nodes={name: {"queues": ["discounts"]}}))

    assert report["ok"]
    assert report["nodes"][name]["queues"] == ["discounts"]


def test_a_broker_that_refuses_is_reported_at_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat_broker, "endpoints", lambda _: ["one"])
    monkeypatch.setattr(broker, "ask_endpoints", lambda _: "redis1:6379: refused")

    report = probe.run(request(timeout=60))

    assert not report["ok"]
    assert report["errors"] == ["broker redis1:6379: refused"]
    assert report["seconds"] < 5


@pytest.mark.slow
def test_the_deadline_applies_to_anything_that_hangs(fleet: Fleet) -> None:
    fleet.send_task = lambda *_, **__: time.sleep(30)  # type: ignore[method-assign]  # hangs

    report = probe.run(request())

    assert not report["ok"]
    assert 2 <= report["seconds"] < 15
    assert "not finished within 2 s" in report["errors"][-1]


def test_secrets_in_a_librarys_message_are_masked(fleet: Fleet) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("WRONGPASS s3cr3tpw for rediss://worker:s3cr3tpw@redis1")

    fleet.send_task = fail  # type: ignore[method-assign]  # fails

    report = probe.run(request())

    assert "s3cr3tpw" not in json.dumps(report)
    assert report["errors"] == ["ConnectionError: WRONGPASS *** for rediss://worker:***@redis1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": {"discounts": {}}}, "must read worker@host"),
        ({"forget": ["w"]}, "must read worker@host"),
        ({"settings": {"format": 9}}, "has format 9"),
    ],
)
def test_a_wrong_request_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError, match=message):
        request(**changes)


def test_the_app_is_minimal_and_gives_up_quickly() -> None:
    app = ops_app.make_app(request().settings)

    assert app.conf.broker_url.startswith("rediss://worker:")
    assert app.conf.broker_transport_options["socket_timeout"] == ops_app.SOCKET_TIMEOUT
    assert type(app.loader).__name__ == "AppLoader"
    with pytest.raises(FleetError, match="result_backend is missing"):
        ops_app.make_app(request(settings=document("operator", result_backend=None)).settings)


def test_it_runs_as_a_module(run: Run) -> None:
    raw = {"settings": document("operator", broker_url="redis://:s3cr3tpw@127.0.0.1:1/0")}
    done = run("-m", "celery_fleet.ops.probe", stdin=json.dumps(raw))

    assert done.returncode == 1
    assert "127.0.0.1:1" in json.loads(done.stdout)["errors"][0]
    assert "s3cr3tpw" not in done.stdout + done.stderr
