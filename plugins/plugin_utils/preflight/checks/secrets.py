"""Checks that secrets are set, not placeholders, long enough, different, and valid in the files they go to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from ...desired.acl import REPLICATION_USERS
from ...desired.backup_options import BACKUP_USER
from ...desired.backup_options import VARIABLE as BACKUP
from ...desired.exporters import REDIS, REDIS_USER
from ..model.inventory import UNKNOWN, Model, Problem, as_list, as_mapping, dotted
from ..model.redact import is_secret_name
from ..model.report import with_hosts
from ..model.specs import Option, options_of
from .names import allowed

SHORTEST: Final = 16
_PLACEHOLDER = re.compile(
    # As whole words: a token may begin with todoist or replacement, and XML with <.
    r"(django-insecure-)?(change|replace|fill|insert)[-_ ]?(me|this|it|in|here|with)(?![a-z0-9]).*|replace"
    r"|(todo|fixme)([-_ :].*)?|(your|put|enter|generate)[-_ ].*(password|passphrase|secret|token|key|here).*"
    r"|x{3,}|\*{3,}|[a-z_-]{0,10}\.{3,}|<[^<>]*>|\$?\{+[a-z_ ]+\}+|__[a-z_]+__|(?P<one>.)(?P=one){7,}|(1234567890)+\d*"
    r"|(my|your)?[-_ ]?(secret|password|passphrase|example|placeholder)[0-9]*",
    re.IGNORECASE | re.DOTALL,
)
_GENERATE: Final = "put a random one into the environment's vault.yml: openssl rand -hex 24"
_PLACEHOLDER_LEFT: Final = "is a placeholder that has not been replaced"
# Secrets with their own checks: the application's, URLs, and keys, which have several lines.
_OF_THEIR_OWN: Final = (
    "celery_app_secret_env",
    "celery_app_broker_url",
    "celery_app_results_url",
    "pki_ca_key",
    "pki_client_key",
    "pki_key",
)

_REDIS: Final = ("redis_passwords", "celery_app_client_passwords")


def check_secrets(model: Model) -> Iterator[Problem]:
    """Check each secret of the roles, then whether any two are the same."""
    holders: dict[str, dict[str, list[str]]] = {}
    for name in _secret_variables(model):
        for value, hosts in model.distinct(name):
            for path, secret in _secrets(model, (name,), value):
                yield from with_hosts(hosts, _one(model, path, secret))
                if isinstance(secret, str) and secret and not _is_placeholder(model, path, secret):
                    holders.setdefault(secret, {}).setdefault(dotted(path), []).extend(hosts)
    for paths in holders.values():
        if len(paths) > 1:
            first, *others = sorted(paths)
            yield Problem(
                first,
                f"is the same secret as {', '.join(others)}",
                f"give each its own; {_GENERATE}",
                value="<secret>",
                hosts=tuple(dict.fromkeys(host for hosts in paths.values() for host in hosts)),
            )
    yield from _web_password(model)
    yield from _cache_password(model)
    yield from _backup_password(model)
    yield from _replication_passwords(model)
    yield from _exporter_passwords(model)
    yield from _application(model)


def is_placeholder(text: str) -> bool:
    """Return whether a text is a placeholder for a secret that is still to be written."""
    return not text.strip() or _PLACEHOLDER.fullmatch(text.strip()) is not None


def _is_placeholder(model: Model, path: tuple[str, ...], text: str) -> bool:
    """Return whether a secret looks like a placeholder and the inventory does not list it as a real one."""
    return is_placeholder(text) and not allowed(model, "preflight_allowed_placeholders")(
        dotted(path)
    )


def _allow(path: tuple[str, ...]) -> str:
    """Return the remedy for a secret that only looks like a placeholder."""
    return f"if it is the real one, add {dotted(path)} to preflight_allowed_placeholders"


def _password(text: str) -> str:
    """Return the password in a URL, or the text itself if there is none."""
    try:
        return (urlsplit(text).password if "://" in text else None) or text
    except ValueError:
        return text


def _secret_variables(model: Model) -> list[str]:
    """Return the variables with the fleet's own secrets; the application's are checked separately."""
    return [
        name
        for name, option in model.specs.options.items()
        if name not in _OF_THEIR_OWN
        and (option.get("no_log") is True or is_secret_name(name))
        and option.get("type", "str") in ("str", "dict", "raw")
    ]


def _secrets(
    model: Model, path: tuple[str, ...], value: object
) -> Iterator[tuple[tuple[str, ...], object]]:
    option: Option = model.specs.options.get(path[0], {})
    if isinstance(value, Mapping):
        options = options_of(option)
        for key, item in as_mapping(value).items():
            # Another check reports a key that the spec does not have, without showing it.
            if not options or key in options:
                yield (*path, key), item
    elif isinstance(value, (str, int)) and option.get("type", "str") != "dict":
        yield path, value


def _one(model: Model, path: tuple[str, ...], value: object) -> Iterator[Problem]:
    if value is UNKNOWN or isinstance(value, bool) or not isinstance(value, (str, int)):
        return
    text = str(value)
    reason = remedy = ""
    if not text:
        reason, remedy = "is empty", _GENERATE
    elif _is_placeholder(model, path, text):
        reason, remedy = _PLACEHOLDER_LEFT, f"{_GENERATE}; {_allow(path)}"
    elif len(text) < SHORTEST:
        reason, remedy = f"is shorter than {SHORTEST} characters", _GENERATE
    elif any(ord(c) < 32 or ord(c) == 127 for c in text):
        reason = "has a line end or a control character"
        remedy = "write it on one line; a block scalar (|) adds a line end"
    elif path[0] in _REDIS and (" " in text or not text.isascii()):
        reason = "has a space or a character outside ASCII, which Redis's ACL file can't contain"
        remedy = _GENERATE
    elif path[0] == "flower_auth_password" and "," in text:
        reason = (
            "has a comma, which Flower reads as a separator between users, so no user could log in"
        )
        remedy = _GENERATE
    if reason:
        yield Problem(dotted(path), reason, remedy, value=model.show(path, value))


def _web_password(model: Model) -> Iterator[Problem]:
    """Refuse protected paths without a password."""
    name = "celery_producer_web_auth_password"
    for host in model.members("celery_producers"):
        paths = model.value(host, "celery_producer_web_protected_paths")
        web = as_mapping(model.value(host, "celery_producer_web"))
        if as_list(paths) and web.get("command") and name not in model.given[host]:
            yield Problem(
                name,
                "is not set, but celery_producer_web_protected_paths has paths",
                _GENERATE,
                hosts=(host,),
            )


def _cache_password(model: Model) -> Iterator[Problem]:
    """Refuse a cache without a password."""
    for host in model.members("fleet"):
        if model.value(host, "celery_app_cache") is True:
            yield from _user_of_redis(model, host, "cache", "celery_app_cache is true")


def _user_of_redis(model: Model, host: str, user: str, wanted: str) -> Iterator[Problem]:
    """Refuse a feature without a password for its user in Redis.

    Args:
        model: The inventory.
        host: The host with the feature.
        user: The user.
        wanted: What is set, for the message.
    """
    passwords = model.value(host, "redis_passwords")
    if passwords is not UNKNOWN and user not in as_mapping(passwords):
        yield Problem(
            f"redis_passwords.{user}", f"is not set, but {wanted}", _GENERATE, hosts=(host,)
        )


def _backup_password(model: Model) -> Iterator[Problem]:
    """Refuse backups without a user in Redis."""
    for host in model.members("redis"):
        wanted = model.value(host, BACKUP)
        if wanted and wanted is not UNKNOWN:
            yield from _user_of_redis(model, host, BACKUP_USER, f"{BACKUP} is")


def _exporter_passwords(model: Model) -> Iterator[Problem]:
    """Refuse an exporter without a password for Prometheus or, if the fleet runs Redis, for its user there."""
    name = "celery_exporter_auth_password"
    for host in model.members("fleet"):
        if model.value(host, "celery_exporter_enabled") is not True:
            continue
        if model.value(host, "celery_exporter_listen") == "" and name not in model.given[host]:
            yield Problem(
                name,
                "is not set, but celery_exporter_enabled is true",
                f"{_GENERATE}; or, for an agent on the host, set celery_exporter_listen: 127.0.0.1:9808",
                hosts=(host,),
            )
        if model.members("redis"):
            yield from _user_of_redis(model, host, "exporter", "celery_exporter_enabled is true")
        if host in model.members("redis") and model.value(host, REDIS) is True:
            yield from _user_of_redis(model, host, REDIS_USER, f"{REDIS} is true")


def _application(model: Model) -> Iterator[Problem]:
    """Check the application's own secrets, which may have any length and form but must not be placeholders."""
    for value, hosts in model.distinct("celery_app_secret_env"):
        for key, item in as_mapping(value).items():
            path = ("celery_app_secret_env", key)
            if not isinstance(item, str):
                continue
            if item and any(_is_placeholder(model, path, text) for text in (item, _password(item))):
                yield Problem(
                    dotted(path),
                    _PLACEHOLDER_LEFT,
                    f"put the real value into the environment's vault.yml; {_allow(path)}",
                    value=model.show(path, item),
                    hosts=hosts,
                )
            elif "\0" in item:
                yield Problem(
                    dotted(path),
                    "has a NUL byte, which an environment variable can't contain",
                    "encode it, for example as base64",
                    value=model.show(path, item),
                    hosts=hosts,
                )
    for value, hosts in model.distinct("celery_app_env_urls"):
        for key, parts in as_mapping(value).items():
            password = as_mapping(parts).get("password")
            where = ("celery_app_env_urls", key, "password")
            if isinstance(password, str) and password and _is_placeholder(model, where, password):
                yield Problem(
                    dotted(where),
                    _PLACEHOLDER_LEFT,
                    f"put the real value into the environment's vault.yml; {_allow(where)}",
                    value="<secret>",
                    hosts=hosts,
                )


def _replication_passwords(model: Model) -> Iterator[Problem]:
    """Refuse several Redis hosts without the users of replicas and Sentinels."""
    hosts = model.members("redis")
    for host in hosts if len(hosts) > 1 else ():
        for user in REPLICATION_USERS:
            wanted = f"the group {model.group_names['redis']} has several hosts"
            yield from _user_of_redis(model, host, user, wanted)
