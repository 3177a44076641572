"""A fleet's lease, with the real script and real processes: one run at a time, even if processes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.action import run_lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts, lease
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.lease import (
    HolderWatch,
    LeaseHeld,
    LeaseRenewer,
)


def ask(directory: Path, do: str, token: str, ttl: float = 30, app: str = "shop") -> dict[str, Any]:
    asked = {"directory": str(directory), "app": app, "do": do, "token": token, "ttl": ttl}
    asked["record"] = str(directory / "record.json")
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", host_scripts.script("lease")],
        input=json.dumps({**asked, "owner": f"owner of {token}"}),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return dict(host_scripts.answer({"rc": 0, "stdout": done.stdout}))


def test_the_record_of_the_releases_comes_with_the_lease_and_without_it(tmp_path: Path) -> None:
    assert ask(tmp_path, "look", "") == {"state": "gone", "record": {}}
    (tmp_path / "record.json").write_text('{"current": "abc"}')
    assert ask(tmp_path, "look", "")["record"] == {"current": "abc"}
    assert not list(tmp_path.glob("*.lease.*")), "a look leaves nothing"
    assert ask(tmp_path, "acquire", "one")["record"] == {"current": "abc"}
    assert ask(tmp_path, "acquire", "two")["record"] == {"current": "abc"}
    assert "record" not in ask(tmp_path, "renew", "one")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"hold": {"release": "a"}}', '{"history": ["a"]}']
)
def test_a_record_that_is_damaged_is_not_taken_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(subprocess.CalledProcessError) as error:
        ask(tmp_path, "look", "")
    assert "record.json can't be read" in error.value.stderr
    assert "Traceback" not in error.value.stderr


@pytest.mark.parametrize("own", ["none", "old", "new", "other"])
def test_the_newest_record_of_the_releases_counts(own: str) -> None:
    """The host of the lease may be new, or have been away while another host kept the lease."""
    entry = {"release": "a" * 12, "by": "ana", "at": 5, "why": "slow"}
    old = {"current": "a" * 12, "hold": {**entry, "at": 6}, "history": [entry]}
    new = {**old, "hold": None, "history": [entry, {**entry, "at": 9}]}
    # Written in the same second as the newest copy.
    other = {**new, "current": "b" * 12}
    records = {"h1": None, "h2": old, "h3": new, "h4": {}}
    hosts = {name: _facts("shop", one) for name, one in records.items()}
    blog = _facts("blog", {**new, "history": [{**entry, "at": 20}]})
    variables = {"hostvars": {**hosts, "without facts": {}, "of another fleet": blog}}
    its: dict[str, Any] = {"none": {}, "old": old, "new": new, "other": other}[own]
    warned: list[str] = []
    action = SimpleNamespace(_display=SimpleNamespace(warning=warned.append))
    found = run_lease.ActionModule._newest(action, its, "shop", variables)  # type: ignore[arg-type]  # a stand-in
    assert found == (other if own == "other" else new)
    assert bool(warned) == (own == "old")
    alone = {"hostvars": {"h1": hosts["h1"]}}
    assert run_lease.ActionModule._newest(action, its, "shop", alone) == its  # type: ignore[arg-type]  # a stand-in


def _facts(app: str, record: object) -> dict[str, Any]:
    return {"ansible_facts": {"fleet": {"claims": {"app": app}, "record": record}}}


# -- on the host -------------------------------------------------------------------------------------------


def test_the_first_gets_it_and_the_second_is_told_whose_it_is(tmp_path: Path) -> None:
    began = time.time()
    assert ask(tmp_path, "acquire", "one")["state"] == "ours"
    refused = ask(tmp_path, "acquire", "two")
    assert refused["state"] == "held"
    assert refused["owner"] == "owner of one"
    assert refused["age"] <= time.time() - began + 1
    assert "one" not in json.dumps({**refused, "owner": ""}), "who reads it could renew it"


def test_each_application_has_its_own(tmp_path: Path) -> None:
    assert ask(tmp_path, "acquire", "one")["state"] == "ours"
    assert ask(tmp_path, "acquire", "two", app="other")["state"] == "ours"


def test_it_is_renewed_and_given_back_by_its_owner_alone(tmp_path: Path) -> None:
    first = ask(tmp_path, "acquire", "one")
    again = ask(tmp_path, "renew", "one")
    assert again["state"] == "ours"
    assert again["renewed"] > first["renewed"]
    assert again["since"] == first["since"]
    assert ask(tmp_path, "renew", "two")["state"] == "held"
    ask(tmp_path, "release", "two")
    assert ask(tmp_path, "acquire", "two")["state"] == "held"
    ask(tmp_path, "release", "one")
    assert ask(tmp_path, "renew", "one") == {"state": "gone"}
    assert ask(tmp_path, "acquire", "two")["state"] == "ours"


def test_an_expired_lease_can_be_taken_over_and_its_owner_loses_it(tmp_path: Path) -> None:
    ask(tmp_path, "acquire", "one")
    time.sleep(0.3)
    assert ask(tmp_path, "acquire", "two", ttl=60)["state"] == "held"
    taken = ask(tmp_path, "acquire", "two", ttl=0.2)
    assert taken["state"] == "ours"
    assert taken["silent"]["owner"] == "owner of one"
    assert taken["silent"]["age"] >= 0.3
    assert ask(tmp_path, "renew", "one")["owner"] == "owner of two"


def test_an_expired_lease_that_no_run_took_can_be_renewed(tmp_path: Path) -> None:
    ask(tmp_path, "acquire", "one")
    time.sleep(0.2)
    assert ask(tmp_path, "renew", "one", ttl=0.1)["state"] == "ours"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"token": "x"}', '{"boot": "of another time", "token": "x", "renewed": 1}'],
)
def test_a_damaged_lease_or_one_of_an_earlier_boot_is_replaced(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "shop.lease.json").write_text(content)
    assert ask(tmp_path, "acquire", "one")["state"] == "ours"


def test_only_one_of_many_concurrent_runs_gets_it(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-I", "-c", host_scripts.script("lease")]
    asked = {"directory": str(tmp_path), "app": "shop", "do": "acquire", "owner": "o", "ttl": 30}
    asked["record"] = str(tmp_path / "record.json")
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    states = []
    for number, process in enumerate(running):
        assert process.stdin
        process.stdin.write(json.dumps({**asked, "token": f"t{number}"}))
        process.stdin.close()
    for process in running:
        assert process.stdout
        states.append(json.loads(process.stdout.read())["state"])
        process.stdout.close()
        process.wait()
    assert sorted(states) == ["held"] * 5 + ["ours"]


# -- who waits ---------------------------------------------------------------------------------------------


def held(**what: Any) -> dict[str, Any]:
    silent = {"token_id": "a", "renewed": 10.0, "age": 3.0, "owner": "eve on box, process 7"}
    return {"state": "held", "since": time.time(), **silent, **what}


def test_a_run_that_is_at_work_is_left_alone() -> None:
    watch = HolderWatch("shop", "redis1")
    assert "Checking whether that run is still there" in watch.waiting_line(held())
    with pytest.raises(
        LeaseHeld, match=r"eve on box, process 7, since .*, last heard of 0 s ago"
    ) as why:
        watch.waiting_line(held(renewed=15.0, age=0.2))
    assert "its lease is on redis1" in str(why.value)
    assert "Nothing was changed" in str(why.value)


def test_a_third_run_that_was_faster_is_left_alone() -> None:
    watch = HolderWatch("shop", "redis1")
    watch.waiting_line(held(age=59.0))
    with pytest.raises(LeaseHeld):
        watch.waiting_line(held(token_id="b", renewed=10.0, age=0.1))


def test_a_silent_one_is_waited_for() -> None:
    watch = HolderWatch("shop", "redis1")
    watch.waiting_line(held())
    assert "this run goes on in 48 s" in watch.waiting_line(held(age=12.0))
    assert watch.waiting_line({"state": "ours"}) == ""


# -- the process that renews -------------------------------------------------------------------------------


class Host:
    """The lease's host: the script, in a directory of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, do: str) -> dict[str, Any]:
        if (self.path / "unreachable").exists():
            raise ConnectionError("no route")
        return ask(self.path, do, "token")

    def free(self) -> bool:
        return ask(self.path, "renew", "nobody")["state"] == "gone"


