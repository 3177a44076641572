"""Makes virtualenvs, which releases with the same requirements share.

`virtualenvs/<name>/` of an application holds one. The note `virtualenv.json` in it, written last, names its packages.
The control node computes the name from everything that decides which packages those are: the requirements, the
interpreter and the platform. The `venv` of a release is a link to its virtualenv.

Packages come from an index as wheels, or are built into wheels, on one host of each platform. All other hosts install
these wheels and ask no index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from .debian import installed
from .index import settings
from .note import VIRTUALENV_NOTE, works
from .ownership import give_to_root, links_out, refuse_foreign, refuse_links_out
from .pip import LOG, explained, pip_wheel
from .process import (
    Build,
    BuildError,
    CommandFailed,
    Limit,
    run,
    unpack,
    unpack_source,
    user_of,
    write_note,
)

#: Where an application's virtualenvs are, below its root.
VIRTUALENVS = "virtualenvs"

# `celery-5.5.0-py3-none-any.whl`: its first two parts are name and version.
_WHEEL = re.compile(r"([^-]+)-([^-]+)(?:-[^-]+){3,4}\.whl")

#: Variable that limits the compilation.
COMPILING = "celery_release_compile_timeout"

# As in preflight/checks/sandbox.py, which only sees the path in the inventory.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is written to

# Bytes of pip's log that are kept when it fails.
_LONGEST_LOG = 4_000_000


def compile_all(build: Build) -> list[str]:
    """Return the beginning of a command that compiles packages now, as the application's user can't write there later.

    It uses the system's interpreter, because the virtualenv's would run code in its packages' .pth files.
    """
    return [build.python, "-I", "-m", "compileall", "-q", "-j", "0"]


def provide(build: Build, left: Callable[..., Limit]) -> Path:
    """Return the virtualenv of a release; make it if this host has none of this name.

    Args:
        build: The release, with its source unpacked.
        left: Returns how long the build, or a step with its own limit, may still take.

    Raises:
        BuildError: A package can't be installed. Nothing is left except pip's output.
    """
    path = Path(build.root) / VIRTUALENVS / build.virtualenv
    if (path / VIRTUALENV_NOTE).is_file() and works(str(path)):
        return path
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        shutil.rmtree(path)
    path.mkdir()
    try:
        packages = _make(build, path, left)
        write_note(path, VIRTUALENV_NOTE, {"packages": packages}, left(), user_of(build.user))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return path


def packages_of(virtualenv: Path) -> list[dict[str, str]]:
    """Return the packages of a virtualenv; each has `name`, `version` and the `sha256` of its wheel."""
    note = json.loads((virtualenv / VIRTUALENV_NOTE).read_text())
    return [dict(package) for package in note["packages"]]


def prune_virtualenvs(root: Path) -> None:
    """Remove virtualenvs that no release uses, also unfinished ones; the caller holds the lock of `build`."""
    links = [path for path in (root / "releases").glob("*/venv") if path.is_symlink()]
    used = {Path(os.readlink(link)).name for link in links}
    with contextlib.suppress(FileNotFoundError):
        refuse_foreign(root, root / VIRTUALENVS)
        for path in list((root / VIRTUALENVS).iterdir()):
            if path.name not in used:
                # Remove the note first, so that an interrupted removal leaves nothing that looks complete.
                (path / VIRTUALENV_NOTE).unlink(missing_ok=True)
                shutil.rmtree(path)


def _make(build: Build, venv: Path, left: Callable[..., Limit]) -> list[dict[str, str]]:
    user = user_of(build.user)
    # Until it is complete, it belongs to the application's user.
    os.chown(venv, user.pw_uid, user.pw_gid)
    host_pip = pip_wheel(build, user)
    # Copying pip into each virtualenv takes longer than anything except the packages. So use the host's pip from its
    # wheel, with the virtualenv's interpreter.
    make = [build.python, "-m", "venv", *(["--without-pip"] if host_pip else []), str(venv)]
    run(make, left(), "making the virtualenv", user)
    _require_visible(build, os.path.realpath(f"{venv}/bin/python"))
    made = links_out(venv)
    pip = [
        f"{venv}/bin/python",
        *([f"{host_pip}/pip"] if host_pip else ["-m", "pip"]),
        "--disable-pip-version-check",
    ]
    # In the user's own directory, a link could replace what root creates there before it changes the owner.
    work = build.path / "work"
    # What root unpacks there, possibly device nodes, has not been checked yet. Other users must not reach it.
    work.mkdir(mode=0o700 if build.user == "root" else 0o755)
    wheels = _owned(work / "wheels", user)
    if build.wheels:
        unpack(build.wheels, wheels, left(), "unpacking the packages", user)
    else:
        with (
            installed(build.build_packages, left()),
            settings(build.index, work / "pip", user) as environment,
        ):
            # Build tools run in the temporary directory, and hardened hosts don't let programs run in /tmp.
            temporary = {"TMPDIR": str(_owned(work / "tmp", user))}
            _collect_wheels(build, pip, wheels, left(), user, {**environment, **temporary})
    _install(build, pip, wheels, left(), user)
    # Packages may contain files for other versions of Python. Like pip, leave them uncompiled.
    quietly = [*compile_all(build), "-q", *map(str, venv.glob("lib/python*/site-packages"))]
    with contextlib.suppress(CommandFailed):
        run(quietly, left(build.compile_timeout, COMPILING), "compiling the packages", user)
    if build.hand_over:
        _hand_over(build, wheels, left(), user)
    give_to_root(venv)
    refuse_links_out(venv, made)
    give_to_root(wheels)
    packages = _packages(wheels)
    shutil.rmtree(work)
    return packages


def _require_visible(build: Build, python: str) -> None:
    """Refuse an interpreter that the check can run but units can't."""
    if any(Path(python).is_relative_to(place) for place in _HIDDEN):
        raise BuildError(
            f"celery_release_python: {build.python} leads to {python}, which the fleet's units can't see, because "
            "they have ProtectHome= and PrivateTmp=. Name an interpreter that is installed elsewhere, such as below "
            "/opt or /usr/local."
        )


