"""The web process's site of nginx, rendered from variables of an inventory."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import rendering

from tests.programs import required
from tests.support.certificates import Authority
from tests.unit.preflight import oracle
from tests.unit.preflight.inventory import problems, valid

WEB = "celery_producer_web_"
SITE = "/etc/nginx/conf.d/shop-web.conf"
HOOK = "/etc/letsencrypt/renewal-hooks/deploy/celery-fleet-shop-web"
LIVE = "/etc/letsencrypt/live/shop.example.org"
ALL = {
    "static": {
        "/static/": {"path": "/srv/shop/static/", "max_age": 31536000},
        "/admin/files/": {"path": "/srv/shop/files"},
    },
    "max_body_size": "20m",
    "hsts_max_age": 86400,
    "redirect_http": True,
    "server_names": ["shop.example.org", "www.shop.example.org"],
    "certificate": f"{LIVE}/fullchain.pem",
    "certificate_key": f"{LIVE}/privkey.pem",
    "site_snippet": "location = /robots.txt {\n    return 200 '}';\n}\n",
    "location_snippet": "proxy_request_buffering off;",
    "port": 8443,
}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    with rendering.compiled_once():
        yield


@pytest.fixture
def everywhere(tmp_path: Path) -> dict[str, Any]:
    return valid(tmp_path / "source")


def part(everywhere: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    given = {**everywhere, **{f"{WEB}{name}": value for name, value in options.items()}}
    assert problems(given) == []
    found: dict[str, Any] = oracle.wanted_by(given, "celery_producer")
    return found


def files(part: Mapping[str, Any]) -> dict[str, str]:
    return {item["dest"]: item["content"] for item in part["files"]}


def location(text: str, head: str) -> list[str]:
    """Return the lines of a location in the site itself, which comes before the redirecting server."""
    body, *_ = re.findall(
        rf"^    location {re.escape(head)} {{\n(.*?)^    }}", text, re.MULTILINE | re.DOTALL
    )
    return [line.strip() for line in body.splitlines()]


def test_static_files_have_cache_headers_and_the_protection_of_their_path(
    everywhere: dict[str, Any],
) -> None:
    text = files(part(everywhere, **ALL))[SITE]
    static = location(text, "^~ /static/")
    assert {"alias /srv/shop/static/;", "expires 31536000s;"} <= set(static)
    # This covers the whole path: the application may own /srv/shop, and put a link there.
    assert "disable_symlinks if_not_owner;" in static
    assert not any("auth_basic" in line or "proxy_pass" in line for line in static)
    below = location(text, "^~ /admin/files/")
    assert any(line.startswith("auth_basic_user_file ") for line in below)
    assert not any("expires" in line for line in below)
    # The headers of the site reach every location, because no location has its own.
    assert "add_header" not in "".join(static + below)


def test_a_protected_path_below_a_static_one_is_served_with_a_password(
    everywhere: dict[str, Any],
) -> None:
    static = {
        "/media/": {"path": "/srv/shop/media", "max_age": 60},
        "/media/large/": {"path": "/srv/large/"},
    }
    protected = ["/media/private/", "/media/large/x/", "/media/draft", "/admin/"]
    text = files(part(everywhere, static=static, protected_paths=protected))[SITE]
    for path, alias in {
        "/media/private/": "/srv/shop/media/private/",
        "/media/large/x/": "/srv/large/x/",
        # It also protects /media/drafts/, whose files nginx must not look for in another directory.
        "/media/draft": "/srv/shop/media/draft",
    }.items():
        lines = location(text, f"^~ {path}")
        assert f"alias {alias};" in lines
        assert "disable_symlinks if_not_owner;" in lines
        assert any(line.startswith("auth_basic_user_file ") for line in lines)
        assert not any("proxy_pass" in line for line in lines)
        assert text.count(f"location ^~ {path} ") == 1
    assert "expires 60s;" in location(text, "^~ /media/private/")
    assert not any("auth_basic" in line for line in location(text, "^~ /media/"))
    assert any("proxy_pass" in line for line in location(text, "^~ /admin/"))


def test_the_other_options_are_in_the_site(everywhere: dict[str, Any]) -> None:
    text = files(part(everywhere, **ALL, protected_paths=[]))[SITE]
    for line in (
        "client_max_body_size 20m;",
        'add_header Strict-Transport-Security "max-age=86400" always;',
        "server_name shop.example.org www.shop.example.org;",
        f"ssl_certificate {LIVE}/fullchain.pem;",
        f"ssl_certificate_key {LIVE}/privkey.pem;",
        "return 301 https://$host:8443$request_uri;",
    ):
        assert f"    {line}\n" in text
    assert "proxy_request_buffering off;" in location(text, "/")
    assert "listen 80;" in text
    assert "listen 80;" not in files(part(everywhere))[SITE]


def test_a_longer_upload_may_take_longer(everywhere: dict[str, Any]) -> None:
    text = files(part({**everywhere, "web_proxy_send_timeout": 300}))[SITE]
    assert "proxy_send_timeout 300s;" in location(text, "/")
    assert "proxy_send_timeout" not in files(part(everywhere))[SITE]


def test_nginx_accepts_the_site(everywhere: dict[str, Any], tmp_path: Path) -> None:
    authority = Authority("shop")
    certificate, key = authority.issue(["DNS:shop.example.org"], days=30)
    (tmp_path / "crt").write_text(certificate)
    (tmp_path / "key").write_text(key)
    text = files(part(everywhere, **ALL))[SITE]
    text = re.sub(r"(ssl_certificate) [^;]+;", rf"\1 {tmp_path}/crt;", text)
    text = re.sub(r"(ssl_certificate_key) [^;]+;", rf"\1 {tmp_path}/key;", text)
    (tmp_path / "site.conf").write_text(re.sub(r"listen .*?\d+( ssl)?;", "", text))
    main = tmp_path / "nginx.conf"
    main.write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; include {tmp_path}/site.conf; }}"
    )
    command = [required("nginx"), "-t", "-q", "-e", f"{tmp_path}/error.log", "-c", str(main)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_renewal_by_certbot_reloads_nginx(everywhere: dict[str, Any]) -> None:
    found = part(everywhere, **ALL)
    (hook,) = (item for item in found["files"] if item["dest"] == HOOK)
    assert hook["mode"] == "0755"
    assert "systemctl reload nginx.service" in hook["content"]
    assert {"path": HOOK.rpartition("/")[0]} in found["directories"]
    without = part(everywhere)
    assert HOOK not in files(without)
    assert HOOK in without["owned"]["files"]


def test_a_refusal_of_nginx_names_the_variables_and_what_to_do(everywhere: dict[str, Any]) -> None:
    (check,) = part(everywhere, site_snippet="no_such_directive on;")["checks"]
    assert f"{WEB}site_snippet: correct" in check["hint"]
    assert f"{WEB}location_snippet" not in check["hint"]
    assert WEB not in part(everywhere)["checks"][0]["hint"]


def test_a_refusal_of_nginx_names_the_variable_for_a_kernel_without_ipv6(
    everywhere: dict[str, Any],
) -> None:
    # nginx writes: socket() [::]:443 failed (97: Address family not supported by protocol)
    for options in ({}, {"site_snippet": "no_such_directive on;"}):
        (check,) = part(everywhere, **options)["checks"]
        assert "Address family not supported" in check["hint"]
        assert "web_proxy_ipv6: false" in check["hint"]
    (check,) = part({**everywhere, "web_proxy_ipv6": False})["checks"]
    assert "hint" not in check


def test_without_nginx_there_is_only_the_socket(everywhere: dict[str, Any]) -> None:
    everywhere = {**everywhere, f"{WEB}protected_paths": []}
    found = part(everywhere, proxy="none", trusted_proxies=["*"])
    assert SITE not in files(found)
    assert not found.get("packages")
    names = [unit["name"] for unit in found["units"]]
    assert names == ["shop-web.socket", "shop-web.service"]
    assert 'FORWARDED_ALLOW_IPS="*"' in files(found)["/etc/celery-fleet/shop/web.env"]
    assert "FORWARDED_ALLOW_IPS" not in files(part(everywhere))["/etc/celery-fleet/shop/web.env"]
    # The previous site is removed.
    surplus = oracle.wanted_by({**everywhere, f"{WEB}proxy": "none"}, "celery_runtime_surplus")
    assert SITE in surplus["owned"]["files"]
