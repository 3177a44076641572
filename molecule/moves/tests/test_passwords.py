"""A fleet gets a new password of Redis's user `worker` and a release from git while one host can't be reached.

The first run leaves that host out, and the second finishes it; tasks are sent and run during both. The tests look at
what the two runs did. A third run takes everything back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import database, resp, tasks
from support.change import OTHER_WORKER_PASSWORD, Done, Fleets, Unit
from support.inventory import ROOT

if TYPE_CHECKING:
    from support.inventory import Fleet

DOWN, REACHED = "worker2", "worker1"
MARK = "# From a repository of a test.\n"
#: Seconds from before a task is sent until it runs. Starting the sender's Python takes some of them on a busy machine.
LONGEST_WAIT = 30.0


# --- what is sent meanwhile ------------------------------------------------------------------------


@dataclass
class Sent:
    """Tasks of one run: their names begin with the label; each number has the time before it was sent."""

    label: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    moments: list[float] = field(default_factory=list)


@contextmanager
def sending(fleet: Fleet) -> Iterator[Sent]:
    """Send short tasks, a few at a time, while a block runs."""
    sent, over = Sent(), threading.Event()
    troubles: list[BaseException] = []

    def send() -> None:
        while not over.wait(0.5):
            first = len(sent.moments)
            sent.moments += [time.time()] * 4
            names = [f"{sent.label}-{n:04d}" for n in range(first, first + 4)]
            try:
                tasks.send(fleet, [tasks.tracer(name, "discounts", 0.3) for name in names])
            except BaseException as error:  # noqa: BLE001  # raised in the test's own thread
                troubles.append(error)
                return

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()
    if troubles:
        raise troubles[0]


def waits(fleet: Fleet, sent: Sent) -> list[float]:
    """Return for how many seconds each task waited; each has to have run once."""
    database.assert_ran_once(fleet, sent.label, len(sent.moments), 30)
    return [
        datetime.fromisoformat(run["started_at"]).timestamp()
        - sent.moments[int(run["run_id"].rpartition("-")[2])]
        for run in database.runs(fleet, sent.label)
    ]


# --- the two runs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One run of site.yml.

    Attributes:
        done: The run.
        sent: What was sent meanwhile.
        pids: All main processes after it.
        refused: What Redis's rules refused to any user meanwhile.
        passwords: Which of the old and the new password Redis takes after it, at the broker and the result store.
        releases: Host -> the release that its workers run after it.
    """

    done: Done
    sent: Sent
    pids: Mapping[Unit, str]
    refused: list[dict[str, str]]
    passwords: Mapping[str, tuple[bool, bool]]
    releases: Mapping[str, str]


@dataclass(frozen=True)
class Rotation:
    """What there was before, and both runs.

    Attributes:
        pids: All main processes before.
        releases: Host -> the release of its workers before.
        first: The run that could not reach one of the hosts.
        second: The same run when it could.
    """

    pids: Mapping[Unit, str]
    releases: Mapping[str, str]
    first: Step
    second: Step


def git(directory: Path, *arguments: str) -> str:
    """Run git as a person without a configuration."""
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return done.stdout.strip()


def repository(changes: Fleets, directory: Path) -> dict[str, str]:
    """Make a bare repository of the application, changed in one file, and return celery_app_source of its first commit.

    A later commit breaks the application, so the version that is deployed can't be the newest.
    """
    source = ROOT / changes.fleet.of("fleet")["celery_app_source"]["path"]
    tree, bare = directory / "tree", directory / "shop.git"
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    path = tree / "app" / "tasks.py"
    path.write_text(path.read_text() + MARK)
    git(tree, "init", "--quiet", "--initial-branch=main")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message=first")
    version = git(tree, "rev-parse", "HEAD")
    path.write_text(path.read_text() + "def broken(:\n")
    git(tree, "commit", "--quiet", "--all", "--message=second")
    git(directory, "clone", "--quiet", "--bare", str(tree), str(bare))
    # No branch ends with that commit. The servers of forges give out such commits; git's own needs to be told.
    git(bare, "config", "uploadpack.allowReachableSHA1InWant", "true")
    return {"git": f"file://{bare}", "version": version}


