"""Starts and stops workers' units and returns their state; runs on the host, as root, by `python3 -S -I -c`.

Input: {"do": [[verb, argument], …], "units": {unit: directory of its drain.json, or empty}, "seen": their states in
the last answer, "wait": seconds to wait for a change, "journals": [units for which to return the last lines],
"figures": {unit: {"counts": file of its worker's counts, "note": file of its release's note}}}.
Verbs: start, stop and restart a unit, without waiting (if Ansible is killed, systemd finishes what was begun);
disable a unit; prepare and clear a stand-in, a second instance of a worker under another name.
Output: {"units": {unit: {...}}, "journals": {unit: text}, "errors": [why it failed or empty, for each verb],
"error": why the units could not be queried, "figures": {unit: {"counts": {task: [successes, failures, seconds of the
successes, [successes by bucket]]} or null, "bounds": [upper bounds of the buckets but the last], "tasks": [those that
its release registers] or null, "memory": bytes of its processes, "processes": their number}}}.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROPERTIES = (
    "LoadState,ActiveState,SubState,StatusText,Result,NRestarts,MainPID,InvocationID,Job,ExecMainStatus,"
    "ActiveEnterTimestampMonotonic,ActiveExitTimestampMonotonic,InactiveExitTimestampMonotonic"
)
UNITS = Path("/etc/systemd/system")
# Records of what each process was started with (`reconcile/fingerprint.py`), including second instances.
RECORDS = Path("/run/celery-fleet/fingerprints")
# Options of a worker that a second instance can't share: the first is the worker's own file, the other would empty the
# queues.
NOT_SHARED = re.compile(r"--statedb=.*|--purge")
_LARGEST, _LARGEST_COUNTS = 10_000, 1_000_000
PROC = Path("/proc")
# Control groups of the second and of the first version.
GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"))
# Fields of a drain's record that are returned.
RECORDED = {"invocation": str, "running": int, "handed_back": int}


class UnitCommandError(Exception):
    """A verb failed; the message says why."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its output includes errors."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    # With `text=True`, the carriage return in a status of the application would end its line.
    text = done.stdout.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, text)


def systemctl(*words: str) -> None:
    """Run systemctl; raise an error if it fails."""
    done = run("systemctl", *words)
    if done.returncode != 0:
        raise UnitCommandError(f"`systemctl {' '.join(words)}` failed: {done.stdout.strip()}")


# -- a second instance ---------------------------------------------------------------------------------------


def unquoted(value: str) -> str:
    """Return the value in a line of an environment file written by the fleet."""
    return re.sub(r"\\(.)", r"\1", value[1:-1])


def quoted(value: str) -> str:
    """Return a value quoted as the fleet writes it."""
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'


def environment(text: str, node: str, other: str) -> str:
    """Return a worker's environment file for a second instance: another node name, no unshareable options."""
    lines = []
    changed = set()
    # Like systemd. `splitlines` also splits at other characters, such as U+2028, which a value may contain.
    for line in text.split("\n"):
        name, equals, value = line.partition("=")
        if name == "CELERY_FLEET_NODE":
            value = quoted(other)
            changed.add(name)
        elif name == "CELERY_FLEET_ARGS":
            words = [w for w in shlex.split(unquoted(value)) if not NOT_SHARED.fullmatch(w)]
            if node in words:
                words[words.index(node)] = other
                changed.add(name)
            value = quoted(shlex.join(words))
        lines.append(f"{name}={value}" if equals else line)
    if len(changed) < 2:
        raise UnitCommandError(f"the worker's environment file does not name its node {node}")
    return "\n".join(lines)


