"""Sends small scripts to hosts as text for plain Python, which is five times cheaper than a module.

A module starts Ansible's wrapper on the host, which takes 0.14 s of processor time; `python3 -c` takes 0.02 s. So code
that only queries or waits is such a script: standard library only, JSON on stdin, one line of JSON on stdout.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.redact import (
    clean,
    clean_answer,
    printable,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.note import NOTE
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import ENVIRONMENT

_PYTHON = "/usr/bin/python3"
# What a probe gets besides PYTHONPATH; `env` has to remove what root has.
_OWN = (*(f"{name}={value}" for name, value in ENVIRONMENT.items()), "PYTHONDONTWRITEBYTECODE=1")
# Seconds that a unit must have been up to count as serving, if systemd had to restart it.
_STABLE_FOR = 10


def command(source: str, python: str = _PYTHON) -> str:
    """Return the shell command that runs a script's source on a host.

    It is isolated (`-I`) because it runs as root: otherwise Python would import first from the working directory, the
    home of the user who logs in.
    """
    return shlex.join([python, "-S", "-I", "-c", source])


# Runs a script from the first line of standard input; the script's own input follows.
_READER = (
    "import json, sys; "
    "exec(compile(json.loads(sys.stdin.readline()), 'script', 'exec'), {'__name__': '__main__'})"
)


def call(name: str, request: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return command and standard input that run one of the scripts in `plugin_utils/scripts`.

    The script itself is also in the input: sudo logs whole command lines, and a run sends scripts every few seconds.

    Args:
        name: Name of the script.
        request: Input of the script, described in its docstring.
    """
    lines = (json.dumps(script(name)), json.dumps(request))
    return command(_READER), "\n".join(lines).encode()


def program(path: str) -> str:
    """Return the shell command that runs a program of the runtime that only needs the standard library."""
    return shlex.join([_PYTHON, "-S", "-I", path])


def script(name: str) -> str:
    """Return the source of one of the scripts in `plugin_utils/scripts`."""
    return (Path(__file__).parents[1] / "scripts" / f"{name}.py").read_text()


def release_note(path: str) -> str:
    """Return the shell command that prints a release's note, or nothing if `note.built` would be false."""
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
    addresses: Iterable[Mapping[str, Any]] = (),
    journals: Iterable[str] = (),
    schedule: str = "",
    release: str = "",
    timeout: float = 0.0,
    restarts: int | None = None,
) -> tuple[str, bytes]:
    """Return command and standard input of the script `serving`; its docstring describes the arguments."""
    request = {
        "units": list(units),
        "addresses": [dict(item) for item in addresses],
        "journals": list(journals),
        "schedule": schedule,
        "release": release,
        # Within less, a unit that was in a crash loop before could not show that it is up.
        "timeout": timeout if restarts is None else max(timeout, _STABLE_FOR + 1),
        "stable_for": _STABLE_FOR,
        "restarts": restarts,
    }
    return call("serving", request)


def probe(python: str, runtime: str, user: str) -> str:
    """Return the shell command that runs `celery_fleet.ops.probe` in a release's Python, as the application's user."""
    return "cd / && " + shlex.join(
        [
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"),
            *("env", "-i", *_OWN, f"PYTHONPATH={runtime}", python),
            *("-m", "celery_fleet.ops.probe"),
        ]
    )


def deployed_probe(configuration: str, root: str, user: str) -> str:
    """Return the shell command that runs the probe with the release and runtime of any deployed worker.

    So it works before a run has installed its own runtime. Its answer is empty if no worker is deployed yet.

    Args:
        configuration: Directory of the application's configuration.
        root: Directory of its releases.
        user: The application's Unix user.
    """
    script = (
        'for file in "$1"/worker-*.env; do name=${file##*/worker-}; name=${name%.env}; '
        'python=$2/pins/worker-$name/venv/bin/python; [ -x "$python" ] || continue; '
        'runtime=$(sed -n \'s/^PYTHONPATH="\\(.*\\)"$/\\1/p\' "$file"); module=celery_fleet.ops.probe; '
        # The runtime of a worker that an earlier version deployed has the probe at this path.
        '[ -f "$runtime/celery_fleet/ops/probe.py" ] || module=celery_fleet.probe; cd / && '
        'exec setpriv --reuid="$3" --regid="$3" --clear-groups -- '
        f'env -i {shlex.join(_OWN)} PYTHONPATH="$runtime" "$python" -m "$module"; '
        "done; echo '{}'"
    )
    return shlex.join(["/bin/sh", "-c", script, "sh", configuration, root, user])


def with_identity(command_line: str, settings: Mapping[str, Any]) -> str:
    """Return a command that first, as root, adds the client certificate in its settings to its standard input.

    Args:
        command_line: Command of a probe, which runs as the application's user.
        settings: Settings that it reads; if they name no client certificate, the command is returned as it is.
    """
    tls = settings.get("celery", {}).get("broker_use_ssl")
    if not isinstance(tls, Mapping) or not tls.get("ssl_keyfile"):
        return command_line
    return f"{command(script('carry'))} {shlex.quote(command_line)}"


class RemoteError(Exception):
    """A script ended without an answer. The message contains its last output."""


def answer(result: dict[str, Any], secrets: Iterable[str] = ()) -> Any:
    """Return a script's answer, with its text redacted (see `redact.clean_answer`).

    Args:
        result: Result of its command.
        secrets: Values that may not be shown.

    Raises:
        RemoteError: The script failed, or its output is not JSON.
    """
    lines = str(result.get("stdout", "")).strip().splitlines()
    if result.get("rc") == 0 and lines:
        try:
            return clean_answer(printable(json.loads(lines[-1])), secrets)
        except ValueError:
            pass
    words = (
        str(result.get("stderr", "")).strip() or str(result.get("stdout", "")).strip()
    ).splitlines()
    raise RemoteError(
        clean(printable(words[-1]), secrets)
        if words
        else f"no answer, exit status {result.get('rc')}"
    )


def finding(result: dict[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return the probe's answer. Errors that it finds are also an answer, although its exit status is not 0.

    The arguments are those of `answer`.

    Raises:
        RemoteError: Its output is not JSON.
    """
    printed = str(result.get("stdout", "")).strip()
    # Without any output, its exit status is all that there is to say.
    return dict(answer({**result, "rc": 0} if printed else result, secrets))