def _owned(path: Path, user: pwd.struct_passwd) -> Path:
    path.mkdir()
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


def _collect_wheels(
    build: Build,
    pip: list[str],
    wheels: Path,
    limit: Limit,
    user: pwd.struct_passwd,
    environment: Mapping[str, str],
) -> None:
    """Download the requirements with everything that they need as wheels; build those that the index has as source."""
    source = build.path / "source"
    if build.local:
        # Building a package writes beside its code, and the release's source belongs to root by now.
        source = _owned(wheels.parent / "source", user)
        unpack_source(build, source, limit, user)
    base = _base(build, source)
    file = base / build.requirements
    # Exported from a lock; see `plugin_utils/run/lock_files.py`.
    exported = file.parent.name == ".celery-fleet"
    root = file.parents[1] if exported else base
    # It has what pip does not print, such as an index's answers. The user writes it, so it is among the wheels.
    log = wheels / "pip.log"
    command = [
        *pip,
        "wheel",
        "--no-input",
        "--no-cache-dir",
        "--progress-bar=off",
        "--log",
        str(log),
        # Without it, old packages need setuptools in the virtualenv.
        "--use-pep517",
        "--wheel-dir",
        str(wheels),
        "--requirement",
    ]
    environment = {**environment, "PROJECT_ROOT": str(root)}
    what = "installing the requirements"
    try:
        run([*command, str(file)], limit, what, user, str(root), environment)
        projects = file.with_name("projects.txt")
        if exported and projects.is_file():
            # What they need is in the lock.
            run([*command, str(projects), "--no-deps"], limit, what, user, str(root), environment)
    except CommandFailed as failure:
        raise explained(failure, build.path.parent / LOG, _read(log)) from None
    log.unlink(missing_ok=True)
    if build.local:
        shutil.rmtree(source)


def _base(build: Build, source: Path) -> Path:
    """Return the directory to which the name of the requirements file is relative."""
    # `.` and `./lib` are relative to the directory for which the file was named.
    places = [Path(os.path.normpath(source / build.directory)), source]
    base = next((path for path in places if (path / build.requirements).is_file()), None)
    if base is None:
        raise BuildError(
            f"the source has no {build.directory}/{build.requirements} (celery_app_source.requirements)"
        )
    return base


def _read(path: Path) -> str:
    """Return the text of a file of the user's, who may have put something else in its place."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(handle, "rb") as stream:
        regular = stat.S_ISREG(os.fstat(handle).st_mode)
        return stream.read(_LONGEST_LOG).decode(errors="replace") if regular else ""


def _install(
    build: Build, pip: list[str], wheels: Path, limit: Limit, user: pwd.struct_passwd
) -> None:
    names = sorted(str(path) for path in wheels.glob("*.whl"))
    if not names:
        return
    options = ["--no-input", "--progress-bar=off", "--no-index", "--no-deps", "--no-compile"]
    if build.user == "root":
        # The operator's command. Another host or a wheelhouse may have replaced its packages, so pip compares them with
        # the hashes that come from the control node.
        requirements = _base(build, build.path / "source") / build.requirements
        options += ["--require-hashes", f"--find-links={wheels}"]
        names = ["--requirement", str(requirements)]
    try:
        # It is compiled later, on all processors at once.
        run([*pip, "install", *options, *names], limit, "installing the packages", user)
    except CommandFailed as failure:
        raise explained(failure, build.path.parent / LOG) from None


def _hand_over(build: Build, wheels: Path, limit: Limit, user: pwd.struct_passwd) -> None:
    """Write the wheels to a file from which the other hosts get them.

    tar runs as the application's user, who owns the wheels: a link among them must not lead to root's files.
    """
    target = Path(build.hand_over)
    owner = target.parent.stat()
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        names = sorted(path.name for path in wheels.glob("*.whl"))
        command = ["tar", "--create", "--file", "-", "--directory", str(wheels), "--", *names]
        if not names:
            command = ["tar", "--create", "--file", "-", "--files-from", "/dev/null"]
        run(command, limit, "packing the wheels", user, stdout=stream)
        # The user who logs in to the host fetches it, and could have put a link in its place by now.
        os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)


def _packages(wheels: Path) -> list[dict[str, str]]:
    """Return name, version and hash of each wheel. Root owns them by now, so none of them can be replaced."""
    found = []
    for path in sorted(wheels.iterdir()):
        name = _WHEEL.fullmatch(path.name)
        if name and stat.S_ISREG(path.lstat().st_mode):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            package = name[1].replace("_", "-").lower()
            found.append({"name": package, "version": name[2], "sha256": digest})
    return found
