"""Build one release on a host: unpack, virtualenv, requirements, check; then, and only then, call it a release.

Runs on the host, inside the `release` module, as root. A directory under `releases/` is a release once it holds
`release.json`, which is written last; anything else there is what an earlier run left and is wiped.
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
    _tail,
    _user,
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

# Beside the releases: what pip printed when the last build failed.
LOG = "build.log"


# Seconds for the import of the application.
_IMPORT = 120.0


def _checked(build: Build) -> dict[str, Any]:
    """Import the application as its own user; what the check says."""
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
            f"importing {build.app} took more than {late.timeout:.0f} s ({limit}): what waits for a database or a "
            "network when it is imported has to do so in its tasks"
        ) from None
    try:
        # An application may print while it is imported; the answer is the last line.
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise BuildError(
            f"the check of {build.app} ended without an answer (exit status {done.returncode}):\n"
            f"{_tail(done.stderr or done.stdout)}"
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
                    _tail(details),
                ]
            ).rstrip()
        )
    return dict(answer)


def _unpack(archive: str, target: Path, timeout: float, user: pwd.struct_passwd) -> None:
    # Not tarfile: its filters against names that lead elsewhere came with Python 3.11.4, and Debian 12 has 3.11.2.
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
    # A copy of pip in each virtualenv takes longer than all else but the packages: the host's own one serves from its
    # wheel, run by the virtualenv's interpreter.
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
        # Compiled below, by all processors at once.
        "--no-compile",
        "--requirement",
        str(requirements),
    ]
    try:
        _run(install, left(), "installing the requirements", user)
    except CommandFailed as failure:
        raise _explained(failure, build.path.parent / LOG) from None
    # Packages may bring files for other versions of Python; as with pip, these stay as they are.
    quietly = [*_compile_all(build), "-q", *map(str, venv.glob("lib/python*/site-packages"))]
    with contextlib.suppress(CommandFailed):
        _run(quietly, left(), "compiling the packages", user)
    _give_to_root(venv)
    _refuse_links_out(venv, made)
    # Flower's own virtualenv holds no application that could be checked.
    return _checked(build) if build.app else {"tasks": [], "versions": {}}


# As in preflight/checks/source.py:, which sees only what is written in the inventory.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is written to


def _require_visible(build: Build, python: str) -> None:
    """Refuse an interpreter that the check could run, but no unit."""
    if any(Path(python).is_relative_to(place) for place in _HIDDEN):
        raise BuildError(
            f"celery_release_python: {build.python} leads to {python}, which no process of the fleet sees: its units "
            "have ProtectHome= and PrivateTmp=. Name an interpreter that is installed elsewhere, such as below /opt or "
            "/usr/local."
        )


def _in_use(root: Path) -> set[str]:
    links = [root / "current", *(root / "pins").glob("*")]
    return {Path(os.readlink(link)).name for link in links if link.is_symlink()}


def prune(root: Path, keep: int, spared: str = "") -> list[str]:
    """Remove releases that nothing points to, except the newest `keep`, and builds that never finished.

    Returns the names of the removed. The caller holds the lock of `build`: no other build is going on.

    Args:
        root: Directory of the application.
        keep: How many to keep beside those in use.
        spared: Name of one that is about to be used.
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
        # The note goes first: a removal that is cut short leaves nothing that looks like a release.
        (path / NOTE).unlink(missing_ok=True)
        shutil.rmtree(path)
    return [path.name for path in removed]


def _require_unused(path: Path) -> None:
    """Leave a virtualenv alone that the host's new Python has no use for, while processes of the old one have.

    They have loaded only a part of their code, and a restart is not theirs to see: by its name the release is the same.
    """
    python, real = outlived(str(path)), path.resolve()
    found = []
    for process in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            program = os.readlink(f"/proc/{process}/exe")
            directory = Path(os.readlink(f"/proc/{process}/cwd"))
        except OSError:
            continue  # it has just ended
        # What the new one has started ends by itself, again and again; a person's shell needs none of it.
        if program != python and os.path.basename(program).startswith(("python", "pypy")):
            found += [int(process)] if directory.is_relative_to(real) else []
    if found:
        raise BuildError(
            f"release {path.name} has to be built anew, as its virtualenv does not work with {python}, which this host "
            f"has now, and processes of before still run from it: {', '.join(map(str, sorted(found)))}. Restart the "
            f"host, or stop their units (`systemctl status {min(found)}` names one), and run again."
        )


def build(wanted: Build) -> list[str]:
    """Build a release, or leave nothing but the log of what failed.

    Returns what a person should know of it.

    Raises:
        BuildError: With a message for the person who runs the play.
    """
    os.umask(0o022)
    releases = wanted.path.parent
    releases.mkdir(parents=True, exist_ok=True)
    # A run that was interrupted leaves its build going on here; the next one waits for it.
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
    # Nothing points to it yet.
    prune(Path(wanted.root), wanted.keep, spared=wanted.id)
    return warnings
