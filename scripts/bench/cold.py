"""Compare the first run on bare hosts with a plain shell script that installs the same there."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.bench.figures import profile_text, ratio, report
from scripts.bench.fleets import PLACE, hosts_of
from scripts.bench.parts import DEMO
from scripts.bench.runs import ROOT, SITE, TASK, BenchError, in_turn, run


def cold(rounds: int) -> str:
    """Measure the first run on bare hosts and a shell script that installs the same on the same hosts."""
    inventory = PLACE / "cold"
    found = in_turn(
        rounds,
        {
            "plain shell script": lambda: _on_bare_hosts(inventory, baseline),
            "first run of `site.yml`": lambda: _on_bare_hosts(inventory, first_run),
        },
    )
    one = ratio(
        "first run as a multiple of the script",
        *(found, "first run of `site.yml`", "plain shell script", 1.5),
    )
    text = report(found, [one], [])
    if not one.is_met:
        measured: list[tuple[str, float]] = []

        def measure(sources: Sequence[Path]) -> float:
            callback = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks"}
            seconds, output = run([*SITE, *_inventories(sources)], callback)
            measured.extend((name.strip(), float(spent)) for name, spent in TASK.findall(output))
            return seconds

        _on_bare_hosts(inventory, measure)
        text += "\n\n" + profile_text(measured)
    return text


def _inventories(sources: Sequence[Path]) -> list[str]:
    return [f"--inventory={source}" for source in sources]


def _on_bare_hosts(inventory: Path, measure: Callable[[Sequence[Path]], float]) -> float:
    """Return how many seconds something takes on hosts like the demo's: bare except for the database."""
    inventory.mkdir(parents=True, exist_ok=True)
    # Keep secrets and the authority in the hosts' own state, as the scenarios do: they disappear with the hosts.
    state = {"pki_directory": "{{ test_fleet_state }}/pki"}
    state["__local_secrets"] = "{{ test_fleet_state }}/secrets"
    place = inventory / "group_vars" / "all"
    place.mkdir(parents=True, exist_ok=True)
    (place / "state.yml").write_text(json.dumps(state))
    (inventory / "hosts.yml").write_text(json.dumps({"all": {}}))
    sources = [DEMO / "hosts.yml", inventory]
    with hosts_of("bench-cold", inventory, ["redis1", "worker1", "worker2", "control1"]):
        run(["ansible-playbook", *_inventories(sources), "examples/flexiprice/database.yml"])
        seconds = measure(sources)
    shutil.rmtree(inventory)
    return seconds


def first_run(sources: Sequence[Path]) -> float:
    """Return the seconds of a run of site.yml."""
    return run([*SITE, *_inventories(sources)])[0]


def baseline(sources: Sequence[Path]) -> float:
    """Return the seconds of the shell script on all hosts in parallel: it only installs packages and virtualenvs."""
    _, text = run(["ansible-inventory", *_inventories(sources), "--list"])
    listed = json.loads(text)
    variables = listed["_meta"]["hostvars"]
    groups = ("redis", "celery_workers", "celery_beat", "celery_producers", "flower")
    parts = {
        host: {group for group in groups if host in listed.get(group, {}).get("hosts", [])}
        for host in variables
    }
    script = (ROOT / "scripts" / "bench_baseline.sh").read_text()
    backend = ROOT / "examples" / "flexiprice" / "backend"
    code = subprocess.run(
        ["tar", "--create", "--gzip", "--directory", str(backend), "."],
        capture_output=True,
        check=True,
    ).stdout
    flower, command = (
        (ROOT / "roles" / role / "files" / "requirements.txt").read_bytes()
        for role in ("flower", "celery_cli")
    )

    def install(host: str) -> None:
        _remote(variables[host], "cat > /tmp/code.tar.gz", code)
        _remote(variables[host], "cat > /tmp/flower.txt", flower)
        _remote(variables[host], "cat > /tmp/command.txt", command)
        words = " ".join(sorted(parts[host]))
        _remote(variables[host], f"sudo bash -s -- {words}", script.encode())

    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        list(pool.map(install, parts))
    return time.monotonic() - started


def _remote(variables: Mapping[str, Any], command: str, stdin: bytes) -> None:
    """Run a command on a host, as an operator's own script would.

    Raises:
        BenchError: It failed.
    """
    address = f"{variables['ansible_user']}@{variables['ansible_host']}"
    words = ["ssh", "-i", variables["ansible_ssh_private_key_file"]]
    # Ansible splits this variable in the same way.
    words += shlex.split(variables["ansible_ssh_common_args"])
    done = subprocess.run([*words, address, command], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).decode(errors="replace").splitlines()[-15:])
        raise BenchError(f"{command!r} on {address} failed:\n{tail}")
