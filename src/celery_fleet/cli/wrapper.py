#!/usr/bin/python3 -SI
# Written by Celery Fleet as /usr/local/bin/celery-fleet. It belongs to no application and to no version: it runs the
# command of the chosen application, which that application's /etc/celery-fleet/<app>/cli.json names.
"""Find the operator's command of an application and run it in place of this process."""

from __future__ import annotations

# Built into Python. The module `signal` loads others from files first, and Ctrl-C could come meanwhile.
import _signal  # type: ignore[import-not-found]  # typeshed does not have it

if __name__ == "__main__" and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until the command has taken its place, Ctrl-C ends this process without a traceback.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import glob
import json
import os
import sys

PATTERN = "/etc/celery-fleet/*/cli.json"


def named(argv: list[str], environ: dict[str, str], option: str = "--app") -> str:
    """Return an option's value from the command line, or else CELERY_FLEET_APP; empty if neither is given."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    for number, word in enumerate(own):
        if word.startswith(f"{option}="):
            return word[len(option) + 1 :]
        if word == option and number + 1 < len(own):
            return own[number + 1]
    return environ.get("CELERY_FLEET_APP", "")


def chosen(paths: list[str], name: str) -> str:
    """Return the application's file; without a name any one: its command then reports that there are several."""
    own = [path for path in paths if path.split("/")[-2] == name]
    return (own or sorted(paths) or [""])[0]


def main(argv: list[str], environ: dict[str, str]) -> int:
    """Replace this process with the command; return only after a mistake."""
    path = chosen(glob.glob(PATTERN), named(argv, environ))
    if not path:
        print(
            "celery-fleet: there is no application of Celery Fleet on this host (" + PATTERN + ");"
            " deploy one with site.yml",
            file=sys.stderr,
        )
        return 3
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        command = found["runtime"] + "/celery_fleet/cli/__main__.py"
        # Use isolated mode, because this runs as root in any directory and with any environment.
        os.execv(found["python"], [found["python"], "-I", command, *argv])  # noqa: S606  # no shell is wanted
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"celery-fleet: {path}: {error}; run site.yml again", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
