"""Installs and compiles the packages of a release, and makes root own its files."""

from __future__ import annotations

import glob
import os
import pwd
import re
import stat
from pathlib import Path

from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    Build,
    BuildError,
    CommandFailed,
    _run,
)

# Beside the releases: what pip printed when the last build failed.
LOG = "build.log"


# Output of pip and compilers if something is missing on the host, what that is, and what to do.
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

# Patterns for the requirement that pip was working on, the most reliable first.
_AT = (
    r"(?:Failed building wheel for|No matching distribution found for) ([^\s;]+)",
    r"Building wheel for (\S+) .*error",
    r"(?m)^\s*Collecting ([^\s;]+)",
)


def _explained(failure: CommandFailed, log: Path) -> BuildError:
    """Return an error: which package can't be installed, what the host probably lacks, and where the output is."""
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


# Where Debian keeps the wheels for its ensurepip, and where other interpreters have them.
_WHEELS = ("/usr/share/python-wheels/pip-*.whl",)

_BUNDLED = (
    "import ensurepip, os; print(os.path.join(os.path.dirname(ensurepip.__file__), '_bundled'))"
)


def _pip_wheel(build: Build, user: pwd.struct_passwd) -> str:
    """Return the path of the host's pip for new virtualenvs; empty if the interpreter has to bring its own."""
    patterns = list(_WHEELS)
    if os.path.dirname(os.path.realpath(build.python)) != "/usr/bin":
        # For an interpreter that is not Debian's, pip and Python may each need another version than Debian has.
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
    """Return the beginning of a command that compiles packages now, as the application's user can't write there later.

    It uses the system's interpreter, because the virtualenv's would run code in its packages' .pth files.
    """
    return [build.python, "-I", "-m", "compileall", "-q", "-j", "0"]


def _give_to_root(directory: Path) -> None:
    """Make root the owner of a whole tree that all users may read and only root may write.

    Links change owner, their targets don't. A directory is given to root before its content is listed, and entries are
    not looked up by their whole path, because a process left behind by a package could still add or replace entries.
    """

    def give(name: Path | str, handle: int | None = None) -> None:
        os.chown(name, 0, 0, dir_fd=handle, follow_symlinks=False)
        mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
        if not stat.S_ISLNK(mode):
            runs = stat.S_ISDIR(mode) or mode & 0o111
            os.chmod(name, 0o755 if runs else 0o644, dir_fd=handle)

    give(directory)
    for _, directories, names, handle in os.fwalk(directory, follow_symlinks=False):
        for name in (*directories, *names):
            give(name, handle)


def _links_out(venv: Path) -> set[tuple[str, str]]:
    """Return links in a virtualenv that lead out of it, each with its target."""
    root = os.path.realpath(venv)
    found = set()
    for base, directories, names in os.walk(root):
        for path in (os.path.join(base, name) for name in (*directories, *names)):
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
                found.add((os.path.relpath(path, root), os.readlink(path)))
    return found


def _refuse_links_out(venv: Path, made: set[tuple[str, str]]) -> None:
    """Refuse links that packages have created, other than those to the interpreter that `venv` has `made`."""
    strange = sorted(_links_out(venv) - made)
    if strange:
        shown = "\n".join(f"  {name} -> {target}" for name, target in strange[:5])
        raise BuildError(
            "installing the requirements has left links that lead out of the virtualenv:\n"
            f"{shown}\n"
            "Find the package that makes them, and take it out of the requirements or report it to its authors."
        )
