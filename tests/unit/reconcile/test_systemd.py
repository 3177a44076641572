"""How systemd's answers are read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.fingerprint import Disk
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import (
    Completed,
    children,
    journal,
    listed,
    parse_show,
    run,
    show,
    sources_to_be,
    template_of,
)

# As systemd 252 prints it.
BLOCK = """\
MainPID=341
NRestarts=2
Result=exit-code
ExecMainStatus=1
StatusText=waiting for broker: a=b
Id=shop-worker@a.service
LoadState=loaded
ActiveState=activating
SubState=start
FragmentPath=/etc/systemd/system/shop-worker@.service
DropInPaths=/etc/systemd/system/shop-worker@a.service.d/10-fleet.conf /etc/x.conf
UnitFileState=enabled
NeedDaemonReload=no
InvocationID=0f
Job=1742
"""


def test_the_properties_of_a_unit_are_read() -> None:
    state = parse_show("a", BLOCK)
    assert (state.main_pid, state.restarts, state.exit_status, state.job) == (341, 2, 1, True)
    assert (state.active, state.file_state, state.need_reload) == ("activating", "enabled", False)
    assert state.sources == (
        "/etc/systemd/system/shop-worker@.service",
        "/etc/systemd/system/shop-worker@a.service.d/10-fleet.conf",
        "/etc/x.conf",
    )
    assert state.exists
    assert state.described == (
        "activating (start), result exit-code, exit status 1, restarted 2 times, "
        "says “waiting for broker: a=b”"
    )


def test_an_unknown_unit_has_no_properties() -> None:
    # A socket or a target has no properties of a service.
    state = parse_show("a", "LoadState=not-found\nActiveState=inactive\nSubState=dead\nJob=0")
    assert not state.exists
    assert (state.main_pid, state.restarts, state.job, state.sources) == (0, 0, False, ())
    assert state.described == "inactive (dead)"


def test_the_status_of_a_dead_process_is_not_shown() -> None:
    assert "waiting" not in parse_show("a", BLOCK.replace("MainPID=341", "MainPID=0")).described


def test_a_long_status_is_cut() -> None:
    text = parse_show("a", f"MainPID=1\nStatusText={'x' * 5000}").described
    assert len(text) < 300


def test_show_keeps_the_order() -> None:
    def runner(command: Sequence[str]) -> Completed:
        assert command[-2:] == ["b", "a"]
        return Completed(0, "ActiveState=active\n\nActiveState=failed\n")

    assert [(n, s.active) for n, s in show(["b", "a"], runner).items()] == [
        ("b", "active"),
        ("a", "failed"),
    ]


@pytest.mark.parametrize(
    ("done", "words"),
    [(Completed(1, "Host is down\n"), "Host is down"), (Completed(0, "A=1\n"), "for 1 of 2 units")],
)
def test_no_answer_is_an_error(done: Completed, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        show(["a", "b"], lambda command: done)


def test_without_units_systemd_is_not_asked() -> None:
    def runner(command: Sequence[str]) -> Completed:
        raise AssertionError(command)

    assert show([], runner) == {}
    assert listed([], runner) == []


def test_a_pattern_finds_loaded_and_enabled_units_without_templates() -> None:
    answers = {
        "list-units": "w@a.service loaded active running x\nw@b.service not-found failed failed y\n",
        "list-unit-files": "w@.service disabled enabled\nw@c.service enabled enabled\n\n",
    }
    asked = []

    def runner(command: Sequence[str]) -> Completed:
        asked.append(list(command))
        return Completed(0, answers[command[1]])

    assert listed(["w@*.service"], runner) == ["w@a.service", "w@b.service", "w@c.service"]
    # A stopped unit is loaded, too.
    assert "--all" in asked[0]
    assert all(command[-1] == "w@*.service" for command in asked)


def test_a_login_in_a_long_line_of_a_journal_is_hidden() -> None:
    line = f"{'x' * 180} postgresql://shop:a-long-password@db/shop"
    text = journal("a", runner=lambda command: Completed(0, f"one\n{line}\n"))
    assert text == f"one\n{'x' * 180} postgresql://***@db/shop"


def test_commands_run_in_a_plain_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    done = run(["sh", "-c", "echo $LC_ALL; cat; echo oops >&2; printf '\\377'; exit 3"])
    assert done == Completed(3, "C.UTF-8\noops\n\ufffd")


def test_the_template_of_an_instance_is_found() -> None:
    assert template_of("shop-worker@a.b.service") == "shop-worker@.service"
    assert template_of("nginx.service") == "nginx.service"


class Files(Disk):
    """A disk that has these files."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def match(self, pattern: str) -> list[str]:
        return [path for path in self.paths if PurePosixPath(path).match(pattern)]


def sources(disk: Disk, loaded: str = "") -> tuple[str, ...]:
    state = parse_show("w@a.service", f"FragmentPath=/lib/systemd/system/w@.service\n{loaded}")
    return sources_to_be(state, disk, "/etc/systemd/system/")


def test_sources_of_a_unit_are_those_that_a_reload_would_find() -> None:
    etc, lib = "/etc/systemd/system", "/lib/systemd/system"
    assert sources(Files(f"{lib}/w@.service")) == (f"{lib}/w@.service",)
    ours = (
        f"{etc}/w@.service",
        f"{etc}/w@.service.d/10-all.conf",
        f"{etc}/w@a.service.d/20-one.conf",
    )
    assert sources(Files(f"{lib}/w@.service", *reversed(ours))) == ours


def test_a_drop_in_hides_others_with_its_name_and_a_deleted_one_is_left_out() -> None:
    etc, run = "/etc/systemd/system", "/run/systemd/system"
    disk = Files(f"{run}/w@a.service.d/1.conf", f"{etc}/w@.service.d/1.conf", "/x/service.d/9.conf")
    loaded = f"DropInPaths=/x/service.d/9.conf {etc}/w@a.service.d/gone.conf"
    assert sources(disk, loaded) == (f"{run}/w@a.service.d/1.conf", "/x/service.d/9.conf")


def test_the_children_of_a_process_are_found() -> None:
    with subprocess.Popen(["/usr/bin/cat"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
        assert children(child.pid) == frozenset()
    assert child.pid not in children(os.getpid())
    # No process has the ID 0.
    assert children(0) == frozenset()
