"""``celery-fleet dead-letters``: output, questions and refusals; and what it does on a real Redis."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import acl
from click.testing import CliRunner, Result

from celery_fleet.cli import ask
from celery_fleet.cli import confirm as confirming
from celery_fleet.cli.commands import dead_letters as command
from celery_fleet.cli.main import cli
from celery_fleet.delivery import keys
from celery_fleet.delivery.dead_letters.letters import PARK, park_call
from celery_fleet.delivery.messages import FetchedMessage
from celery_fleet.delivery.scripts import run
from celery_fleet.ops import dead_letters as letter_answers
from tests.fleet import PASSWORDS, client
from tests.programs import knows_setinfo
from tests.support.redis_server import looker, redis_server
from tests.unit.cli import host
from tests.unit.cli.conftest import Call
from tests.unit.delivery.worker_group import message

LETTER = {
    "id": "6f1e",
    "task": "shop.add",
    "queue": "mail",
    "key": "mail",
    "reason": "unknown",
    "detail": "nobody knows it",
    "node": "a@worker1",
    "first_seen": 1_700_000_000.0,
    "last_seen": time.time() - 3.5 * 86400,
    "count": 2,
    "size": 512,
}
DONE = {"done": 1, "gone": 0, "left": 0, "refused": 0, "reasons": []}


class Answers:
    """Answers in place of the release's Python."""

    def __init__(self, *letters: dict[str, Any], **changed: Any) -> None:
        self.letters = letters
        self.changed = {**DONE, **changed}
        self.seen: list[dict[str, Any]] = []

    def __call__(self, where: object, name: str, **request: Any) -> Any:
        assert name == "dead_letters"
        self.seen.append(request)
        return {"letters": list(self.letters)} if request["do"] == "list" else self.changed