def takes(fleet: Fleet, kind: str, password: str) -> bool:
    """Return whether Redis lets the workers' user in with a password."""
    with resp.connect(fleet, kind) as client:
        try:
            return bool(client.send("AUTH", "worker", password) == "OK")
        except resp.Refused:
            return False


def passwords(changes: Fleets) -> dict[str, tuple[bool, bool]]:
    """Return which of the old and the new password each instance takes."""
    old = changes.fleet.of("redis")["redis_passwords"]["worker"]
    found = {
        kind: (
            takes(changes.fleet, kind, old),
            takes(changes.fleet, kind, OTHER_WORKER_PASSWORD),
        )
        for kind in ("broker", "results")
    }
    forget_refusals(changes)
    return found


def forget_refusals(changes: Fleets) -> None:
    """Empty the logs of what the rules refused."""
    for kind in ("broker", "results"):
        with resp.session(changes.fleet, kind, "admin") as admin:
            admin.send("ACL", "LOG", "RESET")


def releases_made(changes: Fleets) -> dict[str, str]:
    """Return the times at which each host's releases were completed, by their paths."""
    script = f"stat --format='%n %Y' /opt/{changes.app}/releases/*/release.json"
    return {
        name: changes.fleet.must(name, script) for name in changes.fleet.hosts("celery_workers")
    }


def releases(changes: Fleets) -> dict[str, str]:
    """Return which release each host's workers are to run."""
    script = f"readlink --canonicalize-existing /opt/{changes.app}/pins/worker-discounts"
    return {
        name: changes.fleet.must(name, script).strip().rpartition("/")[2]
        for name in changes.fleet.hosts("celery_workers")
    }


def step(changes: Fleets, title: str, *arguments: str) -> Step:
    with sending(changes.fleet) as sent:
        done = changes.site(title, *arguments)
    refused = [
        entry for kind in ("broker", "results") for entry in resp.acl_log(changes.fleet, kind)
    ]
    return Step(done, sent, changes.pids(), refused, passwords(changes), releases(changes))


@pytest.fixture(scope="module")
def rotation(changes: Fleets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotation]:
    own = changes.fleet.of("redis")["redis_passwords"]
    wanted = changes.variables(
        redis_passwords={**own, "worker": OTHER_WORKER_PASSWORD},
        celery_app_source=repository(changes, tmp_path_factory.mktemp("git")),
    )
    # No process of the host notices, because only Ansible gets an address on which nothing listens.
    nowhere = changes.layer(**{DOWN: {"ansible_port": 1, "ansible_ssh_retries": 0}})
    before = (changes.pids(), releases(changes))
    forget_refusals(changes)
    try:
        first = step(changes, "password-without-a-host", *nowhere, *wanted)
        second = step(changes, "password", *wanted)
        yield Rotation(*before, first, second)
    finally:
        made = releases_made(changes)
        restored = changes.site("password-back")
        assert restored.run.status == 0, restored.run.end
        assert releases(changes) == before[1]
        assert releases_made(changes) == made, "the old release was built again"
        assert changes.plan("password-back-plan").items == []


# --- a host that is down ---------------------------------------------------------------------------


def test_host_that_is_down_is_named_and_left_out(changes: Fleets, rotation: Rotation) -> None:
    done = rotation.first.done
    assert done.run.status == 2, done.run.end
    assert list(done.plan["missing"]) == [DOWN]
    assert f"{DOWN} can't be reached" in done.run.text
    assert "run the same command again once it is back" in " ".join(done.run.text.split())
    assert DOWN not in done.plan["hosts"]
    assert {item.host for item in done.items} == {"redis1", REACHED, "control1"}
    untouched = {unit: pid for unit, pid in rotation.pids.items() if unit[0] == DOWN}
    assert untouched
    assert {unit: rotation.first.pids.get(unit) for unit in untouched} == untouched


