"""What a program learns about a run."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ansible_collections.celery_fleet.core.plugins.callback.notify import CallbackModule
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import notice

from tests.collection import ROOT

PLAN = {
    "format": 1,
    "changes": True,
    "hosts": ["worker1", "worker2"],
    "missing": {"worker3": "unreachable"},
    "items": [{"host": "worker1", "part": "p", "subject": "u", "action": "restart", "why": ["x"]}],
    "notes": ["a note"],
}


@pytest.fixture
def told(tmp_path: Path) -> tuple[list[str], Path]:
    """A program that keeps what it is told, and the file that it keeps it in."""
    kept = tmp_path / "kept"
    script = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
    return [sys.executable, "-c", script, str(kept)], kept


def result(action: str, host: str, **answer: Any) -> Any:
    return SimpleNamespace(
        task=SimpleNamespace(
            action=action, args={"do": "record"}, get_name=lambda: f"task of {action}"
        ),
        host=SimpleNamespace(get_name=lambda: host),
        result=answer,
    )


def stats(*failed: str, dark: tuple[str, ...] = ()) -> Any:
    return SimpleNamespace(failures=dict.fromkeys(failed, 1), dark=dict.fromkeys(dark, 1))


def lines(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kept.read_text().splitlines()]


def begun(callback: CallbackModule, command: list[str]) -> None:
    start = notice.begun("shop", "abc", PLAN, "site.yml")
    callback.v2_runner_on_ok(
        result("celery_fleet.core.run_notice", "worker1", command=command, start=start)
    )


def test_a_run_that_changes_nothing_is_not_told_of(told: tuple[list[str], Path]) -> None:
    callback = CallbackModule()
    callback.v2_runner_on_failed(result("x", "worker1", msg="no"))
    callback.v2_playbook_on_stats(stats("worker1"))
    assert not told[1].exists()


def test_the_end_of_a_run_is_told(told: tuple[list[str], Path]) -> None:
    command, kept = told
    callback = CallbackModule()
    begun(callback, command)
    # The playbook has handled this one.
    callback.v2_runner_on_failed(result("x", "worker2", msg="handled"))
    callback.v2_runner_on_failed(result("x", "worker1", msg="ignored"), ignore_errors=True)
    callback.v2_playbook_on_stats(stats())
    (end,) = lines(kept)
    assert (end["event"], end["failed"], end["app"], end["release"]) == (
        "success",
        [],
        "shop",
        "abc",
    )
    assert end["items"] == PLAN["items"]
    assert end["seconds"] >= 0


def recorded(callback: CallbackModule, how: str) -> None:
    record = {"history": [{"release": "old", "result": how}]}
    callback.v2_runner_on_ok(result("celery_fleet.core.release_history", "worker1", record=record))


def test_a_deploy_that_went_back_is_told_with_its_reason(told: tuple[list[str], Path]) -> None:
    command, kept = told
    callback = CallbackModule()
    begun(callback, command)
    callback.v2_runner_on_failed(result("x", "worker2", msg="refused as the canary"))
    recorded(callback, "rolled back")
    callback.v2_runner_on_failed(result("x", "worker1", msg="the release was refused"))
    callback.v2_playbook_on_stats(stats("worker1"))
    (end,) = lines(kept)
    assert (end["event"], end["back"]) == ("rollback", "old")
    assert [one["message"] for one in end["failed"]] == [
        "refused as the canary",
        "the release was refused",
    ]


def test_a_deploy_that_serves_is_a_success(told: tuple[list[str], Path]) -> None:
    command, kept = told
    callback = CallbackModule()
    begun(callback, command)
    recorded(callback, "deployed")
    callback.v2_playbook_on_stats(stats())
    (end,) = lines(kept)
    assert (end["event"], end["back"]) == ("success", None)


def test_a_second_playbook_is_not_told_of(told: tuple[list[str], Path]) -> None:
    callback = CallbackModule()
    begun(callback, told[0])
    callback.v2_playbook_on_stats(stats())
    callback.v2_playbook_on_stats(stats("worker1"))
    assert len(lines(told[1])) == 1


def test_a_failure_says_where_and_what(told: tuple[list[str], Path]) -> None:
    command, kept = told
    callback = CallbackModule()
    begun(callback, command)
    callback.v2_runner_on_failed(result("x", "worker1", msg="two\nlines " + "y" * 2000))
    callback.v2_runner_on_failed(result("x", "worker1", msg="secret", _ansible_no_log=True))
    callback.v2_runner_on_unreachable(result("x", "worker2", msg="no route"))
    callback.v2_playbook_on_stats(stats("worker1", dark=("worker2",)))
    (end,) = lines(kept)
    assert end["event"] == "failure"
    first, hidden, unreachable = end["failed"]
    assert first["message"].startswith("two lines y")
    assert len(first["message"]) == notice.LONGEST
    assert hidden == {"host": "worker1", "task": "task of x", "message": ""}
    assert unreachable["message"] == "no route"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["/nowhere/tell"], "/nowhere/tell can't be run: No such file or directory"),
        (["/bin/sh", "-c", "echo no >&2; exit 3"], "/bin/sh ended with status 3: no"),
        (["/bin/sh", "-c", "exit 3"], "/bin/sh ended with status 3"),
        (["/bin/sleep", "60"], "/bin/sleep took longer than 0 s"),
        (["/bin/true", "a\0b"], "'/bin/true' can't be run: embedded null byte"),
        # What it leaves behind is not waited for.
        (["/bin/sh", "-c", "sleep 30 & exit 0"], None),
        (["/bin/true"], None),
    ],
)
def test_a_program_that_fails(
    monkeypatch: pytest.MonkeyPatch, command: list[str], text: str | None
) -> None:
    if "sleep" in command[0]:
        monkeypatch.setattr(notice, "LIMIT", 0.1)
    assert notice.send(command, {}) == text


class Slack(BaseHTTPRequestHandler):
    got: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[Path]:
    """The file with the address of a server that takes messages as Slack does."""
    server = HTTPServer(("127.0.0.1", 0), Slack)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    path = tmp_path / "webhook"
    path.write_text(f"http://127.0.0.1:{server.server_port}/hook/secret\n")
    yield path
    server.shutdown()
    thread.join()
    server.server_close()
    Slack.got.clear()


def slack(webhook: Path, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            str(ROOT / "examples/automation/notify_slack.py"),
            "--webhook-file",
            str(webhook),
        ],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_example_for_slack(webhook: Path) -> None:
    start = {**notice.begun("shop", "abc", PLAN, "site.yml"), "user": "ana"}
    failed = [{"host": "worker1", "task": "Start", "message": "<!channel> & no memory"}]
    ends = (
        notice.ended(start, True, []),
        notice.ended(start, False, failed),
        notice.ended(start, False, [], "old"),
    )
    for document in (start, *ends):
        assert slack(webhook, document).returncode == 0
    assert [message["text"] for message in Slack.got] == [
        ":hourglass_flowing_sand: site.yml of *shop* by ana starts: 1 change on 2 hosts, release abc",
        ":white_check_mark: site.yml of *shop* by ana is done after 0 s",
        ":x: site.yml of *shop* by ana failed after 0 s\n• worker1, Start: &lt;!channel&gt; &amp; no memory",
        ":rewind: site.yml of *shop* by ana went back to release old after 0 s",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http://127.0.0.1:1", "", "http://a b", "ftp://127.0.0.1:1"])
def test_the_example_keeps_the_address_secret(webhook: Path, scheme: str) -> None:
    webhook.write_text(f"{scheme}/hook/secret\n")
    done = slack(webhook, notice.begun("shop", "", PLAN, "site.yml"))
    assert done.returncode == 1
    assert done.stderr.startswith("Slack was not told: ")
    assert "secret" not in done.stderr
