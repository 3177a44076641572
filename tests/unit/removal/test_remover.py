"""Removing an application from a host: exactly what it has there, with anything else on the host, and repeatedly."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils import mounts
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile import (
    fingerprint,
    manifest,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import (
    RedisAccess,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.redis_client import (
    RedisError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.report import (
    ReconcileError,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.systemd import Completed
from ansible_collections.celery_fleet.core.plugins.module_utils.removal import accounts, footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.accounts import Account
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.application import (
    InstalledApplication,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.footprint import (
    ApplicationPaths,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.host import RemovalHost
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.look import find_footprint
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.messages import (
    messages,
    settle_messages,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.remover import Remover
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.replicas import hand_over
from ansible_collections.celery_fleet.core.plugins.module_utils.removal.stop import STAGES, stop
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.claims import claims

from tests.facts import facts
from tests.support.fake_systemd import FakeSystemd

ALL = ("redis", "worker", "beat", "web", "web_site", "flower", "flower_site", "firewall", "logs")
#: ID of the users that a deploy makes.
OURS = 4321


class FakeAccounts(accounts.Accounts):
    """Users and groups as data."""

    def __init__(self) -> None:
        self.users: dict[str, Account] = {}
        self.groups: dict[str, Account] = {}
        self.in_group: dict[str, list[str]] = {}
        self.with_primary: dict[str, list[str]] = {}
        self.running: list[str] = []

    def user(self, name: str) -> Account | None:
        return self.users.get(name)

    def group(self, name: str) -> Account | None:
        return self.groups.get(name)

    def members(self, group: Account) -> list[str]:
        return self.in_group.get(group.name, [])

    def primary_users(self, group: Account) -> list[str]:
        return self.with_primary.get(group.name, [])

    def processes(self, numbers: Iterable[int]) -> list[str]:
        return self.running if list(numbers) else []


class Ground:
    """A host below a directory, with its systemd, its dpkg and its accounts."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.units = base / "etc/systemd/system"
        self.units.mkdir(parents=True)
        self.systemd = FakeSystemd(self.units)
        self.accounts = FakeAccounts()
        self.answers: dict[str, Completed] = {}
        self.commands: list[str] = []
        self.asked: list[Sequence[str]] = []
        self.accesses: list[RedisAccess] = []
        self.lengths: dict[str, int] = {}
        self.held: list[str] = []
        self.refused = ""
        self.replication: dict[int, str] = {}
        self.mounts: list[str] = []

    def run(self, command: Sequence[str]) -> Completed:
        text = " ".join(command)
        if command[0] == "systemctl":
            return self.systemd(command)
        self.commands.append(text)
        for words, answer in self.answers.items():
            if text.startswith(words) or text.endswith(f" {words}"):
                return answer
        if command[0] == "userdel":
            self.accounts.users.pop(command[1])
            self.accounts.groups.pop(command[1], None)
        if command[0] == "groupdel":
            self.accounts.groups.pop(command[1])
        # dpkg knows no package and no owner of a directory.
        return Completed(1 if command[0] == "dpkg-query" else 0, "")

    def talk(self, access: RedisAccess, commands: Sequence[Sequence[str]]) -> list[object]:
        if self.refused:
            raise RedisError(self.refused)
        self.asked += commands
        self.accesses.append(access)
        own = commands[0][0] in ("ACL", "SCAN", "LLEN")
        login = ("admin", "adm/in") if own else ("operator", "pass/word")
        assert (access.user, access.password) == login
        answers: list[object] = []
        for command in commands:
            if command[0] == "LLEN":
                answers.append(self.lengths[command[1]])
            elif command[0] == "SCAN":
                answers.append(["0", [key for key in self.lengths if key != "dead"]])
            elif command[0] == "ACL":
                answers.append("OK")
            elif command[0] == "INFO":
                answers.append(self.replication[access.port])
            else:
                answers.append(self.held if command[0] == "ZRANGE" else self.lengths.get("dead", 0))
        return answers

    def write(self, path: str, text: str = "x\n") -> Path:
        place = self.base / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def there(self, app: str = "shop", keep: tuple[str, ...] = ()) -> InstalledApplication:
        host = RemovalHost(
            run=self.run,
            talk=self.talk,
            accounts=self.accounts,
            base=str(self.base),
            sleep=self.systemd.sleep,
            clock=self.systemd.clock,
            mounts=frozenset(f"{os.path.realpath(self.base)}{path}" for path in self.mounts),
        )
        return InstalledApplication(ApplicationPaths.usual(app), keep, host)

    def remover(self, app: str = "shop", keep: tuple[str, ...] = ()) -> Remover:
        return Remover(self.there(app, keep))

    def paths(self) -> list[str]:
        return sorted(f"/{path.relative_to(self.base)}" for path in self.base.rglob("*"))

    def deploy(self, app: str, components: Sequence[str] = ALL, *, listed: bool = True) -> None:
        """Put files there as the roles and the processes do; `listed` is whether there is a manifest."""
        place = ApplicationPaths.usual(app)
        mark = claims(
            facts(app, owner="inventory", components=components),
            {"broker": 1, "results": 2, "web": 3, "flower": 4, "backend": 0},
        )
        self.write(place.directory + "/fleet.json", json.dumps(mark))
        redis, nginx = "redis" in components, "web_site" in components
        patterns = [
            *footprint._unit_files(app, redis, nginx),
            *footprint._files(place, redis, processes=components != ("redis",)),
        ]
        for pattern in patterns:
            pattern = re.sub(rf"({app}-)\*", r"\1broker", pattern.replace("worker@*", "worker@w"))
            self.write(pattern.replace("[\\]", "\\").replace("*", "w"))
        for unit in (f"{app}-worker@w", "nginx") if nginx else (f"{app}-worker@w",):
            for notes in ("inputs", "ends"):
                self.write(f"{footprint.STATE}/{notes}/{unit}.service.json")
            self.write(f"/run/celery-fleet/fingerprints/{unit}.service.json")
        self.write("/usr/lib/celery-fleet/0.1/celery_fleet/system/launch.py")
        for path in ("releases/a/source/app.py", "releases/a/release.json", "flower/releases/f/x"):
            self.write(f"{place.root}/{path}")
        for path in ("beat/celerybeat-schedule", "worker-w/drain.json", "static/logo.png"):
            self.write(f"{place.state}/{path}")
        self.write(f"/var/lib/{app}-flower/flower.db")
        self.write(f"/var/log/{app}/celery_w.log")
        self.write(f"/var/log/celery-fleet/{app}/commands/migrate.log")
        self.write(f"{footprint.STATE}/commands/{app}/fleet/once/x.json")
        for kind in ("broker", "results"):
            self.write(f"{footprint.REDIS_DATA}/{app}-{kind}/dump.rdb")
        for name, comment in ((app, "Celery"), (f"{app}-flower", "Flower")):
            self.accounts.users[name] = Account(name, OURS, f"{app} {comment}")
            self.accounts.groups[name] = Account(name, 900)
        self.accounts.groups[f"{app}-proxy"] = Account(f"{app}-proxy", 901)
        names = [
            *(f"{app}-health.timer", f"{app}-beat.service", f"{app}-worker@w.service"),
            *(f"{app}-web.socket", f"{app}-web.service", f"{app}-flower.service"),
            *(f"redis@{app}-broker.service", f"redis@{app}-results.service"),
            *(f"{app}-firewall-watch.timer", f"{app}-firewall.service", f"{app}.target"),
        ]
        for name in names:
            self.systemd.add(name, running=True)
        settings = {"broker_url": "rediss://operator:pass%2Fword@redis1:6379/0"}
        self.write(f"{place.directory}/credentials/operator.json", json.dumps({"celery": settings}))
        broker = {"host": "redis1", "unit": f"redis@{app}-broker.service", "here": True}
        named = {"redis": {"ca": "/ca.crt", "instances": {"broker": broker}}}
        rules = "user default off\nuser worker on >no +get\nuser admin on >adm/in +acl\n"
        self.write(f"/etc/celery-fleet/redis/{app}-broker/users.acl", rules)
        self.write(f"{place.directory}/cli.json", json.dumps(named))
        if listed:
            self.enlist(app)

    def enlist(self, app: str, *packages: str, directories: Iterable[str] = ()) -> None:
        """Write the manifest of everything that the names say is there, and of declared directories."""
        found = footprint.derive(
            ApplicationPaths.usual(app), self.there(app).mark, self.there(app).host
        )
        found.packages.update(packages)
        found.directories.update(directories)
        manifest.write(f"{self.base}/etc/celery-fleet/{app}/manifest.json", found)

    def stop(self, app: str = "shop") -> None:
        for stage in STAGES:
            assert stop(self.there(app), stage, 10)["waiting"] == {}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def bare(ground: Ground) -> list[str]:
    """Put files there that a host has before the fleet."""
    ground.write("/etc/nginx/conf.d/own.conf")
    ground.write("/opt/other/x")
    own = ("/var/lib", "/var/log", "/usr/lib", "/usr/local/bin", "/usr/share", "/etc/logrotate.d")
    for path in (*own, "/run"):
        (ground.base / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    return ground.paths()


@pytest.mark.parametrize("listed", [True, False], ids=["by the manifest", "by names"])
def test_nothing_of_the_only_application_is_left(
    ground: Ground, bare: list[str], listed: bool
) -> None:
    ground.deploy("shop", listed=listed)
    ground.stop()
    remover = ground.remover()
    remover.remove()
    remover = ground.remover()
    remover.finish()
    assert ground.paths() == bare
    assert ground.accounts.users == {}
    assert ground.accounts.groups == {}


def test_a_second_removal_finds_nothing(ground: Ground, bare: list[str]) -> None:
    ground.deploy("shop")
    ground.stop()
    ground.remover().remove()
    again = ground.remover()
    assert not find_footprint(again.there).present
    commands = list(ground.systemd.did())
    again.remove()
    assert again.removed == []
    assert ground.systemd.did() == commands
    assert bare


@pytest.mark.parametrize("at", range(12))
def test_an_interrupted_removal_is_finished_by_the_next(
    ground: Ground, bare: list[str], at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.deploy("shop")
    ground.stop()
    steps = [
        *("_remove_table", "_remove_files", "_reload_nginx", "_remove_trees", "_remove_accounts"),
        "_hand_packages_over",
    ]
    with monkeypatch.context() as patched:
        if at < len(steps):
            patched.setattr(Remover, steps[at], _killed)
        else:
            _count_down(patched, (at - len(steps)) * 13)
        with pytest.raises(KeyboardInterrupt):
            ground.remover().remove()
    assert ground.there().present
    ground.remover().remove()
    ground.remover().finish()
    assert ground.paths() == bare
    assert ground.accounts.users == {}


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _count_down(patched: pytest.MonkeyPatch, left: int) -> None:
    """Raise an error at the n-th file that is removed."""
    counter = iter(range(left))
    unlink = os.unlink

    def dying(*args: Any, **kwargs: Any) -> None:
        if next(counter, None) is None:
            raise KeyboardInterrupt
        unlink(*args, **kwargs)

    patched.setattr(os, "unlink", dying)


def test_another_application_keeps_its_own_files_and_shared_ones(
    ground: Ground, bare: list[str]
) -> None:
    ground.deploy("shop-mails")
    before = ground.paths()
    text = {path: (ground.base / path.lstrip("/")).is_file() for path in before}
    ground.deploy("shop")
    ground.stop()
    found = find_footprint(ground.there())
    assert found.neighbours == ["shop-mails"]
    assert not any("shop-mails" in path for path in [*found.units, *found.files, *found.trees])
    ground.remover().remove()
    assert ground.paths() == before
    assert {path: (ground.base / path.lstrip("/")).is_file() for path in before} == text
    assert set(ground.accounts.users) == {"shop-mails", "shop-mails-flower"}
    assert ground.systemd.units["shop-mails-worker@w.service"].state["ActiveState"] == "active"
    assert bare


def test_shared_files_of_redis_and_nginx_are_removed_with_the_last_user(
    ground: Ground, bare: list[str]
) -> None:
    ground.deploy("jobs", components=("worker",))
    ground.deploy("shop")
    ground.stop()
    ground.remover().remove()
    left = ground.paths()
    assert "/etc/systemd/system/redis@.service" not in left
    assert not any("nginx.service" in path for path in left)
    assert "/usr/local/bin/celery-fleet" in left
    assert bare


def test_an_unreadable_mark_counts_as_another_application(ground: Ground) -> None:
    ground.deploy("shop")
    ground.write("/etc/celery-fleet/other/fleet.json", "{")
    ground.stop()
    ground.remover().remove()
    assert (ground.base / "etc/systemd/system/redis@.service").exists()
    assert (ground.base / "usr/local/bin/celery-fleet").exists()


# Paths, and whether their directory stays because of them.
OTHERS = (
    "/etc/systemd/system/shop-worker@w.service.d/50-own.conf",
    "/etc/systemd/system/shop.slice.d/50-own.conf",
    "/etc/celery-fleet/shop/notes.txt",
    "/etc/celery-fleet/shop/credentials/own.key",
    "/opt/shop/scripts/backup.sh",
    "/etc/nginx/conf.d/shop-extra.conf",
    "/etc/systemd/system/shop-report.service",
)


@pytest.mark.parametrize("path", OTHERS)
def test_a_users_own_file_stays_and_is_named(ground: Ground, bare: list[str], path: str) -> None:
    ground.deploy("shop")
    ground.write(path, "own\n")
    ground.stop()
    stay = find_footprint(ground.there()).stay
    inside = path.startswith(
        (
            "/etc/celery-fleet/shop/",
            "/opt/shop/",
            "/etc/systemd/system/shop-w",
        )
    )
    listed = any(path == one or path.startswith(f"{one}/") for one in stay)
    assert listed == inside, stay
    ground.remover().remove()
    ground.remover().finish()
    assert (ground.base / path.lstrip("/")).read_text() == "own\n"
    more = {path, *(str(parent) for parent in Path(path).parents)}
    assert set(ground.paths()) - set(bare) <= more


def test_systemds_links_and_compiled_files_do_not_count_as_foreign(ground: Ground) -> None:
    ground.deploy("shop")
    there = ground.there()
    for directory in there.directories():
        ground.write(f"{directory}/__pycache__/module.pyc")
        ground.write(f"{directory}/{there.units()[0]}")
    assert "is not the fleet's" not in find_footprint(there).stay.values()


def test_a_foreign_file_in_the_state_directory_stays(ground: Ground, bare: list[str]) -> None:
    ground.deploy("shop")
    stranger = ground.write("/var/lib/shop/backup/of-alice.tar")
    ground.stop()
    os.chown(stranger, 1234, 1234)
    stay = find_footprint(ground.there()).stay
    assert "/var/lib/shop/backup/of-alice.tar" in stay
    assert not any(path.startswith("/var/lib/shop/beat") for path in stay)
    ground.remover().remove()
    assert stranger.exists()
    assert not (ground.base / "var/lib/shop/beat").exists()
    assert bare


@pytest.mark.parametrize(
    ("keep", "path"),
    [
        ("logs", "/var/log/shop/celery_w.log"),
        ("redis_data", "/var/lib/celery-fleet-redis/shop-broker/dump.rdb"),
        ("releases", "/opt/shop/releases/a/source/app.py"),
        ("state", "/var/lib/shop/static/logo.png"),
    ],
)
def test_kept_data_stays_with_its_owner(
    ground: Ground, bare: list[str], keep: str, path: str
) -> None:
    ground.deploy("shop")
    ground.stop()
    found = find_footprint(ground.there(keep=(keep,)))
    assert any(path.startswith(kept) for kept in found.kept)
    # The plan warns about files that the application has written, unless they are kept.
    assert any(one.startswith("/var/lib/shop") for one in found.state) is (keep != "state")
    ground.remover(keep=(keep,)).remove()
    assert (ground.base / path.lstrip("/")).exists()
    # Redis's data belong to the user redis.
    assert ("shop" in ground.accounts.users) == (keep != "redis_data")
    assert not (ground.base / "etc/celery-fleet/shop/fleet.json").exists()
    assert bare


def test_a_user_who_existed_before_stays(ground: Ground) -> None:
    ground.deploy("shop")
    ground.accounts.users["shop"] = Account("shop", OURS, "A person")
    ground.stop()
    assert find_footprint(ground.there()).stay["user shop"] == "was there before the fleet"
    ground.remover().remove()
    assert "shop" in ground.accounts.users
    assert "shop-flower" not in ground.accounts.users


@pytest.mark.parametrize(
    ("members", "primary", "reason"),
    [
        (["www-data", "alice"], [], "has other members: alice"),
        ([], ["alice", "bob"], "is the primary group of alice, bob"),
        # With `celery_app_proxy_group: www-data`.
        ([], ["www-data"], "is the primary group of www-data"),
    ],
)
def test_a_group_that_others_use_stays(
    ground: Ground, members: list[str], primary: list[str], reason: str
) -> None:
    """It was there before the fleet, or the operator uses it now. groupdel refuses a primary group."""
    ground.deploy("shop")
    ground.accounts.in_group["shop-proxy"] = members
    ground.accounts.with_primary["shop-proxy"] = primary
    ground.stop()
    found = find_footprint(ground.there())
    assert found.stay["group shop-proxy"] == reason
    assert "group shop-proxy" not in found.users
    ground.remover().remove()
    assert set(ground.accounts.groups) == {"shop-proxy"}
    assert not ground.there().present


def test_a_group_that_only_the_fleet_uses_is_removed(ground: Ground) -> None:
    ground.deploy("shop")
    ground.accounts.in_group["shop-proxy"] = ["shop-flower", "www-data"]
    ground.accounts.with_primary |= {"shop": ["shop"], "shop-flower": ["shop-flower"]}
    ground.stop()
    assert "group shop-proxy" in find_footprint(ground.there()).users
    ground.remover().remove()
    assert ground.accounts.groups == {}


def test_the_host_says_who_uses_a_group() -> None:
    host = accounts.Accounts()
    assert "root" in host.primary_users(Account("root", 0))
    for line in Path("/etc/group").read_text().splitlines():
        name, _, number, members = line.split(":")
        assert host.members(Account(name, int(number))) == [*filter(None, members.split(","))]


def test_nothing_is_removed_while_a_process_runs(ground: Ground) -> None:
    ground.deploy("shop")
    ground.stop()
    before = ground.paths()
    ground.accounts.running = ["4711 (python)"]
    with pytest.raises(ReconcileError, match=r"shop or shop-flower.*4711 \(python\)"):
        ground.remover().remove()
    assert ground.paths() == before


def test_nothing_is_removed_while_a_unit_runs(ground: Ground) -> None:
    ground.deploy("shop")
    ground.stop()
    ground.systemd.add("shop-worker@w.service", running=True)
    before = ground.paths()
    with pytest.raises(ReconcileError, match="started again in the meantime"):
        ground.remover().remove()
    assert ground.paths() == before


def test_a_stage_is_disabled_before_it_is_stopped_and_waited_for(ground: Ground) -> None:
    ground.deploy("shop")
    done = stop(ground.there(), "workers", 10)
    assert done == {"stopped": ["shop-worker@w.service"], "waiting": {}, "changed": True}
    assert ground.systemd.did() == [
        "systemctl disable --quiet shop-worker@w.service",
        "systemctl stop --no-block shop-worker@w.service",
    ]
    assert ground.systemd.units["shop-beat.service"].state["ActiveState"] == "active"


def test_a_long_drain_is_awaited_in_several_calls(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.deploy("shop")
    act = ground.systemd._act

    def slow(verb: str, name: str) -> None:
        if verb == "stop":
            ground.systemd.units[name].state.update(ActiveState="deactivating", SubState="stop")
        else:
            act(verb, name)

    monkeypatch.setattr(ground.systemd, "_act", slow)
    done = stop(ground.there(), "workers", 10)
    assert list(done["waiting"]) == ["shop-worker@w.service"]
    assert done["waiting"]["shop-worker@w.service"].startswith("deactivating (stop)")
    ground.systemd.units["shop-worker@w.service"].state.update(ActiveState="inactive")
    again = stop(ground.there(), "workers", 10)
    assert again == {"stopped": [], "waiting": {}, "changed": False}


def test_what_a_timer_starts_meanwhile_is_stopped_and_forgotten(ground: Ground) -> None:
    """Otherwise the removal leaves a failed unit without a file, which systemd lists until the next boot."""
    ground.deploy("shop")
    ground.systemd.add("shop-health.timer", running=True)
    ground.systemd.add("shop-health.service")
    health = ground.systemd.units["shop-health.service"].state

    def fires(command: str) -> None:
        if command.startswith("systemctl disable"):
            health["ActiveState"] = "activating"
        if command.startswith("systemctl stop") and "shop-health.service" in command:
            health["ActiveState"] = "failed"

    ground.systemd.before = fires
    done = stop(ground.there(), "watch", 10)
    assert "shop-health.service" in done["stopped"]
    assert "systemctl reset-failed shop-health.service" in ground.systemd.did()


def test_a_running_command_is_named(ground: Ground) -> None:
    ground.deploy("shop")
    ground.systemd.add("shop-exec-12.service", running=True)
    ground.systemd.add("shop-command.migrate.service")
    assert find_footprint(ground.there()).busy == ["shop-exec-12.service"]


# -- messages -------------------------------------------------------------------------------------------------


def test_messages_are_counted_with_all_priorities(ground: Ground) -> None:
    ground.deploy("shop")
    ground.lengths = {"mails": 3, "mails\x06\x166": 2, "dead": 4}
    ground.held = ["tag"]
    assert messages(ground.there()) == {
        "state": "counted",
        "waiting": 5,
        "held": 1,
        "dead": 4,
        "queues": {"mails": 5},
    }


def test_messages_count_whether_the_inventory_names_their_queue_or_not(ground: Ground) -> None:
    ground.deploy("shop")
    ground.lengths = {"old": 2, "old\x06\x169": 1, "w@host.dq2": 1}
    ground.lengths |= {"w@host.celery.pidbox": 5, "celeryev.1": 5, "fleet:unreadable": 5}
    found = messages(ground.there())
    assert (found["waiting"], found["queues"]) == (4, {"old": 3, "w@host.dq2": 1})


PRIMARY = "role:master\r\nslave0:ip=redis1,port=6379,state=online,offset=1,lag=0\r\n"
ALONE = "role:master\r\n"
REPLICA = "role:slave\r\nmaster_link_status:up\r\n"
BEHIND = "role:slave\r\nmaster_link_status:down\r\n"


@pytest.mark.parametrize(
    ("broker", "results", "primaries", "copied"),
    [
        (REPLICA, REPLICA, [], True),
        (REPLICA, PRIMARY, ["results"], True),
        (PRIMARY, PRIMARY, ["broker", "results"], True),
        (REPLICA, BEHIND, [], False),
        (ALONE, REPLICA, ["broker"], False),
    ],
)
def test_of_several_servers_the_hosts_own_is_asked(
    ground: Ground, broker: str, results: str, primaries: list[str], copied: bool
) -> None:
    ground.deploy("shop")
    directory = ApplicationPaths.usual("shop").directory
    login = "sentinel://operator:pass%2Fword@redis1:26379/0"
    urls = f"{login};{login.replace('redis1', 'redis2')}"
    settings = {"broker_url": urls, "result_backend": urls}
    ground.write(f"{directory}/credentials/operator.json", json.dumps({"celery": settings}))
    sentinels = [{"host": "redis1", "port": 26379}]
    instances = {
        "broker": {"port": 6379, "sentinels": sentinels},
        "results": {"port": 6380, "sentinels": sentinels},
    }
    redis = {"ca": "/ca.crt", "instances": instances}
    named = {"host": "redis2", "queues": ["mails"], "redis": redis}
    ground.write(f"{directory}/cli.json", json.dumps(named))
    ground.lengths = {"mails": 3}
    ground.replication = {6379: broker, 6380: results}
    found = messages(ground.there())
    assert (found["waiting"], found["primaries"], found["copied"]) == (3, primaries, copied)
    assert {(one.host, one.port) for one in ground.accesses} == {("redis2", 6379), ("redis2", 6380)}


@pytest.mark.parametrize("change", [{"here": False}, {"unit": ""}], ids=str)
def test_a_broker_elsewhere_gets_no_password(ground: Ground, change: dict[str, object]) -> None:
    """Redis has moved to another host, or to a server that the fleet does not run; the old one still runs."""
    ground.deploy("shop")
    path = ground.base / "etc/celery-fleet/shop/cli.json"
    named = json.loads(path.read_text())
    named["redis"]["instances"]["broker"] |= change
    path.write_text(json.dumps(named))
    found = messages(ground.there())
    assert (found["state"], ground.accesses) == ("unknown", [])
    assert found["reason"].startswith("redis@shop-broker.service still runs, but ")


def test_a_redis_that_does_not_answer_does_not_count_as_empty(ground: Ground) -> None:
    ground.deploy("shop")
    ground.refused = "Redis at redis1:6379 did not answer"
    found = messages(ground.there())
    assert found["state"] == "unknown"
    assert "did not answer" in found["reason"]


def test_a_stopped_redis_is_not_asked_again_once_messages_were_given_up(ground: Ground) -> None:
    ground.deploy("shop")
    stop(ground.there(), "redis", 10)
    assert messages(ground.there()) == {
        "state": "unknown",
        "reason": "redis@shop-broker.service does not run",
    }
    settle_messages(ground.there(), 5)
    assert messages(ground.there()) == {"state": "settled"}
    note = ground.base / "etc/celery-fleet/shop/removal.json"
    assert json.loads(note.read_text()) == {"messages": 5}
    # After a start, Redis is asked again.
    ground.systemd.add("redis@shop-broker.service", running=True)
    assert messages(ground.there())["state"] == "counted"


# -- several Redis hosts --------------------------------------------------------------------------------------


class Servers:
    """A fleet's Redis as redis2 sees it, which has both primaries; answers in the order of their commands."""

    def __init__(self, ground: Ground, known: Sequence[str] = ("0",)) -> None:
        ground.deploy("shop")
        sentinels = [{"host": f"redis{number}", "port": 26379} for number in (1, 2, 3)]
        redis = {
            "ca": "/ca.crt",
            "client": {},
            "instances": {
                "broker": {"port": 6379, "sentinels": sentinels},
                "results": {"port": 6380, "sentinels": sentinels},
            },
        }
        directory = ApplicationPaths.usual("shop").directory
        ground.write(f"{directory}/cli.json", json.dumps({"host": "redis2", "redis": redis}))
        for kind in ("broker", "results"):
            rules = "user default off\nuser worker on >no +get\nuser admin on >pass/word +acl\n"
            ground.write(f"/etc/celery-fleet/redis/shop-{kind}/users.acl", rules)
            ground.systemd.add(f"redis@shop-{kind}.service", running=True)
        self.there = ground.there()
        self.there.host = replace(self.there.host, talk=self.talk)
        #: redis3's priority as the Sentinel knows it, each time that it is asked.
        self.known = list(known)
        self.asked: list[tuple[str, str]] = []
        self.moved: set[str] = set()

    def talk(self, access: RedisAccess, commands: Sequence[Sequence[str]]) -> list[object]:
        assert (access.user, access.password) == ("admin", "pass/word")
        return [self.answer(access, *command) for command in commands]

    def answer(self, access: RedisAccess, *command: str) -> object:
        self.asked.append((f"{access.host}:{access.port}", " ".join(command)))
        if command[0] == "INFO":
            return PRIMARY
        if command[1] == "REPLICAS":
            known = self.known.pop(0) if len(self.known) > 1 else self.known[0]
            staying = {
                "name": "redis1:6379",
                "ip": "redis1",
                "port": "6379",
                "slave-priority": "100",
            }
            # A backup was just reading when the Sentinel asked the primary for its replicas.
            backup = {
                "name": "127.0.0.1:0",
                "ip": "127.0.0.1",
                "port": "0",
                "slave-priority": "100",
            }
            leaving = {
                "name": "redis3:6379",
                "ip": "redis3",
                "port": "6379",
                "slave-priority": known,
            }
            return [staying, backup, leaving]
        if command[1] == "GET-MASTER-ADDR-BY-NAME":
            return ["redis1" if access.primary in self.moved else "redis2", "6379"]
        if command[1] == "FAILOVER":
            self.moved.add(access.primary)
        return "OK"


def test_primaries_move_to_hosts_that_stay(ground: Ground) -> None:
    servers = Servers(ground, known=["100", "100", "0"])
    assert hand_over(servers.there, ["redis1"]) == ["shop-broker", "shop-results"]
    assert servers.asked[:5] == [
        ("redis2:6379", "CONFIG SET replica-priority 0"),
        ("redis2:6380", "CONFIG SET replica-priority 0"),
        *[("redis2:26379", "SENTINEL REPLICAS shop-broker")] * 3,
    ]
    assert ("redis2:26379", "SENTINEL FAILOVER shop-broker") in servers.asked
    # An interrupted run has already stopped them.
    for kind in ("broker", "results"):
        ground.systemd.units[f"redis@shop-{kind}.service"].state["ActiveState"] = "inactive"
    assert hand_over(servers.there, ["redis1"]) == []


def test_a_server_that_stays_after_all_gets_its_priority_back(ground: Ground) -> None:
    """The next run of site.yml sets it again, because its record no longer has the value of the file."""
    servers = Servers(ground, known=["0"])
    unit, records = "redis@shop-broker.service", str(ground.base / "run/celery-fleet/fingerprints")
    invocation = servers.there.host.show([unit])[unit].invocation
    usual = {"setting replica-priority": "100", "setting port": "0"}
    fingerprint.write_record(unit, invocation, usual, directory=records)
    hand_over(servers.there, ["redis1"])
    known = fingerprint.read_object(f"{records}/{unit}.json")["inputs"]
    assert known == {**usual, "setting replica-priority": fingerprint.UNSURE}


def test_a_host_that_leaves_as_well_does_not_get_the_primary(ground: Ground) -> None:
    servers = Servers(ground, known=["100"])
    with pytest.raises(
        ReconcileError, match="redis3:6379 may still get the primary of shop-broker"
    ):
        hand_over(servers.there, ["redis1"])
    assert not servers.moved
    usual = "CONFIG SET replica-priority 100"
    assert servers.asked[-2:] == [("redis2:6379", usual), ("redis2:6380", usual)]


# -- packages -------------------------------------------------------------------------------------------------

PACKAGES = ("nginx-light", "redis-server")
# apt's answers: what a purge also removes, and that redis-server has installed liblzf1.
APT = {
    "--no-auto-remove purge nginx-light": "Purg nginx-light [1]\n",
    "--no-auto-remove purge redis-server": "Purg redis-server [7]\n",
    "autoremove": "Remv libold [1]\n",
    "--auto-remove purge nginx-light redis-server": "".join(
        f"Purg {name} [1]\n" for name in ("liblzf1:amd64", "libold", *PACKAGES)
    ),
}


def brought(ground: Ground) -> Path:
    """List two packages as installed by the fleet; return the link that masks Debian's Redis."""
    listed = "".join(f"installed {name}\n" for name in PACKAGES)
    ground.answers["dpkg-query --show"] = Completed(0, listed)
    for words, answer in APT.items():
        ground.answers[words] = Completed(0, answer)
    ground.write("/usr/lib/systemd/system/redis-server.service")
    mask = ground.units / "redis-server.service"
    mask.symlink_to("/dev/null")
    (ground.base / "etc/nginx/conf.d/own.conf").unlink(missing_ok=True)
    ground.enlist("shop", *PACKAGES)
    return mask


def test_packages_stay_and_the_command_to_purge_them_is_printed(ground: Ground) -> None:
    ground.deploy("shop")
    mask = brought(ground)
    ground.stop()
    found = find_footprint(ground.there())
    path = "/etc/systemd/system/redis-server.service"
    assert found.purge == f"apt purge liblzf1 nginx-light redis-server && rm {path}"
    assert path in found.stay
    ground.remover().remove()
    # Without the link, Debian's own server would start at the next boot.
    assert os.path.lexists(mask)
    assert not any("purge" in one and "--simulate" not in one for one in ground.commands)


def test_a_mask_of_a_missing_unit_is_removed(ground: Ground) -> None:
    ground.deploy("shop")
    mask = brought(ground)
    (ground.base / "usr/lib/systemd/system/redis-server.service").unlink()
    ground.stop()
    ground.remover().remove()
    assert not os.path.lexists(mask)


@pytest.mark.parametrize(
    ("change", "left"),
    [("needed", "redis-server"), ("site", "redis-server"), ("data", "nginx-light")],
)
def test_a_package_that_something_needs_is_not_in_the_command(
    ground: Ground, change: str, left: str
) -> None:
    ground.deploy("shop")
    brought(ground)
    if change == "needed":
        ground.answers["--no-auto-remove purge nginx-light"] = Completed(
            0, "Purg blog [1]\nPurg nginx-light [1]\n"
        )
    if change == "site":
        ground.write("/etc/nginx/sites-enabled/blog")
    ground.answers[f"--auto-remove purge {left}"] = Completed(0, f"Purg {left} [1]\n")
    keep = ("redis_data",) if change == "data" else ()
    assert find_footprint(ground.there(keep=keep)).purge.split()[:3] == ["apt", "purge", left]
    asked = [one for one in ground.commands if "--auto-remove" in one]
    assert [one.endswith(f"purge {left}") for one in asked] == [True]


def test_packages_pass_to_an_application_that_stays(ground: Ground) -> None:
    ground.deploy("mails")
    ground.deploy("shop")
    brought(ground)
    ground.stop()
    assert find_footprint(ground.there()).purge == ""
    ground.remover().remove()
    other = manifest.read(f"{ground.base}/etc/celery-fleet/mails/manifest.json")
    assert other is not None
    assert other.packages == set(PACKAGES)


@pytest.mark.parametrize("running", [True, False])
def test_the_slice_is_removed_unless_it_has_a_foreign_unit(ground: Ground, running: bool) -> None:
    ground.deploy("shop")
    ground.stop()
    ground.systemd.add("own.service", running=running)
    question = "systemctl show --property=RequiredBy --value shop.slice"

    def run(command: Sequence[str]) -> Completed:
        asked = " ".join(command) == question
        return Completed(0, "own.service\n") if asked else ground.run(command)

    host = replace(ground.remover().host, run=run)
    Remover(InstalledApplication(ApplicationPaths.usual("shop"), (), host)).remove()
    assert ("systemctl stop shop.slice" in ground.systemd.commands) is not running


# -- nginx ----------------------------------------------------------------------------------------------------


def test_a_reload_that_an_interrupted_run_missed_is_done(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nginx would serve a removed site until the next reload."""
    ground.deploy("mails")
    ground.deploy("shop")
    ground.systemd.add("nginx.service", running=True)
    ground.stop()
    with monkeypatch.context() as patched:
        patched.setattr(Remover, "_reload_nginx", _killed)
        with pytest.raises(KeyboardInterrupt):
            ground.remover().remove()
    assert ground.systemd.did("reload") == []
    ground.remover().remove()
    assert ground.systemd.did("reload") == ["systemctl reload nginx.service"]


def test_without_a_site_nginx_is_left_alone(ground: Ground) -> None:
    ground.deploy("mails")
    ground.deploy("shop", ("worker",))
    for name in ("web", "flower"):
        (ground.base / f"etc/nginx/conf.d/shop-{name}.conf").unlink()
    shutil.rmtree(ground.base / "etc/celery-fleet/shop/nginx-web")
    ground.enlist("shop")
    ground.systemd.add("nginx.service", running=True)
    ground.stop()
    ground.remover().remove()
    assert ground.systemd.did("reload") == []


def test_an_nginx_that_refuses_is_a_warning(ground: Ground) -> None:
    ground.deploy("mails")
    ground.deploy("shop")
    ground.systemd.add("nginx.service", running=True)
    ground.stop()
    ground.systemd.refused["systemctl reload nginx"] = "own.conf is wrong"
    remover = ground.remover()
    remover.remove()
    (warning,) = remover.warnings
    assert "own.conf is wrong" in warning


@pytest.mark.parametrize("place", ["beat", "worker-w", "worker-other"])
def test_nothing_behind_a_users_link_is_changed(
    ground: Ground, bare: list[str], place: str
) -> None:
    """The state belongs to the application's user, so root must not follow links there."""
    ground.deploy("shop")
    ground.stop()
    theirs = ground.write("/srv/others/important")
    link = ground.base / "var/lib/shop" / place
    if link.exists():
        shutil.rmtree(link)
    link.symlink_to(ground.base / "srv/others")
    os.chown(link, 1234, 1234, follow_symlinks=False)
    os.chown(link.parent, 1234, 1234)
    assert not any(path.startswith("/srv") for path in find_footprint(ground.there()).stay)
    ground.remover().remove()
    assert theirs.read_text() == "x\n"
    assert not os.path.lexists(link)
    assert bare


def test_a_directory_that_was_moved_to_another_disk_keeps_its_content(ground: Ground) -> None:
    ground.deploy("shop")
    ground.stop()
    data = ground.write("/srv/redis/dump.rdb")
    place = ground.base / "var/lib/celery-fleet-redis/shop-broker"
    shutil.rmtree(place)
    place.symlink_to(data.parent)
    ground.remover().remove()
    assert data.exists()
    assert not os.path.lexists(place)


def test_a_declared_directory_in_the_state_keeps_its_content(ground: Ground) -> None:
    """They belong to the application's user, like everything that goes."""
    ground.deploy("shop")
    media, logs = "/var/lib/shop/media", "/var/log/shop/kept"
    theirs = [ground.write(f"{media}/2026/a.jpg"), ground.write(f"{logs}/a.log")]
    (ground.base / "var/lib/shop/empty/media").mkdir(parents=True)
    ground.enlist("shop", directories=[media, logs, "/var/lib/shop/empty/media"])
    ground.stop()
    found = find_footprint(ground.there())
    why = "is in celery_app_directories, and not empty"
    assert {path: found.stay.get(path) for path in (media, logs)} == {media: why, logs: why}
    assert not [
        path for path in found.stay if path.startswith((f"{media}/", "/var/lib/shop/empty"))
    ]
    ground.remover().remove()
    assert [path.exists() for path in theirs] == [True, True]
    left = [path for path in ground.paths() if path.startswith(("/var/lib/shop", "/var/log/shop"))]
    assert left == [
        *("/var/lib/shop", media, f"{media}/2026", f"{media}/2026/a.jpg"),
        *("/var/log/shop", logs, f"{logs}/a.log"),
    ]


@pytest.mark.parametrize("name", ["a.jpg", "inner/"])
def test_the_owner_of_a_declared_directory_stays_if_the_directory_does(
    ground: Ground, name: str
) -> None:
    """Another user could get its number, and with it these files. An inner directory goes if it is declared, too."""
    media = "/srv/shop/media"
    ground.deploy("shop")
    if name == "a.jpg":
        ground.write(f"{media}/{name}")
    else:
        (ground.base / media[1:] / name).mkdir(parents=True)
    os.chown(ground.base / media[1:], OURS, OURS)
    ground.enlist("shop", directories=[media, f"{media}/inner"])
    ground.stop()
    stays = name == "a.jpg"
    assert (find_footprint(ground.there()).stay.get("user shop") == "owns what is kept") is stays
    ground.remover().remove()
    assert (ground.base / media[1:]).exists() is stays
    assert ("shop" in ground.accounts.users) is stays
    assert ("shop" in ground.accounts.groups) is stays


def test_the_fleets_own_directory_in_the_state_goes(ground: Ground) -> None:
    """Manifests of development versions have it only among the directories."""
    ground.deploy("shop")
    ground.write("/var/lib/shop/metrics/worker-w/1.json")
    ground.enlist("shop", directories=["/var/lib/shop/metrics"])
    ground.stop()
    assert not [path for path in find_footprint(ground.there()).stay if "metrics" in path]
    ground.remover().remove()
    assert not (ground.base / "var/lib/shop").exists()


@pytest.mark.parametrize(
    ("mount", "kept"),
    [
        ("/var/lib/shop/media", ["media/a.jpg"]),
        ("/var/lib/shop/uploads/big", ["uploads/big/b.jpg"]),
        ("/var/lib/shop/media/a.jpg", ["media/a.jpg"]),
        ("/var/lib/shop", ["media/a.jpg", "static/logo.png", "uploads/big/b.jpg"]),
    ],
)
def test_what_is_mounted_in_a_directory_or_in_place_of_it_is_not_touched(
    ground: Ground, mount: str, kept: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other hosts may have it as well, and even root may be refused a look at it."""
    ground.deploy("shop")
    for path in ("media/a.jpg", "uploads/big/b.jpg"):
        ground.write(f"/var/lib/shop/{path}")
    # The kernel knows it by its real path.
    (ground.base / "var").rename(ground.base / "disk")
    (ground.base / "var").symlink_to("disk")
    ground.mounts = [mount.replace("/var/", "/disk/")]
    ground.stop()
    lstat, name = os.lstat, mount.removeprefix("/var/lib/shop").rpartition("/")[2]

    def refusing(path: Any, **options: Any) -> os.stat_result:
        assert not options or path != name
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", refusing)
    found = find_footprint(ground.there())
    assert found.stay[mount] == "is another filesystem, or mounted there"
    assert ("/var/lib/shop" in found.trees) is (mount != "/var/lib/shop")
    ground.remover().remove()
    assert not ground.there().present
    place = ground.base / "var/lib/shop"
    left = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert left >= set(kept)
    if mount != "/var/lib/shop":
        assert left == set(kept)


def test_a_directory_of_another_filesystem_is_not_entered(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was mounted after the table was read, or is a subvolume."""
    ground.deploy("shop")
    theirs = ground.write("/var/lib/shop/media/a.jpg")
    ground.stop()
    lstat = os.lstat

    def elsewhere(path: Any, **options: Any) -> Any:
        about = lstat(path, **options)
        other = {"st_uid": OURS, "st_mode": about.st_mode, "st_blocks": 8, "st_dev": -1}
        return SimpleNamespace(**other) if path == "media" else about

    monkeypatch.setattr(os, "lstat", elsewhere)
    there = ground.there()
    assert "/var/lib/shop/media" in find_footprint(there).stay
    Remover(there).remove()
    assert theirs.exists()


def test_an_empty_mount_in_place_of_a_directory_ends_no_removal(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.deploy("shop")
    ground.stop()
    rmdir = os.rmdir

    def busy(path: Any, **options: Any) -> None:
        if str(path).endswith("/opt/shop"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", busy)
    ground.remover().remove()
    assert not ground.there().present
    assert (ground.base / "opt/shop").is_dir()


def test_the_kernels_table_of_mounts(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(
        b"36 35 0:31 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        b"40 36 0:32 /x /var/lib/shop/my\\040media rw shared:2 - ceph a:/ rw\n"
        b"41 36 0:32 /x /srv/\xc3\xa4\xff rw - nfs4 nas:/a rw\n"
    )
    points = mounts.mount_points(tmp_path / "mountinfo")
    assert points == {"/", "/var/lib/shop/my media", os.fsdecode(b"/srv/\xc3\xa4\xff")}
    assert "/proc" in mounts.mount_points()


def test_an_application_with_the_name_of_anothers_flower_keeps_its_files(ground: Ground) -> None:
    """If the other application only has Redis here, its mark names no user, and preflight allows both."""
    ground.deploy("shop-flower")
    ground.write("/var/lib/shop-flower/own.db")
    ground.write("/var/log/shop-flower/celery_w.log")
    ground.deploy("shop", ("redis",))
    for path in ("/var/lib/shop-flower/flower.db", "/opt/shop", "/var/lib/shop", "/var/log/shop"):
        place = ground.base / path.lstrip("/")
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    ground.accounts.users.pop("shop")
    ground.accounts.users["shop-flower"] = Account("shop-flower", OURS, "shop-flower Celery")
    ground.stop()
    found = find_footprint(ground.there())
    assert [path for path in found.trees if "shop-flower" in path] == []
    ground.remover().remove()
    assert (ground.base / "var/lib/shop-flower/own.db").exists()
    assert (ground.base / "var/log/shop-flower/celery_w.log").exists()
    assert "shop-flower" in ground.accounts.users


def test_on_a_host_with_only_redis_other_files_of_this_name_stay(ground: Ground) -> None:
    """Before the fleet, the host had an application of this name; the fleet only has its Redis there."""
    theirs = [
        ground.write(path)
        for path in (
            "/opt/shop/releases/20260101/app.py",
            "/opt/shop/current",
            "/var/lib/shop/upload.png",
            "/var/log/shop/app.log",
            "/etc/logrotate.d/shop",
        )
    ]
    ground.deploy("shop-mails")
    ground.deploy("shop", ("redis",))
    (ground.base / "etc/sysusers.d/shop.conf").unlink()
    ground.enlist("shop")
    ground.accounts.users["shop"] = Account("shop", OURS, "Somebody's shop")
    ground.stop()
    found = find_footprint(ground.there())
    assert not any(
        path.startswith(("/opt", "/var/lib/shop", "/var/log/shop")) for path in found.trees
    )
    ground.remover().remove()
    assert [path for path in theirs if not path.exists()] == []
    assert not ground.there().present
    left = ground.paths()
    assert not any("shop-broker" in path or "celery-fleet/shop/" in path for path in left)


def test_files_of_processes_that_left_a_host_are_removed(ground: Ground) -> None:
    ground.deploy("shop", ("redis",))
    ground.stop()
    ground.remover().remove()
    assert not (ground.base / "opt/shop").exists()
    assert not (ground.base / "var/log/shop").exists()


def test_files_may_vanish_during_the_search(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.deploy("shop")
    lstat = os.lstat

    def vanished(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("dump.rdb"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return lstat(path, **options)

    monkeypatch.setattr(os, "lstat", vanished)
    assert find_footprint(ground.there()).trees["/var/lib/celery-fleet-redis/shop-broker"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": "/"}, "celery_app_root: '/' is not a directory"),
        ({"root": ""}, "celery_app_root: '' is not a directory"),
        ({"root": "/opt"}, "celery_app_root: '/opt' is not a directory"),
        ({"root": "/opt/*"}, "celery_app_root: '/opt/\\*' is not a directory"),
        ({"root": "/opt/../srv"}, "celery_app_root: '/opt/../srv' is not a directory"),
        (
            {"state": "var/lib/shop"},
            "celery_app_state_directory: 'var/lib/shop' is not a directory",
        ),
        ({"redis_config": "/etc/[a-z]*"}, "redis_config_directory"),
        ({"root": "/srv/data"}, "the inventory says /srv/data.*names no such.*/opt/shop"),
        ({"state": "/var/lib/postgresql"}, "celery_app_state_directory: the inventory says"),
    ],
)
def test_directories_that_are_not_the_applications_are_refused(
    ground: Ground, change: dict[str, str], words: str
) -> None:
    ground.deploy("shop", listed=False)
    ground.stop()
    before = ground.paths()
    there = ground.there()
    there.paths = replace(there.paths, **change)
    with pytest.raises(ReconcileError, match=words):
        find_footprint(there)
    with pytest.raises(ReconcileError, match=words):
        Remover(there).remove()
    assert ground.paths() == before


def test_a_trailing_slash_of_a_directory_is_ignored(ground: Ground, bare: list[str]) -> None:
    ground.deploy("shop", listed=False)
    ground.stop()
    there = ground.there()
    there.paths = replace(there.paths, root="/opt/shop/", state="/var/lib/shop/")
    assert not any(path.startswith(("/opt", "/var")) for path in find_footprint(there).stay)
    remover = Remover(there)
    remover.remove()
    remover.finish()
    assert not (ground.base / "opt/shop").exists()
    assert bare


def test_with_a_manifest_the_current_inventory_is_ignored(ground: Ground, bare: list[str]) -> None:
    ground.deploy("shop")
    ground.stop()
    before = ground.there()
    other = replace(before.paths, root="/srv/data", state="/")
    Remover(InstalledApplication(other, (), before.host)).remove()
    ground.remover().finish()
    assert ground.paths() == bare


def test_files_from_before_the_manifest_are_removed_as_well(
    ground: Ground, bare: list[str]
) -> None:
    ground.deploy("shop", listed=False)
    path = f"{ground.base}/etc/celery-fleet/shop/manifest.json"
    manifest.write(
        path, manifest.Manifest(files={"/etc/celery-fleet/shop/fleet.json"}, whole=False)
    )
    ground.stop()
    # The name of 0.1.0's lock.
    lock = ground.base / "run/celery-fleet-settle.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    ground.remover().remove()
    ground.remover().finish()
    assert ground.paths() == bare


def test_a_second_instance_that_a_killed_run_has_left_is_stopped(ground: Ground) -> None:
    ground.deploy("shop")
    ground.systemd.add("shop-worker@w.next.service", running=True)
    done = stop(ground.there(), "workers", 10)
    assert done["stopped"] == ["shop-worker@w.next.service", "shop-worker@w.service"]
