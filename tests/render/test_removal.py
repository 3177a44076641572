"""A removal knows by name all that the roles put on a host: a new file that it would leave there fails here."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from ansible_collections.celery_fleet.core.plugins.module_utils.removal import (
    footprint as belongings,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import Places

from tests.render.fleet import Fleet, Host

# They are the distribution's, whoever makes them where they are missing.
NOT_OURS = {"/etc/nginx/conf.d", "nginx.service"}


def places(host: Host) -> Places:
    names = ("name", "directory", "root", "state")
    own = (str(host.variables[f"celery_app_{name}"]) for name in names)
    config = str(host.variables.get("redis_config_directory") or "/etc/celery-fleet/redis")
    return Places(*own, redis_config=config)


def known(place: Places) -> list[str]:
    """Patterns of everything that goes with the last application."""
    return [
        *belongings.unit_files(place.app),
        *belongings.site_files(place),
        *belongings.files(place),
        *(tree.path for tree in belongings.trees(place)),
        *belongings.directories(place),
        *(place.mark, f"{place.directory}/{belongings.SETTLED}", place.directory),
        belongings.sysusers(place.app),
        *belongings.REDIS_FILES,
        *belongings.NGINX_FILES,
        *belongings.NGINX_DIRECTORIES,
        *belongings.REDIS_MASKS.values(),
        *belongings.SHARED_FILES,
        *belongings.SHARED_TREES,
        *belongings.SHARED_DIRECTORIES,
        "/etc/celery-fleet",
    ]


def covered(path: str, patterns: list[str]) -> bool:
    """Whether a path, or a directory that it is in, goes. Only trees go with what is in them."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def test_every_path_that_a_role_wants_goes(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        place = places(host)
        patterns = known(place)
        whole = [tree.path for tree in belongings.trees(place) if tree.whole]
        whole += belongings.SHARED_TREES
        wanted = [*host.files, *host.links]
        for part in host.parts.values():
            wanted += [item["dest"] for item in part.get("sysusers", [])]
            wanted += [item["path"] for item in part.get("directories", [])]
        assert wanted, host.name
        left = [
            path
            for path in dict.fromkeys(wanted)
            if path not in NOT_OURS
            and not covered(path, patterns)
            and not any(covered(str(parent), whole) for parent in PurePosixPath(path).parents)
        ]
        assert left == [], host.name


def test_every_unit_that_a_role_wants_is_stopped_in_some_stage(any_fleet: Fleet) -> None:
    for host in any_fleet.hosts.values():
        patterns = belongings.all_units(places(host).app)
        wanted = set(host.units) - NOT_OURS
        assert wanted, host.name
        assert [unit for unit in wanted if not covered(unit, patterns)] == []


def test_what_is_cleaned_up_in_a_run_is_cleaned_up_by_a_removal(fleet: Fleet) -> None:
    """What was there before the inventory changed counts as well."""
    for host in fleet.hosts.values():
        place = places(host)
        patterns, units = known(place), belongings.all_units(place.app)
        for name, part in host.parts.items():
            owned = part.get("owned") or {}
            for pattern in owned.get("files", []):
                # A pattern of files may be wider than any one that was ever written: credentials/flower.*
                examples = [pattern.replace("*", "x"), pattern.replace("*", "env")]
                assert any(covered(one, patterns) for one in examples), (name, pattern)
            for pattern in owned.get("units", []):
                assert covered(pattern.replace("*", "x"), units), (name, pattern)


def test_a_deploy_forgets_what_a_removal_had_settled(fleet: Fleet) -> None:
    """Else a later removal would take messages for given up that came since."""
    for host in fleet.hosts.values():
        note = f"{places(host).directory}/{belongings.SETTLED}"
        assert note in host.parts["fleet"]["owned"]["files"], host.name


def test_stages_are_all_and_in_order() -> None:
    assert set(belongings.units("shop")) == set(belongings.STAGES)
    order = ["watch", "beat", "web", "workers", "flower", "redis", "rest"]
    assert list(belongings.STAGES) == order
