from __future__ import annotations

from pathlib import Path

import pytest
from ansible import constants
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env import secret
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.environment import (
    NewWorker,
    Project,
    default_members,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.options import (
    OPTIONS,
    RefusedError,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.reading import (
    environment,
    missing,
    mistakes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.new_env.given import GIT, GOOD, LARGE, ROOT, SMALL, TWO, project


@pytest.mark.parametrize(
    ("hosts", "redis", "workers", "control"),
    [
        ("a", "a", "a", "a"),
        ("ab", "a", "b", "a"),
        ("abc", "a", "c", "b"),
        ("abcde", "a", "cde", "b"),
    ],
)
def test_groups_depend_on_the_number_of_hosts(
    hosts: str, redis: str, workers: str, control: str
) -> None:
    assert default_members(list(hosts)) == {
        "redis": tuple(redis),
        "celery_workers": tuple(workers),
        "celery_beat": tuple(control),
        "celery_producers": tuple(control),
        "flower": tuple(control),
    }


def test_groups_can_be_given(tmp_path: Path) -> None:
    given = {**SMALL, "HOSTS": "a,b,c", "REDIS": "c", "WORKERS": "a,b", "BEAT": "off"}
    found = environment(given, project(tmp_path))
    assert found.members == {"redis": ("c",), "celery_workers": ("a", "b"), "flower": ("b",)}


def test_redis_may_have_three_hosts_of_its_own(tmp_path: Path) -> None:
    found = environment(GOOD["three-of-redis"], project(tmp_path))
    assert found.members == {
        "redis": ("r1", "r2", "r3"),
        "celery_workers": ("worker1",),
        "celery_beat": ("control1",),
        "flower": ("control1",),
    }
    names = secret.names(found)
    assert {"redis_passwords.replica", "redis_passwords.sentinel"} <= set(names)
    small = {**SMALL, "HOSTS": "a,b,c", "REDIS": "a,b,c"}
    assert environment(small, project(tmp_path)).members["celery_workers"] == ("a",)


def test_a_host_of_the_database_does_not_count_as_idle(tmp_path: Path) -> None:
    found = environment(GOOD["own-database-by-name"], project(tmp_path))
    assert found.database is not None
    assert found.database.on == "two"
    assert found.database.query == {"sslmode": "require", "channel_binding": "require"}


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgres", {"sslmode": "require"}),
        ("postgresql", {"sslmode": "require"}),
        ("postgresql+psycopg", {"sslmode": "require"}),
        ("postgresql+psycopg2", {"sslmode": "require"}),
        ("postgresql+asyncpg", {"ssl": "require"}),
        ("postgresql+pg8000", {}),
        ("mysql", {}),
    ],
)
def test_options_for_encryption_are_those_of_the_databases_driver(
    scheme: str, query: dict[str, str], tmp_path: Path
) -> None:
    """Drivers refuse options that they don't know."""
    found = environment({**SMALL, "DATABASE": f"{scheme}://me@db/it"}, project(tmp_path))
    assert found.database is not None
    assert found.database.query == query
    own = {**SMALL, "DATABASE": f"{scheme}://me@db/it?application_name=x"}
    kept = environment(own, project(tmp_path)).database
    assert kept is not None
    assert kept.query == {"application_name": "x"}


def test_queues_become_workers(tmp_path: Path) -> None:
    found = environment(LARGE, project(tmp_path))
    assert found.workers == (
        NewWorker("orders", "orders", 4),
        NewWorker("mail", "mail", 2),
        NewWorker("big-jobs", "Big.Jobs", None),
        NewWorker("9lives", "9lives", 1),
    )
    assert environment(SMALL, project(tmp_path)).workers == (NewWorker("celery", "celery", None),)


def test_the_firewall_is_on_if_addresses_are_known(tmp_path: Path) -> None:
    def on(given: dict[str, str]) -> bool:
        return environment(given, project(tmp_path)).firewall

    assert on(SMALL)
    assert on(TWO)
    assert on(GOOD["addresses-alone"])
    assert not on({**TWO, "ADDRESSES": "one=10.1.0.1"})
    assert not on({**TWO, "FIREWALL": "off"})


# Changed options, the option that is named, and the message. None removes an option.
BAD: list[tuple[dict[str, str | None], str, str]] = [
    ({"NAME": "my shop"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "a/b"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "../up"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "Shop"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "-shop"}, "NAME", "can't be the name of an environment"),
    ({"NAME": ".shop"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "s" * 41}, "NAME", "can't be the name of an environment"),
    ({"NAME": "shöp"}, "NAME", "can't be the name of an environment"),
    ({"NAME": "group_vars"}, "NAME", "has a special meaning"),
    ({"NAME": "all"}, "NAME", "has a special meaning"),
    ({"NAME": "there"}, "NAME", "already exists"),
    ({"NAME": "dangling"}, "NAME", "already exists"),
    ({"NAME": ""}, "NAME", "is empty"),
    ({"NAME": None}, "NAME", "is needed"),
    ({"HOSTS": None}, "HOSTS", "is needed"),
    ({"HOSTS": ""}, "HOSTS", "is empty"),
    ({"HOSTS": ","}, "HOSTS", "has nothing between its commas"),
    ({"HOSTS": "a,b,a"}, "HOSTS", "is listed twice"),
    ({"HOSTS": "a b"}, "HOSTS", "can't be a host's name"),
    ({"HOSTS": "A"}, "HOSTS", "can't be a host's name"),
    ({"HOSTS": "a[1:3]"}, "HOSTS", "can't be a host's name"),
    ({"HOSTS": "redis"}, "HOSTS", "is the name of a group"),
    ({"HOSTS": "localhost"}, "HOSTS", "is the name of a group"),
    (
        {"HOSTS": "a,b", "REDIS": "a", "WORKERS": "a", "BEAT": "a", "FLOWER": "a"},
        "HOSTS",
        "is in no group",
    ),
    ({"WORKERS": "two"}, "WORKERS", "is not one of HOSTS"),
    ({"WORKERS": "off"}, "WORKERS", "can't be left out"),
    ({"HOSTS": None, "REDIS": "a"}, "WORKERS", "has no host"),
    ({"REDIS": "off"}, "REDIS", "can't be left out of a new environment"),
    ({"HOSTS": "a,b", "REDIS": "a,b"}, "REDIS", "is an even number of hosts"),
    ({"HOSTS": "a", "REDIS": "a,b"}, "REDIS", "is not one of HOSTS"),
    ({"HOSTS": "a,b", "BEAT": "a,b"}, "BEAT", "has more than one host"),
    ({"ADDRESSES": "one"}, "ADDRESSES", "is not a host with its address"),
    ({"ADDRESSES": "two=10.1.0.2"}, "ADDRESSES", "is not one of HOSTS"),
    ({"ADDRESSES": "one=10.1.0.2,one=10.1.0.3"}, "ADDRESSES", "has two addresses"),
    ({"ADDRESSES": "one=10.1.0.2:22"}, "ADDRESSES", "is neither an address nor a name"),
    ({"HOSTS": "a,b", "ADDRESSES": "a=10.1.0.2,b=10.1.0.2"}, "ADDRESSES", "has the address of a"),
    (
        {"HOSTS": "a,b", "ADDRESSES": "a=127.0.0.1,b=10.1.0.2"},
        "ADDRESSES",
        "other hosts can reach it",
    ),
    ({"HOSTS": "a,b", "ADDRESSES": "a=fd00::1,b=fd00:0::1"}, "ADDRESSES", "has the address of a"),
    ({"ADDRESSES": "one=fd00::1%eth0"}, "ADDRESSES", "is neither an address nor a name"),
    # A resolver reads the first as 8.1.0.1; the second is a typing mistake.
    ({"ADDRESSES": "one=010.1.0.1"}, "ADDRESSES", "is neither an address nor a name"),
    ({"ADDRESSES": "one=10.1.0.300"}, "ADDRESSES", "is neither an address nor a name"),
    ({"HOSTS": "10.1.0.300"}, "HOSTS", "can't be a host's name"),
    ({"HOSTS": "a,0x10"}, "HOSTS", "can't be a host's name"),
    ({"APP": "My App"}, "APP", "can't be the name of units"),
    ({"APP": "redis"}, "APP", "can't be the name of units"),
    ({"APP": "nginx"}, "APP", "can't be the name of units"),
    ({"MODULE": "a-b"}, "MODULE", "is not a module"),
    ({"MODULE": "app.nothing.here"}, "MODULE", "is a module that is not below"),
    ({"SOURCE": "examples/nothing"}, "SOURCE", "is not a directory of this machine"),
    ({"SOURCE": "~nobody-of-that-name/shop"}, "SOURCE", "is not a directory of this machine"),
    ({"SOURCE": "x" * 300}, "SOURCE", "is not a directory of this machine"),
    ({"DIRECTORY": "x" * 300}, "DIRECTORY", "is not a directory of the source"),
    ({"SOURCE": "/"}, "SOURCE", "is the root of the file system"),
    ({"SOURCE": "~"}, "SOURCE", "is your home directory"),
    ({"SOURCE": "README.md"}, "SOURCE", "is a file, not a directory"),
    ({"SOURCE": "docs"}, "SOURCE", "has no requirements.txt"),
    ({"SOURCE": "examples/{{ x }}"}, "SOURCE", "as a template"),
    ({"SOURCE": "examples/flexiprice\nbackend"}, "SOURCE", "line end"),
    ({"SOURCE": "https://git.example.com/shop.git"}, "VERSION", "is needed"),
    ({**GIT, "SOURCE": "htp://x y"}, "SOURCE", "is not the address of a git repository"),
    (
        {**GIT, "SOURCE": "https://me:hush@git.example.com/shop.git"},
        "SOURCE",
        "contains a login",
    ),
    ({**GIT, "SOURCE": "https://token@git.example.com/shop.git"}, "SOURCE", "contains a login"),
    ({**GIT, "VERSION": "--upload-pack=x"}, "VERSION", "is not a branch"),
    ({"VERSION": "v1"}, "VERSION", "belongs to a git repository"),
    ({"DIRECTORY": "../.."}, "DIRECTORY", "leads outside the source"),
    ({"DIRECTORY": "nothing"}, "DIRECTORY", "is not a directory of the source"),
    ({"QUEUES": "a,a"}, "QUEUES", "is listed twice"),
    ({"QUEUES": "a=1,a=2"}, "QUEUES", "is listed twice"),
    ({"QUEUES": "a.b,a-b"}, "QUEUES", "would have a worker of the same name"),
    ({"QUEUES": "unacked"}, "QUEUES", "is not a queue name"),
    ({"QUEUES": "a b"}, "QUEUES", "is not a queue name"),
    ({"QUEUES": "*"}, "QUEUES", "is not a queue name"),
    ({"QUEUES": "a=0"}, "QUEUES", "has no number of processes"),
    ({"QUEUES": "a=many"}, "QUEUES", "has no number of processes"),
    ({"QUEUES": f"a={'9' * 5000}"}, "QUEUES", "has no number of processes"),
    ({"QUEUES": "a=2000"}, "QUEUES", "has no number of processes"),
    ({"QUEUES": "a", "ROUTES": "x.*=b"}, "ROUTES", "goes to a queue that is not in QUEUES"),
    ({"QUEUES": "a", "ROUTES": "x y=a"}, "ROUTES", "is not a pattern of task names"),
    ({"QUEUES": "a,b", "ROUTES": "x=a,x=b"}, "ROUTES", "is listed twice"),
    ({"WEB": "python 'x"}, "WEB", "is not a command line"),
    ({"WEB": "python", "PRODUCERS": "off"}, "WEB", "has no host"),
    (
        {"WEB": "uvicorn shop.main:app"},
        "WEB",
        "starts uvicorn without the socket that systemd holds",
    ),
    ({"WEB": "gunicorn -b fd://3 shop.wsgi"}, "WEB", "a second time"),
    ({"PROTECT": "/admin/"}, "PROTECT", "has no web process to protect"),
    ({"WEB": "python", "PROTECT": "admin"}, "PROTECT", "is not a path"),
    ({"WEB": "python", "PROTECT": "//admin/"}, "PROTECT", "is not a path"),
    ({"WEB": "python", "PROTECT": "/x/../admin/"}, "PROTECT", "is not a path"),
    ({"DOMAIN": "https://shop.example.com"}, "DOMAIN", "is not a domain name"),
    ({"DOMAIN": "shop"}, "DOMAIN", "is not a domain name"),
    ({"DOMAIN": "10.1.0.1"}, "DOMAIN", "is not a domain name"),
    ({"DOMAIN": "shop.example.com", "FLOWER": "off"}, "DOMAIN", "there is none"),
    ({"DATABASE": "shop"}, "DATABASE", "lacks a scheme"),
    ({"DATABASE": "postgresql://db/shop"}, "DATABASE", "lacks a scheme"),
    ({"DATABASE": "postgresql://me@db:port/shop"}, "DATABASE", "is not a URL"),
    ({"DATABASE": "postgresql://me:hush@db/shop"}, "DATABASE", "contains a password"),
    (
        {"HOSTS": "a,b", "DATABASE": "postgresql://me@localhost/shop"},
        "DATABASE",
        "a different database on each host",
    ),
    ({"SSH_USER": "a b"}, "SSH_USER", "can't be the name of a Unix user"),
    ({"FIREWALL": "yes"}, "FIREWALL", "is not an allowed value"),
    ({"HOSTS": "a,b", "FIREWALL": "on"}, "FIREWALL", "there is none for a, b"),
    ({"SECRETS": "plain"}, "SECRETS", "is not an allowed value"),
    ({"VAULT_PASSWORD_FILE": ""}, "VAULT_PASSWORD_FILE", "is empty"),
    ({"VAULT_PASSWORD_FILE": "/no/such/file"}, "VAULT_PASSWORD_FILE", "is not a file"),
    ({"VAULT_PASSWORD_FILE": "~nobody-of-that-name/x"}, "VAULT_PASSWORD_FILE", "is not a file"),
    ({"VAULT_PASSWORD_FILE": "x" * 300}, "VAULT_PASSWORD_FILE", "is not a file"),
]


@pytest.mark.parametrize(("change", "option", "message"), BAD, ids=lambda value: str(value)[:60])
def test_invalid_options_are_refused_with_a_remedy(
    change: dict[str, str | None], option: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    options = {key: value for key, value in {**SMALL, **change}.items() if value is not None}
    found = mistakes(options, project(tmp_path))
    named = [one for one in found if one.option == option and message in one.message]
    assert len(named) == 1, found
    assert named[0].remedy
    assert "hush" not in str(found)


def test_a_module_may_be_in_a_package(tmp_path: Path) -> None:
    assert mistakes({**SMALL, "MODULE": "package.utils"}, project(tmp_path)) == []


def test_a_relative_source_is_written_in_full_if_another_configuration_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at its directory."""
    base = ROOT / "examples/flexiprice/backend"
    own = Project(base, tmp_path)
    monkeypatch.setattr(constants.config, "_config_file", str(base / "ansible.cfg"))
    assert environment({**SMALL, "SOURCE": "."}, own).source == {"path": "."}
    monkeypatch.setattr(constants.config, "_config_file", "/srv/company/ansible.cfg")
    assert environment({**SMALL, "SOURCE": "."}, own).source == {"path": str(base)}
    assert environment({**SMALL, "SOURCE": str(base)}, own).source == {"path": str(base)}


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    options = {"NAME": "My Shop", "HOSTS": "a,a", "MODULE": "9", "QUEUES": "a=0", "DOMAIN": "x"}
    with pytest.raises(RefusedError) as refused:
        environment(options, project(tmp_path))
    named = {one.option for one in refused.value.mistakes}
    assert named == {"NAME", "HOSTS", "APP", "MODULE", "SOURCE", "QUEUES", "DOMAIN"}


def test_only_its_owner_may_read_the_vaults_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"

    def said() -> str:
        found = mistakes({**SMALL, "VAULT_PASSWORD_FILE": str(path)}, project(tmp_path))
        return " ".join(one.message for one in found)

    path.write_text(" \n")
    path.chmod(0o600)
    assert "is empty, but a vault needs a password" in said()
    path.write_text("a good one\n")
    assert said() == ""
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", _forbidden)
        assert "is a file that you can't read" in said()
    path.chmod(0o640)
    assert "can be read by others" in said()
    path.chmod(0o700)
    assert "is a program" in said()
    both = {**SMALL, "SECRETS": "env", "VAULT_PASSWORD_FILE": str(path)}
    assert "has no use with SECRETS=env" in str(mistakes(both, project(tmp_path)))


def test_a_comma_in_a_path_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a,b"
    path.mkdir()
    (found,) = mistakes(SMALL, project(path))
    assert (found.option, found.message.partition(":")[0]) == ("INVENTORIES", "contains a comma")
    password = path / "password"
    password.write_text("a good one\n")
    password.chmod(0o600)
    (found,) = mistakes({**SMALL, "VAULT_PASSWORD_FILE": str(password)}, project(tmp_path))
    assert (found.option, found.message.partition(",")[0]) == (
        "VAULT_PASSWORD_FILE",
        "contains a comma",
    )


def _forbidden(*_: object) -> bytes:
    raise PermissionError(13, "Permission denied")


def test_a_missing_directory_of_inventories_is_refused(tmp_path: Path) -> None:
    found = mistakes(SMALL, project(tmp_path / "nothing"))
    assert [(one.option, one.message) for one in found] == [("INVENTORIES", "is not a directory")]


def test_only_missing_options_are_asked_for() -> None:
    assert missing({}) == ["NAME", "HOSTS", "APP", "MODULE", "SOURCE"]
    assert missing(SMALL) == []
    assert missing({**SMALL, "SOURCE": GIT["SOURCE"]}) == ["VERSION"]
    assert (
        missing({key: SMALL[key] for key in ("NAME", "APP", "MODULE", "SOURCE")} | {"REDIS": "a"})
        == []
    )


@pytest.mark.parametrize("name", GOOD)
def test_valid_options_are_accepted(name: str, tmp_path: Path) -> None:
    assert mistakes(GOOD[name], project(tmp_path)) == []


NAMES = [option.name for option in OPTIONS if option.name != "INVENTORIES"]
PIECES = st.sampled_from(
    [
        "a",
        "b1",
        "one",
        "two",
        "=",
        ",",
        ",",
        "/",
        ":",
        "@",
        "://",
        ".",
        "off",
        "on",
        "env",
        "4",
        "-",
        " ",
        "*",
        "'",
        "{{",
        "~",
        "9" * 300,
        "é",
        "\0",
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=8).map("".join), st.text(max_size=20))


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), TEXTS, max_size=6), st.sampled_from(sorted(GOOD)))
def test_any_text_leads_to_an_environment_or_a_refusal(change: dict[str, str], base: str) -> None:
    for one in mistakes({**GOOD[base], **change}, project(Path("inventories"))):
        assert one.message
        assert one.remedy


@pytest.mark.parametrize("name", ["uv.lock", "poetry.lock", "pyproject.toml", "requirements.txt"])
def test_the_requirements_may_be_in_a_lock_or_in_the_project(tmp_path: Path, name: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/celery_app.py").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / name).touch()
    made = environment({**SMALL, "SOURCE": str(tmp_path)}, project(tmp_path))
    own = {} if name == "requirements.txt" else {"requirements": name}
    assert made.source == {"path": str(tmp_path), **own}
