"""Valid inventories of many shapes, and the mistakes that people and accidents make in them; hypothesis draws both.

Inventories are drawn as Ansible would have read them: plain data, whose strings may be templates.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from tests.unit.preflight.inventory import specs, valid

Draw = st.DrawFn
Path_ = tuple[Any, ...]

# Each secret of an inventory contains this, so no message may.
MARK: Final = "hush5fe2"
ALONE: Final = {
    name: ["one"]
    for name in (
        *("all", "fleet", "redis", "celery_workers", "celery_beat", "celery_producers", "flower"),
    )
}
APART: Final = {
    **ALONE,
    "all": ["one", "two"],
    "fleet": ["one", "two"],
    "celery_workers": ["two"],
}


@dataclass
class Inventory:
    """Groups, and variables of all hosts and of single ones."""

    groups: dict[str, list[str]]
    everywhere: dict[Any, Any]
    hosts: dict[str, dict[Any, Any]] = field(default_factory=dict)


def secret(number: int) -> str:
    return f"{MARK}-not-a-real-one-{number:03}"


# --- valid ones -----------------------------------------------------------------------------------

_NAMES: Final = ("mail", "reports", "a", "x-9", "under_score", "0")
_SECONDS: Final = st.sampled_from([1, 30, 0.5, 300, 3600])
_MINUTES: Final = st.sampled_from([0, "*/5", "0,30", "5-50/5", "*", "59"])
_SIZES: Final = st.sampled_from(["512M", "1.5G", "infinity", "40%"])


@st.composite
def inventories(draw: Draw, source: Path) -> Inventory:
    """Draw a valid inventory."""
    found = valid(source)
    names = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=3, unique=True))
    found["celery_worker_instances"] = {name: draw(_workers()) for name in names}
    queues = [
        queue
        for name, options in found["celery_worker_instances"].items()
        for queue in options.get("queues", [name])
    ]
    found["celery_beat_schedule"] = {
        f"entry {number}": draw(_entries(queues)) for number in range(draw(st.integers(0, 3)))
    }
    found["celery_app_task_routes"] = {
        pattern: {"queue": draw(st.sampled_from(queues))}
        for pattern in draw(st.lists(st.sampled_from(["app.*", "app.tasks.x", "*"]), unique=True))
    }
    found |= draw(_extras())
    for number, user in enumerate(found["redis_passwords"]):
        found["redis_passwords"][user] = secret(number)
    found |= {
        "pki_ca_passphrase": secret(10),
        "flower_auth_password": secret(11),
        "flower_cookie_secret": secret(12),
        "celery_producer_web_auth_password": secret(13),
        "celery_app_secret_env": {
            "API_KEY": secret(14),
            "DATABASE_URL": f"pg://u:{secret(15)}@d/x",
        },
        "celery_app_env_urls": {"OTHER_URL": {"scheme": "a", "host": "h", "password": secret(16)}},
    }
    return Inventory(copy.deepcopy(draw(st.sampled_from([ALONE, APART]))), found)


@st.composite
def _workers(draw: Draw) -> dict[str, Any]:
    options: dict[str, st.SearchStrategy[Any]] = {
        "queues": st.sampled_from([["high", "low"], ["celery"], ["eu:mails"]]),
        "concurrency": st.integers(1, 64),
        "pool": st.sampled_from(["prefork", "threads", "solo"]),
        "prefetch_multiplier": st.integers(1, 4),
        "max_tasks_per_child": st.integers(1, 1000),
        "max_memory_per_child": st.integers(40_000, 10**6),
        "memory_max": _SIZES,
        "cpu_quota": st.sampled_from(["50%", "200%"]),
        "tasks_max": st.sampled_from(["64", "infinity"]),
        "loglevel": st.sampled_from(["DEBUG", "INFO"]),
        "environment": st.sampled_from([{}, {"A": "1"}, {"A_B": "x y“z”$%"}]),
        "task_events": st.booleans(),
        "without_gossip": st.booleans(),
        "read_write_paths": st.sampled_from([[], ["/srv/data"]]),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=5, unique=True))
    found = {name: draw(options[name]) for name in chosen}
    if draw(st.booleans()):
        found |= {"time_limit": 600, "soft_time_limit": 500}
    return found


@st.composite
def _entries(draw: Draw, queues: list[str]) -> dict[str, Any]:
    times: dict[str, Any] = draw(
        st.one_of(
            st.builds(lambda seconds: {"interval": seconds}, _SECONDS),
            st.builds(lambda minute: {"crontab": {"minute": minute, "hour": 2}}, _MINUTES),
            st.just({"crontab": {"minute": 0, "day_of_week": "mon-fri", "month_of_year": "*/3"}}),
            st.just({"solar": {"event": "sunset", "latitude": 48.2, "longitude": -16.3}}),
        )
    )
    more: dict[str, Any] = draw(
        st.sampled_from(
            [{}, {"args": [1, "x"]}, {"kwargs": {"a": None}}, {"options": {"priority": 3}}, {"enabled": False}]
        )
    )  # fmt: skip
    return {"task": "app.tasks.x", "queue": draw(st.sampled_from(queues)), **times, **more}


@st.composite
def _extras(draw: Draw) -> dict[str, Any]:
    possible: dict[str, Any] = {
        "celery_app_name": st.sampled_from(["shop", "a-b", "x_1"]),
        "celery_app_env": st.sampled_from([{}, {"A": "“ü”\n$x"}, {"N": "{{ celery_app_name }}"}]),
        "celery_app_settings": st.sampled_from([{}, {"timezone": "Europe/Berlin"}, {"task_time_limit": 60}]),
        "celery_app_delivery": st.sampled_from(["inherit", "at_most_once"]),
        "celery_app_log_destination": st.sampled_from(["journal", "file"]),
        "celery_app_log_rotate": st.sampled_from([{"when": "weekly"}, {"keep": 3, "size": "1M"}]),
        "celery_beat_scheduler": st.sampled_from(["persistent", "database", "redbeat"]),
        "celery_health_enabled": st.booleans(),
        "celery_health_interval": st.sampled_from([60, 3600]),
        "celery_producer_web_listen": st.sampled_from(["", "127.0.0.1:5000"]),
        "celery_producer_web_port": st.sampled_from([443, "8443", "{{ 8000 + 443 }}"]),
        "celery_release_commands": st.just([{"name": "migrate", "argv": ["python", "-V"], "hosts": "one"}]),
        "celery_worker_defaults": st.sampled_from([{}, {"memory_max": "1G"}, {"concurrency": 2}]),
        "flower_url_prefix": st.sampled_from(["", "flower", "/a/b/"]),
        "redis_broker_maxmemory": st.sampled_from(["1gb", 10**7, "64MB"]),
        "celery_worker_fetch": st.sampled_from(["auto", "stock"]),
    }  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(sorted(possible)), max_size=6, unique=True))
    return {name: draw(possible[name]) for name in chosen}


# --- mutations -------------------------------------------------------------------------

_NUMBERS: Final = (
    *(0, -1, 1, 1.5, 22, 65535, 65536, 2**31, 2**63, 10**30, 1e-9, 1e300),
    *(float("nan"), float("inf"), -float("inf"), 10**400),
)
_STRINGS: Final = (
    *("", " ", "x", "0", "-1", "1e3", "yes", "no", "null", "true", "~", "None", "a b", "a,b", "a;b", "a|b", "#"),
    *("../..", "/", "//", "-x", "--help", "*", "?", "[", "%", "%i", "%%", "$", "$HOME", "${x}", "\\", "\\n", "'", '"'),
    *("\n", "a\nb", "\t", "\r", "\0", "\x1b[31m", "\x7f", "\u2028", "\u202e", "\ufeff", "ü", "漢字", "🐢", "e\u0301"),
    *("x" * 300, "x" * 5000, "1" * 400, "a" * 64, "512 MB", "1GB", "10%", "200%", "5m", "0x10", "1_000", "٣"),
    *("~nobody-of-that-name/x", "a:b", "xx,xx,xx,xx,xx,xx,xx"),
    *("<secret>", "http://u:p@h/", "::1", "[::1]:80", "0.0.0.0:1", "localhost", "@reboot", "*/0", "1-", "5-1", "mon"),
)  # fmt: skip
_TEMPLATES: Final = (
    *("{{ nosuch }}", "{{ nosuch.a.b }}", "{{ 1 / 0 }}", "{{ [", "{% for %}", "{{ x", "{{ omit }}", "{{ '' }}"),
    *("{{ none }}", "{{ [1] }}", "{{ {'a': 1} }}", "{{ 1 }}", "{{ true }}", "{{ 'a' | nosuch }}", "{{ 'a' | int }}"),
    *("{{ lookup('nosuch') }}", "{{ lookup('env', 'HOME') }}", "{{ undef() }}", "{{ hostvars }}", "{{ groups }}"),
    *("{{ hostvars['nosuch'].x }}", "{{ ansible_facts['fleet'].processors }}", "{{ inventory_hostname }}"),
    *("{{ redis_passwords.worker }}", "{{ redis_passwords }}", "{{ [redis_passwords.beat] | from_json }}"),
    *("{{ celery_app_secret_env.API_KEY | int }}", "{{ 'x' * 100000 }}", "{{ range(5) }}", "{{ 2 ** 99 }}"),
    *("{# a #}", "{{ '{{' }}", "#jinja2: trim_blocks: False\nx", "{{ celery_app_name }} {{ celery_app_name }}"),
)  # fmt: skip
_OTHERS: Final = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [{}],
    {"a": {}},
    {"": 1},
    {1: 2},
    {None: None},
    {True: 1},
)
_SECRET_NAMES: Final = (
    "redis_pasword",
    "redis_password",
    "my_password",
    "celery_app_secrets",
    "pki_passphrase",
)


def values() -> st.SearchStrategy[Any]:
    """Draw anything that may be in the place of something else."""
    return st.one_of(
        *(st.sampled_from(kind) for kind in (_NUMBERS, _STRINGS, _TEMPLATES, _OTHERS)),
        st.text(max_size=20).filter(lambda text: text.isprintable()),
    ).map(copy.deepcopy)


@st.composite
def mutations(draw: Draw, inventory: Inventory) -> Inventory:
    """Draw the inventory with one to three changes."""
    found = copy.deepcopy(inventory)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        _KINDS[draw(st.sampled_from(sorted(_KINDS)))](draw, found)
    return found


def _places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the paths of everything inside a value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (*path, key)
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (*path, index)
            yield from _places(item, (*path, index))


def _place(draw: Draw, inventory: Inventory) -> tuple[Any, Any]:
    """Draw a container and a key of it."""
    # Choose each variable equally often, however much it contains.
    name = draw(st.sampled_from(sorted(inventory.everywhere, key=repr)))
    below = [(name, *path) for path in _places(inventory.everywhere[name])]
    *way, last = draw(st.sampled_from([(name,), *below]))
    inner: Any = inventory.everywhere
    for part in way:
        inner = inner[part]
    return inner, last


def _delete(draw: Draw, inventory: Inventory) -> None:
    inner, last = _place(draw, inventory)
    if len(inventory.everywhere) > 1:
        del inner[last]


def _replace(draw: Draw, inventory: Inventory) -> None:
    inner, last = _place(draw, inventory)
    inner[last] = draw(values())


def _set(draw: Draw, inventory: Inventory) -> None:
    """Set any variable of the roles, whether or not the inventory had it."""
    name = draw(st.sampled_from(sorted(specs().options)))
    inventory.everywhere[name] = draw(values())


def _set_one(draw: Draw, inventory: Inventory) -> None:
    """Set one on a single host."""
    host = draw(st.sampled_from(inventory.groups["all"]))
    name = draw(st.sampled_from(sorted(specs().options)))
    inventory.hosts.setdefault(host, {})[name] = draw(values())


def _option(draw: Draw, inventory: Inventory) -> None:
    """Set any option of a worker."""
    name = draw(st.sampled_from(sorted(specs().element_options("celery_worker_instances"))))
    instances = inventory.everywhere.get("celery_worker_instances")
    worker = next(iter(instances.values()), None) if isinstance(instances, dict) else None
    if isinstance(worker, dict):
        worker[name] = draw(values())


def odd(option: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Draw unexpected values of the type that a spec requires, which it mostly accepts."""
    kind = option.get("type", "str")
    if kind == "list":
        return st.lists(odd({"type": option.get("elements", "str")}), max_size=3)
    if kind == "dict":
        below = {name: odd(one) for name, one in (option.get("options") or {}).items()}
        if below:
            return st.fixed_dictionaries({}, optional=below)
        return st.dictionaries(st.sampled_from(_STRINGS), st.sampled_from(_STRINGS), max_size=2)
    choices = option.get("choices") or []
    paths = ("/srv/a", "/a b", "/ü", "/a/../b", "a") if kind == "path" else ()
    strings = st.sampled_from([*choices, *paths, *_STRINGS])
    numbers = st.sampled_from([*_NUMBERS, "7", "7.5", 7, 10, 100])
    simple = {"bool": st.booleans(), "int": numbers, "float": numbers}
    return simple.get(str(kind), st.one_of(strings, strings, numbers))