def eventually(true: Any, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def main_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    lease.note(path, token="token", renewed=lease.now())
    return path


@pytest.fixture
def host(tmp_path: Path, run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(lease, "INTERVAL", 0.1)
    path = tmp_path / "host"
    ask(path, "acquire", "token")
    return Host(path)


def renewer(directory: Path, host: Host, process: int) -> None:
    lease.detach(lambda: LeaseRenewer(directory, host, process).run())


def test_it_renews_while_the_run_lives_and_gives_back_when_it_is_killed(
    run_directory: Path, host: Host, main_process: subprocess.Popen[bytes]
) -> None:
    before = lease.noted(run_directory, "renewed")
    renewer(run_directory, host, main_process.pid)
    assert eventually(lambda: lease.noted(run_directory, "renewed") > before)
    assert lease.trouble(run_directory) == ""
    assert not host.free()
    main_process.send_signal(signal.SIGKILL)
    main_process.wait()
    assert eventually(host.free)
    assert eventually(lambda: not run_directory.exists()), "nothing of the run stays"


@pytest.mark.slow
def test_a_killed_run_s_lease_is_kept_while_its_processes_still_act(
    run_directory: Path, host: Host, main_process: subprocess.Popen[bytes]
) -> None:
    renewer(run_directory, host, main_process.pid)
    with lease.at_work(run_directory), lease.at_work(run_directory):
        main_process.kill()
        main_process.wait()
        time.sleep(1)
        assert not host.free()
        assert run_directory.exists()
    assert eventually(host.free)


@pytest.mark.slow
def test_a_process_that_never_ends_keeps_the_lease_no_longer_than_silence_would(
    run_directory: Path,
    host: Host,
    main_process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "TTL", 0.5)
    renewer(run_directory, host, main_process.pid)
    with lease.at_work(run_directory):
        main_process.kill()
        main_process.wait()
        assert eventually(host.free)


def test_time_that_the_control_side_sleeps_counts(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    awake, asleep = time.monotonic(), 60.0
    clocks = {time.CLOCK_MONOTONIC: awake, time.CLOCK_BOOTTIME: awake}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    lease.note(run_directory, renewed=lease.now())
    clocks[time.CLOCK_BOOTTIME] += asleep
    assert "not renewed for 60 s" in lease.trouble(run_directory)


def test_a_lease_that_another_run_took_over_is_no_longer_relied_on(
    run_directory: Path, host: Host, main_process: subprocess.Popen[bytes]
) -> None:
    renewer(run_directory, host, main_process.pid)
    ask(host.path, "acquire", "other", ttl=0)
    assert eventually(lambda: lease.trouble(run_directory))
    assert "owner of other has taken it over" in lease.trouble(run_directory)
    main_process.kill()
    main_process.wait()
    assert eventually(lambda: not run_directory.exists())
    assert ask(host.path, "renew", "other")["state"] == "ours", "what is another's is left alone"


@pytest.mark.slow
def test_a_host_that_can_t_be_reached_costs_the_lease_before_another_may_take_it(
    run_directory: Path,
    host: Host,
    main_process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_DOUBT", 1.0)
    renewer(run_directory, host, main_process.pid)
    (host.path / "unreachable").touch()
    assert eventually(lambda: (run_directory / "lost").exists())
    assert "could not be reached" in lease.trouble(run_directory)


@pytest.mark.slow
def test_a_lease_that_was_given_back_is_not_lost(
    run_directory: Path, host: Host, main_process: subprocess.Popen[bytes]
) -> None:
    renewer(run_directory, host, main_process.pid)
    lease.note(run_directory, released=True)
    host("release")
    time.sleep(0.5)
    assert lease.trouble(run_directory) == ""
    assert host.free()


def test_a_renewer_that_died_is_noticed(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = lease.now()
    lease.note(run_directory, renewed=now)
    monkeypatch.setattr(lease, "now", lambda: now + 56)
    assert "not renewed for 56 s" in lease.trouble(run_directory)


def test_without_a_lease_nothing_is_relied_on(tmp_path: Path) -> None:
    assert lease.trouble(tmp_path) == "no lease was taken"


def test_a_detached_process_has_nothing_of_ours(tmp_path: Path) -> None:
    inherited = open(tmp_path / "inherited", "w")  # noqa: SIM115 - it has to be open meanwhile
    seen = tmp_path / "seen"

    def look() -> None:
        links = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        (tmp_path / "fresh").write_text(json.dumps([sorted(links), os.getsid(0), os.getppid()]))
        os.replace(tmp_path / "fresh", seen)

    def looked() -> None:
        try:
            look()
        except OSError as error:
            seen.write_text(json.dumps([[str(error)], 0, 0]))

    lease.detach(looked)
    inherited.close()
    assert eventually(seen.exists)
    links, session, parent = json.loads(seen.read_text())
    assert [link for link in links if not link.startswith("/proc/")] == ["/dev/null"]
    assert session != os.getsid(0)
    assert parent != os.getpid()


def test_a_host_is_changed_only_while_the_lease_is_ours(tmp_path: Path) -> None:
    variables = {"__fleet_lease": {"directory": str(tmp_path)}}
    lease.note(tmp_path, token="t", renewed=lease.now())
    with lease.held(variables, check=False):
        assert not lease._is_idle(tmp_path)
    assert lease._is_idle(tmp_path)
    lease.note(tmp_path, lost="somebody took it over")
    with (
        pytest.raises(lease.LeaseLostError, match=r"somebody took it over: .*Run the same"),
        lease.held(variables, check=False),
    ):
        pytest.fail("it went on")
    # A plan changes nothing, and a role by itself has no lease.
    with lease.held(variables, check=True), lease.held({}, check=False):
        pass
