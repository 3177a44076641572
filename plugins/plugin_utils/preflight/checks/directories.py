"""Checks the application's directories: the fleet's own, and those of celery_app_directories, which a run creates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from ...desired.application_options import DIRECTORY
from ...desired.facts import log_directory
from ..model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    Severity,
    as_mapping,
    as_text,
    dotted,
    each_process,
)
from .sandbox import VISIBLE, hidden_by_sandbox
from .web import is_plain_path

VARIABLE: Final = "celery_app_directories"
# Directories of the fleet itself. The owner of a directory in them could replace files that root or other processes run
# or read.
_OURS: Final = ("celery_app_root", "celery_app_config_directory", "redis_config_directory")
_STATE: Final = "celery_app_state_directory"
_MODE: Final = next(option for option in DIRECTORY if option.name == "mode")
# At least two parts: /opt itself belongs to no application. A removal accepts the same (removal/footprint.py).
_OWN_DIRECTORY = re.compile(r"(/[A-Za-z0-9_+:@-][A-Za-z0-9._+:@-]*){2,}")
# Patterns of directories: below these everything is the system's, and in these several applications have their own.
_BELOW_SYSTEM: Final = (
    r"/(bin|boot|dev|lib|lib32|lib64|proc|root|run|sbin|sys|tmp|var/(run|tmp))/.*"
)
_PARENTS: Final = r"/var/(backups|cache|lib|local|log|mail|opt|spool|www)|/home/[^/]+"
_SHARED_DIRECTORY = re.compile(
    rf"{_BELOW_SYSTEM}|{_PARENTS}|/var/(run|tmp|www/html|lib/celery-fleet(-redis)?|log/celery-fleet)"
    r"|/usr/(?!local(/|$)).*|/usr/local(/(bin|etc|games|include|lib|man|sbin|share|src))?"
    r"|/var/lib/(apt|dpkg|mysql|postgresql|redis|systemd|valkey)"
    r"|/etc/(apt|celery-fleet|cron\.d|default|init\.d|nginx|redis|ssh|ssl|systemd|valkey)|/etc/ssl/(certs|private)"
)
# Variables of directories that can only be one: its parent, what it is, and what would be wrong with another one.
_FIXED: Final = {
    "celery_app_config_directory": (
        "/etc/celery-fleet",
        "in which runs look for an application's mark",
        "other applications could take over its files, and a removal would not find it",
    ),
    "celery_app_state_directory": (
        "/var/lib",
        "in which systemd gives units their state (StateDirectory=)",
        "beat could not write its schedule, and workers would have their state elsewhere",
    ),
}
_SYSTEM = re.compile(
    rf"{_BELOW_SYSTEM}|{_PARENTS}|/(etc|usr)/.*"
    r"|/var/lib/celery-fleet(-redis)?(/.*)?|/var/log/celery-fleet(/.*)?"
)


def check_own_directories(model: Model) -> Iterator[Problem]:
    """Check the directories that belong only to the application, because its removal deletes them."""
    for variable in ("celery_app_root", "redis_config_directory"):
        for value, hosts in model.distinct_given(variable):
            if isinstance(value, str) and not _OWN_DIRECTORY.fullmatch(value.rstrip("/")):
                yield Problem(
                    variable,
                    "is not a directory that can belong only to one application",
                    "write an absolute path, in at least two parts of letters, digits and . _ + : @ -",
                    value=model.show((variable,), value or '""'),
                    hosts=hosts,
                )
            elif isinstance(value, str) and _SHARED_DIRECTORY.fullmatch(value.rstrip("/")):
                yield Problem(
                    variable,
                    "belongs to the system or to several applications. A run would give it to this application, and a "
                    "removal would delete it",
                    "write a directory of the application's own, as in /srv/shop",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
            elif isinstance(value, str) and (hidden := hidden_by_sandbox(value)):
                yield Problem(
                    variable,
                    f"is {hidden}",
                    "write a directory of the application's own, as in /srv/shop",
                    value=model.show((variable,), value),
                    hosts=hosts,
                )
    for variable, (parent, what, otherwise) in _FIXED.items():
        for value, hosts in model.distinct_given(variable):
            wanted = {f"{parent}/{model.value(host, 'celery_app_name')}" for host in hosts}
            if isinstance(value, str) and {value.rstrip("/")} != wanted:
                yield Problem(
                    variable,
                    f"is not the directory {what}: {otherwise}",
                    f"leave it out; it is {', '.join(sorted(wanted))}",
                    value=model.show((variable,), value or '""'),
                    hosts=hosts,
                )


def check_directories(model: Model) -> Iterator[Problem]:
    """Refuse directories that belong to the fleet or the system or contain the fleet's, and invalid options."""
    processes = [*each_process(model)]
    for host in model.hosts:
        units = [options for _, options, hosts in processes if host in hosts]
        ours = {one: name for name in _OURS if (one := as_text(model.value(host, name)))}
        whole = _removed_whole(model, host)
        yield from _inside_the_applications(host, ours, whole)
        for path, options in as_mapping(model.value(host, VARIABLE)).items():
            place = PurePosixPath(path)
            closed = [name for one, name in ours.items() if place.is_relative_to(one)]
            closed += [name for one, name in whole.items() if place == PurePosixPath(one)]
            inside = [
                f"{one} ({name})"
                for one, name in {**ours, **whole}.items()
                if place in PurePosixPath(one).parents
            ]
            if not is_plain_path(path):
                yield Problem(
                    dotted((VARIABLE, path)),
                    "is not an absolute path, in at least two parts of letters, digits and . _ + : @ -",
                    "write it as in /srv/shop/media",
                    hosts=(host,),
                )
            elif closed or _SYSTEM.fullmatch(str(place)):
                yield Problem(
                    dotted((VARIABLE, path)),
                    f"belongs to the {'fleet (' + closed[0] + ')' if closed else 'system'}, not to the application",
                    "choose a directory for the application's own files, as in /srv/shop/media",
                    hosts=(host,),
                )
            elif inside and not _only_root_writes(options):
                yield Problem(
                    dotted((VARIABLE, path)),
                    f"contains {inside[0]}, so a user who can write to it could replace that directory with a "
                    "link, and root would change or delete what the link leads to",
                    'give it owner: root and mode: "0755", or declare only the directories in it that the application '
                    f"needs, as in {place}/media",
                    hosts=(host,),
                )
            elif units and all(hidden := [hidden_by_sandbox(place, unit) for unit in units]):
                # Release commands and nginx are in no sandbox.
                yield Problem(
                    dotted((VARIABLE, path)),
                    f"is {hidden[0]}",
                    VISIBLE,
                    hosts=(host,),
                    severity=Severity.WARNING,
                )
            given = as_mapping(options)
            for option in DIRECTORY:
                value = given.get(option.name)
                # YAML reads digits without quotes as a number, and with a leading 0 as an octal one.
                number = isinstance(value, int)
                if number or (isinstance(value, str) and not option.fits(value)):
                    where = (VARIABLE, path, option.name)
                    yield Problem(
                        dotted(where),
                        f"can't be the {option.name} of a directory",
                        f"write it as in {option.like}",
                        value=model.show(where, value),
                        hosts=(host,),
                    )


