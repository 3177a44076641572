"""Builds one release on a host: unpacks the source, creates the virtualenv, installs requirements and runs the check.

Runs on the host, inside the `release` module, as root. A directory under `releases/` is a release once it holds
`release.json`, which is written last; anything else there was left by an earlier run and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    environment_text,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.note import (
    NOTE,
    built,
    outlived,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    Build,
    BuildError,
    CommandFailed,
    _run,
    _user,
    tail,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import refusals
from ansible_collections.celery_fleet.core.plugins.module_utils.release.virtualenv import (
    _compile_all,
    _explained,
    _give_to_root,
    _links_out,
    _pip_wheel,
    _refuse_links_out,
    _uncompiled,
)

# File next to the releases with pip's output of the last failed build.
LOG = "build.log"


# Seconds for the import of the application.
_IMPORT = 120.0


def _checked(build: Build) -> dict[str, Any]:
    """Import the application as its own user; return the result of the check."""
    user = _user(build.user)
    variables = {**build.environment, **build.secret_environment}
    environment = {
        "PATH": f"{build.path}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": user.pw_dir,
        **{name: environment_text(value) for name, value in variables.items()},
        "PYTHONPATH": build.runtime,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    request = {
        "app": build.app,
        "directory": str(build.code),
        "settings": build.demands.get("settings") or {},
    }
    try:
        done = subprocess.run(
            [f"{build.path}/venv/bin/python", "-m", "celery_fleet.release.check"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            cwd=build.code,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            timeout=min(build.timeout, _IMPORT),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        limit = "celery_release_timeout" if build.timeout < _IMPORT else "a fixed limit"
        raise BuildError(
            f"importing {build.app} took more than {late.timeout:.0f} s ({limit}): code that waits for a database or "
            "a network must do so in tasks, not during the import"
        ) from None
    try:
        # An application may print while it is imported, so the answer is the last line.
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise BuildError(
            f"the check of {build.app} ended without an answer (exit status {done.returncode}):\n"
            f"{tail(done.stderr or done.stdout)}"
        ) from None
    errors = list(answer["errors"])
    if not errors and build.demands:
        errors = refusals(build.id, json.dumps(answer), build.demands)
    if errors or not answer["ok"]:
        details = answer.get("details") or ""
        raise BuildError(
            "\n".join(
                [
                    "the release was built but does not pass its check:",
                    *errors,
                    tail(details),
                ]
            ).rstrip()
        )
    return dict(answer)


def _unpack(archive: str, target: Path, timeout: float, user: pwd.struct_passwd) -> None:
    # Don't use tarfile: its filters against unsafe names came with Python 3.11.4, and Debian 12 has 3.11.2.
    command = ["tar", "--extract", "--gzip", "--file", "-", "--directory", str(target)]
    # Only root can open the archive.
    with open(archive, "rb") as stream:
        _run(command, timeout, "unpacking the source", user, stream)


def _build(build: Build, warnings: list[str]) -> Mapping[str, Any]:
    deadline = time.monotonic() + build.timeout

    def left() -> float:
        return max(1.0, deadline - time.monotonic())

    user = _user(build.user)
    source, venv = build.path / "source", build.path / "venv"
    # Until they are complete, both belong to the application's user.
    for directory in (source, venv):
        directory.mkdir()
        os.chown(directory, user.pw_uid, user.pw_gid)
    _unpack(build.archive, source, build.timeout, user)
    places = [build.code / build.requirements, source / build.requirements]
    requirements = next((path for path in places if path.is_file()), None)
    if requirements is None:
        raise BuildError(
            f"the source has no {build.directory}/{build.requirements} (celery_app_source.requirements)"
        )
    wheel = _pip_wheel(build, user)
    # Copying pip into each virtualenv takes longer than anything except the packages. So use the host's pip from its
    # wheel, with the virtualenv's interpreter.
    make = [build.python, "-m", "venv", *(["--without-pip"] if wheel else []), str(venv)]
    _run(make, left(), "making the virtualenv", user)
    _require_visible(build, os.path.realpath(f"{venv}/bin/python"))
    made = _links_out(venv)
    try:
        _run([*_compile_all(build), str(source)], left(), "compiling the source", user)
    except CommandFailed as failure:
        warnings.append(_uncompiled(failure, source))
    _give_to_root(source)
    install = [
        f"{venv}/bin/python",
        *([f"{wheel}/pip"] if wheel else ["-m", "pip"]),
        "--disable-pip-version-check",
        "install",
        "--no-input",
        "--progress-bar=off",
        # It is compiled below, on all processors at once.
        "--no-compile",
        "--requirement",
        str(requirements),
    ]
    try:
        _run(install, left(), "installing the requirements", user)
    except CommandFailed as failure:
        raise _explained(failure, build.path.parent / LOG) from None
    # Packages may contain files for other versions of Python. Like pip, leave them uncompiled.
    quietly = [*_compile_all(build), "-q", *map(str, venv.glob("lib/python*/site-packages"))]
    with contextlib.suppress(CommandFailed):
        _run(quietly, left(), "compiling the packages", user)
    _give_to_root(venv)
    _refuse_links_out(venv, made)
    # Flower's virtualenv has no application to check.
    return _checked(build) if build.app else {"tasks": [], "versions": {}}


# As in preflight/checks/source.py, which only sees the path in the inventory.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is written to


def _require_visible(build: Build, python: str) -> None:
    """Refuse an interpreter that the check can run but units can't."""
    if any(Path(python).is_relative_to(place) for place in _HIDDEN):
        raise BuildError(
            f"celery_release_python: {build.python} leads to {python}, which the fleet's units can't see, because "
            "they have ProtectHome= and PrivateTmp=. Name an interpreter that is installed elsewhere, such as below "
            "/opt or /usr/local."
        )


