"""Mistakes leave the running fleet as it is: the same processes and files, and a helpful message."""

from __future__ import annotations

from typing import Any

import pytest
from support import plays
from support.change import Fleets
from support.plays import Run


class Untouched:
    """The fleet before something is refused, to be compared with after."""

    def __init__(self, changes: Fleets) -> None:
        self.changes = changes
        self.before = (changes.pids(), changes.files())

    def by(self, run: Run, *words: str) -> None:
        """Check that the run was refused with these words, and has changed nothing."""
        assert run.status != 0
        assert [word for word in words if word not in run.text] == [], run.end
        assert "Traceback (most recent call last)" not in run.text, run.end
        assert (self.changes.pids(), self.changes.files()) == self.before


@pytest.fixture
def untouched(changes: Fleets) -> Untouched:
    return Untouched(changes)


def test_broken_template(changes: Fleets, untouched: Untouched) -> None:
    copy = changes.copy()
    template = copy / "templates" / "systemd" / "worker.conf.j2"
    lines = template.read_text().splitlines(keepends=True)
    template.write_text("".join([*lines, "{% if worker.unclosed %}\n"]))
    run = plays.play(changes.fleet, "broken-template", root=copy)
    untouched.by(run, "worker.conf.j2")


def test_template_that_asks_for_an_unknown_variable(changes: Fleets, untouched: Untouched) -> None:
    copy = changes.copy()
    template = copy / "templates" / "systemd" / "worker.conf.j2"
    template.write_text(template.read_text() + "{{ nowhere_defined }}\n")
    run = plays.play(changes.fleet, "undefined-variable", root=copy)
    untouched.by(run, "nowhere_defined")


def test_unit_that_systemd_refuses(changes: Fleets, untouched: Untouched) -> None:
    """It renders; systemd would only warn of it, and run the worker without what was asked for."""
    copy = changes.copy()
    template = copy / "templates" / "systemd" / "worker.conf.j2"
    template.write_text(template.read_text() + "NoSuchDirective=1\n")
    run = plays.play(changes.fleet, "refused-unit", root=copy)
    untouched.by(run, "NoSuchDirective")


def test_release_that_does_not_import(changes: Fleets, untouched: Untouched) -> None:
    copy = changes.copy()
    source = changes.fleet.of("fleet")["celery_app_source"]
    broken = copy / source["path"] / "app" / "tasks.py"
    text = broken.read_text()
    broken.write_text(text + "def broken(:\n")
    run = plays.play(changes.fleet, "broken-release", root=copy)
    untouched.by(run, "SyntaxError", "app/tasks.py", f"line {len(text.splitlines()) + 1}")


def test_nginx_configuration_that_nginx_refuses(changes: Fleets, untouched: Untouched) -> None:
    """The file is a user's; nginx reads it when our change reloads it."""
    path = "/etc/nginx/conf.d/zz-mine.conf"
    changes.fleet.must(
        "control1", f"cat > {path}", "server { listen 8099; no_such_directive on; }\n"
    )
    try:
        untouched.before = (changes.pids(), changes.files())
        wanted = changes.variables(
            celery_producer_web_protected_paths=["/api/v1/admin/", "/refused"]
        )
        done = changes.site("refused-nginx", *wanted)
        untouched.by(done.run, "no_such_directive", path)
    finally:
        changes.fleet.must("control1", f"rm {path}")


BAD: dict[str, dict[str, Any]] = {
    "unknown worker": {"celery_restart_workers": "analytic"},
    "batch of none": {"celery_restart_batch": 0},
    "more than all": {"celery_restart_min_capacity": 101},
    "less than one percent": {"celery_restart_min_capacity": 0},
}


@pytest.mark.parametrize("title", BAD)
@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/restart_workers.yml"])
def test_bad_input(changes: Fleets, untouched: Untouched, title: str, playbook: str) -> None:
    (name, value), *_ = BAD[title].items()
    words = changes.variables(**BAD[title])
    run = plays.play(changes.fleet, f"bad-{title.replace(' ', '-')}", *words, playbook=playbook)
    untouched.by(run, name, str(value))
    assert run.contacts == 0, "a host was contacted before"
    if title == "unknown worker":
        assert "analytics" in run.text, "the remedy is missing"


def test_without_a_confirmation_nothing_is_changed(changes: Fleets, untouched: Untouched) -> None:
    """There is no terminal to ask at."""
    wanted = changes.variables(celery_app_env={"SOME_SWITCH": "asked"}, fleet_confirm=True)
    done = changes.site("unanswered", *wanted)
    assert done.items != []
    untouched.by(done.run, "yes")


def test_no_secret_in_any_output(changes: Fleets) -> None:
    """This is the last test, so that it sees what the others have printed."""
    assert changes.leaked(at_least=20) == set()
