"""Fingerprints of a process's inputs, and the recorder that makes them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import fingerprint
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.comparison import (
    compare,
    started_with,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import (
    TO_COME,
    Disk,
    directives,
    environment,
    inputs,
    taken,
    users,
    values,
    write_record,
)

from tests import systemd

KEY = b"k" * 32
OTHER = b"o" * 32


def found(
    files: Sequence[str] = (),
    links: Sequence[str] = (),
    sources: Sequence[str] = (),
    key: bytes = KEY,
    disk: Disk | None = None,
) -> dict[str, str]:
    return inputs(sources, files, links, {}, key, disk or Disk())


def put(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


# --- what counts as an input -------------------------------------------------------------------------


def test_every_kind_of_input_has_a_label(tmp_path: Path) -> None:
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins/worker-a").symlink_to("../releases/a1b2")
    (tmp_path / "current").symlink_to("releases/a1b2")
    settings = {"format": 1, "celery": {"broker_url": "hush", "task_routes": {}}}
    assert found(
        [
            put(tmp_path / "app.env", 'DEBUG=1\nKEY="a b"\n'),
            put(tmp_path / "credentials/worker.json", json.dumps(settings)),
            put(tmp_path / "redis.conf", "maxmemory 256mb\n# x\nrequirepass hush\n"),
            put(tmp_path / "users.acl", "user worker on >hush\n\n# x\n"),
            put(tmp_path / "host.crt", "PEM\n"),
            str(tmp_path / "absent.key"),
        ],
        [str(tmp_path / "pins/worker-a"), str(tmp_path / "current"), str(tmp_path / "none")],
        [
            put(tmp_path / "w@.service", "[Service]\n"),
            put(tmp_path / "w@a.service.d/10-fleet.conf", ""),
        ],
    ).keys() == {
        "drop-in 10-fleet.conf",
        "environment DEBUG",
        "environment KEY",
        "file absent.key",
        "file host.crt",
        "link current",
        "link none",
        "release",
        "setting maxmemory",
        "setting requirepass",
        "settings broker_url",
        "settings format",
        "settings task_routes",
        "unit w@.service",
        "user worker",
    }


def test_only_inputs_without_secrets_are_readable(tmp_path: Path) -> None:
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins/a").symlink_to("../releases/a1b2")
    seen = found(
        [
            put(tmp_path / "secret.env", "P=hush\n"),
            put(tmp_path / "worker.json", '{"celery": {"u": "hush"}}'),
            put(tmp_path / "users.acl", "user worker on >hush\n"),
            put(
                tmp_path / "redis.conf",
                "maxmemory 1gb\nrequirepass hush\nmasterauth hush\nuser x >hush\n"
                "tls-key-file-pass hush\n",
            ),
            put(tmp_path / "host.key", "hush"),
        ],
        [str(tmp_path / "pins/a")],
    )
    assert seen["release"] == "a1b2"
    assert seen["setting maxmemory"] == "1gb"
    assert "hush" not in repr(seen)
    further = values({"runtime": "1.0-abc", "password": "hush"}, KEY)
    assert further["runtime"] == "1.0-abc"
    assert "hush" not in repr(further)


def test_fingerprints_depend_on_the_key(tmp_path: Path) -> None:
    path = put(tmp_path / "a.env", "P=hush\nQ=hush\n")
    mine, others = found([path]), found([path], key=OTHER)
    assert not set(mine.values()) & set(others.values())
    assert mine["environment P"] != mine["environment Q"], (
        "equal secrets must have different fingerprints"
    )


def test_files_with_the_same_name_are_labelled_by_their_paths(tmp_path: Path) -> None:
    one, two = (put(tmp_path / name / "host.crt", name) for name in ("a", "b"))
    assert found([one, two]).keys() == {f"file {one}", f"file {two}"}
    assert found([one]).keys() == {"file host.crt"}


def test_a_new_file_with_the_same_name_does_not_change_the_other(tmp_path: Path) -> None:
    one, two = put(tmp_path / "a/host.crt", "1"), put(tmp_path / "b/host.crt", "2")
    assert compare(found([one]), found([one, two])) == [f"file {two} new"]
    assert compare(found([one, two]), found([one])) == [f"file {two} removed"]
    alone = found([one])
    put(tmp_path / "a/host.crt", "3")
    assert compare(alone, found([one, two])) == [
        f"file {one}, {two} new",
        "file host.crt removed",
    ]


def test_a_variable_in_two_files_is_one_input(tmp_path: Path) -> None:
    one, two = put(tmp_path / "a.env", "A=1\n"), put(tmp_path / "b.env", "A=2\n")
    both = found([one, two])
    assert both.keys() == {"environment A"}
    assert both != found([two, one]), "the later one wins"
    # Moving it from one file to the other changes nothing.
    assert found([one]) == found([put(tmp_path / "c.env", "A=1\n")])


def test_patterns_are_expanded(tmp_path: Path) -> None:
    put(tmp_path / "a/site.conf", "1")
    put(tmp_path / "b/site.conf", "2")
    assert len(found([f"{tmp_path}/*/site.conf"])) == 2
    assert found([f"{tmp_path}/*/none.conf"]) == {}


def test_a_file_that_is_not_written_yet_differs_from_everything(tmp_path: Path) -> None:
    class Coming(Disk):
        def read(self, path: str) -> bytes | None:
            return TO_COME

    coming = found(["/x/host.crt"], disk=Coming())
    assert compare(found([put(tmp_path / "host.crt", "x")]), coming) == ["file host.crt changed"]
    assert compare(coming, coming) == ["file host.crt changed"]


# --- forms of files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "A=1\nB=two words\n",
        '# c\n\n; c\nA="a \\"b\\" \\$x \\\\ \\`"\n  B = x  \nC=\n',
        "A='it is'\nB=\"two\nlines\"\nC=3",
        "A=\"1\" \nA='2'\n",
    ],
    ids=["plain", "escapes", "lines", "twice"],
)
def test_an_environment_file_is_read_as_systemd_reads_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.env"
    path.write_text(text)
    expected = dict(word.split("=", 1) for word in systemd.environment(path))
    assert environment(text) == expected


@pytest.mark.parametrize("text", ['A="1\nB=2\n', "no assignment\n", "1A=x\n", "A=1\n'"])
def test_a_malformed_environment_file_is_one_input(text: str, tmp_path: Path) -> None:
    assert environment(text) is None
    assert found([put(tmp_path / "a.env", text)]).keys() == {"file a.env"}


@pytest.mark.parametrize("text", ["{", "[1]", "", "\x00"])
def test_a_malformed_json_file_is_one_input(text: str, tmp_path: Path) -> None:
    assert found([put(tmp_path / "a.json", text)]).keys() == {"file a.json"}


def test_bytes_that_are_no_text_are_used_unchanged(tmp_path: Path) -> None:
    for name in ("a.env", "a.json", "users.acl", "redis.conf", "a.key"):
        (tmp_path / name).write_bytes(b"A=\xff\n")
        assert found([str(tmp_path / name)]) or name == "users.acl"


def test_directives_and_users_of_redis_are_parsed() -> None:
    text = 'save ""\nMaxMemory  1gb \nuser a on\nuser b on\ntls-protocols "TLSv1.2 TLSv1.3"\n#x\n'
    assert directives(text) == {
        "save": "",
        "maxmemory": "1gb",
        "user": "a on; b on",
        "tls-protocols": "TLSv1.2 TLSv1.3",
    }
    assert users("user a  on  >x\nuser b\n\n") == {"a": "on >x", "b": ""}


def test_a_fifo_does_not_block_a_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.env")
    begin = time.monotonic()
    with pytest.raises(OSError, match="not a regular file"):
        found([str(tmp_path / "a.env")])
    # Opening it normally would block for ever.
    assert time.monotonic() - begin < 30


# --- reasons ---------------------------------------------------------------------------------------------


def test_reasons_are_for_people() -> None:
    before = {
        "release": "a1b2",
        "setting maxmemory": "256mb",
        "setting requirepass": "a" * 64,
        "environment DEBUG": "1",
        "environment OLD": "1",
        "drop-in 10-fleet.conf": "1",
        "runtime": "1.0",
        "same": "x",
    }
    after = {
        "release": "c3d4",
        "setting maxmemory": "512mb",
        "setting requirepass": "b" * 64,
        "environment DEBUG": "2",
        "environment NEW": "1",
        "drop-in 10-fleet.conf": "2",
        "runtime": "1.1",
        "same": "x",
        "setting save": "",
    }
    assert compare(before, after) == [
        "drop-in 10-fleet.conf changed",
        "runtime 1.0 → 1.1",
        "environment DEBUG changed",
        "environment NEW new",
        "environment OLD removed",
        "setting maxmemory 256mb → 512mb",
        "setting requirepass changed",
        "setting save new",
        "release a1b2 → c3d4",
    ]
    assert compare(before, before) == []


def test_many_reasons_of_a_kind_are_counted() -> None:
    after = {f"environment V{number}": "x" for number in range(9)}
    assert compare({}, after) == ["environment V0, V1, V2 and 6 more new"]
    assert compare({}, dict(list(after.items())[:4])) == ["environment V0, V1, V2, V3 new"]


def test_inputs_are_new_or_removed() -> None:
    there, absent = {"link current": "a"}, {"link current": "(absent)"}
    assert compare(absent, there) == ["link current new"]
    assert compare(there, absent) == ["link current removed"]
    assert compare({"setting save": "900 1"}, {"setting save": ""}) == ['setting save 900 1 → ""']


# --- records -----------------------------------------------------------------------------------------


def test_a_record_only_counts_for_its_own_start(tmp_path: Path) -> None:
    write_record("a.service", "one", {"release": "1"}, directory=str(tmp_path))
    assert started_with("a.service", "one", str(tmp_path)) == ({"release": "1"}, "")
    assert started_with("a.service", "two", str(tmp_path)) == (None, "no record of its start")
    assert started_with("b.service", "one", str(tmp_path)) == (None, "no record of its start")
    write_record("a.service", "", {}, directory=str(tmp_path))
    assert started_with("a.service", "", str(tmp_path))[0] is None
    write_record("a.service", "one", None, "why not", str(tmp_path))
    assert started_with("a.service", "one", str(tmp_path)) == (None, "why not")


def test_the_inputs_of_a_start_are_recorded(tmp_path: Path) -> None:
    unit = put(tmp_path / "a.service", "[Service]\n")
    drop_in = put(tmp_path / "a.service.d/10.conf", "")
    listed = {"files": [put(tmp_path / "a.env", "A=1\n")], "links": [], "values": {"runtime": "1"}}
    state = {"FragmentPath": unit, "DropInPaths": drop_in, "NeedDaemonReload": "no"}
    seen, unknown = taken("a.service", state, listed, KEY)
    assert seen is not None
    assert (seen.keys(), unknown) == (
        {"unit a.service", "drop-in 10.conf", "environment A", "runtime"},
        "",
    )
    for other, key, words in (
        ({**state, "NeedDaemonReload": "yes"}, KEY, "daemon-reload was due"),
        ({}, KEY, "daemon-reload was due"),
        (state, None, "fingerprint.key was missing"),
    ):
        seen, unknown = taken("a.service", other, listed, key)
        assert seen is None
        assert words in unknown
    for damage in ({}, {**listed, "files": None}, {**listed, "values": []}):
        seen, unknown = taken("a.service", state, damage, KEY)
        assert (seen, "inputs/a.service.json" in unknown) == (None, True)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, object]]:
    """Return a function that records a.service, with all paths below a directory, and returns the record."""
    monkeypatch.setitem(os.environ, "INVOCATION_ID", "one")
    places = {name: str(tmp_path / name) for name in ("key", "lists", "records")}

    def run() -> dict[str, object]:
        fingerprint.record("a.service", **places)
        return dict(json.loads((tmp_path / "records/a.service.json").read_text()))

    return run


def test_a_start_whose_inputs_can_not_be_read_is_recorded_as_unknown(
    record: Callable[[], dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(unit: str) -> dict[str, str]:
        raise subprocess.TimeoutExpired("systemctl", 10)

    monkeypatch.setattr(fingerprint, "_show", hangs)
    assert record() == {
        "format": 1,
        "invocation": "one",
        "inputs": None,
        "unknown": "its inputs could not be read: Command 'systemctl' timed out after 10 seconds",
    }


def test_only_root_may_read_a_record(
    record: Callable[[], dict[str, object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    put(tmp_path / "lists/a.service.json", '{"files": [], "links": [], "values": {"runtime": "1"}}')
    monkeypatch.setattr(fingerprint, "_show", lambda unit: {**begun(0), "NeedDaemonReload": "no"})
    assert record() == {"format": 1, "invocation": "one", "inputs": {"runtime": "1"}}
    assert (tmp_path / "records/a.service.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["a.service.json"]


def begun(ago: float) -> dict[str, str]:
    """Return systemd's properties of a start this many seconds ago."""
    return {"InactiveExitTimestampMonotonic": str(int((time.monotonic() - ago) * 1e6))}


