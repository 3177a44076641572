"""Checks the web process: its server's socket, and what its site of nginx would refuse, can't read, or never use."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from ...desired import firewall
from ...desired.option import as_number
from ...desired.producer_options import SITE, STATIC
from ..model.inventory import Model, Problem, as_list, as_mapping, as_strings, as_text, dotted
from ..model.report import with_hosts
from .network import is_request_path
from .units import check_options
from .web_server import socket_fault

_WEB: Final = "celery_producer_web_"
_NAMES: Final = f"{_WEB}server_names"
_CERTIFICATE: Final = f"{_WEB}certificate"
CERTIFICATES: Final = (_CERTIFICATE, f"{_CERTIFICATE}_key")
_STATIC: Final = f"{_WEB}static"
_TRUSTED: Final = f"{_WEB}trusted_proxies"
_SNIPPETS: Final = (f"{_WEB}site_snippet", f"{_WEB}location_snippet")
# Directories that nginx's user can't enter.
_CLOSED: Final = ("celery_app_root", "celery_app_state_directory", "celery_app_config_directory")
# A path that is one word for nginx and in a unit, in at least two parts.
_PATH = re.compile(r"(/[A-Za-z0-9._+:@-]+){2,}/?")
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
# Comments and quoted texts of nginx's configuration.
_NOT_SYNTAX = re.compile(r"""#[^\n]*|"(\\.|[^"\\])*"|'(\\.|[^'\\])*'""")


def check_web(model: Model) -> Iterator[Problem]:
    """Check the web process and the site of each host with producers."""
    for host in model.members("celery_producers"):
        for check in (_server, _syntax, _certificate, _static, _snippets, _trusted, _without_nginx):
            yield from with_hosts((host,), check(model, host))


def is_plain_path(text: str) -> bool:
    """Return whether a text is an absolute path, in at least two parts, that needs no quotes anywhere."""
    return _PATH.fullmatch(text) is not None and ".." not in PurePosixPath(text).parts


def _server(model: Model, host: str) -> Iterator[Problem]:
    """Refuse a server that would not use systemd's socket."""
    web = as_mapping(model.value(host, "celery_producer_web"))
    command = as_strings(web.get("command"))
    if len(command) != len(as_list(web.get("command"))):
        return  # a wrong type, or a word that can't be rendered, is reported elsewhere
    environment = {
        **as_mapping(model.value(host, "celery_app_env")),
        **as_mapping(web.get("environment")),
    }
    listen = as_text(model.value(host, f"{_WEB}listen")) or ""
    if fault := socket_fault(command, environment, listen):
        path = ("celery_producer_web", "command")
        yield Problem(dotted(path), *fault, value=model.show(path, command))


def _syntax(model: Model, host: str) -> Iterator[Problem]:
    for option in SITE:
        value = model.value(host, option.name)
        if value != "" and isinstance(value, (str, int)) and not option.fits(str(value)):
            yield Problem(
                option.name,
                "is not a value that nginx understands here",
                f"write it as in {option.like}",
                value=model.show((option.name,), value),
            )
    for index, name in enumerate(as_strings(model.value(host, _NAMES))):
        if not _NAME.fullmatch(name):
            yield Problem(
                dotted((_NAMES, index)),
                "is not the name of a site",
                "write names as in shop.example.org, without a scheme, a port or wildcards",
                value=model.show((_NAMES,), name),
            )
    port = f"{_WEB}port"
    if (
        model.value(host, f"{_WEB}redirect_http") is True
        and as_number(model.value(host, port)) == 80
    ):
        yield Problem(
            port, "is the port that celery_producer_web_redirect_http redirects from", "write 443"
        )


