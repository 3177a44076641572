"""Computes environment files and variables of processes, and URLs with their passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ansible_collections.celery_fleet.core.plugins.module_utils.environment_file import (
    VARIABLE_NAME,
    environment_text,
)

# The dynamic linker and the C library read these before a program begins, `env -i` included.
_BEFORE_MAIN = re.compile(r"LD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH")

# `celery_fleet.system.launch` removes this prefix again.
_LAUNCH_PREFIX = "CELERY_FLEET_ENV_"


def environment_file(values: Mapping[str, Any] | None) -> str:
    """Return the text of a systemd environment file, with each value in double quotes, as systemd.exec(5) reads them.

    A line break within the quotes is part of the value, so a value can be a key in PEM form.

    systemd also passes a unit's variables to the commands that it runs as root for the unit. Variables that would let
    a library of the application run as root have another name in the file; only the process gets their real names.

    Raises:
        ValueError: systemd would silently ignore a name.
    """
    lines = []
    for name, value in (values or {}).items():
        if not VARIABLE_NAME.fullmatch(str(name)):
            raise ValueError(f"{name} can't be the name of an environment variable")
        text = environment_text(value)
        escaped = (
            text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        )
        prefix = _LAUNCH_PREFIX if _BEFORE_MAIN.fullmatch(str(name)) else ""
        lines.append(f'{prefix}{name}="{escaped}"')
    return "\n".join(lines) + ("\n" if lines else "")


def url(parts: Mapping[str, Any]) -> str:
    """Return a URL composed of its parts, each percent-encoded, so that a password may contain any character.

    A host that is a path, which libpq reads as a directory of sockets, is encoded as a whole; an IPv6 address is put
    in brackets.

    Args:
        parts: `scheme` and `host`, and any of `port`, `user`, `password`, `path` and `query` (name to value; with a
            list of values the name is repeated).
    """

    def text(name: str, safe: str = "") -> str:
        return quote(environment_text(parts.get(name)), safe=safe)

    login = text("user") + (f":{text('password')}" if parts.get("password") is not None else "")
    host = environment_text(parts["host"])
    address = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    port = f":{int(parts['port'])}" if parts.get("port") is not None else ""
    # Not encoded like a form: libpq reads `+` as a plus sign, not a space.
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
    """Return celery_app_env_urls as environment variables."""
    return {str(name): url(parts) for name, parts in (given or {}).items()}


# Directory in which a host's health check leaves a result for each application.
HEALTH = "/var/lib/celery-fleet/health"


def process_environment(
    component: str,
    runtime: str,
    command: str,
    extra: Mapping[str, Any] | None = None,
    app: str = "",
) -> dict[str, Any]:
    """Return the environment that makes a process one of the fleet's: loader, runtime and command line.

    With `app`, the application's name, it also contains the path of the host's health result.
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