@pytest.mark.parametrize("changed", ["a.env", "a.service", "link", "gone.env"])
def test_inputs_that_changed_after_systemd_read_the_credentials_are_unknown(
    record: Callable[[], dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changed: str,
) -> None:
    (tmp_path / "key").write_bytes(KEY)
    own = tmp_path / "own"
    unit = put(own / "unit/a.service", "[Service]\n")
    env = put(own / "env/a.env", "A=1\n")
    (own / "gone").mkdir()
    (own / "links").mkdir()
    link = own / "links/link"
    link.symlink_to("1")
    listed = {"files": [env, str(own / "gone/gone.env")], "links": [str(link)], "values": {}}
    put(tmp_path / "lists/a.service.json", json.dumps(listed))
    time.sleep(0.1)
    begin = time.monotonic()

    def show(unit_name: str) -> dict[str, str]:
        ago = time.monotonic() - begin
        return {**begun(ago), "NeedDaemonReload": "no", "FragmentPath": unit}

    monkeypatch.setattr(fingerprint, "_show", show)
    assert record()["inputs"] is not None
    if changed == "link":
        link.unlink()
        link.symlink_to("2")
    elif changed == "gone.env":
        (own / "gone/other").touch()
    else:
        next(own.rglob(changed)).touch()
    answer = record()
    assert answer["inputs"] is None
    assert str(answer["unknown"]).endswith(f"{changed} was changed while it started")
    # If the clock is set back, no file counts as changed during the start.
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert record()["inputs"] is not None


def test_a_start_continues_if_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(unit: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fingerprint, "record", full)
    assert fingerprint.main(["record", "a.service"]) == 1
    assert capsys.readouterr().err.startswith("the inputs of this start could not be recorded")


def test_it_runs_as_a_file_with_only_the_hosts_python() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-I", fingerprint.__file__],
        env={"PATH": "/nowhere", "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "usage: fingerprint.py record UNIT\n")


def test_a_key_that_is_too_short_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert fingerprint.read_key(str(path)) is None
    path.write_bytes(b"short")
    assert fingerprint.read_key(str(path)) is None
    path.write_bytes(KEY)
    assert fingerprint.read_key(str(path)) == KEY
