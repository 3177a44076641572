"""Checks celery_app_directories, the directories that a run creates for an application's files, and those of root."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.application_options import (
    DIRECTORY,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.facts import log_directory
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.names import (
    BELOW_SYSTEM,
    PARENTS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.web import (
    is_plain_path,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    as_mapping,
    as_text,
    dotted,
)

VARIABLE: Final = "celery_app_directories"
# Directories of the fleet itself. The owner of a directory in them could replace files that root or other processes run
# or read.
_OURS: Final = ("celery_app_root", "celery_app_config_directory", "redis_config_directory")
_STATE: Final = "celery_app_state_directory"
_MODE: Final = next(option for option in DIRECTORY if option.name == "mode")
_SYSTEM = re.compile(
    rf"{BELOW_SYSTEM}|{PARENTS}|/(etc|usr)/.*"
    r"|/var/lib/celery-fleet(-redis)?(/.*)?|/var/log/celery-fleet(/.*)?"
)


def check_directories(model: Model) -> Iterator[Problem]:
    """Refuse directories that belong to the fleet or the system or contain the fleet's, and invalid options."""
    for host in model.hosts:
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