def _in_use(root: Path) -> set[str]:
    links = [root / "current", *(root / "pins").glob("*")]
    return {Path(os.readlink(link)).name for link in links if link.is_symlink()}


def prune(root: Path, keep: int, spared: str = "") -> list[str]:
    """Remove unused releases, except the newest `keep`, and unfinished builds; return their names.

    The caller must hold the lock of `build`, so that no other build is running.

    Args:
        root: Directory of the application.
        keep: Number of releases to keep in addition to those in use.
        spared: Name of a release that is about to be used.
    """
    used = _in_use(root) | {spared}
    spare = [path for path in (root / "releases").iterdir() if path.name not in {*used, LOG}]
    unfinished = [path for path in spare if not (path / NOTE).is_file()]
    finished = sorted(
        (path for path in spare if path not in unfinished),
        key=lambda path: (path / NOTE).stat().st_mtime,
        reverse=True,
    )
    removed = [*finished[keep:], *unfinished]
    for path in removed:
        # Remove the note first, so that an interrupted removal leaves nothing that looks like a release.
        (path / NOTE).unlink(missing_ok=True)
        shutil.rmtree(path)
    return [path.name for path in removed]


def _require_unused(path: Path) -> None:
    """Refuse to rebuild a virtualenv for the host's new Python while processes of the old one use it.

    They have only loaded a part of their code, and no restart is planned for them, as the release has the same name.
    """
    python, real = outlived(str(path)), path.resolve()
    found = []
    for process in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            program = os.readlink(f"/proc/{process}/exe")
            directory = Path(os.readlink(f"/proc/{process}/cwd"))
        except OSError:
            continue  # it has just ended
        # Ignore processes of the new Python: units fail at once, and a shell does not need the virtualenv.
        if program != python and os.path.basename(program).startswith(("python", "pypy")):
            found += [int(process)] if directory.is_relative_to(real) else []
    if found:
        raise BuildError(
            f"release {path.name} has to be built again, because its virtualenv does not work with this host's new "
            f"{python}, and older processes still run from it: {', '.join(map(str, sorted(found)))}. Restart the "
            f"host, or stop their units (`systemctl status {min(found)}` names one), and run again."
        )


def build(wanted: Build) -> list[str]:
    """Build a release and return remarks about it. A failed build leaves nothing except its log.

    Raises:
        BuildError: It failed; the message is for the person who runs the play.
    """
    os.umask(0o022)
    releases = wanted.path.parent
    releases.mkdir(parents=True, exist_ok=True)
    # An interrupted run leaves its build running here; the next run waits for it.
    lock = os.open(releases, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_alone(wanted)
    finally:
        os.close(lock)


def _build_alone(wanted: Build) -> list[str]:
    path = wanted.path
    if built(str(path)):
        return []
    if (path / NOTE).is_file():
        _require_unused(path)
    if path.exists():
        shutil.rmtree(path)
    path.mkdir()
    warnings: list[str] = []
    try:
        answer = _build(wanted, warnings)
        note = {
            "id": wanted.id,
            "directory": os.path.normpath(os.path.join("source", wanted.directory)),
            "built": int(time.time()),
            "tasks": answer["tasks"],
            "versions": answer["versions"],
            "application": answer.get("application") or {},
        }
        fresh = path / f".{NOTE}"
        fresh.write_text(json.dumps(note, indent=1, sort_keys=True) + "\n")
        os.replace(fresh, path / NOTE)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    # No link points to it yet.
    prune(Path(wanted.root), wanted.keep, spared=wanted.id)
    return warnings