def _certificate(model: Model, host: str) -> Iterator[Problem]:
    paths = {name: path for name in CERTIFICATES if (path := as_text(model.value(host, name)))}
    names = as_strings(model.value(host, _NAMES))
    for name, path in paths.items():
        if not is_plain_path(path):
            yield Problem(
                name,
                "is not an absolute path of letters, digits and . _ + : @ -",
                "write the path of the file on the host",
                value=model.show((name,), path),
            )
    if len(paths) == 1:
        (given,) = paths
        yield Problem(
            next(name for name in CERTIFICATES if name != given),
            f"is not set, but {given} is",
            "set both: nginx needs the certificate and its key",
        )
    elif paths and not names:
        yield Problem(
            _NAMES,
            f"is empty, but {_CERTIFICATE} is set",
            "write the names that the certificate is for, as in [shop.example.org]",
        )
    if not paths:
        known = set(as_strings(model.value(host, "pki_subject_alt_names")))
        for index, name in enumerate(names):
            if known and name not in known and _NAME.fullmatch(name):
                yield Problem(
                    dotted((_NAMES, index)),
                    "is not a name that the host's certificate is for (pki_subject_alt_names)",
                    f"add it to celery_app_host_names, or set {_CERTIFICATE}",
                    value=model.show((_NAMES,), name),
                )


def _static(model: Model, host: str) -> Iterator[Problem]:
    for prefix, one in as_mapping(model.value(host, _STATIC)).items():
        if prefix == "/" or not prefix.endswith("/") or not is_request_path(prefix):
            yield Problem(
                dotted((_STATIC, prefix)),
                "is not a path below the site that nginx could serve from a directory",
                "begin and end it with /, as in /static/",
            )
        yield from check_options(model, (_STATIC, prefix), as_mapping(one), STATIC, (host,))
        path = as_text(as_mapping(one).get("path"))
        if path is None:
            continue
        where = (_STATIC, prefix, "path")
        if not is_plain_path(path):
            yield Problem(
                dotted(where),
                "is not an absolute path, in at least two parts of letters, digits and . _ + : @ -",
                "write the directory on the host, as in /srv/shop/static",
                value=model.show(where, path),
            )
        for variable in _CLOSED:
            closed = as_text(model.value(host, variable))
            if closed and PurePosixPath(path).is_relative_to(closed):
                yield Problem(
                    dotted(where),
                    f"is in {closed} ({variable}), which nginx's user www-data can't enter",
                    "let a release command such as collectstatic write elsewhere, as in /srv/shop/static",
                    value=model.show(where, path),
                )


def _snippets(model: Model, host: str) -> Iterator[Problem]:
    for name in _SNIPPETS:
        text = as_text(model.value(host, name))
        fault = _fault(_NOT_SYNTAX.sub("''", text)) if text else ""
        if fault:
            yield Problem(
                name,
                fault,
                "write whole directives of nginx, as in `gzip on;`; otherwise they change the meaning of what follows",
            )


def _fault(text: str) -> str:
    """Return why directives would spill over into what follows them; an empty string if they don't."""
    if text.strip() and not text.replace("''", "").rstrip().endswith((";", "}")):
        return "does not end with a semicolon or a brace"
    depth = 0
    for sign in re.findall(r"[{}]", text):
        depth += 1 if sign == "{" else -1
        if depth < 0:
            break
    return "has braces that don't belong together" if depth else ""


def _trusted(model: Model, host: str) -> Iterator[Problem]:
    for index, text in enumerate(as_strings(model.value(host, _TRUSTED))):
        try:
            if text != "*" and ipaddress.ip_network(text).prefixlen:
                continue
            if firewall.is_local(as_text(model.value(host, f"{_WEB}listen"))):
                continue
        except ValueError:
            yield Problem(
                dotted((_TRUSTED, index)),
                "is not an address",
                'write an address or a network, as in 10.0.0.5 or 10.0.0.0/24, or "*"',
                value=model.show((_TRUSTED,), text),
            )
            continue
        yield Problem(
            dotted((_TRUSTED, index)),
            "lets every host that reaches celery_producer_web_listen pretend to be another client",
            "write the addresses of your proxies",
            value=model.show((_TRUSTED,), text),
        )


def _without_nginx(model: Model, host: str) -> Iterator[Problem]:
    if model.value(host, f"{_WEB}proxy") != "none":
        return
    given = [
        option.name
        for option in SITE
        if option.name in model.given[host] and model.value(host, option.name) != option.default
    ]
    if host in model.members("flower") and as_text(model.value(host, "flower_url_prefix")):
        given.append("flower_url_prefix")
    for name in given:
        yield Problem(
            name,
            "has no effect, because celery_producer_web_proxy is none: the host has no web site of nginx",
            "remove it, and do the same in your own proxy; or remove celery_producer_web_proxy",
        )
