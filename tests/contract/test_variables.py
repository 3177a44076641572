"""Every variable that roles, playbooks and templates read is declared, and every declared one is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    facts as desired_facts,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import nginx, workers
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import (
    redis as desired_redis,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.parts import PARTS
from jinja2 import Environment, TemplateSyntaxError, meta, nodes

from tests.contract.test_repository import ROOT, defaults_of, load, options_of, playbooks, roles
from tests.facts import facts
from tests.facts import workers as workers_of_host

# Variables and functions that Ansible provides.
MAGIC = {
    "ansible_check_mode",
    "ansible_facts",
    "ansible_failed_result",
    "ansible_host",
    "ansible_managed",
    "ansible_play_hosts",
    "ansible_play_hosts_all",
    "ansible_limit",
    "ansible_inventory_sources",
    "ansible_run_tags",
    "ansible_skip_tags",
    "ansible_version",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_hostname",
    "item",
    "omit",
    "playbook_dir",
    "role_name",
    "role_path",
}
# Keys whose strings are expressions without braces.
BARE = {"when", "changed_when", "failed_when", "until", "that"}


class Every(dict[str, Any]):
    """Accepts every name of a filter or test, because Ansible checks those."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) or (lambda value, *args, **kwargs: value)

    def __contains__(self, name: object) -> bool:
        return True


@cache
def environment() -> Environment:
    made = Environment(trim_blocks=True, autoescape=False)  # noqa: S701 - nothing is rendered
    made.filters, made.tests = Every(made.filters), Every(made.tests)
    return made


def expressions(value: Any, bare: bool = False) -> Iterator[str]:
    """Yield every template in a YAML document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from expressions(key)
            yield from expressions(item, key in BARE)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item, bare)
    elif isinstance(value, str):
        if bare and "{{" not in value:
            yield f"{{{{ {value} }}}}"
        elif "{{" in value or "{%" in value:
            yield value


def parsed(text: str, where: Path) -> nodes.Template:
    try:
        return environment().parse(text)
    except TemplateSyntaxError as error:
        pytest.fail(f"{where.relative_to(ROOT)}: {error}: {text}")


def declared_in(value: Any) -> Iterator[str]:
    """Yield the names that a document of tasks declares: registered results, loop variables, `vars`, facts."""
    if isinstance(value, dict):
        if isinstance(value.get("register"), str):
            yield value["register"]
        for name in ("vars", "ansible.builtin.set_fact"):
            if isinstance(value.get(name), dict):
                yield from value[name]
        yield from (value.get("loop_control") or {}).get("loop_var", "").split()
        for item in value.values():
            yield from declared_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from declared_in(item)
    elif isinstance(value, str) and "'vars':" in value:
        # The files to reconcile are often given as an expression.
        for pair in environment().parse(value).find_all(nodes.Pair):
            if isinstance(pair.key, nodes.Const) and pair.key.value == "vars":
                keys = (inner.key for inner in pair.value.find_all(nodes.Pair))
                yield from (str(key.value) for key in keys if isinstance(key, nodes.Const))


def given_by_filters() -> set[str]:
    """Return the variables that filters pass to the templates of files."""
    worker = workers.worker_state(facts(), workers_of_host({"w": {}}), release="1", timeout=1)
    instances = [{"kind": "broker", "name": "b", "port": 1}]
    servers: desired_facts.RedisServers = {
        "config": "/c",
        "tls": "/t",
        "host": "h",
        "timeout": 1,
        "flavor": "redis",
        "setinfo": False,
        "remote_control": False,
        "replication": {
            "host": "h",
            "port": 3,
            "quorum": 2,
            "min_replicas": 1,
            "priority": 100,
            "down_after": 3,
            "addresses": {},
        },
    }
    known = {"name": "b", "sentinels": [{"host": "h", "port": 3}]}
    replicated = facts(
        broker={"host": "h", "port": 1, **known}, results={"host": "h", "port": 2, **known}
    )
    passwords = dict.fromkeys(("admin", "replica", "sentinel"), "p")
    redis = desired_redis.redis_state(replicated, servers, instances, passwords)
    site = nginx.site(
        facts(),
        "web",
        port=1,
        socket="/s",
        protected=[],
        password_line="",
        proxy={},
    )
    location = nginx.location(
        "flower", directory="/d", prefix="p", socket="/s", password_line="a:x", proxy={}
    )
    files = [*worker["files"], *redis["files"], *site["files"], *location["files"]]
    return {name for item in files for name in item.get("vars", {})}


def documents() -> list[Path]:
    """Yield the YAML documents of roles and playbooks."""
    parts = ("tasks", "handlers", "defaults", "vars")
    found = [p for role in roles() for part in parts for p in (role / part).glob("*.yml")]
    return sorted([*found, *(path for path in playbooks() if "molecule" not in path.parts)])


def templates() -> list[Path]:
    """Yield every template that roles use."""
    return sorted([*(ROOT / "templates").rglob("*.j2"), *(ROOT / "roles").rglob("*.j2")])


@cache
def declared() -> frozenset[str]:
    names = set(MAGIC) | given_by_filters()
    for role in roles():
        names |= set(options_of(role)) | defaults_of(role)
        specs = load(role / "meta/argument_specs.yml")["argument_specs"]
        # These come from the command line.
        for entry in ("choose", "restore"):
            names |= set(specs.get(entry, {}).get("options", ()))
        for path in [*(role / "vars").glob("*.yml"), *(role / "defaults").glob("*.yml")]:
            names |= set(load(path) or {})
    for path in documents():
        names |= set(declared_in(load(path)))
    return frozenset(names)


@cache
def read() -> dict[str, str]:
    """Return every name that is read, with the first place that reads it."""
    found: dict[str, str] = {}
    for path in [*documents(), *templates()]:
        texts = [path.read_text()] if path.suffix == ".j2" else expressions(load(path))
        for text in texts:
            for name in meta.find_undeclared_variables(parsed(text, path)):
                found.setdefault(name, str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("role", "variable", "kind"),
    [
        ("celery_app", "__celery_app_facts", desired_facts.Facts),
        ("celery_worker", "__celery_worker_own", desired_facts.Workers),
        ("celery_beat", "__celery_beat_own", desired_facts.BeatSchedule),
        ("redis", "__redis_servers", desired_facts.RedisServers),
    ],
)
def test_mappings_for_filters_have_every_key_of_their_type(
    role: str, variable: str, kind: Any
) -> None:
    """Ansible renders a key when it is read, so a missing one would show up on some hosts only."""
    assert set(load(ROOT / "roles" / role / "vars/main.yml")[variable]) == kind.__required_keys__


@pytest.mark.slow
def test_every_variable_that_is_read_is_declared() -> None:
    functions = {"lookup", "query", "q", "now", "undef", "range", "dict", "namespace"}
    orphans = {n: at for n, at in read().items() if n not in declared() and n not in functions}
    assert orphans == {}


def test_every_variable_that_is_documented_is_read() -> None:
    plugins = "\n".join(path.read_text() for path in (ROOT / "plugins").rglob("*.py"))
    dead = [
        name
        for role in roles()
        for name, option in options_of(role).items()
        # If there is only one choice, there is nothing to read.
        if len(option.get("choices", [])) != 1
        and name not in read()
        and not re.search(rf"\b{name}\b", plugins)
    ]
    assert dead == []


def test_every_internal_variable_is_read() -> None:
    internal = {name for name in declared() if name.startswith("__")}
    plugins = "\n".join(path.read_text() for path in (ROOT / "plugins").rglob("*.py"))
    # The plan reads these by a pattern of their names.
    internal -= {part.variable for part in PARTS}
    assert [n for n in sorted(internal) if n not in read() and n not in plugins] == []


def test_the_search_would_find_an_orphan() -> None:
    text = "{% for a in known %}{{ a.b | nosuchfilter(orphan) }}{% endfor %}"
    assert meta.find_undeclared_variables(parsed(text, ROOT)) == {"known", "orphan"}
    tasks = [{"debug": {"msg": "x"}, "when": ["bare is defined"], "register": "made"}]
    assert [*expressions(tasks)] == ["{{ bare is defined }}"]
    assert [*declared_in(tasks)] == ["made"]


def test_a_default_that_is_repeated_is_that_of_its_role() -> None:
    """A role that does not depend on another one can't read its defaults, and has to repeat them."""
    defaults: dict[str, Any] = {}
    for role in roles():
        path = role / "defaults/main.yml"
        defaults |= (load(path) or {}) if path.exists() else {}
    repeated = re.compile(r"\b([a-z]\w+) \| default\(('[^']*'|\d+|\{\}|\[\])\)")
    found = {
        (name, text)
        for path in documents()
        for expression in expressions(load(path))
        for name, text in repeated.findall(expression)
        if name in defaults
    }
    assert ("flower_port", "5555") in found
    assert {(n, t) for n, t in found if yaml.safe_load(t) != defaults[n]} == set()


