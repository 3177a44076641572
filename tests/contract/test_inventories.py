"""The delivered inventories are taken by preflight, or refused for what a user has to fill in, and for that alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.render.fleet import (
    FILLED_IN,
    PRODUCTION,
    ROOT,
    ansible,
    copy_inventory,
    give_addresses,
)

PLAY = "- {hosts: fleet, gather_facts: false, tasks: [{preflight_inventory: , run_once: true}]}\n"
# But for what `make new-env` has made in this checkout, which has a .gitignore of its own.
INVENTORIES = sorted(
    path.name
    for path in (ROOT / "inventories").iterdir()
    if path.is_dir() and not (path / ".gitignore").exists()
)
# The others are rendered whole in tests/render, which begins with preflight.
NOT_RENDERED = [name for name in INVENTORIES if name not in FILLED_IN]


def preflight(name: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    play = directory / "play.yml"
    play.write_text(PLAY)
    inventory = copy_inventory(name, directory)
    if name not in TO_FILL_IN:
        give_addresses(inventory)
    return ansible("ansible-playbook", f"--inventory={inventory}", *options, str(play))


def placeholders(name: str) -> list[str]:
    """The last keys of all secrets that the inventory leaves to its user."""
    texts = [path.read_text() for path in (ROOT / "inventories" / name).rglob("*.yml")]
    return sorted(
        key for text in texts for key in re.findall(r"^ *(\w+): CHANGE_ME$", text, re.MULTILINE)
    )


# The others make their secrets at the first run.
TO_FILL_IN = [name for name in INVENTORIES if placeholders(name)]


def test_all_are_known() -> None:
    assert {"local", "production", "staging"} <= set(INVENTORIES)
    assert TO_FILL_IN == ["production", "staging"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TO_FILL_IN)
def test_one_with_placeholders_is_refused_for_these_alone(name: str, tmp_path: Path) -> None:
    done = preflight(name, tmp_path)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    wanted = placeholders(name)
    # Ansible prints a message twice.
    found = set(re.findall(r"^ *\d+\. ([\w.]+) .*\n *(.*)$", output, re.MULTILINE))
    assert {reason for _, reason in found} == {"is a placeholder that nobody has replaced"}
    assert len(found) == len(wanted)
    assert "No host was contacted" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_RENDERED)
def test_one_that_is_filled_in_is_taken(name: str, tmp_path: Path) -> None:
    secrets = {}
    if name in TO_FILL_IN:
        secrets = {**PRODUCTION}
        for unwanted in ("celery_app_source", "celery_app_env", "celery_app_secret_env"):
            secrets.pop(unwanted)
    done = preflight(name, tmp_path, f"--extra-vars={json.dumps(secrets)}")
    assert done.returncode == 0, done.stdout + done.stderr
