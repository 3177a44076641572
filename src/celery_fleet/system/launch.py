"""Start a process of the fleet from the release that its unit is pinned to.

Run as a file with the system's Python, before any virtualenv: ``python3 -S -I launch.py COMPONENT
--pin LINK [-- ARGV…]``. It uses only the standard library and imports nothing of this package.

The link is resolved once. From then on the process knows only real paths, so a deploy that moves the
link can't mix two releases in it: the working directory, the interpreter and PATH are those of
``<release>``. ``CELERY_FLEET_ARGS`` is split as a shell does and appended to ARGV. A leading
``python`` (or ``{python}``) becomes the release's interpreter; another leading name is taken from
the release's ``venv/bin``.

Every mistake ends it with one line and status 78 (EX_CONFIG).
"""

from __future__ import annotations

# Built into Python. The module `signal` loads others from files first, and Ctrl-C could come meanwhile.
import _signal  # type: ignore[import-not-found]  # typeshed does not have it

if __name__ == "__main__":
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        # Until the command has taken its place, Ctrl-C ends this process without a traceback.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    # exec.py blocks it while Python itself starts.
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))

import json
import os
import re
import shlex
import sys

EX_CONFIG = 78
COMPONENTS = ("worker", "beat", "flower", "producer", "operator")
DEPLOY = "deploy the application (ansible-playbook site.yml)"
# Celery reads these before any setting, but the fleet's settings file must win.
URL_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)
# Prefix of variables such as LD_PRELOAD, which must not affect commands that root runs for the unit.
CARRIED = "CELERY_FLEET_ENV_"
USAGE = f"usage: launch.py {'|'.join(COMPONENTS)} --pin LINK [-- ARGV…]"


class LaunchError(Exception):
    """A mistake that a user can fix; its text is one line."""


def arguments(argv: list[str]) -> tuple[str, str, list[str]]:
    """Return component, pin and command from the command line (without the program's name)."""
    own, command = argv, []
    if "--" in argv:
        cut = argv.index("--")
        own, command = argv[:cut], argv[cut + 1 :]
    if len(own) != 3 or own[1] != "--pin":
        raise LaunchError(USAGE)
    if own[0] not in COMPONENTS:
        raise LaunchError(f"unknown component {own[0]!r}; {USAGE}")
    return own[0], own[2], command


def resolve(pin: str) -> str:
    """Return the real path of the release that a pin points to."""
    release = os.path.realpath(pin)
    if not os.path.isdir(release):
        what = f"points to {release}, which is missing" if os.path.islink(pin) else "does not exist"
        raise LaunchError(f"{pin} {what}; {DEPLOY}")
    return release


def working_directory(release: str) -> str:
    """Return the process's working directory: the application's code, or ``/`` if there is only a virtualenv."""
    record = os.path.join(release, "release.json")
    source = os.path.join(release, "source")
    if not os.path.exists(record):
        if os.path.isdir(source):
            raise LaunchError(f"{release} was never finished (no release.json); {DEPLOY} again")
        return "/"
    try:
        with open(record, encoding="utf-8") as stream:
            directory = json.load(stream).get("directory")
    except (OSError, ValueError, AttributeError) as exc:
        raise LaunchError(f"{record} can't be read ({exc}); {DEPLOY} again") from exc
    if directory is None:
        return source if os.path.isdir(source) else "/"
    # Relative to the release ("source/backend"), or to its source ("backend", ".").
    parts = os.path.normpath(str(directory)).split(os.sep)
    base = release if parts[0] == "source" else source
    wanted = os.path.realpath(os.path.join(base, *parts))
    if os.path.isabs(str(directory)) or os.path.commonpath([wanted, release]) != release:
        raise LaunchError(f"{record}: directory {directory!r} leads out of the release; {DEPLOY}")
    if not os.path.isdir(wanted):
        raise LaunchError(
            f"{wanted} is missing, but {record} names it; check the directory of celery_app_source"
        )
    return wanted


def interpreter(release: str) -> str:
    """Return the release's own interpreter; resolving its link further would lose the virtualenv."""
    python = os.path.join(release, "venv", "bin", "python")
    if not os.access(python, os.X_OK):
        raise LaunchError(f"{python} is missing or can't be run; {DEPLOY} again")
    # The link leads to the host's Python; packages are in a directory named after the version that installed them.
    name = os.path.basename(os.path.realpath(python))
    if re.fullmatch(r"python3\.[0-9]+", name) and not os.path.isdir(
        os.path.join(release, "venv", "lib", name)
    ):
        raise LaunchError(f"{release} was built for another Python than {name}; {DEPLOY} again")
    return python


def command_line(command: list[str], extra: str, python: str) -> list[str]:
    """Return the command with its first word as a real path."""
    try:
        whole = [*command, *shlex.split(extra)]
    except ValueError as exc:
        raise LaunchError(f"CELERY_FLEET_ARGS can't be split ({exc}): {extra}") from exc
    if not whole:
        raise LaunchError("nothing to run: give ARGV after -- or set CELERY_FLEET_ARGS")
    if whole[0] in ("python", "{python}"):
        return [python, *whole[1:]]
    if os.sep not in whole[0]:
        own = os.path.join(os.path.dirname(python), whole[0])
        if not os.access(own, os.X_OK):
            raise LaunchError(
                f"{own} is missing: add the package with {whole[0]} to the application's requirements"
            )
        return [own, *whole[1:]]
    return whole


def environment(
    environ: dict[str, str], component: str, release: str, directory: str
) -> dict[str, str]:
    """Return the process's environment: the unit's, with the release added."""
    venv = os.path.join(release, "venv")
    result = {
        key.removeprefix(CARRIED): value
        for key, value in environ.items()
        if key not in URL_VARIABLES
    }
    result.update(
        CELERY_FLEET_COMPONENT=component,
        CELERY_FLEET_RELEASE=os.path.basename(release),
        VIRTUAL_ENV=venv,
        PWD=directory,
        PATH=os.pathsep.join(
            [os.path.join(venv, "bin"), environ.get("PATH") or "/usr/local/bin:/usr/bin:/bin"]
        ),
    )
    return result


def main(argv: list[str]) -> int:
    """Replace this process with the requested one; return only after a mistake."""
    try:
        component, pin, command = arguments(argv)
        release = resolve(pin)
        directory = working_directory(release)
        python = interpreter(release)
        whole = command_line(command, os.environ.get("CELERY_FLEET_ARGS", ""), python)
        environ = environment(dict(os.environ), component, release, directory)
        try:
            os.chdir(directory)
            os.execve(whole[0], whole, environ)  # noqa: S606  # no shell is wanted
        except OSError as exc:
            raise LaunchError(f"{whole[0]} can't be run in {directory}: {exc.strerror}") from exc
    except LaunchError as exc:
        print(f"celery_fleet: {' '.join(str(exc).split())}", file=sys.stderr, flush=True)
        return EX_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
