"""Find the application, release, environment and credentials for :mod:`celery_fleet.system.exec`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from celery_fleet.common import client_certificate
from celery_fleet.health import result as health_result
from celery_fleet.system import launch
from celery_fleet.system.exec_request import NOT_EXECUTABLE, NOT_FOUND, ExecError

CONFIGURATION = Path("/etc/celery-fleet")
#: Where to look for a command that the release does not have.
SEARCH = "/usr/local/bin:/usr/bin:/bin"

#: The file that marks a directory as a complete release.
NOTE = "release.json"

#: The application's environment files, below its directory: one that every user may read, and one only for root.
ENVIRONMENT = ("exec.env", "credentials/exec.env")


@dataclass(frozen=True)
class ExecApplication:
    """An application, as ``cli.json`` describes it."""

    name: str
    module: str
    user: str
    root: Path
    directory: Path
    slice: str


def application(name: str) -> ExecApplication:
    """Return the application of this name.

    Raises:
        ExecError: The host has no such application, or its file can't be read.
    """
    path = CONFIGURATION / name / "cli.json"
    if os.sep in name or name in ("", ".", ".."):
        raise ExecError(f"--app {name!r} is not the name of an application")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return ExecApplication(
            name=found["app"],
            module=found["module"],
            user=found["user"],
            root=Path(found["root"]),
            directory=Path(found["directory"]),
            slice=found["slice"],
        )
    except FileNotFoundError:
        raise ExecError(
            f"there is no application {name} on this host ({path} is missing); check the name, or run"
            " site.yml"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExecError(f"{path} can't be read ({error!r}); run site.yml again") from None


def release_of(app: ExecApplication, identity: str | None) -> Path:
    """Return the directory of the release to run in.

    Raises:
        ExecError: The release does not exist or is not complete.
    """
    if identity is not None and (os.sep in identity or identity in ("", ".", "..")):
        raise ExecError(f"--release {identity!r} is not the name of a release")
    link = app.root / "current" if identity is None else app.root / "releases" / identity
    release = link.resolve()
    if identity is None and not link.exists():
        raise ExecError(
            f"{app.name} has no release on this host ({link} is missing); run this on a host of workers,"
            " beat or producers, or deploy with site.yml"
        )
    if not (release / NOTE).is_file():
        have = sorted(path.parent.name for path in (app.root / "releases").glob(f"*/{NOTE}"))
        raise ExecError(
            f"there is no release {identity or release.name} of {app.name} on this host; there are"
            f" {', '.join(have) or 'none'}"
        )
    return release


def program(release: Path, word: str) -> str:
    """Return the first word of a command in the form that :mod:`celery_fleet.system.launch` expects.

    Raises:
        ExecError: There is no such command, or it can't be run.
    """
    try:
        launch.interpreter(str(release))
        directory = Path(launch.working_directory(str(release)))
    except launch.LaunchError as error:
        raise ExecError(str(error)) from None
    if word == "python":
        return word
    if os.sep in word:
        path = directory / word
        _runnable(path, word)
        return word
    for place in (release / "venv" / "bin", *map(Path, SEARCH.split(":"))):
        path = place / word
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    hint = ""
    if (directory / word).is_file():
        hint = f"; {directory / word} exists: use `python {word}` or `./{word}`"
    raise ExecError(
        f"{word}: there is no such command in {release}/venv/bin, {SEARCH.replace(':', ', ')}{hint}",
        NOT_FOUND,
    )


def _runnable(path: Path, word: str) -> None:
    if not path.exists():
        raise ExecError(f"{word}: there is no {path}", NOT_FOUND)
    if path.is_dir() or not os.access(path, os.X_OK):
        raise ExecError(
            f"{word}: {path} can't be run; if it is Python, use: python {word}", NOT_EXECUTABLE
        )


def credential(app: ExecApplication, component: str) -> Path:
    """Return the path of the settings that the command gets.

    Raises:
        ExecError: They are not on this host.
    """
    for name in ENVIRONMENT:
        if not (app.directory / name).is_file():
            # systemd would only say that it could not start.
            raise ExecError(f"{app.directory / name} is missing; run site.yml again")
    path = app.directory / "credentials" / f"{component}.json"
    if not path.is_file():
        where = (
            "the host of beat" if component in ("beat", "schedule") else "a host that has a release"
        )
        raise ExecError(f"{path} is missing; run this on {where}, or run site.yml again")
    return path


def shown(app: ExecApplication, settings: Path) -> list[Path]:
    """Return the host's certificate and key files, if the settings have the command present them to Redis.

    Raises:
        ExecError: The settings can't be read.
    """
    try:
        document = json.loads(settings.read_text(encoding="utf-8"))
        return [
            path for path in client_certificate.files(document) if app.directory in path.parents
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ExecError(f"{settings} can't be read ({error}); run site.yml again") from None


def environment(app: ExecApplication) -> dict[str, str]:
    """Return the variables that the fleet sets over the application's own environment; none is secret."""
    return {
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONUNBUFFERED": "1",
        # With this, a bare `celery inspect …` needs no -A.
        "CELERY_APP": app.module,
        "CELERY_FLEET_HEALTH": str(health_result.path_of(app.name)),
        "CELERY_FLEET_ARGS": "",
    }
