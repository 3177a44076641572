"""Marks of release commands, with the real script and real processes: no command runs twice, whichever process dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import host_scripts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    release_commands as commands,
)

COMMAND = {"name": "migrate", "when": "release"}
PYTHON = [sys.executable, "-S", "-I", "-c"]


def asked(directory: Path, do: str, **more: Any) -> dict[str, Any]:
    base = commands.question(do, "shop", "fleet", "r1", None if do == "look" else COMMAND)
    return {**base, "directory": str(directory), "host": "worker1", **more}


def ask(directory: Path, do: str, **more: Any) -> dict[str, Any]:
    done = subprocess.run(
        [*PYTHON, host_scripts.script("marks")],
        input=json.dumps(asked(directory, do, **more)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(host_scripts.answer({"rc": 0, "stdout": done.stdout}))


def test_the_mark_is_the_first_hosts_until_its_command_is_done(tmp_path: Path) -> None:
    first = ask(tmp_path, "start")
    assert (first["state"], first["host"], first["resumed"]) == ("started", "worker1", False)
    for host in ("worker1", "worker2"):
        again = ask(tmp_path, "start", host=host)
        assert (again["state"], again["host"], again["resumed"]) == ("started", "worker1", True)
    ask(tmp_path, "done")
    assert ask(tmp_path, "start", host="worker2")["state"] == "done"
    # What is done stays done.
    ask(tmp_path, "drop")
    assert ask(tmp_path, "start")["state"] == "done"


def test_a_mark_is_dropped_by_its_own_host(tmp_path: Path) -> None:
    ask(tmp_path, "start")
    ask(tmp_path, "drop", host="worker2")
    assert ask(tmp_path, "start", host="worker2")["host"] == "worker1"
    ask(tmp_path, "drop")
    fresh = ask(tmp_path, "start", host="worker2")
    assert (fresh["state"], fresh["host"], fresh["resumed"]) == ("started", "worker2", False)


def test_each_release_has_its_own_marks_and_what_is_once_has_one(tmp_path: Path) -> None:
    once = {"when": "once", "name": "demo"}
    for given in ({}, once):
        ask(tmp_path, "start", **given)
        ask(tmp_path, "done", **given)
    assert ask(tmp_path, "start", release="r2")["resumed"] is False
    assert ask(tmp_path, "start", release="r2", **once)["state"] == "done"
    # Another application's, and those of one host, are others.
    assert ask(tmp_path, "start", app="other", **once)["state"] == "started"
    assert ask(tmp_path, "start", scope="host", **once)["state"] == "started"


def test_a_look_shows_all_and_leaves_no_trace(tmp_path: Path) -> None:
    place = tmp_path / "marks"
    assert ask(place, "look") == {"release": {}, "once": {}}
    assert not place.exists()
    ask(place, "start")
    ask(place, "done", when="once", name="demo")
    before = sorted(path for path in place.rglob("*"))
    found = ask(place, "look")
    assert found["release"]["migrate"]["state"] == "started"
    assert found["once"]["demo"]["state"] == "done"
    assert ask(place, "look", release="r2")["release"] == {}
    assert sorted(path for path in place.rglob("*")) == before


def test_only_one_of_many_concurrent_hosts_gets_it(tmp_path: Path) -> None:
    hosts = [f"worker{number}" for number in range(8)]
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: ask(tmp_path, "start", host=host), hosts))
    first = [answer["host"] for answer in found if not answer["resumed"]]
    assert len(first) == 1
    assert {answer["host"] for answer in found} == set(first)


# Kills itself where the script is about to do something for the n-th time.
KILLED = """
import os, signal
count = 0
def dies(name):
    original = getattr(os, name)
    def call(*arguments, **options):
        global count
        count += 1
        if count == {turn}:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(os, name, call)
for name in ("open", "fsync", "replace"):
    dies(name)
exec({source!r}, {{"__name__": "__main__"}})
"""


@pytest.mark.slow
@pytest.mark.parametrize("do", ["start", "done"])
@pytest.mark.parametrize("turn", range(1, 6))
def test_a_crash_at_any_moment_leaves_a_whole_mark_or_none(
    tmp_path: Path, do: str, turn: int
) -> None:
    if do == "done":
        ask(tmp_path, "start")
    died = subprocess.run(
        [*PYTHON, KILLED.format(turn=turn, source=host_scripts.script("marks"))],
        input=json.dumps(asked(tmp_path, do)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    # The lock went with the process, and the next one sees what was, or what was to be.
    after = ask(tmp_path, "start")
    if do == "start":
        assert after["state"] == "started"
    else:
        assert after["state"] in ("started", "done")
        ask(tmp_path, "done")
        assert ask(tmp_path, "start")["state"] == "done"
    assert ask(tmp_path, "start", host="worker2")["host"] == "worker1"


@pytest.mark.slow
def test_one_that_hangs_with_the_lock_is_waited_for(tmp_path: Path) -> None:
    ask(tmp_path, "start")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import fcntl, sys, time\nstream = open(sys.argv[1], 'w')\n"
                "fcntl.flock(stream, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)"
            ),
            str(tmp_path / "shop/fleet/lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, tmp_path, "done")
        time.sleep(0.5)
        assert not answer.done()
        holder.kill()
        holder.wait()
        answer.result()
    assert ask(tmp_path, "start")["state"] == "done"
    holder.stdout.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "maybe"}'])
def test_a_malformed_mark_does_not_count_as_free(tmp_path: Path, text: str) -> None:
    ask(tmp_path, "start")
    path = tmp_path / "shop/fleet/r1/migrate.json"
    path.write_text(text)
    for do in ("start", "done", "drop"):
        answer = ask(tmp_path, do)
        assert (answer["state"], answer["path"]) == ("unreadable", str(path))
    assert ask(tmp_path, "look")["release"]["migrate"]["state"] == "unreadable"


def test_marks_are_roots_own(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        ask(tmp_path / "marks", "start")
    finally:
        os.umask(before)
    assert (tmp_path / "marks/shop/fleet").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "marks/shop/fleet/r1/migrate.json").stat().st_mode & 0o777 == 0o600