def prepare(what: dict[str, str]) -> None:
    """Create the files of a second instance from those of the first, including what users added."""
    own, other = Path(what["environment"]), Path(what["other_environment"])
    try:
        text = environment(own.read_bytes().decode(), what["node"], what["other_node"])
        drop_ins = UNITS / f"{what['unit']}.d"
        copies = UNITS / f"{what['other_unit']}.d"
        shutil.rmtree(copies, ignore_errors=True)
        if drop_ins.is_dir():
            shutil.copytree(drop_ins, copies)
        with open(os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), "wb") as stream:
            stream.write(text.encode())
        pin = Path(what["other_pin"])
        pin.unlink(missing_ok=True)
        pin.symlink_to(os.readlink(what["pin"]))
    except OSError as error:
        raise UnitCommandError(f"a second instance can't be prepared: {error}") from None
    systemctl("daemon-reload")


def clear(what: dict[str, str]) -> None:
    """Remove the files that `prepare` has created; the instance has stopped."""
    shutil.rmtree(UNITS / f"{what['other_unit']}.d", ignore_errors=True)
    shutil.rmtree(what["other_state"], ignore_errors=True)
    record = RECORDS / f"{what['other_unit']}.json"
    for path in (Path(what["other_environment"]), Path(what["other_pin"]), record):
        path.unlink(missing_ok=True)
    run("systemctl", "reset-failed", what["other_unit"])
    systemctl("daemon-reload")


def tried(verb: str, what: Any) -> str:
    """Carry out a verb; return why it failed, or an empty string."""
    try:
        do(verb, what)
    except (UnitCommandError, OSError) as error:
        return str(error)
    return ""


def do(verb: str, what: Any) -> None:
    """Carry out a verb."""
    if verb in ("start", "stop", "restart"):
        systemctl(verb, "--no-block", what)
    elif verb == "disable":
        systemctl("disable", "--quiet", what)
    elif verb == "prepare":
        prepare(what)
    elif verb == "clear":
        clear(what)
    else:
        raise UnitCommandError(f"unknown order {verb}")


# -- states --------------------------------------------------------------------------------------------------


def states(names: list[str]) -> dict[str, dict[str, str]]:
    """Return the properties of units, with one call of systemctl."""
    if not names:
        return {}
    done = run("systemctl", "show", "--no-pager", f"--property={PROPERTIES}", *names)
    blocks = done.stdout.strip("\n").split("\n\n")
    if done.returncode != 0 or len(blocks) != len(names):
        raise UnitCommandError(f"systemd does not answer: {done.stdout.strip()[-200:]}")
    return {
        name: dict(line.partition("=")[::2] for line in block.split("\n"))
        for name, block in zip(names, blocks, strict=True)
    }


