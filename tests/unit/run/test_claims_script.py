"""Marks of a release's commands, with the real script and real processes: none is done twice, whoever comes or dies."""

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
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    release_commands as commands,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import remote

COMMAND = {"name": "migrate", "when": "release"}
PYTHON = [sys.executable, "-S", "-I", "-c"]


def asked(directory: Path, do: str, **more: Any) -> dict[str, Any]:
    base = commands.question(do, "shop", "fleet", "r1", None if do == "look" else COMMAND)
    given = {"host": "worker1", "claim": "one", "owner": "me"}
    return {**base, "directory": str(directory), **given, **more}


def ask(directory: Path, do: str, **more: Any) -> dict[str, Any]:
    done = subprocess.run(
        [*PYTHON, remote.script("claims")],
        input=json.dumps(asked(directory, do, **more)),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(remote.answer({"rc": 0, "stdout": done.stdout}))


def test_a_claim_is_the_first_ones_until_its_command_is_done(tmp_path: Path) -> None:
    first = ask(tmp_path, "claim")
    assert (first["state"], first["claim"], first["resumed"]) == ("ours", "one", False)
    # Its own host asks its own systemd; the claim stays what it was.
    again = ask(tmp_path, "claim", claim="two")
    assert (again["state"], again["claim"], again["resumed"]) == ("ours", "one", True)
    other = ask(tmp_path, "claim", claim="three", host="worker2")
    assert (other["state"], other["host"], other["owner"]) == ("held", "worker1", "me")
    assert other["age"] < 60
    assert ask(tmp_path, "done")["state"] == "done"
    assert ask(tmp_path, "claim", claim="four", host="worker2")["state"] == "done"
    # What is done is dropped by nobody.
    ask(tmp_path, "drop")
    assert ask(tmp_path, "claim", claim="five")["state"] == "done"


def test_a_claim_is_dropped_by_its_own_word_alone(tmp_path: Path) -> None:
    ask(tmp_path, "claim")
    ask(tmp_path, "drop", claim="another's")
    assert ask(tmp_path, "claim", host="worker2")["state"] == "held"
    assert ask(tmp_path, "drop")["state"] == "free"
    fresh = ask(tmp_path, "claim", host="worker2", claim="two")
    assert (fresh["state"], fresh["claim"]) == ("ours", "two")


def test_each_release_has_its_own_marks_and_what_is_once_has_one(tmp_path: Path) -> None:
    once = {"when": "once", "name": "demo"}
    for given in ({}, once):
        ask(tmp_path, "claim", **given)
        ask(tmp_path, "done", **given)
    assert ask(tmp_path, "claim", release="r2")["state"] == "ours"
    assert ask(tmp_path, "claim", release="r2", **once)["state"] == "done"
    # Another application's, and those of one host, are others.
    assert ask(tmp_path, "claim", app="other", **once)["state"] == "ours"
    assert ask(tmp_path, "claim", scope="host", **once)["state"] == "ours"


def test_a_look_shows_all_and_leaves_no_trace(tmp_path: Path) -> None:
    place = tmp_path / "marks"
    assert ask(place, "look") == {"release": {}, "once": {}}
    assert not place.exists()
    ask(place, "claim")
    ask(place, "done", when="once", name="demo")
    before = sorted(path for path in place.rglob("*"))
    found = ask(place, "look")
    assert found["release"]["migrate"]["state"] == "claimed"
    assert found["once"]["demo"]["state"] == "done"
    assert ask(place, "look", release="r2")["release"] == {}
    assert sorted(path for path in place.rglob("*")) == before


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    hosts = [f"worker{number}" for number in range(8)]
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: ask(tmp_path, "claim", host=host, claim=host), hosts))
    states = [answer["state"] for answer in found]
    assert states.count("ours") == 1
    assert states.count("held") == len(hosts) - 1
    winner = hosts[states.index("ours")]
    assert {answer["host"] for answer in found} == {winner}
    assert {answer["claim"] for answer in found} == {winner}


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
@pytest.mark.parametrize("do", ["claim", "done"])
@pytest.mark.parametrize("turn", range(1, 6))
def test_a_crash_at_any_moment_leaves_a_whole_mark_or_none(
    tmp_path: Path, do: str, turn: int
) -> None:
    if do == "done":
        ask(tmp_path, "claim")
    died = subprocess.run(
        [*PYTHON, KILLED.format(turn=turn, source=remote.script("claims"))],
        input=json.dumps(asked(tmp_path, do)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    # The lock went with the process, and the next one sees what was, or what was to be.
    after = ask(tmp_path, "claim", claim="next")
    if do == "claim":
        assert (after["state"], after["claim"]) in (("ours", "one"), ("ours", "next"))
    else:
        assert after["state"] in ("ours", "done")
        assert ask(tmp_path, "done")["state"] == "done"
    assert ask(tmp_path, "claim", host="worker2")["state"] in ("held", "done")


def test_a_claimant_that_hangs_with_the_lock_is_waited_for(tmp_path: Path) -> None:
    ask(tmp_path, "claim")
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
        assert answer.result()["state"] == "done"
    holder.stdout.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "maybe"}'])
def test_a_mark_that_is_none_is_not_taken_for_a_free_one(tmp_path: Path, text: str) -> None:
    ask(tmp_path, "claim")
    path = tmp_path / "shop/fleet/r1/migrate.json"
    path.write_text(text)
    for do in ("claim", "done", "drop"):
        answer = ask(tmp_path, do)
        assert (answer["state"], answer["path"]) == ("unreadable", str(path))
    assert ask(tmp_path, "look")["release"]["migrate"]["state"] == "unreadable"


def test_marks_are_roots_own(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        ask(tmp_path / "marks", "claim")
    finally:
        os.umask(before)
    assert (tmp_path / "marks/shop/fleet").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "marks/shop/fleet/r1/migrate.json").stat().st_mode & 0o777 == 0o600