# --- templates of units ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted((ROOT / "templates/systemd").glob("*.service.j2"))
        # The base is for services that must stay up, so units that end by themselves don't use it.
        if "Type=oneshot" not in path.read_text()
    ],
    ids=lambda path: path.name,
)
def test_every_service_has_the_same_base(path: Path) -> None:
    seen = []
    while not path.name.startswith("_service"):
        first = path.read_text()
        found = re.search(r"\{% extends '([^']+)' %\}", first)
        assert found, f"{path.name} does not extend the base"
        path = ROOT / "templates" / found.group(1)
        assert path.is_file()
        assert path not in seen, "a circle"
        seen.append(path)
    assert path.name == "_service.j2"


def test_every_template_is_used() -> None:
    places = [*documents(), *templates(), *(ROOT / "plugins").rglob("*.py")]
    texts = "\n".join(path.read_text() for path in places)
    # Templates in templates/ are named by their path from there.
    used = set(re.findall(r"[\w@./-]+\.j2", texts))
    known = {
        p.relative_to(ROOT / "templates").as_posix() for p in (ROOT / "templates").rglob("*.j2")
    }
    known |= {path.name for path in (ROOT / "roles").rglob("*.j2")}
    assert known - used == set()


# --- plays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [path for path in playbooks() if "molecule" not in path.parts],
    ids=lambda path: path.name,
)
def test_plays_gather_nothing_and_stop_at_the_first_error(path: Path) -> None:
    for play in load(path):
        if not any(key.endswith("import_playbook") for key in play):
            assert play["gather_facts"] is False, play["name"]
            # The play that leaves out a host must not stop for the others.
            alone = play["name"] == "Leave out hosts that can't be reached"
            assert play["any_errors_fatal"] is not alone, play["name"]
            assert "vars" not in play, f"{play['name']}: the inventory could not override them"
