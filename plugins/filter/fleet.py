"""Offers functions of `plugin_utils` as filters for the roles."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.celery_fleet.core.plugins.module_utils import names
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    acl,
    backup_options,
    claims,
    cli,
    delivery,
    directories,
    environment,
    exporters,
    firewall,
    groups,
    health,
    kept_release,
    nginx,
    redis,
    redis_address,
    redis_backup,
    replication,
    settings,
    surplus,
    unit_options,
    visibility,
    workers,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import Facts
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.monitoring import files
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki import (
    records,
    wanted,
    x509,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    release_commands,
    wheels,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import parts_in


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function with errors that Ansible prints in one line."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from error

    return wrapped


def pki_state(source: Any, host: str, **options: Any) -> dict[str, Any]:
    """Return `wanted.host_state` for the roles' variables."""
    return wanted.host_state(wanted.PkiVariables(source=source, **options), host)


def htpasswd(password: str, user: str, names: Iterable[str]) -> str:
    """Return a line of an htpasswd file (SHA-512-crypt), the same at each call for the same password.

    The salt is made from the user and from names that no other fleet has. The password must not be part of it: the
    salt is in the file, so a reader could try passwords without the rounds of the hash.

    Python 3.13 no longer has a crypt module; libcrypt, which glibc's own login uses, is on every Linux host.
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
    """Return the names of the plan's parts under these tags."""
    return [part.name for part in parts_in(run, skip)]


def site(
    facts: Facts, name: str, user: str, password: str, names: list[str], **options: Any
) -> dict[str, Any]:
    """Return `nginx.site` with the password in the form that nginx reads; for `names` see `htpasswd`."""
    line = htpasswd(password, user, [name, *names]) if options["protected"] else ""
    return nginx.site(facts, name, password_line=line, **options)


def location(
    name: str, user: str, password: str, names: list[str], **options: Any
) -> dict[str, Any]:
    """Return `nginx.location` with the password in the form that nginx reads; for `names` see `htpasswd`."""
    return nginx.location(name, password_line=htpasswd(password, user, [name, *names]), **options)


class FilterModule:
    """The names of the filters in the roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return all filters of the fleet."""
        return {
            "claims": _plain(claims.claims),
            "firewall_state": _plain(firewall.state),
            "host_addresses": _plain(firewall.host_addresses),
            "web_is_local": _plain(firewall.is_local),
            "nginx_upstream": _plain(firewall.upstream),
            "web_port": _plain(firewall.web_port),
            "worker_nodes": _plain(workers.nodes),
            "cli_application": _plain(cli.application),
            "health_setup": _plain(health.setup),
            "monitoring_files": _plain(files.files),
            "exporter_addresses": _plain(exporters.addresses),
            "redis_exporter_logins": _plain(exporters.redis_logins),
            "fleet_groups": _plain(groups.fleet_groups),
            "running_workers": _plain(workers.running),
            "plan_parts": _plain(parts),
            "longest_drain": _plain(workers.longest_drain),
            "redis_backup_interval": _plain(backup_options.interval),
            "redis_restored": _plain(redis_backup.restored),
            "redis_backup_state": _plain(redis_backup.backup_state),
            "replica_priority": _plain(replication.replica_priority),
            "redis_replicated": _plain(redis_address.replicated),
            "redis_knows_setinfo": _plain(acl.knows_setinfo),
            "redis_state": _plain(redis.redis_state),
            "declared_directories": _plain(directories.directories),
            "surplus": _plain(surplus.surplus),
            "unit_drop_in": _plain(unit_options.drop_in),
            "visibility_timeout": _plain(visibility.visibility_timeout),
            "stock_visibility": _plain(visibility.stock_visibility),
            "delivery_options": _plain(delivery.document),
            "fetches_atomically": _plain(delivery.fetches_atomically),
            "keeps_tasks_on_reconnect": _plain(delivery.keeps_tasks_on_reconnect),
            "known_routes": _plain(kept_release.known_routes),
            "known_schedule": _plain(kept_release.known_schedule),
            "queues": _plain(workers.queues),
            "release_commands_begun": _plain(release_commands.begun),
            "release_commands_due": _plain(release_commands.due),
            "release_commands_items": _plain(release_commands.items),
            "release_commands_names": _plain(release_commands.names),
            "consumed_queues": _plain(workers.consumed),
            "process_environment": _plain(environment.process_environment),
            "worker_state": _plain(workers.worker_state),
            "process_settings": _plain(settings.process_settings),
            "environment_file": _plain(environment.environment_file),
            "pki_state": _plain(pki_state),
            "pki_record": _plain(records.record_text),
            "pki_key_is_encrypted": _plain(x509.is_encrypted),
            "pki_clients": _plain(records.everybody_shows_one),
            "nginx_site": _plain(site),
            "nginx_location": _plain(location),
            "package_differences": _plain(wheels.differences),
            "path_prefix": _plain(nginx.path_prefix),
            "slice_unit": _plain(names.slice_unit),
            "join_urls": _plain(environment.urls),
        }