def _odd(draw: Draw, inventory: Inventory) -> None:
    """Set any variable of the roles to an unexpected value of its type."""
    name = draw(st.sampled_from(sorted(specs().options)))
    inventory.everywhere[name] = draw(odd(specs().options[name]))


def _odd_option(draw: Draw, inventory: Inventory) -> None:
    """Set any option of a worker, or of a URL, to an unexpected value of its type."""
    variable = draw(st.sampled_from(["celery_worker_instances", "celery_app_env_urls"]))
    elements = inventory.everywhere.get(variable)
    first = next(iter(elements.values()), None) if isinstance(elements, dict) else None
    if isinstance(first, dict):
        name = draw(st.sampled_from(sorted(specs().element_options(variable))))
        first[name] = draw(odd(specs().element_options(variable)[name]))


@functools.cache
def _known() -> frozenset[str]:
    """Return all names in the specs, of variables and within them."""
    found: set[str] = set()
    left: list[Mapping[str, Any]] = [specs().options]
    while left:
        options = left.pop()
        found |= {*options}
        left += [one["options"] for one in options.values() if one.get("options")]
    return frozenset(found)


def _rename(draw: Draw, inventory: Inventory) -> None:
    inner, last = _place(draw, inventory)
    if isinstance(inner, dict) and isinstance(last, str) and last:
        cut = draw(st.integers(0, len(last) - 1))
        changed = draw(
            st.sampled_from(
                [
                    last[:cut] + last[cut + 1 :],
                    last[:cut] + last[cut] + last[cut:],
                    last[:cut] + "z" + last[cut + 1 :],
                    last.upper(),
                    f"{last} ",
                    # Only names that the roles know are changed, because other keys are no place for a secret.
                    f"{last}:{MARK}" if last in _known() else last,
                ]
            )
        )
        inner[changed] = inner.pop(last)


