"""Filters of the fleet's roles: thin names over `fleet_control`."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
import ipaddress
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

PLUGINS = Path(__file__).resolve().parents[1]
# ansible.cfg's `module_utils` is where modules are packed from; a plugin of the control side does not see it.
if str(PLUGINS / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(PLUGINS / "module_utils"))

from ansible.module_utils.fleet_control import (  # noqa: E402  # needs the path above
    celery,
    claims,
    cli,
    commands,
    delivery,
    firewall,
    health,
    plan,
)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with errors that Ansible prints in one line."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return wrapped


def subject_alternative_name(name: str) -> str:
    """A host name or address in the form that a certificate request takes."""
    try:
        return f"IP:{ipaddress.ip_address(str(name))}"
    except ValueError:
        return f"DNS:{name}"


def certificate_serves(pem: str, names: list[str], authority: str, days: float, key: str) -> bool:
    """Whether a certificate is for exactly these names, signed by this authority, and lasts some more days.

    Args:
        pem: The certificate.
        names: Names as `subject_alternative_name` writes them.
        authority: The signer's certificate.
        days: Fewer days left count as none.
        key: Its private key, which a run that broke off may have made anew.
    """
    certificate = x509.load_pem_x509_certificate(pem.encode())
    signer = x509.load_pem_x509_certificate(authority.encode())
    private = serialization.load_pem_private_key(key.encode(), password=None)
    if private.public_key() != certificate.public_key():
        return False
    try:
        certificate.verify_directly_issued_by(signer)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    found = {f"DNS:{name}" for name in extension.value.get_values_for_type(x509.DNSName)}
    found |= {f"IP:{address}" for address in extension.value.get_values_for_type(x509.IPAddress)}
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    return found == set(names) and left > timedelta(days=float(days))


def htpasswd(password: str, user: str) -> str:
    """A line of an htpasswd file (SHA-512-crypt), the same at each call for the same password.

    Python 3.13 has no crypt module any more; libcrypt, which glibc's own login uses, is on every Linux host.
    """
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    # The salt need not be secret; derived from both, it differs by user and password and stays put.
    seed = hashlib.sha256(f"htpasswd\0{user}\0{password}".encode()).digest()
    salt = base64.b64encode(seed, altchars=b"./")[:16].decode()
    hashed = library.crypt(password.encode(), f"$6${salt}$".encode())
    if not hashed or not hashed.startswith(b"$6$"):
        raise ValueError("libcrypt can't make a SHA-512 hash")
    return f"{user}:{hashed.decode()}\n"


def parts(run: list[str], skip: list[str]) -> list[str]:
    """Names of the plan's parts under these tags."""
    return [part.name for part in plan.parts_in(run, skip)]


def site(name: str, user: str, password: str, **options: Any) -> dict[str, Any]:
    """`celery.site` with the password in the form that nginx reads."""
    line = htpasswd(password, user) if options["protected"] else ""
    return celery.site(name, password_line=line, **options)


def location(name: str, user: str, password: str, **options: Any) -> dict[str, Any]:
    """`celery.location` with the password in the form that nginx reads."""
    return celery.location(name, password_line=htpasswd(password, user), **options)


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
            "fleet_redis_state": _plain(celery.redis_state),
            "fleet_surplus": _plain(celery.surplus),
            "fleet_visibility_timeout": _plain(celery.visibility_timeout),
            "fleet_stock_visibility": _plain(celery.stock_visibility),
            "fleet_delivery": _plain(delivery.document),
            "fleet_takes_atomically": _plain(delivery.takes_atomically),
            "fleet_scheduled": _plain(celery.scheduled),
            "fleet_queues": _plain(celery.queues),
            "fleet_commands_due": _plain(commands.due),
            "fleet_commands_items": _plain(commands.items),
            "fleet_commands_names": _plain(commands.names),
            "fleet_consumed": _plain(celery.consumed),
            "fleet_worker_options": _plain(celery.worker_options),
            "fleet_process_environment": _plain(celery.process_environment),
            "fleet_worker_state": _plain(celery.worker_state),
            "fleet_settings": _plain(celery.process_settings),
            "fleet_environment_file": _plain(celery.environment_file),
            "fleet_alternative_name": _plain(subject_alternative_name),
            "fleet_certificate_serves": _plain(certificate_serves),
            "fleet_site": _plain(site),
            "fleet_location": _plain(location),
            "fleet_path_prefix": _plain(celery.path_prefix),
            "fleet_slice": _plain(celery.slice_unit),
            "fleet_urls": _plain(celery.urls),
        }