def record(directory: str) -> dict[str, Any] | None:
    """Return the worker's record of its last drain; None if it does not have our runtime's format."""
    try:
        found = json.loads(text_of(os.path.join(directory, "drain.json"), _LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    record = {name: found.get(name) for name in RECORDED}
    # The application's user can write there, so check types: a boolean is not a number.
    return record if [type(value) for value in record.values()] == [*RECORDED.values()] else None


def number(text: str | None) -> int:
    """Return a counter of systemd as a number; empty is 0."""
    return int(text) if text and text.isdigit() else 0


def unit_states(units: dict[str, str]) -> dict[str, Any]:
    """Return the states of the units."""
    found = {}
    for name, state in states(list(units)).items():
        found[name] = {
            "load": state.get("LoadState", ""),
            "active": state.get("ActiveState", ""),
            "sub": state.get("SubState", ""),
            "status": state.get("StatusText", "")[:200],
            "result": state.get("Result", ""),
            "exit_status": number(state.get("ExecMainStatus")),
            "restarts": number(state.get("NRestarts")),
            "pid": number(state.get("MainPID")),
            "invocation": state.get("InvocationID", ""),
            "job": number(state.get("Job")) > 0,
            "ready_at": number(state.get("ActiveEnterTimestampMonotonic")) / 1e6,
            "stopping_at": number(state.get("ActiveExitTimestampMonotonic")) / 1e6,
            "starting_at": number(state.get("InactiveExitTimestampMonotonic")) / 1e6,
            "drain": record(units[name]) if units[name] else None,
        }
    return found


def text_of(path: str, largest: int) -> str:
    """Return the text of a file that the application may have replaced: follow no link and don't block.

    Raises:
        OSError: It can't be read.
        ValueError: It is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle) as stream:
        text = stream.read(largest + 1)
    if len(text) > largest:
        raise ValueError("it is too large")
    return text


def finite(number: Any) -> float:
    """Return a number; raise ValueError if it is none or infinite, by which every comparison would be decided."""
    if not math.isfinite(number):
        raise ValueError("it is not finite")
    return float(number)


def counts(path: str) -> dict[str, Any]:
    """Return a worker's counts by task, from the file that it writes; none if it does not count."""
    found: dict[str, list[Any]] = {}
    try:
        document = json.loads(text_of(path, _LARGEST_COUNTS))
        bounds = [float(bound) for bound in document.get("bounds", ())]
        if not document["counts_tasks"]:
            return {"counts": None, "bounds": []}
        for one in document["tasks"]:
            sums = found.setdefault(str(one["name"]), [0, 0, 0.0, [0] * (len(bounds) + 1)])
            sums[0] += int(one["succeeded"])
            sums[1] += sum(int(number) for number in one["failed"].values())
            sums[2] += finite(one["runtime"]["sum"])
            pairs = zip(sums[3], one["runtime"]["buckets"], strict=bool(bounds))
            sums[3] = [before + int(number) for before, number in pairs]
    # int() of an infinite number is an OverflowError.
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return {"counts": None, "bounds": []}
    return {"counts": found, "bounds": bounds}


def memory(unit: str, pid: int) -> dict[str, int]:
    """Return the memory of a unit's processes, each page that several of them share divided among them."""
    sizes = []
    for process in processes(unit, pid):
        try:
            lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has just ended
        sizes += [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return {"memory": 1024 * sum(sizes), "processes": len(sizes)}


def processes(unit: str, pid: int) -> list[int]:
    """Return the processes of a unit, which are all in its control group; none if its main process has ended."""
    try:
        lines = (PROC / str(pid) / "cgroup").read_text().splitlines()
        groups = {group for line in lines if (group := line.split(":", 2)[2]).endswith(f"/{unit}")}
        paths = [base / group.lstrip("/") / "cgroup.procs" for base in GROUPS for group in groups]
        found = [path.read_text().split() for path in paths if path.is_file()]
    except OSError:
        return []
    return [int(word) for word in found[0]] if found else []


def registered(path: str) -> list[str] | None:
    """Return the tasks that a release registers, from its note, which only root can write; None without a note."""
    try:
        return [str(name) for name in json.loads(Path(path).read_text())["tasks"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def figures(asked: dict[str, dict[str, str]], found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of units, given the files of their counts and notes, and their states."""
    return {
        unit: {
            **counts(files["counts"]),
            "tasks": registered(files["note"]),
            **memory(unit, found.get(unit, {}).get("pid", 0)),
        }
        for unit, files in asked.items()
    }


def journal(unit: str) -> str:
    """Return the last lines of a unit's journal."""
    command = ("journalctl", "--no-pager", "--quiet", "--output=cat", "--lines=10", "--unit", unit)
    return run(*command).stdout.strip()


def main() -> None:
    """Carry out the verbs, wait for a change, and print the answer."""
    asked = json.load(sys.stdin)
    errors = [tried(verb, what) for verb, what in asked["do"]]
    error = ""
    found: dict[str, Any] = {}
    try:
        deadline = time.monotonic() + asked["wait"]
        found = unit_states(asked["units"])
        while found == asked["seen"] and time.monotonic() < deadline:
            time.sleep(0.2)
            found = unit_states(asked["units"])
    except UnitCommandError as trouble:
        error = str(trouble)
    journals = {unit: journal(unit) for unit in asked["journals"]}
    answer = {"units": found, "journals": journals, "errors": errors, "error": error}
    print(json.dumps({**answer, "figures": figures(asked.get("figures") or {}, found)}))


if __name__ == "__main__":
    main()
