"""Checks the clients outside of the fleet: their names, passwords, queues and addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ..model.inventory import UNKNOWN, Model, Problem, as_list, as_mapping, as_strings, dotted
from ..model.report import with_hosts
from ..model.specs import options_of
from .firewall import check_network
from .values import suggestion
from .workers import EXTERNAL, external, served

_CLIENTS: Final = "celery_app_clients"
_PASSWORDS: Final = "celery_app_client_passwords"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_clients(model: Model) -> Iterator[Problem]:
    """Check each client, and that each has a password and each password a client."""
    for value, hosts in model.distinct(_CLIENTS):
        for name, options in as_mapping(value).items():
            client = as_mapping(options)
            yield from with_hosts(hosts, _name(model, name))
            yield from with_hosts(hosts, _queues(model, name, client))
            yield from with_hosts(hosts, _addresses(model, name, client))
    for host in model.members("redis"):
        clients, passwords = (as_mapping(model.value(host, one)) for one in (_CLIENTS, _PASSWORDS))
        if UNKNOWN in (model.value(host, _CLIENTS), model.value(host, _PASSWORDS)):
            continue
        for name in clients:
            password = passwords.get(name)
            if password is not UNKNOWN and not isinstance(password, str):
                yield Problem(
                    dotted((_PASSWORDS, name)),
                    f"is not set to a string, but {_CLIENTS} has a client of this name",
                    "put a random one into the environment's vault.yml: openssl rand -hex 24",
                    hosts=(host,),
                )
        for name in passwords:
            if name not in clients:
                # The key may be a password by mistake.
                shown = name if _NAME.fullmatch(name) else "(a key that is not shown)"
                yield Problem(
                    dotted((_PASSWORDS, shown)),
                    f"is the password of a client that {_CLIENTS} does not have",
                    suggestion(name, tuple(clients)) or "remove it, or add the client",
                    hosts=(host,),
                )


def _name(model: Model, name: str) -> Iterator[Problem]:
    ours = ("default", *options_of(model.specs.options["redis_passwords"]))
    if name in ours:
        yield Problem(
            dotted((_CLIENTS, name)),
            "is the name of one of the fleet's own Redis users",
            f"choose another name than {', '.join(ours)}",
        )
    elif not _NAME.fullmatch(name):
        yield Problem(
            dotted((_CLIENTS, name)),
            "can't be the name of a Redis user here",
            "begin with a letter; use only a-z, 0-9, - and _, at most 32 characters",
        )


def _queues(model: Model, name: str, options: Mapping[str, object]) -> Iterator[Problem]:
    for key, known, what in (
        ("queues", tuple(sorted(served(model))), f"a worker's queue or one of {EXTERNAL}"),
        (
            "consume",
            external(model),
            f"one of {EXTERNAL}, because the fleet's workers own their queues",
        ),
    ):
        for index, queue in enumerate(as_strings(options.get(key))):
            if queue not in known:
                yield Problem(
                    dotted((_CLIENTS, name, key, index)),
                    f"is not {what}",
                    suggestion(queue, known)
                    or f"choose from {', '.join(known) or '(none)'}, or add it to {EXTERNAL}",
                    value=model.show((_CLIENTS, name, key), queue),
                )
            # Redis's patterns can't name the control characters in the key of a priority.
            for other in {*served(model), *external(model)}:
                if re.fullmatch(f"{re.escape(queue)}..[369]", other):
                    yield Problem(
                        dotted((_CLIENTS, name, key, index)),
                        f"also allows the queue {other}, which looks like a priority of it in Redis",
                        "rename one of the two queues",
                        value=model.show((_CLIENTS, name, key), queue),
                    )


def _addresses(model: Model, name: str, options: Mapping[str, object]) -> Iterator[Problem]:
    for index, item in enumerate(as_list(options.get("addresses"))):
        yield from check_network(model, (_CLIENTS, name, "addresses", index), item)
