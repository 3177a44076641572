"""Builds one release on a host: unpacks the source, provides a virtualenv and runs the check.

Runs on the host, inside the `release` module, as root. A directory under `releases/` is a release once it holds
`release.json`, which is written last; anything else there was left by an earlier run and is removed.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import root_lock
from ..environment_file import environment_text
from .debian import clean_up, installed
from .note import NOTE, built, one_way, outlived
from .ownership import give_to_root, refuse_foreign
from .pip import LOG
from .process import (
    Build,
    BuildError,
    CommandFailed,
    Limit,
    leaving_no_process,
    run,
    tail,
    unpack_source,
    user_of,
    write_note,
)
from .suitability import refusals
from .virtualenv import COMPILING, compile_all, packages_of, provide, prune_virtualenvs


def _checked(build: Build) -> dict[str, Any]:
    """Import the application as its own user; return the result of the check."""
    user = user_of(build.user)
    variables = {**build.environment, **build.secret_environment}
    environment = {
        "PATH": f"{build.path}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": user.pw_dir,
        **{name: environment_text(value) for name, value in variables.items()},
        "PYTHONPATH": build.runtime,
        "PYTHONDONTWRITEBYTECODE": "1",
        "CELERY_FLEET_RELEASE": build.id,
    }
    request = {
        "app": build.app,
        "directory": str(build.code),
        "settings": build.demands.get("settings") or {},
    }
    try:
        with leaving_no_process():
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
                timeout=build.import_timeout,
                check=False,
            )
    except subprocess.TimeoutExpired as late:
        raise BuildError(
            f"importing {build.app} took more than {late.timeout:.0f} s (celery_release_import_timeout): code that "
            "waits for a database or a network must do so in tasks, not during the import"
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


def _uncompiled(failure: CommandFailed, source: Path) -> str:
    """Return a remark about files that this Python can't compile: files for another version, or code templates.

    Raises:
        CommandFailed: Something else failed.
    """
    names = re.findall(
        rf"\*\*\* Error compiling '{re.escape(str(source))}/([^']+)'", failure.output
    )
    if not names:
        raise failure
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"files of the source that this Python can't compile: {', '.join(sorted(names)[:5])}{more}. They are "
        "kept; only code that imports them fails."
    )


def _build(build: Build, warnings: list[str]) -> Mapping[str, Any]:
    deadline = time.monotonic() + build.timeout

    def left(own: float = math.inf, variable: str = "") -> Limit:
        rest = max(1.0, deadline - time.monotonic())
        return Limit(own, variable) if own < rest else Limit(rest)

    user = user_of(build.user)
    source = build.path / "source"
    # Until it is complete, it belongs to the application's user.
    source.mkdir()
    os.chown(source, user.pw_uid, user.pw_gid)
    unpack_source(build, source, left(), user)
    try:
        run(
            [*compile_all(build), str(source)],
            left(build.compile_timeout, COMPILING),
            "compiling the source",
            user,
        )
    except CommandFailed as failure:
        warnings.append(_uncompiled(failure, source))
    give_to_root(source)
    venv = provide(build, left)
    (build.path / "venv").symlink_to(os.path.relpath(venv, build.path))
    # Flower's virtualenv has no application to check.
    return _checked(build) if build.app else {"tasks": [], "versions": {}}


def _processes(directory: Path) -> Iterator[tuple[int, str, Path]]:
    """Yield the processes that run below a directory: ID, program and relative working directory."""
    real = directory.resolve()
    for process in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            program = os.readlink(f"/proc/{process}/exe")
            where = Path(os.readlink(f"/proc/{process}/cwd"))
        except OSError:
            continue  # it has just ended
        if where.is_relative_to(real):
            yield int(process), program, where.relative_to(real)


def _in_use(root: Path) -> set[str]:
    links = [root / "current", *(root / "pins").glob("*")]
    # A command outlives the run that started it, and no link points to its release yet.
    running = {part for *_, where in _processes(root / "releases") for part in where.parts[:1]}
    return running | {Path(os.readlink(link)).name for link in links if link.is_symlink()}


def prune(root: Path, keep: int, spared: str = "") -> list[str]:
    """Remove unused releases, except the newest `keep`, and unfinished builds; return their names.

    Virtualenvs that no release is left to use are removed as well.

    The caller must hold the lock of `build`, so that no other build is running.

    Args:
        root: Directory of the application.
        keep: Number of releases to keep in addition to those in use.
        spared: Name of a release that is about to be used.

    Raises:
        BuildError: One of the directories is a link or does not belong to root.
    """
    refuse_foreign(root, root / "releases")
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
    prune_virtualenvs(root)
    return [path.name for path in removed]


def _require_unused(path: Path) -> None:
    """Refuse to rebuild a virtualenv for the host's new Python while processes of the old one use it.

    They have only loaded a part of their code, and no restart is planned for them, as the release has the same name.
    """
    python = outlived(str(path))
    # Ignore processes of the new Python: units fail at once, and a shell does not need the virtualenv.
    found = [
        process
        for process, program, _ in _processes(path)
        if program != python and os.path.basename(program).startswith(("python", "pypy"))
    ]
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
    remarks = clean_up(Limit(wanted.timeout))
    # An interrupted run leaves its build running here; the next run waits for it.
    with root_lock.held(Path(wanted.root) / ".build.lock"):
        return [*remarks, *_build_alone(wanted)]


def make_wheels(wanted: Build) -> None:
    """Build a release in a temporary directory, and write its wheels to `hand_over`.

    Raises:
        BuildError: It failed; the message is for the person who runs the play.
    """
    os.umask(0o022)
    limit = Limit(wanted.timeout)
    # If the wheelhouse is for new hosts, nothing has been deployed to this one yet.
    lacking = [] if _has_venv(wanted.python, limit) else ["python3-venv"]
    with (
        installed(lacking, limit),
        tempfile.TemporaryDirectory(prefix="celery-fleet-", dir="/var/tmp") as root,
    ):
        # The build's user may enter it, others may not.
        os.chown(root, -1, user_of(wanted.user).pw_gid)
        Path(root).chmod(0o750)
        # Don't import the application, because only hosts that run it have its environment.
        scratch = replace(wanted, root=root, app="")
        scratch.path.mkdir(parents=True)
        _build(scratch, [])


def _has_venv(python: str, limit: Limit) -> bool:
    try:
        run([python, "-c", "import ensurepip"], limit, "looking for venv", user_of("nobody"))
    except CommandFailed:
        return False
    return True


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
            "one_way": one_way(str(wanted.code)),
            "virtualenv": wanted.virtualenv,
            "packages": packages_of((path / "venv").resolve()),
        }
        write_note(path, NOTE, note, Limit(wanted.timeout), user_of(wanted.user))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        # Remove its virtualenv as well, because the fault may be a version that the requirements leave open.
        prune_virtualenvs(Path(wanted.root))
        raise
    # No link points to it yet.
    prune(Path(wanted.root), wanted.keep, spared=wanted.id)
    return warnings