def test_others_are_served_without_it(changes: Fleets, rotation: Rotation) -> None:
    before, after = rotation.pids, rotation.first.pids
    workers = {unit for unit in before if unit[0] == REACHED and "-worker@" in unit[1]}
    assert len(workers) > 1
    assert [unit for unit in workers if after.get(unit) == before[unit]] == []
    assert before.keys() == after.keys()
    # The run proves this at its end, with a canary through each of their workers.
    for name in changes.fleet.expected[REACHED]["celery_worker_host_instances"]:
        assert f"{name}@{REACHED}" in rotation.first.done.run.text


def test_the_next_run_finishes_it_and_restarts_no_other_host(rotation: Rotation) -> None:
    first, second = rotation.first, rotation.second
    assert second.done.run.status == 0, second.done.run.end
    assert second.done.plan["missing"] == {}
    restarted = {unit for unit, pid in first.pids.items() if second.pids.get(unit) != pid}
    assert restarted == {unit for unit in first.pids if unit[0] == DOWN}
    assert second.pids.keys() == first.pids.keys()


# --- the password ----------------------------------------------------------------------------------


def test_old_password_works_until_every_process_has_the_new_one(rotation: Rotation) -> None:
    """The host that was left out still has the old one."""
    assert rotation.first.passwords == {"broker": (True, True), "results": (True, True)}
    assert "what was allowed before still is" in rotation.second.done.run.text
    assert rotation.second.passwords == {"broker": (False, True), "results": (False, True)}


def test_password_restarts_no_redis(rotation: Rotation) -> None:
    own = {unit: pid for unit, pid in rotation.pids.items() if unit[1].startswith("redis@")}
    assert len(own) == 2
    assert {unit: rotation.second.pids.get(unit) for unit in own} == own
    assert own.keys() <= rotation.first.done.of("live")


@pytest.mark.parametrize("which", ["first", "second"])
def test_nothing_waits_and_nothing_is_lost(changes: Fleets, rotation: Rotation, which: str) -> None:
    sent = getattr(rotation, which).sent
    found = waits(changes.fleet, sent)
    print(f"{len(found)} tasks, the longest waited {max(found):.1f} s")
    assert len(found) >= 20
    assert max(found) < LONGEST_WAIT
    assert getattr(rotation, which).refused == []


# --- the release -----------------------------------------------------------------------------------


def test_version_from_git_is_what_runs(changes: Fleets, rotation: Rotation) -> None:
    before, first, second = (
        rotation.releases,
        rotation.first.releases,
        rotation.second.releases,
    )
    assert first[DOWN] == before[DOWN]
    assert set(second.values()) == {first[REACHED]} != set(before.values())
    for name, release in second.items():
        path = f"/opt/{changes.app}/releases/{release}"
        assert changes.fleet.must(name, ["tail", "-n", "1", f"{path}/source/app/tasks.py"]) == MARK
        assert changes.fleet.execute(name, ["test", "-e", f"{path}/source/.git"]).status == 1
        pid = rotation.second.pids[changes.unit(name, "discounts")]
        # The process itself runs from it, not only its link.
        assert changes.fleet.must(name, ["readlink", f"/proc/{pid}/cwd"]).startswith(path)
        note = changes.fleet.must(name, ["cat", f"{path}/release.json"])
        assert "app.tasks.record_run" in note


def test_the_previous_release_is_kept(changes: Fleets, rotation: Rotation) -> None:
    """So nothing is built on the way back, at the end of the fixture."""
    for name, release in rotation.releases.items():
        path = f"/opt/{changes.app}/releases/{release}"
        changes.fleet.must(name, ["test", "-e", f"{path}/release.json"])


def test_releases_with_the_same_requirements_share_a_virtualenv(
    changes: Fleets, rotation: Rotation
) -> None:
    for name, release in rotation.second.releases.items():
        both = [
            changes.fleet.must(name, ["readlink", f"/opt/{changes.app}/releases/{one}/venv"])
            for one in (release, rotation.releases[name])
        ]
        assert both[0] == both[1]