def _retype(draw: Draw, inventory: Inventory) -> None:
    inner, last = _place(draw, inventory)
    value = inner[last]
    as_text = str(value) if not isinstance(value, (dict, list)) else "x"
    inner[last] = draw(st.sampled_from([[value], {"a": value}, {str(last): value}, as_text, None]))


def _copied(draw: Draw, inventory: Inventory) -> None:
    """Copy a value to another place, such as a port that is then used twice, or a secret."""
    inner, last = _place(draw, inventory)
    other, key = _place(draw, inventory)
    value = copy.deepcopy(other[key])
    inner[last] = value


def _ports(draw: Draw, inventory: Inventory) -> None:
    names = [name for name in specs().options if name.endswith("_port")]
    one, other = draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))
    number = draw(st.sampled_from([443, 6379, 6380, 5555, 22, 9000, "9000"]))
    inventory.everywhere |= {one: number, other: number}


def _cycle(draw: Draw, inventory: Inventory) -> None:
    one, other = draw(
        st.lists(st.sampled_from(sorted(inventory.everywhere, key=repr)), min_size=1, max_size=2)
        .map(lambda names: [*names, names[0]])
        .map(lambda names: names[:2])
    )
    inventory.everywhere[one] = f"{{{{ {other} }}}}"
    inventory.everywhere[other] = f"{{{{ {one} }}}}"


