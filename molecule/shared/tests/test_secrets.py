"""The fleet's secrets are where they are needed and nowhere else.

The tests search for this run's real secrets, plain, URL-encoded and in base64, after everything that the run did.
"""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from support import plays
from support.search import PLACES, PROCESSES, SYSTEMD, search
from support.secrets import forms, needles, secrets

if TYPE_CHECKING:
    from support.inventory import Fleet, Variables

pytestmark = [pytest.mark.stage(5), pytest.mark.hosts("all")]


def test_encoded_secrets_are_recognised() -> None:
    """Test the search itself: a secret inside another text, encoded with it."""
    text_of_it = "pass/word+with:signs"
    for before in ("", "a", "ab", "abc", "user:"):
        text = base64.b64encode(f"{before}{text_of_it}@host".encode()).decode()
        assert any(form in text for form in forms(text_of_it))
    assert quote(text_of_it, safe="") in forms(text_of_it)


@pytest.mark.hosts("celery_workers")
def test_the_search_finds_secrets_that_are_there(fleet: Fleet, host_name: str) -> None:
    """With root's rights the same search finds the secrets that a worker needs."""
    paths = [fleet.expected[host_name]["celery_app_config_directory"]]
    found = search(fleet, host_name, "root", PROCESSES, paths)["found"]
    assert "DATABASE_URL" in found["cat /proc/[0-9]*/environ"]
    named = {name for names in found.values() for name in names}
    assert {"redis worker", f"the key of {host_name}, line 0"} <= named


def test_no_other_user_finds_a_secret(fleet: Fleet, host_name: str) -> None:
    """Search arguments and environments of processes, systemd's answers, and files."""
    done = search(fleet, host_name, "nobody", [*PROCESSES, *SYSTEMD], PLACES)
    assert done["found"] == {}
    assert done["size"] > 100_000


def test_no_secret_is_in_units_or_the_journal(fleet: Fleet, host_name: str) -> None:
    """Not even in those that only root can read."""
    paths = ["/etc/systemd", "/run/systemd/system", "/run/systemd/transient", "/var/log"]
    # Search all fields of each entry, not just its message.
    commands = [*SYSTEMD, "journalctl --no-pager --all --output=verbose"]
    done = search(fleet, host_name, "root", commands, paths)
    assert done["found"] == {}


def test_a_host_only_has_the_secrets_it_needs(
    fleet: Fleet, host_name: str, variables: Variables
) -> None:
    """Not even root of one host can read what belongs to other components."""
    groups = variables["group_names"]
    # A release comes with the credentials for running commands in it.
    release = ("redis producer", "redis operator", "DATABASE_URL", "password in DATABASE_URL")
    mine = {
        "redis": ("redis", "the key of " + host_name),
        "celery_workers": ("redis worker", *release),
        "celery_beat": ("redis beat", *release),
        "celery_producers": release,
        "flower": ("redis flower", "flower_"),
    }
    own = {f"the key of {host_name}"}
    own |= {name for group, names in mine.items() if group in groups for name in names}
    if "DATABASE_URL" in own:
        own.add("postgresql_password")
    others = tuple(sorted(own))
    done = search(fleet, host_name, "root", PROCESSES, PLACES, but=others)
    assert done["found"] == {}


@pytest.mark.hosts("fleet")
def test_files_with_secrets_are_closed(fleet: Fleet, host_name: str, variables: Variables) -> None:
    directory = variables["celery_app_config_directory"]
    listed = fleet.must(
        host_name,
        f"find {directory} /etc/celery-fleet/redis -printf '%m %U %y %p\\n' 2>/dev/null; true",
    )
    modes = {}
    for line in listed.splitlines():
        mode, owner, kind, path = line.split(" ", 3)
        modes[path] = (int(mode, 8), owner, kind)
    assert {path for path, (_, owner, _) in modes.items() if owner != "0"} == set()
    assert {path for path, (mode, _, _) in modes.items() if mode & stat.S_IWOTH} == set()
    closed = {
        path: f"{mode:o}"
        for path, (mode, _, kind) in modes.items()
        if kind == "f" and (path.endswith(".key") or "/credentials/" in path)
    }
    assert f"{directory}/pki/host.key" in closed
    assert set(closed.values()) == {"600"}
    if (f"{directory}/credentials") in modes:
        assert f"{modes[f'{directory}/credentials'][0]:o}" == "700"


def test_ansible_prints_no_secret(fleet: Fleet) -> None:
    """Search every run of this scenario; all used -vvv and --diff."""
    texts = {path.name: path.read_text() for path in plays.transcripts(fleet).glob("*.log")}
    assert texts
    assert any("PLAY RECAP" in text for text in texts.values())
    found = {
        f"{name}: {secret}"
        for name, text in texts.items()
        for secret, shapes in needles(fleet).items()
        if any(shape in text for shape in shapes)
    }
    assert found == set()


def test_control_sides_files_are_closed(fleet: Fleet) -> None:
    """These are the authority's key, those of the hosts, and the transcripts."""
    directory = Path(fleet.of("fleet")["pki_directory"])
    keys = [*directory.rglob("*.key"), *plays.transcripts(fleet).glob("*")]
    assert directory / "ca.key" in keys
    assert {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in keys} == {"600"}
    assert "ENCRYPTED" in (directory / "ca.key").read_text()
    assert secrets(fleet)
