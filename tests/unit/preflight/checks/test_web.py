"""Mistakes in the web process's site are refused by name and with a remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.web_server import (
    socket_fault,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)

from tests.unit.preflight.inventory import ROOT, problems, valid

WEB = "celery_producer_web_"
CERTIFICATE = {"certificate": "/etc/tls/shop.crt", "certificate_key": "/etc/tls/shop.key"}

# variables without their prefix, the one that is named, part of the message, part of the remedy
ERRORS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"static": {"/": {"path": "/srv/a"}}}, "static['/']", "not a path below the site", "/static/"),
    ({"static": {"/s": {"path": "/srv/a"}}}, "static['/s']", "not a path below", "end it with /"),
    ({"static": {"/s/": {"path": "srv"}}}, "static['/s/'].path", "not an absolute", "/srv/shop/static"),
    ({"static": {"/s/": {"path": "/srv"}}}, "static['/s/'].path", "two parts", "/srv/shop/static"),
    ({"static": {"/s/": {"path": "/srv/a;b"}}}, "static['/s/'].path", "letters, digits", "write the"),
    ({"static": {"/s/": {"path": "/srv/../etc"}}}, "static['/s/'].path", "letters", "write the"),
    ({"static": {"/s/": {"path": "/opt/shop/current/static"}}}, "static['/s/'].path",
     "www-data can't enter", "collectstatic"),
    ({"static": {"/s/": {"path": "/var/lib/shop/web"}}}, "static['/s/'].path", "celery_app_state", "elsewhere"),
    ({"static": {"/s/": {}}}, "static['/s/'].path", "is not set", "set it"),
    ({"static": {"/s/": {"path": "/srv/a", "age": 1}}}, "static['/s/'].age", "not a known key", "max_age"),
    ({"static": {"/s/": {"path": "/srv/a", "max_age": -1}}}, "static['/s/'].max_age", "below 0", "0 or more"),
    ({"max_body_size": "20 MB"}, "max_body_size", "not a value that nginx", "20m"),
    ({"hsts_max_age": -1}, "hsts_max_age", "is below 0", "0 or more"),
    ({"server_names": ["https://shop.org"]}, "server_names[0]", "not the name of a site", "without a scheme"),
    ({"server_names": ["shop.org"]}, "server_names[0]", "not a name that the host's", "celery_app_host_names"),
    ({"certificate": "/etc/tls/shop.crt", "server_names": ["a.org"]}, "certificate_key", "is not set", "set both"),
    (CERTIFICATE, "server_names", "is empty, but", "write the names"),
    ({**CERTIFICATE, "certificate": "shop.crt", "server_names": ["a.org"]}, "certificate", "not an absolute", "path"),
    ({"redirect_http": True, "port": 80}, "port", "redirects from", "443"),
    ({"site_snippet": "gzip on"}, "site_snippet", "does not end with a semicolon", "whole directives"),
    ({"site_snippet": "} server {"}, "site_snippet", "does not end", "whole directives"),
    ({"location_snippet": "} location /x { gzip on; }"}, "location_snippet", "braces", "whole directives"),
    ({"location_snippet": "if ($a) { gzip on; # }"}, "location_snippet", "braces", "whole"),
    ({"location_snippet": "if ($a) { gzip on; '}';"}, "location_snippet", "braces", "whole"),
    ({"trusted_proxies": ["proxy1"]}, "trusted_proxies[0]", "is not an address", "10.0.0.5"),
    ({"trusted_proxies": ["*"], "listen": "0.0.0.0:5000"}, "trusted_proxies[0]", "pretend", "your proxies"),
    ({"trusted_proxies": ["::/0"], "listen": "0.0.0.0:5000"}, "trusted_proxies[0]", "pretend", "your proxies"),
    ({"proxy": "none"}, "protected_paths", "has no effect", "in your own proxy"),
    ({"proxy": "none", "protected_paths": [], "max_body_size": "1g"}, "max_body_size", "has no effect", "remove"),
]  # fmt: skip


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Any]:
    return valid(tmp_path / "source")


def errors(variables: dict[str, Any]) -> list[Problem]:
    return [problem for problem in problems(variables) if problem.severity is Severity.ERROR]


def with_web(variables: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    return {**variables, **{f"{WEB}{name}": value for name, value in options.items()}}


@pytest.mark.parametrize(("options", "name", "message", "remedy"), ERRORS, ids=str)
def test_a_mistake_is_refused(
    variables: dict[str, Any], options: dict[str, Any], name: str, message: str, remedy: str
) -> None:
    (found,) = errors(with_web(variables, options))
    assert found.variable == f"{WEB}{name}"
    assert message in found.message
    assert remedy in found.remedy


def test_flower_can_not_be_part_of_a_site_that_does_not_exist(variables: dict[str, Any]) -> None:
    given = with_web(variables, {"proxy": "none", "protected_paths": []})
    (found,) = problems({**given, "flower_url_prefix": "flower"})
    assert (found.variable, "has no effect" in found.message) == ("flower_url_prefix", True)


@pytest.mark.parametrize(
    "options",
    [
        {"static": {"/static/": {"path": "/srv/shop/static/", "max_age": 0}}},
        {"max_body_size": "0"},
        {**CERTIFICATE, "server_names": ["shop.example.org"]},
        {
            "site_snippet": 'return 200 "}";',
            "location_snippet": "if ($a) {\n  # }\n  gzip on;\n}\n",
        },
        {"trusted_proxies": ["10.0.0.0/24", "::1"], "listen": "0.0.0.0:5000"},
        {"trusted_proxies": ["*"]},
        {"proxy": "none", "protected_paths": [], "max_body_size": ""},
    ],
    ids=str,
)
def test_valid_options_are_accepted(variables: dict[str, Any], options: dict[str, Any]) -> None:
    assert errors(with_web(variables, options)) == []


def test_the_documented_site_passes(variables: dict[str, Any]) -> None:
    page = (ROOT / "docs/web.md").read_text().partition("## A Django site")[2]
    block = [line[4:] for line in page.partition("\n##")[0].splitlines() if line[:4] == "    "]
    documented = yaml.safe_load("\n".join(block))
    assert "celery_producer_web_static" in documented
    assert errors({**variables, **documented}) == []


UNIX = "--endpoint systemd:domain=UNIX:index=0"

# a command, celery_producer_web_listen, part of the message, part of the remedy
WITHOUT_THE_SOCKET: list[tuple[str, str, str, str]] = [
    ("python -m uvicorn app.main:app", "", "starts uvicorn without", "add --fd 3"),
    ("uvicorn app.main:app --port 8000 --host 0.0.0.0", "", "starts uvicorn without", "add --fd 3"),
    ("env A=1 /opt/x/bin/uvicorn app.main:app --uds /run/x", "", "starts uvicorn without", "add --fd 3"),
    ("opentelemetry-instrument uvicorn app.main:app", "", "starts uvicorn without", "add --fd 3"),
    ("uvicorn app.main:app --fd 4", "", "starts uvicorn without", "add --fd 3"),
    ("hypercorn app.main:app", "", "starts hypercorn without", "add --bind fd://3"),
    ("python -m hypercorn -b 0.0.0.0:80 app.main:app", "", "starts hypercorn without", "add --bind fd://3"),
    ("daphne shop.asgi:application", "", "starts daphne without", f"add {UNIX}"),
    ("daphne -p 80 shop.asgi:application", "127.0.0.1:5000", "starts daphne without", "add --fd 3"),
    ("daphne --fd 3 shop.asgi:application", "", "takes for a TCP socket", f"write {UNIX}"),
    ("python -m gunicorn --bind fd://3 shop.wsgi", "", "a second time", "remove --bind"),
    ("gunicorn -bfd://3 shop.wsgi", "127.0.0.1:5000", "a second time", "remove --bind"),
    ("python manage.py runserver 0.0.0.0:80", "", "runserver", "gunicorn"),
    ("python -m django runserver", "", "runserver", "gunicorn"),
]  # fmt: skip

WITH_THE_SOCKET = [
    ("uvicorn app.main:app --fd 3 --host 0.0.0.0", ""),
    ("python -m uvicorn --fd=3 app.main:app", ""),
    ("env UVICORN_FD=3 uvicorn app.main:app", ""),
    # gunicorn prefers systemd's socket to its own addresses.
    ("gunicorn shop.wsgi", ""),
    ("python -m gunicorn -k uvicorn.workers.UvicornWorker -b 0.0.0.0:80 shop.asgi", ""),
    ("gunicorn --name uvicorn shop.wsgi", ""),
    # In another process than systemd's, gunicorn does not find the socket itself.
    ("uv run gunicorn --bind fd://3 shop.wsgi", ""),
    ("hypercorn --bind=fd://3 app.main:app", ""),
    ("hypercorn -bfd://3 app.main:app", ""),
    ("hypercorn -c hypercorn.toml app.main:app", ""),
    (f"daphne {UNIX} shop.asgi:application", ""),
    ("daphne --fd 3 shop.asgi:application", "127.0.0.1:5000"),
    ("daphne -e fd:fileno=3 shop.asgi:application", "127.0.0.1:5000"),
    ("python serve.py --server uvicorn", ""),
    ("bin/serve", ""),
    ("python manage.py serve", ""),
]


@pytest.mark.parametrize(("command", "listen", "message", "remedy"), WITHOUT_THE_SOCKET, ids=str)
def test_a_server_that_would_not_use_the_socket_is_refused(
    variables: dict[str, Any], command: str, listen: str, message: str, remedy: str
) -> None:
    variables["celery_producer_web"] = {"command": command.split()}
    (found,) = errors(with_web(variables, {"listen": listen}))
    assert found.variable == "celery_producer_web.command"
    assert message in found.message
    assert remedy in found.remedy


@pytest.mark.parametrize(("command", "listen"), WITH_THE_SOCKET)
def test_a_server_that_uses_the_socket_passes(
    variables: dict[str, Any], command: str, listen: str
) -> None:
    variables["celery_producer_web"] = {"command": command.split()}
    assert errors(with_web(variables, {"listen": listen})) == []


def test_uvicorn_reads_its_options_from_the_environment_too(variables: dict[str, Any]) -> None:
    variables["celery_producer_web"] = {"command": ["uvicorn", "app.main:app"]}
    assert errors(variables) != []
    assert errors({**variables, "celery_app_env": {"UVICORN_FD": 3}}) == []
    variables["celery_producer_web"]["environment"] = {"UVICORN_FD": "3"}
    assert errors(variables) == []


@pytest.mark.parametrize(
    "name", ["aiecommerce", "flash_promos", "local", "marketplace_ops", "processing"]
)
def test_the_examples_start_their_servers_with_the_socket(name: str) -> None:
    file = ROOT / f"inventories/{name}/group_vars/all/celery.yml"
    (web,) = re.findall(r"^celery_producer_web:\n(?:  .*\n)+", file.read_text(), re.MULTILINE)
    command = yaml.safe_load(web)["celery_producer_web"]["command"]
    assert socket_fault(command, {}, "") is None