@pytest.fixture
def released(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    host.release(place)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return place


def answering(monkeypatch: pytest.MonkeyPatch, answers: Answers) -> Answers:
    monkeypatch.setattr(ask, "question", answers)
    return answers


def test_list_shows_dead_letters(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = {**LETTER, "id": "no-id-1", "task": None, "reason": "undecodable"}
    answers = answering(monkeypatch, Answers(LETTER, bare))
    done = call(
        *("dead-letters", "list", "--queue", "mail", "--task", "shop.*", "--reason", "unknown"),
        *("--older-than", "2h", "--newer-than", "7d", "x", "y"),
    )
    assert done.exit_code == 0
    assert "2 dead letters" in done.stdout
    assert "6f1e" in done.stdout
    assert "3 d 12 h" in done.stdout
    assert "nobody knows it" not in done.stdout
    assert answers.seen == [
        {
            "do": "list",
            "payload": False,
            "choose": {
                "queue": "mail",
                "task": "shop.*",
                "reason": "unknown",
                "older": 7200.0,
                "newer": 604800.0,
                "ids": ("x", "y"),
            },
        }
    ]
    assert json.loads(call("--format", "json", "dead-letters", "list").stdout) == [LETTER, bare]
    assert json.loads(call("dead-letters", "list", "--format", "json").stdout) == [LETTER, bare]
    assert json.loads(call("dead-letters", "--format", "json", "list").stdout) == [LETTER, bare]


def test_a_list_may_be_read_slowly(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pager: the limit is for the answer, and not for what prints it."""
    answering(monkeypatch, Answers(LETTER))
    show_table = command.show_table
    monkeypatch.setattr(command, "show_table", lambda found: (time.sleep(1.2), show_table(found)))
    done = call("--timeout", "1", "dead-letters", "list")
    assert (done.exit_code, "6f1e" in done.stdout) == (0, True)


def test_without_dead_letters(released: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = answering(monkeypatch, Answers())
    monkeypatch.setattr(confirming, "has_terminal", lambda: True)
    done = call("dead-letters", "list")
    assert (done.exit_code, done.stdout) == (0, "No dead letters.\n")
    for verb, word in (("replay", "replayed"), ("drop", "dropped")):
        done = call("dead-letters", verb)
        assert (done.exit_code, done.stdout) == (0, f"0 dead letters {word}.\n")
    assert {one["do"] for one in answers.seen} == {"list"}
    done = call("dead-letters", "drop", "--format", "json")
    assert json.loads(done.stdout) == {**DONE, "done": 0}


def test_show_prints_one_dead_letter(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, Answers(LETTER))
    done = call("dead-letters", "show", "6f1e")
    assert done.exit_code == 0
    assert "unknown: nobody knows it" in done.stdout
    assert "2023-11-14 22:13:20 UTC" in done.stdout
    done = call("dead-letters", "show", "6f1e", "7", "7", "8\x1b[2J")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "no dead letter has the id 7, 8\N{REPLACEMENT CHARACTER}[2J; see" in done.stderr


def test_the_payload_does_nothing_to_a_terminal(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = {**LETTER, "task": "\x1b]0;x\x07", "payload": {"args": ["\x1b[2J"], "kwargs": {}}}
    answers = answering(monkeypatch, Answers(letter))
    for argv in (("list",), ("list", "--payload"), ("show", "6f1e", "--payload")):
        done = call("dead-letters", *argv)
        assert done.exit_code == 0
        assert "\x1b" not in done.output
    assert [one["payload"] for one in answers.seen] == [False, True, True]


def test_replay_and_drop_ask_and_say_how_many(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = answering(monkeypatch, Answers(LETTER, {**LETTER, "id": "7"}, done=1, gone=1))
    monkeypatch.setattr(confirming, "has_terminal", lambda: True)
    asked: list[str] = []

    def confirm(text: str, **_: object) -> bool:
        asked.append(text)
        return len(asked) % 2 == 0

    monkeypatch.setattr(command.click, "confirm", confirm)
    for verb, word in (("replay", "replayed"), ("drop", "dropped")):
        done = call("dead-letters", verb)
        assert (done.exit_code, done.stderr) == (1, f"celery-fleet: nothing was {word}\n")
        done = call("dead-letters", verb)
        assert done.stdout == f"1 dead letter {word}; 1 had gone or come back meanwhile.\n"
    assert asked == ["Replay 2 dead letters?"] * 2 + ["Drop 2 dead letters?"] * 2
    # It changes those that were counted, even if more have arrived.
    assert answers.seen[2] == {
        "do": "replay",
        "choose": {"ids": ["6f1e", "7"]},
        "last_seen": dict.fromkeys(("6f1e", "7"), LETTER["last_seen"]),
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"refused": 2, "reasons": ["NOPERM"]},
            "2 dead letters not replayed: Redis refused it (NOPERM)",
        ),
        ({"left": 7}, "the time ran out with 7 dead letters left"),
    ],
)
def test_letters_that_could_not_be_replayed_are_reported(
    released: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    words: str,
) -> None:
    answering(monkeypatch, Answers(LETTER, **changed))
    done = call("dead-letters", "replay", "--yes")
    assert (done.exit_code, done.stdout) == (1, "1 dead letter replayed.\n")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("replay",), "can't ask for confirmation without a terminal; add --yes"),
        (("drop", "x"), "can't ask for confirmation without a terminal; add --yes"),
        (("list", "--older-than", "soon"), "soon is not an age: write it as in 90s"),
        (("list", "--older-than", "-1h"), "-1h is not an age"),
        (("list", "--reason", "bad luck"), "'bad luck' is not one of"),
        (("show",), "Missing argument"),
    ],
)
def test_usage_mistakes_are_refused(
    released: Path, call: Call, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], words: str
) -> None:
    answers = answering(monkeypatch, Answers(LETTER))
    done = call("dead-letters", *argv)
    assert (done.exit_code, done.stdout, answers.seen) == (2, "", []), done.output
    assert words in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("celery-fleet dead-letters l", ["list"]),
        ("celery-fleet dead-letters list --queue m", ["mail"]),
        ("celery-fleet dead-letters list --reason u", ["unknown", "undecodable"]),
        ("celery-fleet dead-letters drop --task shop.a", ["shop.add"]),
    ],
)
def test_completion_suggests_values(released: Path, words: str, expected: list[str]) -> None:
    path = released / "opt/shop/current/release.json"
    path.write_text(json.dumps({"directory": "source", "tasks": ["shop.add", "shop.mul"]}))
    environment = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "_CELERY_FLEET_COMPLETE": "bash_complete",
    }
    done = CliRunner().invoke(cli, [], prog_name="celery-fleet", env=environment)
    assert [line.partition(",")[2] for line in done.output.splitlines()] == expected


# --- against a real Redis ---


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    users = acl.acl("broker", PASSWORDS, ["mail", "bulk", "slow"], setinfo=knows_setinfo())
    with redis_server(tmp_path_factory.mktemp("redis"), users=users) as found:
        yield found.port


@pytest.fixture
def broker(released: Path, port: int, patient: None) -> Iterator[redis.Redis]:
    """Return the host's broker, emptied; afterwards check that it refused the operator nothing."""
    settings = host.settings(port=port)
    url = f"redis://operator:{PASSWORDS['operator']}@127.0.0.1:{port}/0"
    settings["celery"].update(broker_url=url, result_backend=url)
    path = released / "etc/shop/credentials/operator.json"
    path.write_text(json.dumps(settings))
    look = looker(port)
    look.flushall()
    client(port, "admin").acl_log_reset()
    yield look
    assert client(port, "admin").acl_log() == []


def parked(broker: redis.Redis, number: int, **options: Any) -> None:
    for n in range(number):
        raw = message(f"id-{n}", "shop.add", [["very private"], {"n": n}, {}])
        fetched = FetchedMessage(json.dumps(raw), "", options.pop("key", "mail"))
        about = {"reason": "invalid", "detail": "d", "node": "w@h", **options}
        run(broker, PARK, *park_call(fetched, keep=100_000, **about))


def rows(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_list_show_replay_drop(broker: redis.Redis, call: Call) -> None:
    parked(broker, 4)
    done = call("--format", "json", "dead-letters", "list")
    found = rows(done)
    assert [one["id"] for one in found] == ["id-0", "id-1", "id-2", "id-3"]
    assert "private" not in done.output + call("dead-letters", "list").output
    shown = rows(call("--format", "json", "dead-letters", "show", "id-2", "--payload"))
    payload = shown[0]["payload"]
    assert (payload["args"], payload["kwargs"]) == (["very private"], {"n": 2})
    assert "very private" in call("dead-letters", "show", "id-2", "--payload").stdout
    assert "very private" not in call("dead-letters", "show", "id-2").output

    done = call("dead-letters", "replay", "id-1", "id-2", "--yes")
    assert done.stdout == "2 dead letters replayed.\n"
    sent = [json.loads(one)["headers"]["id"] for one in broker.lrange("mail", 0, -1)]
    assert sorted(sent) == ["id-1", "id-2"]
    done = call("dead-letters", "drop", "--reason", "invalid", "--newer-than", "1h", "--yes")
    assert done.stdout == "2 dead letters dropped.\n"
    assert broker.exists(keys.DEAD_LETTERS, keys.DEAD_LETTERS_INDEX) == 0
    assert call("dead-letters", "replay", "--yes").stdout == "0 dead letters replayed.\n"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_a_letter_that_comes_back_after_the_question_stays(
    broker: redis.Redis, call: Call, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    parked(broker, 3)
    monkeypatch.setattr(confirming, "has_terminal", lambda: True)

    def confirm(*_: object, **__: object) -> bool:
        """Let another person replay a letter, which becomes one again, before this one agrees."""
        assert call("dead-letters", "replay", "id-0", "--yes").exit_code == 0
        parked(broker, 1)
        return True

    monkeypatch.setattr(command.click, "confirm", confirm)
    done = call("dead-letters", verb)
    assert done.stdout.startswith("2 dead letters ")
    assert done.stdout.endswith("; 1 had gone or come back meanwhile.\n")
    assert [one["id"] for one in rows(call("--format", "json", "dead-letters", "list"))] == ["id-0"]


@pytest.mark.slow
def test_a_letter_whose_queue_is_gone_is_kept(broker: redis.Redis, port: int, call: Call) -> None:
    parked(broker, 1, key="gone")
    done = call("dead-letters", "replay", "--yes")
    assert (done.exit_code, done.stdout) == (1, "0 dead letters replayed.\n")
    assert "1 dead letter not replayed: Redis refused it" in done.stderr
    assert broker.hlen(keys.DEAD_LETTERS) == 1
    client(port, "admin").acl_log_reset()


def processor_time() -> float:
    """Return the seconds that this process and its children that have ended have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.mark.slow
def test_ten_thousand_letters_are_listed_and_replayed(broker: redis.Redis, call: Call) -> None:
    parked(broker, 10_000)
    began = processor_time()
    assert len(rows(call("--format", "json", "dead-letters", "list"))) == 10_000
    # It must fit into a command's usual limit. This is processor time, because other tests use the machine, too.
    assert processor_time() - began < ask.BOUND
    while (done := call("dead-letters", "replay", "--yes")).exit_code == 1:
        assert "run the same command again" in done.stderr, done.output
    assert done.exit_code == 0
    assert broker.llen("mail") == 10_000
    assert broker.exists(keys.DEAD_LETTERS) == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("argv", [("list",), ("show", "x"), ("drop", "--yes"), ("replay", "--yes")])
def test_a_broker_that_is_down(released: Path, call: Call, argv: tuple[str, ...]) -> None:
    done = call("dead-letters", *argv)
    assert (done.exit_code, done.stderr.count("\n")) == (3, 1)
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.slow
def test_a_broker_that_is_full(broker: redis.Redis, call: Call) -> None:
    parked(broker, 2)
    broker.config_set("maxmemory", "1")
    try:
        assert len(rows(call("--format", "json", "dead-letters", "list"))) == 2
        done = call("dead-letters", "replay", "--yes")
        assert (done.exit_code, "2 dead letters not replayed" in done.stderr) == (1, True)
        assert call("dead-letters", "drop", "--yes").stdout == "2 dead letters dropped.\n"
    finally:
        broker.config_set("maxmemory", "0")


def test_another_kind_of_broker_is_refused() -> None:
    from celery import Celery

    made = Celery("shop", broker="memory://", set_as_current=False)
    with pytest.raises(letter_answers.FleetError, match="only kept in Redis"):
        letter_answers.answer(made, {"do": "list"})


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("rubbish", {"item": "rubbish"}),
        ("\udcff", {"item": "\\udcff"}),
        ('{"body": "x", "headers": null}', {"headers": None, "body": "x"}),
        (
            '{"body": "eyJ0YXNrIjogIm8iLCAiYXJncyI6IFsxXX0=", "properties": {"body_encoding": "base64"}}',
            {"headers": None, "args": [1], "kwargs": None},
        ),
        (
            '{"body": "/w==", "properties": {"body_encoding": "base64"}}',
            {"headers": None, "body": "/w=="},
        ),
    ],
)
def test_the_contents_of_a_message(item: str, expected: dict[str, Any]) -> None:
    assert letter_answers.contents(item) == expected


def test_an_unknown_action_is_refused() -> None:
    from celery import Celery

    made = Celery("shop", broker="redis://127.0.0.1:1", set_as_current=False)
    with pytest.raises(letter_answers.FleetError, match="not an action for dead letters"):
        letter_answers.answer(made, {"do": "burn"})
