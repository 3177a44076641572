"""Build one release on a host: unpack, virtualenv, requirements, check; then, and only then, call it a release.

Runs on the host, inside the `release` module, as root. A directory under `releases/` is a release once it holds
`release.json`, which is written last; anything else there is what an earlier run left and is wiped.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .celery import environment_text
from .releases import NOTE, built, outlived, refusals


class BuildError(Exception):
    """The release can't be built; the message names what, where and what to do."""


class CommandFailed(BuildError):  # noqa: N818 - what a program says, not an error of ours
    """A program ended with another status than 0; `output` is all that it printed."""

    def __init__(self, what: str, output: str) -> None:
        """Say what failed, and with which last lines."""
        super().__init__(f"{what} failed; its last lines:\n{_tail(output)}")
        self.output = output


@dataclass(frozen=True)
class Build:
    """What to build; the fields are the `release` module's options."""

    id: str
    archive: str
    root: str
    directory: str
    requirements: str
    app: str
    python: str
    runtime: str
    user: str
    demands: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    secret_environment: dict[str, Any] = field(default_factory=dict)
    keep: int = 5
    timeout: float = 900.0

    @property
    def path(self) -> Path:
        """Directory of the release."""
        return Path(self.root) / "releases" / self.id

    @property
    def code(self) -> Path:
        """Directory in which its processes run."""
        return Path(os.path.normpath(self.path / "source" / self.directory))


def _tail(text: str, lines: int = 20) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-lines:])


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise BuildError(
            f"there is no user {name} on this host; settle celery_runtime first"
        ) from None


def _run(
    command: Sequence[str],
    timeout: float,
    what: str,
    user: pwd.struct_passwd,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
) -> str:
    """Run a command as the user of the build, with none of the environment of whoever runs Ansible.

    Returns what it printed.
    """
    try:
        done = subprocess.run(
            list(command),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"},
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"{what} took more than {timeout:.0f} s; raise celery_release_timeout"
        ) from None
    except FileNotFoundError as missing:
        raise BuildError(f"{what}: {missing.filename} is not on this host") from None
    if done.returncode != 0:
        raise CommandFailed(what, done.stdout)
    return str(done.stdout)


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


# What pip and compilers print where something of the host is missing, what that is, and what to do.
_PACKAGES = "celery_runtime_packages"
_MISSING = (
    (r"fatal error: Python\.h", "Python's headers", f"add python3-dev to {_PACKAGES}"),
    (
        r"pg_config(?: executable)? (?:is required|not found)",
        "PostgreSQL's headers",
        f"add libpq-dev, python3-dev and build-essential to {_PACKAGES}, or require psycopg2-binary",
    ),
    (
        r"mysql_config.*not found|Can not find valid pkg-config name",
        "MySQL's headers",
        f"add default-libmysqlclient-dev, pkg-config, python3-dev and build-essential to {_PACKAGES}",
    ),
    (
        (
            r"(?:command|execute) '\S*(?:gcc|g\+\+|cc|clang)'|\b(?:gcc|g\+\+|cc|make): (?:command )?not found"
            r"|No such file or directory: '\S*(?:gcc|g\+\+|cc|make)'|Unknown compiler|no acceptable C compiler"
        ),
        "a compiler",
        f"add build-essential and python3-dev to {_PACKAGES}, or require a version that has a wheel for this Python",
    ),
    (
        r"cargo.* not (?:installed|found)|can't find Rust compiler",
        "Rust",
        f"add cargo to {_PACKAGES}",
    ),
    (
        r"fatal error: (\S+\.h\w*): No such file|cannot find -l(\S+)",
        "{}",
        f"add the -dev package of that library to {_PACKAGES} (`apt-file search` finds it)",
    ),
    (
        (
            r"(?i)temporary failure in name resolution|failed to establish a new connection"
            r"|connection (?:refused|timed out)"
        ),
        "a way to the package index",
        "let this host reach it, or name another index or a proxy in its /etc/pip.conf",
    ),
    (
        r"No matching distribution found for (\S+)",
        "{} in the package index, for this Python",
        "correct the requirement, or set celery_release_python to a Python that it supports",
    ),
)
# The name of the requirement that pip was at, the surest first.
_AT = (
    r"(?:Failed building wheel for|No matching distribution found for) ([^\s;]+)",
    r"Building wheel for (\S+) .*error",
    r"(?m)^\s*Collecting ([^\s;]+)",
)


