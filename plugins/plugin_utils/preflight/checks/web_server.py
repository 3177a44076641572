"""Says whether the command of the web process starts its server with the socket that systemd holds.

Tried with gunicorn 20.1 to 27, uvicorn 0.54, hypercorn 0.18 and daphne 4.2. Other servers are not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final

Fault = tuple[str, str] | None
Judge = Callable[[Sequence[str], Mapping[str, str], str], Fault]

# Words that may come before a server in the same process: env, Python, their options, and variables.
_SAME_PROCESS: Final = re.compile(r"(.*/)?(env|python[0-9.]*)|-.*|[A-Za-z_][A-Za-z0-9_]*=.*")
_DJANGO: Final = ("manage.py", "django-admin", "django")
_ELSEWHERE: Final = (
    "starts {} without the socket that systemd holds, so it would listen at an address of its own, and the site would "
    "not answer"
)
_HELD: Final = "systemd holds the socket"


def socket_fault(command: Sequence[str], environment: Mapping[str, object], listen: str) -> Fault:
    """Return what is wrong with a command and what to do; None if nothing is known to be wrong.

    Args:
        command: The words of `celery_producer_web.command`.
        environment: Variables of the process.
        listen: The value of `celery_producer_web_listen`: empty for a Unix socket.
    """
    for at, word in enumerate(command):
        # The value of an option is no program, except that of `python -m`.
        if at and command[at - 1].startswith("-") and command[at - 1] != "-m":
            continue
        name = PurePosixPath(word).name
        before, after = command[:at], command[at + 1 :]
        if name in _SERVERS:
            variables = {key: str(value) for key, value in environment.items()}
            variables |= dict(one.split("=", 1) for one in before if "=" in one)
            if name == "gunicorn" and not all(map(_SAME_PROCESS.fullmatch, before)):
                return None
            return _SERVERS[name](after, variables, listen)
        if name in _DJANGO and after[:1] == ["runserver"]:
            return (
                "starts Django's runserver, which can't use the socket that systemd holds",
                "start gunicorn, or another server that can, as in [python, -m, gunicorn, shop.wsgi]",
            )
    return None


def _uvicorn(options: Sequence[str], variables: Mapping[str, str], listen: str) -> Fault:
    if "3" in (*_values(options, "--fd"), variables.get("UVICORN_FD")):
        return None
    return _ELSEWHERE.format("uvicorn"), f"add --fd 3; {_HELD}"


def _hypercorn(options: Sequence[str], variables: Mapping[str, str], listen: str) -> Fault:
    # A file with its configuration may have the address.
    if "fd://3" in _values(options, "--bind", "-b") or any(_values(options, "--config", "-c")):
        return None
    return _ELSEWHERE.format("hypercorn"), f"add --bind fd://3; {_HELD}"


def _daphne(options: Sequence[str], variables: Mapping[str, str], listen: str) -> Fault:
    endpoints = [*_values(options, "--endpoint", "-e")]
    numbered = "3" in _values(options, "--fd") or any(one.startswith("fd:") for one in endpoints)
    if any(one.startswith("systemd:") for one in endpoints) or (listen and numbered):
        return None
    if listen:
        return _ELSEWHERE.format("daphne"), f"add --fd 3; {_HELD}"
    if numbered:
        return (
            "starts daphne with a file descriptor, which it takes for a TCP socket, but systemd holds a Unix socket",
            "write --endpoint systemd:domain=UNIX:index=0 in its place",
        )
    return _ELSEWHERE.format("daphne"), f"add --endpoint systemd:domain=UNIX:index=0; {_HELD}"


def _gunicorn(options: Sequence[str], variables: Mapping[str, str], listen: str) -> Fault:
    # Other addresses have no effect beside systemd's socket.
    if not any(value.startswith("fd://") for value in _values(options, "--bind", "-b")):
        return None
    return (
        "gives gunicorn the socket that systemd holds a second time, with which it does not start",
        "remove --bind; gunicorn finds systemd's socket itself",
    )


_SERVERS: Final[Mapping[str, Judge]] = {
    "uvicorn": _uvicorn,
    "hypercorn": _hypercorn,
    "daphne": _daphne,
    "gunicorn": _gunicorn,
}


def _values(words: Sequence[str], *names: str) -> Iterator[str]:
    """Yield the values of an option: `--bind VALUE`, `--bind=VALUE`, `-b VALUE` or `-bVALUE`."""
    for at, word in enumerate(words):
        for name in names:
            if word == name:
                yield from words[at + 1 : at + 2]
            elif word.startswith(f"{name}=" if name.startswith("--") else name):
                yield word.removeprefix(name).removeprefix("=")
