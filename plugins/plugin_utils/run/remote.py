"""Small scripts for the hosts, sent as text to a bare Python: five times cheaper than a module each.

A module boots Ansible's own wrapper on the host, 0.14 s of processor time; `python3 -c` needs 0.02 s. So what only
looks, or waits, is one of these: standard library alone, JSON in by standard input, one line of JSON out.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.redact import clean, clean_answer
from ansible_collections.celery_fleet.core.plugins.module_utils.release.note import NOTE

_PYTHON = "/usr/bin/python3"
# Seconds that a unit which systemd had to start again must have stayed up to count as serving.
_SETTLE = 10


def command(source: str, python: str = _PYTHON) -> str:
    """The shell command that runs a script's source on a host.

    Isolated (`-I`), since it runs as root: otherwise Python would first import from the working directory, which is the
    home of whoever logs in.
    """
    return shlex.join([python, "-S", "-I", "-c", source])


# What runs a script that comes by standard input, in its first line; what it is asked comes after that.
_READER = (
    "import json, sys; "
    "exec(compile(json.loads(sys.stdin.readline()), 'script', 'exec'), {'__name__': '__main__'})"
)


def call(name: str, request: Mapping[str, Any]) -> tuple[str, bytes]:
    """Command and standard input that run one of the scripts beside this file.

    The script is in the input as well: sudo logs whole command lines, and a run asks every few seconds.

    Args:
        name: Of the script.
        request: What its own text says that it reads.
    """
    lines = (json.dumps(script(name)), json.dumps(request))
    return command(_READER), "\n".join(lines).encode()


def program(path: str) -> str:
    """The shell command that runs a program of the runtime that needs nothing but the standard library."""
    return shlex.join([_PYTHON, "-S", "-I", path])


def script(name: str) -> str:
    """Source of one of the scripts beside this file."""
    return (Path(__file__).parents[1] / "scripts" / f"{name}.py").read_text()


def release_note(path: str) -> str:
    """The shell command that prints a release's note: nothing where `note.built` would say that it is none."""
    lines = (
        f"path={shlex.quote(path)}",
        'python=$(readlink -f "$path/venv/bin/python") && [ -x "$python" ] || exit 0',
        "case ${python##*/} in",
        "python3.*[!0-9]*) ;;",
        'python3.[0-9]*) [ -d "$path/venv/lib/${python##*/}" ] || exit 0 ;;',
        "esac",
        f'cat "$path/{NOTE}" 2>/dev/null; exit 0',
    )
    return "\n".join(lines)


def serving(
    *,
    units: Iterable[str] = (),
    https: Iterable[Mapping[str, Any]] = (),
    journals: Iterable[str] = (),
    schedule: str = "",
    release: str = "",
    timeout: float = 0.0,
) -> tuple[str, bytes]:
    """Command and standard input of the script `serving`, whose own text says what is asked here."""
    request = {
        "units": list(units),
        "https": [dict(item) for item in https],
        "journals": list(journals),
        "schedule": schedule,
        "release": release,
        "timeout": timeout,
        "settle": _SETTLE,
    }
    return call("serving", request)


def probe(python: str, runtime: str, user: str) -> str:
    """The shell command that runs `celery_fleet.ops.probe` in a release's Python, as the application's user."""
    return "cd / && " + shlex.join(
        [
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"),
            *("env", f"PYTHONPATH={runtime}", "PYTHONDONTWRITEBYTECODE=1", python),
            *("-m", "celery_fleet.ops.probe"),
        ]
    )


def deployed_probe(configuration: str, root: str, user: str) -> str:
    """The same by whichever worker the host has, with the runtime that this worker runs with.

    So it works before a run has brought its own. Ends with status 99 where no worker was deployed yet.

    Args:
        configuration: Directory of the application's configuration.
        root: Directory of its releases.
        user: The application's.
    """
    script = (
        'for file in "$1"/worker-*.env; do name=${file##*/worker-}; name=${name%.env}; '
        'python=$2/pins/worker-$name/venv/bin/python; [ -x "$python" ] || continue; '
        'runtime=$(sed -n \'s/^PYTHONPATH="\\(.*\\)"$/\\1/p\' "$file"); module=celery_fleet.ops.probe; '
        # A worker that an earlier version deployed runs with a runtime that has it there.
        '[ -f "$runtime/celery_fleet/ops/probe.py" ] || module=celery_fleet.probe; cd / && '
        'exec setpriv --reuid="$3" --regid="$3" --clear-groups -- '
        'env PYTHONPATH="$runtime" PYTHONDONTWRITEBYTECODE=1 "$python" -m "$module"; '
        "done; exit 99"
    )
    return shlex.join(["/bin/sh", "-c", script, "sh", configuration, root, user])


def with_identity(command_line: str, settings: Mapping[str, Any]) -> str:
    """The same command, after root has put what its settings show to Redis into its standard input.

    Args:
        command_line: Of a probe, which runs as the application's user.
        settings: Those that it reads; where they name no file of the client's own nothing is put.
    """
    tls = settings.get("celery", {}).get("broker_use_ssl")
    if not isinstance(tls, Mapping) or not tls.get("ssl_keyfile"):
        return command_line
    return f"{command(script('carry'))} {shlex.quote(command_line)}"


class RemoteError(Exception):
    """A script ended without an answer; the message holds its last words."""


def answer(result: dict[str, Any], secrets: Iterable[str] = ()) -> Any:
    """What a script answered, with its text for people redacted (see `redact.clean_answer`).

    Args:
        result: How its command ended.
        secrets: Values that may not be shown.

    Raises:
        RemoteError: It failed, or what it printed is not JSON.
    """
    lines = str(result.get("stdout", "")).strip().splitlines()
    if result.get("rc") == 0 and lines:
        try:
            return clean_answer(json.loads(lines[-1]), secrets)
        except ValueError:
            pass
    words = (
        str(result.get("stderr", "")).strip() or str(result.get("stdout", "")).strip()
    ).splitlines()
    raise RemoteError(
        clean(words[-1], secrets) if words else f"no answer, exit status {result.get('rc')}"
    )


def finding(result: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """What the probe answered: what it finds wrong is an answer as well, which it says by its exit status.

    The arguments are those of `answer`.

    Raises:
        RemoteError: What it printed is not JSON.
    """
    return dict(answer({**result, "rc": 0}, secrets))
