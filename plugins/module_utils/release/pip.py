"""Runs pip for a release: which pip, and what a failure of it means."""

from __future__ import annotations

import glob
import os
import pwd
import re
from pathlib import Path

from .process import Build, BuildError, CommandFailed, Limit, run

# Beside the releases: what pip printed when the last build failed.
LOG = "build.log"


# Output of pip and compilers if something is missing on the host, what that is, and what to do.
_PACKAGES = "celery_release_build_packages"
_LIBRARIES = "celery_runtime_packages"
_INDEX = "celery_app_package_index"

_MISSING = (
    (r"fatal error: Python\.h", "Python's headers", f"add python3-dev to {_PACKAGES}"),
    (
        r"pg_config(?: executable)? (?:is required|not found)",
        "PostgreSQL's headers",
        (
            f"add libpq-dev, python3-dev and build-essential to {_PACKAGES} and libpq5 to {_LIBRARIES}, or require "
            "psycopg2-binary"
        ),
    ),
    (
        r"mysql_config.*not found|Can not find valid pkg-config name",
        "MySQL's headers",
        (
            f"add default-libmysqlclient-dev, pkg-config, python3-dev and build-essential to {_PACKAGES} and "
            f"libmariadb3 to {_LIBRARIES}"
        ),
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
        (
            f"add the -dev package of that library to {_PACKAGES} (`apt-file search` finds it) and the library to "
            f"{_LIBRARIES}"
        ),
    ),
    (
        r"\b401 Client Error|User for \S+: |\b403 Client Error",
        "a login that the package index accepts",
        f"correct {_INDEX}.logins, whose host has to be the one in the index's URL",
    ),
    (
        r"\b407 Proxy Authentication",
        "a login that the proxy accepts",
        f"correct {_INDEX}.logins, whose host has to be the one in {_INDEX}.proxy",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the authority that has signed the certificate of the package index",
        f"give its certificate as {_INDEX}.ca",
    ),
    (
        r"alert certificate required|alert handshake failure|EOF occurred in violation of protocol",
        "a client certificate that the package index accepts",
        f"give certificate and key as {_INDEX}.client_certificate",
    ),
    (
        (
            r"(?i)temporary failure in name resolution|failed to establish a new connection"
            r"|connection (?:refused|timed out)|tunnel connection failed|cannot connect to proxy"
        ),
        "a way to the package index",
        f"let this host reach it, or name another index or a proxy in {_INDEX}",
    ),
    (
        r"No matching distribution found for (\S+)",
        "{} in the package index, for this Python",
        "correct the requirement or celery_app_source.pip, or set celery_release_python to a Python that it supports",
    ),
)

# Patterns for the requirement that pip was working on, the most reliable first.
_AT = (
    r"(?:Failed building wheel for|No matching distribution found for) ([^\s;]+)",
    r"Building wheel for (\S+) .*error",
    r"(?m)^\s*Collecting ([^\s;]+)",
)


def explained(failure: CommandFailed, log: Path, details: str = "") -> BuildError:
    """Return an error: which package can't be installed, what the host probably lacks, and where the output is.

    Args:
        failure: What pip has printed.
        log: Where to write all of it.
        details: What pip has written to its own log.
    """
    output = "\n".join(filter(None, [details, failure.output]))
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


# Where Debian keeps the wheels for its ensurepip, and where other interpreters have them.
_WHEELS = ("/usr/share/python-wheels/pip-*.whl",)

_BUNDLED = (
    "import ensurepip, os; print(os.path.join(os.path.dirname(ensurepip.__file__), '_bundled'))"
)


def pip_wheel(build: Build, user: pwd.struct_passwd) -> str:
    """Return the path of the host's pip for new virtualenvs; empty if the interpreter has to bring its own."""
    patterns = list(_WHEELS)
    if os.path.dirname(os.path.realpath(build.python)) != "/usr/bin":
        # For an interpreter that is not Debian's, pip and Python may each need another version than Debian has.
        try:
            bundled = run(
                [build.python, "-I", "-c", _BUNDLED],
                Limit(min(30, build.timeout)),
                "asking for pip",
                user,
            )
        except BuildError:
            return ""
        patterns = [f"{bundled.strip()}/pip-*.whl"]
    found = sorted(path for pattern in patterns for path in glob.glob(pattern))
    return found[-1] if found else ""