def _explained(failure: CommandFailed, log: Path) -> BuildError:
    """Name the package that can't be installed, what the host probably lacks, and the whole output."""
    output = failure.output
    at = next((found[-1] for pattern in _AT if (found := re.findall(pattern, output))), None)
    words = [str(failure)]
    if at:
        words.append(f"The package is {at}.")
    for pattern, what, remedy in _MISSING:
        if missing := re.search(pattern, output):
            name = next(filter(None, missing.groups()), "")
            words.append(f"Probably missing: {what.format(name)}. Remedy: {remedy}.")
            break
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(output)
    words.append(f"The whole output is in {log} on this host.")
    return BuildError("\n".join(words))


def _uncompiled(failure: CommandFailed, source: Path) -> str:
    """Name the files that this Python can't compile: of another one, or templates of code.

    Raises:
        CommandFailed: Something else has failed.
    """
    names = re.findall(
        rf"\*\*\* Error compiling '{re.escape(str(source))}/([^']+)'", failure.output
    )
    if not names:
        raise failure
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"files of the source that this Python can't compile: {', '.join(sorted(names)[:5])}{more}. They stay as they "
        "are; only what imports them fails."
    )


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


# As in fleet_preflight.source, which sees only what is written in the inventory.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - none is written to


def _require_visible(build: Build, python: str) -> None:
    """Refuse an interpreter that the check could run, but no unit."""
    if any(Path(python).is_relative_to(place) for place in _HIDDEN):
        raise BuildError(
            f"celery_release_python: {build.python} leads to {python}, which no process of the fleet sees: its units "
            "have ProtectHome= and PrivateTmp=. Name an interpreter that is installed elsewhere, such as below /opt or "
            "/usr/local."
        )


# Where Debian keeps the wheels that its own ensurepip unpacks, and where an interpreter of its own making has them.
_WHEELS = ("/usr/share/python-wheels/pip-*.whl",)
_BUNDLED = (
    "import ensurepip, os; print(os.path.join(os.path.dirname(ensurepip.__file__), '_bundled'))"
)


def _pip_wheel(build: Build, user: pwd.struct_passwd) -> str:
    """Path of the pip that the host has for new virtualenvs; nothing where the interpreter has to bring its own."""
    patterns = list(_WHEELS)
    if os.path.dirname(os.path.realpath(build.python)) != "/usr/bin":
        # Another interpreter than Debian's: its pip may need a newer Python than this one, and the other way round.
        try:
            bundled = _run(
                [build.python, "-I", "-c", _BUNDLED], min(30, build.timeout), "asking for pip", user
            )
        except BuildError:
            return ""
        patterns = [f"{bundled.strip()}/pip-*.whl"]
    found = sorted(path for pattern in patterns for path in glob.glob(pattern))
    return found[-1] if found else ""


def _compile_all(build: Build) -> list[str]:
    """The start of a command that compiles: the application's user can't write there later, when it would be needed.

    By the system's interpreter: the virtualenv's would run what its packages have put into .pth files.
    """
    return [build.python, "-I", "-m", "compileall", "-q", "-j", "0"]


def _give_to_root(directory: Path) -> None:
    """Make root the owner of a whole tree, which anybody may read and nobody else may write.

    Links change owner, what they point to does not. A directory is root's before its content is listed, and no entry
    is looked up by its whole path: a process that a package has left behind could still add or exchange entries.
    """

    def settle(name: Path | str, handle: int | None = None) -> None:
        os.chown(name, 0, 0, dir_fd=handle, follow_symlinks=False)
        mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
        if not stat.S_ISLNK(mode):
            runs = stat.S_ISDIR(mode) or mode & 0o111
            os.chmod(name, 0o755 if runs else 0o644, dir_fd=handle)

    settle(directory)
    for _, directories, names, handle in os.fwalk(directory, follow_symlinks=False):
        for name in (*directories, *names):
            settle(name, handle)


def _links_out(venv: Path) -> set[tuple[str, str]]:
    """Links in a virtualenv that lead out of it, each with its target."""
    root = os.path.realpath(venv)
    found = set()
    for base, directories, names in os.walk(root):
        for path in (os.path.join(base, name) for name in (*directories, *names)):
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
                found.add((os.path.relpath(path, root), os.readlink(path)))
    return found


def _refuse_links_out(venv: Path, made: set[tuple[str, str]]) -> None:
    """Refuse links that packages have left, other than those to the interpreter that `venv` has `made`."""
    strange = sorted(_links_out(venv) - made)
    if strange:
        shown = "\n".join(f"  {name} -> {target}" for name, target in strange[:5])
        raise BuildError(
            "installing the requirements has left links that lead out of the virtualenv:\n"
            f"{shown}\n"
            "Find the package that makes them, and take it out of the requirements or report it to its authors."
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
