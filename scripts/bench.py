"""Measure what the project promises of its own speed: `make bench`, or one part of it.

    second   the second run of site.yml on the demo's hosts, which must stand, as a multiple of a ping
    queues   the second run on a host with 24 queues and on one with 3
    hosts    the second run on 16 hosts and on 4
    cold     the first run on bare hosts, and a plain shell script that installs the same (bench_baseline.sh)
    preflight  the check of an inventory of 50 hosts with 24 queues, without any host

All figures of one part come from one sitting, round by round in turn, so that their ratios hold whatever the machine.
A remote call is counted by what Ansible's -vvv output says of each host; it makes the run itself slower, so it is a
run apart. Where a goal is missed, a profile by task follows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import secrets
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "inventories" / "local"
PLACE = ROOT / ".state" / "bench"
SITE = ("ansible-playbook", "site.yml")
PING = ("ansible", "all", "-m", "ansible.builtin.ping")
PROFILE_LINES = 15

RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)
# "<10.1.2.3> SSH: EXEC ssh …" for each remote command; a module shows in its file's path, once for each host.
CALL = re.compile(r"^<([^>]+)> SSH: EXEC ", re.MULTILINE)
MODULE = re.compile(r"^Using module file (\S+)$", re.MULTILINE)
# "role : task name ------ 1.23s", of the callback profile_tasks.
TASK = re.compile(r"^(.+?) -{2,} (\d+\.\d+)s$", re.MULTILINE)


class BenchError(Exception):
    """What stops the measurement, in words for the person who started it."""


# --- running ---------------------------------------------------------------------------------------


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Seconds and output of a command.

    Raises:
        BenchError: It failed; the message holds its last lines.
    """
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as missing:
        raise BenchError(
            f"{missing.filename} is not found: use `make bench`, or `. .venv/bin/activate` first"
        ) from None
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise BenchError(f"`{' '.join(command)}` failed:\n{tail}")
    return time.monotonic() - started, done.stdout


def processor_seconds() -> float:
    """What the processes that this one started and that have ended have had of the processors so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def changed(output: str) -> int:
    """How many tasks changed something, from the recap.

    Raises:
        BenchError: There is no recap.
    """
    rows = RECAP.findall(output)
    if not rows:
        raise BenchError("Ansible printed no recap")
    return sum(int(row[2]) for row in rows)


def second_run(inventory: Path) -> float:
    """Seconds of a run of site.yml that has nothing to do.

    Raises:
        BenchError: It had.
    """
    seconds, output = run([*SITE, "--inventory", str(inventory)])
    if changed(output):
        raise BenchError("the second run of site.yml changed something; it must not")
    return seconds


def ping(inventory: Path) -> float:
    """Seconds of Ansible's ping of all hosts."""
    return run([*PING, "--inventory", str(inventory)])[0]