def _inside_the_applications(
    host: str, ours: Mapping[str, str], theirs: Mapping[str, str]
) -> Iterator[Problem]:
    """Refuse a directory of root's in one that belongs to a user of the application, such as that of its state."""
    for path, name in ours.items():
        around = [one for one in theirs if PurePosixPath(path).is_relative_to(one)]
        if around:
            yield Problem(
                name,
                f"is in {around[0]} ({theirs[around[0]]}). Its user could put a link in its place, and root would "
                "change or delete what the link leads to",
                "choose a directory that is in none of the application's own, as in /opt/shop",
                value=path,
                hosts=(host,),
            )


def _only_root_writes(options: object) -> bool:
    """Return whether only root may write to a directory with these options; unknown ones and a wrong mode pass."""
    given = as_mapping(options)
    owner, mode = given.get("owner"), given.get("mode")
    if UNKNOWN in (options, owner, mode):
        return True
    bits = int(mode, 8) if isinstance(mode, str) and _MODE.fits(mode) else 0
    return owner == "root" and bits & 0o022 == 0


def _removed_whole(model: Model, host: str) -> dict[str, str]:
    """Return the fleet's own directories that a removal deletes, each with a variable of its name."""
    state, app = as_text(model.value(host, _STATE)), as_text(model.value(host, "celery_app_name"))
    found = {state: _STATE, f"{state}/metrics": _STATE} if state else {}
    if app:
        own = (log_directory(app), f"/var/lib/{app}-flower", f"/var/lib/{app}-backup")
        found |= dict.fromkeys((*own, f"{log_directory(app)}-flower"), "celery_app_name")
    return found
