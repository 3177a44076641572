"""Filters of the fleet's roles: thin names over `fleet_control`."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.celery_fleet.core.plugins.module_utils.fleet_control import (
    celery,
    claims,
    cli,
    commands,
    delivery,
    firewall,
    health,
    plan,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.fleet_preflight import pki


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with errors that Ansible prints in one line."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return wrapped


def pki_state(source: Any, host: str, **options: Any) -> dict[str, Any]:
    """`pki.host_state` of the roles' variables."""
    return pki.host_state(pki.Given(source=source, **options), host)


def htpasswd(password: str, user: str, names: Iterable[str]) -> str:
    """A line of an htpasswd file (SHA-512-crypt), the same at each call for the same password.

    The salt is made of the user and of names that another fleet does not have. The password must not be part of it: the
    salt stands in the file, and who has that could then try passwords without the rounds of the hash.

    Python 3.13 has no crypt module any more; libcrypt, which glibc's own login uses, is on every Linux host.
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    seed = hashlib.sha256("\0".join(map(str, ("htpasswd", *names, user))).encode()).digest()
    salt = base64.b64encode(seed, altchars=b"./")[:16].decode()
    hashed = library.crypt(password.encode(), f"$6${salt}$".encode())
    if not hashed or not hashed.startswith(b"$6$"):
        raise ValueError("libcrypt can't make a SHA-512 hash")
    return f"{user}:{hashed.decode()}\n"


def parts(run: list[str], skip: list[str]) -> list[str]:
    """Names of the plan's parts under these tags."""
    return [part.name for part in plan.parts_in(run, skip)]


def site(name: str, user: str, password: str, names: list[str], **options: Any) -> dict[str, Any]:
    """`celery.site` with the password in the form that nginx reads; for `names` see `htpasswd`."""
    line = htpasswd(password, user, [name, *names]) if options["protected"] else ""
    return celery.site(name, password_line=line, **options)


def location(
    name: str, user: str, password: str, names: list[str], **options: Any
) -> dict[str, Any]:
    """`celery.location` with the password in the form that nginx reads; for `names` see `htpasswd`."""
    return celery.location(name, password_line=htpasswd(password, user, [name, *names]), **options)


class FilterModule:
    """Names under which the roles use them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """All filters of the fleet."""
        return {
            "fleet_claims": _plain(claims.claims),
            "fleet_firewall": _plain(firewall.state),
            "fleet_firewall_text": _plain(firewall.text_of),
            "fleet_is_local": _plain(firewall.is_local),
            "fleet_upstream": _plain(firewall.upstream),
            "fleet_web_port": _plain(firewall.web_port),
            "fleet_nodes": _plain(celery.nodes),
            "fleet_cli": _plain(cli.application),
            "fleet_health": _plain(health.setup),
            "fleet_running": _plain(celery.running),
            "fleet_parts": _plain(parts),
            "fleet_longest_drain": _plain(celery.longest_drain),
            "fleet_knows_setinfo": _plain(celery.knows_setinfo),
            "fleet_redis_state": _plain(celery.redis_state),
            "fleet_surplus": _plain(celery.surplus),
            "fleet_visibility_timeout": _plain(celery.visibility_timeout),
            "fleet_stock_visibility": _plain(celery.stock_visibility),
            "fleet_delivery": _plain(delivery.document),
            "fleet_takes_atomically": _plain(delivery.takes_atomically),
            "fleet_queues": _plain(celery.queues),
            "fleet_commands_due": _plain(commands.due),
            "fleet_commands_items": _plain(commands.items),
            "fleet_commands_names": _plain(commands.names),
            "fleet_consumed": _plain(celery.consumed),
            "fleet_process_environment": _plain(celery.process_environment),
            "fleet_worker_state": _plain(celery.worker_state),
            "fleet_settings": _plain(celery.process_settings),
            "fleet_environment_file": _plain(celery.environment_file),
            "fleet_alternative_name": _plain(pki.alternative_name),
            "fleet_pki_state": _plain(pki_state),
            "fleet_pki_record": _plain(pki.record_text),
            "fleet_pki_encrypted": _plain(pki.is_encrypted),
            "fleet_pki_clients": _plain(pki.everybody_shows_one),
            "fleet_site": _plain(site),
            "fleet_location": _plain(location),
            "fleet_path_prefix": _plain(celery.path_prefix),
            "fleet_slice": _plain(celery.slice_unit),
            "fleet_urls": _plain(celery.urls),
        }