def in_turn(rounds: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """The seconds of each of several measures, one round after the other."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def profile(inventory: Path) -> list[tuple[str, float]]:
    """The tasks of a run of site.yml that take the longest, and their seconds."""
    callback = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks"}
    _, output = run([*SITE, "--inventory", str(inventory)], callback)
    return [(name.strip(), float(seconds)) for name, seconds in TASK.findall(output)]


@dataclass(frozen=True)
class Calls:
    """What a run of site.yml calls on the hosts.

    Attributes:
        modules: Module -> executions, on all hosts together.
        commands: Remote commands of each host, those of modules among them.
    """

    modules: Mapping[str, int]
    commands: Sequence[int]

    @classmethod
    def of(cls, output: str) -> Calls:
        """From the output of a run with -vvv."""
        modules = Counter(path.rsplit("/", 1)[-1] for path in MODULE.findall(output))
        return cls(dict(modules), sorted(Counter(CALL.findall(output)).values()))

    def __str__(self) -> str:
        each = sum(self.modules.values()) / max(1, len(self.commands))
        return (
            f"{each:.1f} module executions a host ({_words(self.modules)}); "
            f"remote commands on a host: {', '.join(map(str, self.commands))}"
        )


def calls(inventory: Path) -> Calls:
    """What a second run calls on the hosts of an inventory."""
    return Calls.of(run([*SITE, "--inventory", str(inventory), "-vvv"])[1])


def _words(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.items())


# --- what is printed -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    """What one thing costs as a multiple of another, and the goal for it."""

    what: str
    value: float
    goal: float

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "**missed**"
        return f"{self.what}: {self.value:.2f} (goal: {self.goal:g} at most, {verdict})"


def report(
    found: Mapping[str, Sequence[float]], ratios: Sequence[Ratio], notes: Sequence[str]
) -> str:
    """Markdown."""
    lines = ["| what | median | least to most |", "|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(values):.1f} s | {min(values):.1f} to {max(values):.1f} s |"
        for name, values in found.items()
    ]
    lines += ["", *(f"- {item}" for item in (*ratios, *notes))]
    return "\n".join(lines)


def profile_text(tasks: Sequence[tuple[str, float]]) -> str:
    """Markdown of a profile."""
    lines = ["| task | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in tasks[:PROFILE_LINES]]
    return "\n".join(lines)


def ratio(
    what: str, found: Mapping[str, Sequence[float]], upper: str, lower: str, goal: float
) -> Ratio:
    """Of two medians."""
    value = statistics.median(found[upper]) / statistics.median(found[lower])
    return Ratio(what, value, goal)


# --- fleets to measure on --------------------------------------------------------------------------


def inventory_of(workers: int, queues: int) -> dict[str, Any]:
    """An inventory with one Redis and some hosts of workers, each of which takes all queues.

    The application is the example's, with a queue, and a worker of one process, for each number.
    """
    users = ("worker", "beat", "producer", "flower", "operator", "admin")
    names = [f"worker{number}" for number in range(1, workers + 1)]
    return {
        "all": {
            "vars": {
                "ansible_become": True,
                "pki_directory": "{{ test_fleet_state }}/pki",
                "pki_ca_passphrase": secrets.token_hex(16),
                "redis_passwords": {user: secrets.token_hex(16) for user in users},
                "celery_app_name": "bench",
                "celery_app_module": "app.celery_app",
                "celery_app_source": {"path": "examples/flexiprice/backend"},
                "celery_worker_instances": {
                    f"queue{number}": {"concurrency": 1} for number in range(1, queues + 1)
                },
            }
        },
        "fleet": {
            "children": {
                "redis": {"hosts": {"redis1": {}}},
                "celery_workers": {"hosts": {name: {} for name in names}},
            }
        },
    }


@contextmanager
def fleet(name: str, workers: int, queues: int) -> Iterator[Path]:
    """Hosts with a fleet that is deployed, gone when the block ends; the directory of its inventory."""
    directory = PLACE / name
    directory.mkdir(parents=True, exist_ok=True)
    wanted = inventory_of(workers, queues)
    (directory / "hosts.yml").write_text(json.dumps(wanted, indent=1))
    hosts = ["redis1", *wanted["fleet"]["children"]["celery_workers"]["hosts"]]
    with hosts_of(f"bench-{name}", directory, hosts):
        print(f"deploying {name}", file=sys.stderr, flush=True)
        run([*SITE, "--inventory", str(directory)])
        yield directory
    shutil.rmtree(directory)


@contextmanager
def hosts_of(scenario: str, inventory: Path, hosts: Sequence[str]) -> Iterator[None]:
    """Bare hosts, gone when the block ends."""
    script = [sys.executable, "-m", "scripts.hosts"]
    words = [f"--scenario={scenario}", f"--inventory={inventory / 'connection.yml'}"]
    run([*script, "create", *words, *hosts])
    try:
        yield
    finally:
        run([*script, "destroy", *words])


# --- the parts -------------------------------------------------------------------------------------


def second(rounds: int) -> str:
    """The second run on the demo."""
    run(SITE)
    found = in_turn(
        rounds,
        {"`ansible all -m ping`": lambda: ping(DEMO), "second run": lambda: second_run(DEMO)},
    )
    one = ratio(
        "second run as a multiple of the ping", found, "second run", "`ansible all -m ping`", 12
    )
    return _with_profile(found, one, DEMO)


def queues(rounds: int) -> str:
    """Many queues on a host against few."""
    with fleet("3-queues", 1, 3) as few, fleet("24-queues", 1, 24) as many:
        found = in_turn(
            rounds, {"3 queues": lambda: second_run(few), "24 queues": lambda: second_run(many)}
        )
        one = ratio("24 queues as a multiple of 3", found, "24 queues", "3 queues", 1.2)
        return _with_profile(found, one, many)


def hosts(rounds: int) -> str:
    """Many hosts against few."""
    with fleet("4-hosts", 3, 1) as few, fleet("16-hosts", 15, 1) as many:
        found = in_turn(
            rounds,
            {
                "ping of 4 hosts": lambda: ping(few),
                "4 hosts": lambda: second_run(few),
                "ping of 16 hosts": lambda: ping(many),
                "16 hosts": lambda: second_run(many),
            },
        )
        one = ratio("16 hosts as a multiple of 4", found, "16 hosts", "4 hosts", 4)
        return _with_profile(found, one, many)


def _with_profile(found: Mapping[str, Sequence[float]], one: Ratio, inventory: Path) -> str:
    text = report(found, [one], [str(calls(inventory))])
    if not one.is_met:
        text += "\n\n" + profile_text(profile(inventory))
    return text


# --- preflight -------------------------------------------------------------------------------------


def whole_inventory(hosts: int, queues: int) -> dict[str, Any]:
    """An inventory of a whole fleet: Redis, one host for beat, web and Flower, and workers; each queue in all places.

    Addresses are documentation's own: nobody is called.
    """
    found = inventory_of(hosts - 2, queues)
    numbers = range(1, queues + 1)
    groups = found["fleet"]["children"]
    for group in ("celery_beat", "celery_producers", "flower"):
        groups[group] = {"hosts": {"control1": {}}}
    names = dict.fromkeys(name for group in groups.values() for name in group["hosts"])
    found["all"]["hosts"] = {
        name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(names, 1)
    }
    found["all"]["vars"] |= {
        "celery_app_task_routes": {
            f"app.tasks.of{number}.*": {"queue": f"queue{number}"} for number in numbers
        },
        "celery_app_urls": {"DATABASE_URL": {"scheme": "postgresql", "host": "{{ my_database }}"}},
        "my_database": "{{ groups['redis'] | first }}",
        "celery_beat_schedule": {
            f"entry{number}": {
                "task": f"app.tasks.of{number}.run",
                "crontab": {"minute": f"*/{number}"},
                "queue": f"queue{number}",
            }
            for number in numbers
        },
        "celery_worker_defaults": {
            "time_limit": 600,
            "soft_time_limit": 500,
            "memory_max": "{{ my_memory }}",
        },
        "my_memory": "512M",
        "test_fleet_state": "/nowhere",
        "flower_auth_password": secrets.token_hex(16),
        "flower_cookie_secret": secrets.token_hex(16),
        "celery_producer_web": {"command": ["python", "-m", "uvicorn", "app.main:app"]},
    }
    return found


def preflight(rounds: int) -> str:
    """The whole command against one that does nothing for the same inventory."""
    directory = PLACE / "preflight"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.yml").write_text(json.dumps(whole_inventory(50, 24), indent=1))
    plays = {}
    for name, action in (("check", "preflight_inventory"), ("nothing", "ansible.builtin.debug")):
        play = {"hosts": "fleet", "gather_facts": False, "tasks": [{action: {}, "run_once": True}]}
        plays[name] = PLACE / f"{name}.yml"
        plays[name].write_text(json.dumps([play]))

    # What other processes of this machine take is none of preflight's: hence the processor's seconds, too.
    spent: dict[str, list[float]] = {name: [] for name in plays}

    def seconds(name: str) -> float:
        command = ["ansible-playbook", "--inventory", str(directory), str(plays[name])]
        before = processor_seconds()
        took = run(command)[0]
        spent[name].append(processor_seconds() - before)
        return took

    found = in_turn(
        rounds,
        {
            "a task that does nothing": lambda: seconds("nothing"),
            "preflight of 50 hosts with 24 queues": lambda: seconds("check"),
        },
    )
    whole = statistics.median(found["preflight of 50 hosts with 24 queues"])
    note = (
        "processor's seconds: {check:.2f} of preflight, {nothing:.2f} of a task that does nothing"
    )
    medians = {name: statistics.median(values) for name, values in spent.items()}
    text = report(
        found, [Ratio("seconds of the whole command", whole, 3)], [note.format(**medians)]
    )
    shutil.rmtree(directory)
    return text


# --- cold ------------------------------------------------------------------------------------------


def cold(rounds: int) -> str:
    """The first run on bare hosts against a shell script that installs the same on the same hosts."""
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
    """What something takes on hosts as the demo's: bare but for the database, which a fleet finds in place."""
    inventory.mkdir(parents=True, exist_ok=True)
    # Where secrets and the authority lie, as in the scenarios: with the hosts, and gone with them.
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
    """Seconds of site.yml."""
    return run([*SITE, *_inventories(sources)])[0]


def baseline(sources: Sequence[Path]) -> float:
    """Seconds of the shell script on all hosts in parallel: packages and virtualenvs, and nothing else."""
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
    # As Ansible itself reads this variable.
    words += shlex.split(variables["ansible_ssh_common_args"])
    done = subprocess.run([*words, address, command], input=stdin, capture_output=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).decode(errors="replace").splitlines()[-15:])
        raise BenchError(f"{command!r} on {address} failed:\n{tail}")


PARTS: Mapping[str, Callable[[int], str]] = {
    "second": second,
    "queues": queues,
    "hosts": hosts,
    "cold": cold,
    "preflight": preflight,
}
ROUNDS = {"second": 5, "queues": 5, "hosts": 3, "cold": 3, "preflight": 5}


def main(arguments: Sequence[str]) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Measure what a run of site.yml costs.")
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help="default: 5, and 3 of what takes long")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        text = PARTS[name](options.rounds or ROUNDS[name])
        print(f"### {name}\n\n{text}\n", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"error: {error}")
