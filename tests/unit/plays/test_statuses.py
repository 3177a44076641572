"""Real runs, whose hosts don't answer, have the exit statuses that docs/environments.md promises to pipelines."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.render.fleet import ROOT, ansible, copy_inventory

pytestmark = pytest.mark.slow

HOSTS = ("redis1", "worker1", "worker2", "control1")
CHECK = "playbooks/check_inventory.yml"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    made = copy_inventory("local", tmp_path)
    hosts = {host: {"ansible_host": f"127.0.0.{n}"} for n, host in enumerate(HOSTS, 1)}
    nobody = {"all": {"hosts": hosts, "vars": {"ansible_port": 1, "ansible_ssh_retries": 0}}}
    (made / "nobody.yml").write_text(json.dumps(nobody))
    return made


def encrypt(inventory: Path) -> None:
    """Add an encrypted file of variables, and its password and a wrong one next to the inventory."""
    for name in ("right", "wrong"):
        (inventory.parent / name).write_text(f"the {name} password\n")
    path = inventory / "group_vars" / "all" / "encrypted.yml"
    path.write_text("some_token: x\n")
    done = ansible("ansible-vault", "encrypt", *password(inventory, "right"), str(path))
    assert done.returncode == 0, done.stderr


def password(inventory: Path, name: str) -> list[str]:
    return [f"--vault-password-file={inventory.parent / name}"]


def status(inventory: Path, playbook: str, *options: str) -> int:
    done = ansible("ansible-playbook", f"--inventory={inventory}", *options, playbook)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode


def test_a_valid_inventory_ends_with_0(inventory: Path) -> None:
    assert status(inventory, CHECK) == 0


def test_a_limit_without_a_host_ends_with_1(inventory: Path) -> None:
    assert status(inventory, CHECK, "--limit=worker9") == 1


def test_a_vault_without_its_password_ends_with_1(inventory: Path) -> None:
    encrypt(inventory)
    assert status(inventory, CHECK) == 1
    assert status(inventory, CHECK, *password(inventory, "wrong")) == 1
    assert status(inventory, CHECK, *password(inventory, "right")) == 0


def test_a_source_of_the_inventory_that_is_no_yaml_ends_with_1(inventory: Path) -> None:
    (inventory / "more.yml").write_text("all: [\n")
    assert status(inventory, CHECK) == 1


@pytest.mark.parametrize(
    ("settings", "expected"), [((ROOT / "ansible.cfg").read_text(), 1), ("", 5)]
)
def test_extra_variables_that_are_not_a_mapping_are_refused(
    inventory: Path, tmp_path: Path, settings: str, expected: int
) -> None:
    """Without the delivered settings, Ansible continues after a file that can't be read, and ends later."""
    (tmp_path / "ansible.cfg").write_text(settings)
    done = ansible(
        "ansible-playbook",
        f"--inventory={inventory}",
        "--extra-vars=[1]",
        CHECK,
        ANSIBLE_CONFIG=str(tmp_path / "ansible.cfg"),
        ANSIBLE_COLLECTIONS_PATH=str(ROOT / "collections"),
    )
    assert done.returncode == expected, done.stderr
    assert "Invalid extra vars data supplied" in done.stderr


@pytest.mark.parametrize(
    "content",
    [b"some: [\n", b"hour: */6\n", b"- some\n", "some: café\n".encode("latin-1")],
    ids=["yaml", "quotes", "list", "latin-1"],
)
def test_a_file_of_variables_that_is_not_valid_ends_with_4(inventory: Path, content: bytes) -> None:
    (inventory / "group_vars" / "all" / "more.yml").write_bytes(content)
    assert status(inventory, CHECK) == 4


@pytest.mark.parametrize(
    ("playbook", "options"),
    [
        # Refused because of the inventory, and by Ansible itself.
        (CHECK, ["--extra-vars=celery_app_broker_port=http"]),
        ("site.yml", ["--no-such-option"]),
    ],
)
def test_a_refusal_ends_with_2(inventory: Path, playbook: str, options: list[str]) -> None:
    assert status(inventory, playbook, *options) == 2


# --- signals ----------------------------------------------------------------------------


@pytest.fixture
def silent(inventory: Path) -> Iterator[list[socket.socket]]:
    """Make hosts that accept connections and never answer, so that a run waits for them."""
    with ExitStack() as stack:
        doors = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in HOSTS]
        ports = {
            host: {"ansible_host": "127.0.0.1", "ansible_port": door.getsockname()[1]}
            for host, door in zip(HOSTS, doors, strict=True)
        }
        (inventory / "nobody.yml").write_text(json.dumps({"all": {"hosts": ports}}))
        yield doors


@pytest.mark.parametrize(
    # The second is what a shell calls 143.
    ("number", "expected"),
    [
        pytest.param(signal.SIGINT, 99, marks=pytest.mark.long),
        (signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_a_run_that_is_ended_by_a_signal_says_so(
    inventory: Path, silent: list[socket.socket], number: signal.Signals, expected: int
) -> None:
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    process = subprocess.Popen(
        [program, f"--inventory={inventory}", "playbooks/preflight.yml"],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        reached, _, _ = select.select(silent, [], [], 60)
        assert reached, "the run contacted no host"
        # Signals go to the process group, as from a terminal or a pipeline.
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == expected
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