def _misplaced(draw: Draw, inventory: Inventory) -> None:
    """Put a secret under an unknown name, or in a wrong shape."""
    value = secret(draw(st.integers(50, 99)))
    shapes = [
        value,
        [value],
        {"worker": value},
        {value: None},
        f"{value}\n",
        f"{{{{ '{value}' | from_json }}}}",
    ]
    shape = draw(st.sampled_from(shapes))
    secrets = [
        name for name in inventory.everywhere if "pass" in str(name) or "secret" in str(name)
    ]
    name = draw(st.sampled_from([*_SECRET_NAMES, *secrets]))
    inventory.everywhere[name] = shape


def _groups(draw: Draw, inventory: Inventory) -> None:
    name = draw(st.sampled_from(sorted(inventory.groups)))
    other = draw(st.sampled_from(["", "one", "two", "three", "a b", "ü"]))
    inventory.groups[name] = [*inventory.groups[name], other] if other else []


_KINDS: Final = {
    "copied": _copied,
    "cycle": _cycle,
    "delete": _delete,
    "groups": _groups,
    "misplaced": _misplaced,
    "odd": _odd,
    "odd_option": _odd_option,
    "option": _option,
    "ports": _ports,
    "rename": _rename,
    "replace": _replace,
    "retype": _retype,
    "set": _set,
    "set_one": _set_one,
}
