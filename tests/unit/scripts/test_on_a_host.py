"""How docs/on-a-host.md shows what was rendered."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import virtualenv

from scripts.on_a_host.page import PageError, hosts, lines, option, secrets
from scripts.on_a_host.things import (
    VIRTUALENVS,
    Page,
    Thing,
    accounts,
    directories,
    general,
    handed,
    readable,
    spellings,
    take,
)
from tests.render.fleet import Fleet, Host


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/etc/my-shop/worker-mail.env", "/etc/<app>/worker-<worker>.env"),
        ("my-shop-worker@mail.service", "<app>-worker@<worker>.service"),
        ("my-shop-worker@%i.service", "<app>-worker@<worker>.service"),
        ("worker-mailing", "worker-mailing"),
        (r"my\x2dshop.slice", "<app>.slice"),
        ("../releases/0123456789ab", "../releases/<id>"),
        ("/usr/lib/celery-fleet/0.1.0-ab12cd34/x.py", "/usr/lib/celery-fleet/<version>/x.py"),
        ("/usr/lib/celery-fleet/cli", "/usr/lib/celery-fleet/cli"),
    ],
)
def test_names_of_one_inventory_become_placeholders(text: str, told: str) -> None:
    assert general(text, "my-shop", ["mail"]) == told


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({}, "everybody"),
        ({"mode": "0600"}, "root"),
        ({"mode": "0640"}, "root"),
        ({"mode": "0640", "group": "redis"}, "root, group `redis`"),
        ({"mode": "0600", "owner": "shop", "group": "redis"}, "root, `shop`"),
        ({"mode": "0644", "group": "redis"}, "everybody"),
    ],
)
def test_the_readers_of_a_file_follow_from_its_mode(item: dict[str, str], told: str) -> None:
    assert readable(item) == told


def test_a_secret_is_found_in_any_notation() -> None:
    found = spellings('a"b$c/d')
    assert {'a"b$c/d', "a%22b%24c%2Fd", r"a\"b\$c/d", r"a\"b$c/d"} <= found


def test_credentials_are_read_from_the_unit() -> None:
    unit = "EnvironmentFile=-/etc/a.env\nLoadCredential=settings.json:/etc/b.json\n#EnvironmentFile=/etc/c\n"
    assert list(handed(unit)) == ["/etc/a.env", "/etc/b.json"]


def test_directories_of_a_unit_belong_to_its_user() -> None:
    unit = "User=shop\nGroup=proxy\nRuntimeDirectory=shop\nRuntimeDirectoryMode=0750\nStateDirectory=a b\n"
    assert list(directories(unit)) == [
        ("/run/shop", "`shop:proxy`", "`0750`"),
        ("/var/lib/a", "`shop:proxy`", ""),
        ("/var/lib/b", "`shop:proxy`", ""),
    ]
    assert list(directories("LogsDirectory=shop\n")) == [("/var/log/shop", "", "")]


def test_accounts_are_read_from_sysusers() -> None:
    lines_ = '# ours\ng proxy - -\nu shop - "Shop: Celery" /var/lib/shop\nm www-data proxy\n'
    assert [name for name, _ in accounts(lines_)] == ["proxy", "shop", "www-data"]


def test_an_empty_column_is_left_out() -> None:
    rows = [("a", "", "1"), ("b|c", "", "")]
    assert list(lines(("X", "Y", "Z"), rows)) == [
        "| X | Z |",
        "|---|---|",
        "| a | 1 |",
        r"| b\|c |  |",
    ]


def test_a_row_that_is_not_in_every_fleet_names_its_option() -> None:
    assert option("/etc/anything", Thing((), {"redis"}, default=True)) == ""
    assert option("/etc/logrotate.d/<app>", Thing((), {"redis"})) == (
        "`celery_app_log_destination: file`"
    )
    with pytest.raises(PageError, match="/etc/anything: say in OPTIONS"):
        option("/etc/anything", Thing((), {"redis"}))


def test_a_secret_without_a_name_is_an_error() -> None:
    page = Page(holds={"/etc/new": set()}, readers={"/etc/new": {"root"}})
    page.add("secrets", "/etc/new", ["", ""], "redis", default=True)
    with pytest.raises(PageError, match="/etc/new: say in HOLDS"):
        list(secrets(page))
    page.holds["/etc/new"].add("redis_passwords worker")
    with pytest.raises(PageError, match="/etc/new: say in READ_BY"):
        list(secrets(page))


def test_directories_of_the_inventory_of_builds_and_of_programs_are_on_the_page() -> None:
    variables = {
        "celery_app_name": "shop",
        "celery_worker_instances": {},
        "celery_app_directories": {"/srv/media": {}},
    }
    part = {
        "directories": [{"path": "/srv/media", "owner": "shop", "group": "shop", "mode": "0750"}],
        "releases": [{"path": "/opt/shop/flower/releases/0123456789ab"}],
        "data": [
            {"path": "/var/log/shop", "keep": "logs"},
            {"path": "/run/shop.sock"},
            {"path": "/var/log", "whole": False},
        ],
    }
    page = Page()
    take(page, Fleet({"h1": Host("h1", variables, {"flower": part})}, {}, ""), default=True)
    assert {name: one.cells for name, one in page.things["directories"].items()} == {
        "<directory>": ("`<app>:<app>`", "`0750`"),
        "/opt/<app>/flower/releases/<id>": ("", ""),
        "/opt/<app>/flower/virtualenvs/<virtualenv>": ("", ""),
    }
    assert {name: one.cells for name, one in page.things["data"].items()} == {
        "/var/log/<app>": ("`logs`",),
        "/run/<app>.sock": ("",),
    }


def test_virtualenvs_are_in_the_directory_of_the_build() -> None:
    assert VIRTUALENVS == virtualenv.VIRTUALENVS


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{{ lookup('celery_fleet.core.fleet_hosts', 'redis', 'flower') }}", "`redis`, `flower`"),
        ("fleet:flower", "`fleet`, `flower`"),
    ],
)
def test_the_hosts_of_a_role_are_groups(pattern: str, told: str) -> None:
    plays = [{"hosts": pattern, "roles": [{"role": "celery_fleet.core.shop"}]}]
    assert hosts("shop", plays) == told
    with pytest.raises(PageError, match="mail: no play"):
        hosts("mail", plays)
