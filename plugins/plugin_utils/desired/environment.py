"""Environment files and variables of processes, and URLs with their passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    _VARIABLE,
    environment_text,
)

# The dynamic linker and the C library read these before a program begins, `env -i` included.
_BEFORE_MAIN = re.compile(r"LD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH")

# `celery_fleet.system.launch` takes this off again.
_CARRIED = "CELERY_FLEET_ENV_"


def environment_file(values: Mapping[str, Any] | None) -> str:
    """The text of a systemd environment file: each value in double quotes, as systemd.exec(5) reads them.

    A line break within the quotes is part of the value, so that a key in PEM form can be one.

    systemd also gives a unit's variables to the commands that it runs for it as root. Those by which a library of the
    application's could become root have another name in the file; only the process gets them by their own.

    Raises:
        ValueError: A name that systemd would pass over in silence.
    """
    lines = []
    for name, value in (values or {}).items():
        if not _VARIABLE.fullmatch(str(name)):
            raise ValueError(f"{name} can't be the name of an environment variable")
        text = environment_text(value)
        escaped = (
            text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        )
        prefix = _CARRIED if _BEFORE_MAIN.fullmatch(str(name)) else ""
        lines.append(f'{prefix}{name}="{escaped}"')
    return "\n".join(lines) + ("\n" if lines else "")


def url(parts: Mapping[str, Any]) -> str:
    """One URL of its parts, each percent-encoded, so that any password is taken for what it is.

    A host that is a path, as libpq takes one for a directory of sockets, is encoded whole; an IPv6 address stands in
    brackets.

    Args:
        parts: `scheme` and `host`, and any of `port`, `user`, `password`, `path` and `query` (name to value; a list of
            values is the name several times).
    """

    def text(name: str, safe: str = "") -> str:
        return quote(environment_text(parts.get(name)), safe=safe)

    login = text("user") + (f":{text('password')}" if parts.get("password") is not None else "")
    host = environment_text(parts["host"])
    address = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    port = f":{int(parts['port'])}" if parts.get("port") is not None else ""
    # Not as a form has it: to libpq a `+` is a plus sign, not a blank.
    query = "&".join(
        f"{quote(str(name), safe='')}={quote(environment_text(value), safe='')}"
        for name, given in (parts.get("query") or {}).items()
        for value in (given if isinstance(given, (list, tuple)) else [given])
    )
    path = environment_text(parts.get("path")).removeprefix("/")
    return "".join(
        (
            f"{parts['scheme']}://",
            f"{login}@" if login else "",
            address,
            port,
            f"/{quote(path, safe='/')}" if path else "",
            f"?{query}" if query else "",
        )
    )


def urls(given: Mapping[str, Mapping[str, Any]] | None) -> dict[str, str]:
    """celery_app_urls as variables of the environment."""
    return {str(name): url(parts) for name, parts in (given or {}).items()}


# Where a host's check of its health leaves its result, below that by the name of the application.
HEALTH = "/var/lib/celery-fleet/health"


def process_environment(
    component: str,
    runtime: str,
    command: str,
    extra: Mapping[str, Any] | None = None,
    app: str = "",
) -> dict[str, Any]:
    """The environment that makes a process one of the fleet: loader, runtime and command line.

    With the name of the application also where the host's health stands.
    """
    return {
        **(extra or {}),
        **({"CELERY_FLEET_HEALTH": f"{HEALTH}/{app}.json"} if app else {}),
        "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
        "PYTHONPATH": runtime,
        "PYTHONUNBUFFERED": "1",
        "CELERY_FLEET_COMPONENT": component,
        "CELERY_FLEET_ARGS": command,
    }
