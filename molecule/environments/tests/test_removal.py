"""A removal leaves hosts as they were before the first deploy, and does not touch files of other owners.

These tests come last, because they remove the fleet and deploy it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import footprint, plays, units

if TYPE_CHECKING:
    from support.inventory import Fleet
    from support.plays import Run

pytestmark = pytest.mark.stage(6)
PLAYBOOK = "playbooks/remove_fleet.yml"
OWN = "# A person's own.\n"
PURGE: dict[str, str] = {}  # for each host the command that a removal has printed


def remove(fleet: Fleet, title: str, *arguments: str, confirmed: bool = True) -> Run:
    """Run the removal without a terminal."""
    app = fleet.of("fleet")["celery_app_name"]
    answer = ["-e", f"fleet_remove_confirm={app}"] if confirmed else []
    return plays.play(fleet, f"remove-{title}", *answer, *arguments, playbook=PLAYBOOK)


def whole(fleet: Fleet, title: str, directory: Path, *arguments: str) -> Run:
    """Remove the fleet with Redis's data, and keep the printed commands in `PURGE`."""
    path = directory / f"{title}.json"
    plan = ("-e", "fleet_remove_discard_messages=true", "-e", f"fleet_plan_json={path}")
    run = remove(fleet, title, *plan, *arguments)
    if path.exists():
        hosts = json.loads(path.read_text())["hosts"]
        told = {host: found["purge"] for host, found in hosts.items() if found["purge"]}
        assert [command for command in told.values() if command not in run.text] == []
        PURGE.update(told)
    return run


def differences(fleet: Fleet, host: str) -> dict[str, list[str]]:
    """Return what differs from before the first deploy, except for a page that nginx's package leaves behind."""
    kept, now = footprint.kept(fleet.state, host), footprint.look(fleet.containers[host])
    found = footprint.differences(kept, now)
    files = [line for line in found.pop("files", []) if not line.startswith("/var/www")]
    return {**found, "files": files} if files else found


def queue(fleet: Fleet, number: int) -> str:
    """Put messages into a queue that no worker consumes; return its name."""
    name = str(next(iter(fleet.of("celery_workers")["celery_worker_instances"])))
    app = fleet.of("fleet")["celery_app_name"]
    for host in fleet.hosts("celery_workers"):
        fleet.must(host, f"systemctl stop '{app}-worker@*.service'")
    words = " ".join(["x"] * number)
    fleet.must(fleet.one("redis"), f"celery-fleet redis -- lpush {name} {words}")
    return name


def own_files(fleet: Fleet) -> dict[str, str]:
    """Create a user's own file next to ours on each host; return the paths by host."""
    app = fleet.of("fleet")["celery_app_name"]
    worker = next(iter(fleet.of("celery_workers")["celery_worker_instances"]))
    drop_in = f"/etc/systemd/system/{app}-worker@{worker}.service.d/50-own.conf"
    return {
        fleet.one("celery_workers"): drop_in,
        fleet.one("redis"): f"/etc/celery-fleet/{app}/own-notes.txt",
    }


@pytest.fixture(scope="module")
def back(fleet: Fleet) -> Iterator[None]:
    """Deploy the fleet again afterwards, even if the test fails."""
    yield
    run = plays.play(fleet, "remove-and-back")
    assert run.status == 0, run.end
    units.wait_until_up(fleet, 60)


def running(fleet: Fleet) -> Any:
    return units.main_pids(fleet)


@pytest.fixture
def unchecked(fleet: Fleet) -> Iterator[None]:
    """Stop health checks, which would write results while hosts are compared."""
    app = fleet.of("fleet")["celery_app_name"]
    for host in fleet.hosts("fleet"):
        fleet.must(host, ["systemctl", "stop", f"{app}-health.timer", f"{app}-health.service"])
    yield
    for host in fleet.hosts("fleet"):
        fleet.must(host, ["systemctl", "start", f"{app}-health.timer"])


@pytest.mark.usefixtures("back")
class TestRemoval:
    """In this order: refusals, a dry run, what is not lost by mistake, and the removal itself."""

    def test_without_an_answer_nothing_happens(self, fleet: Fleet) -> None:
        before = running(fleet)
        run = remove(fleet, "unanswered", confirmed=False)
        assert run.status != 0
        assert "Nothing was changed" in run.text
        run = remove(fleet, "misspelt", "-e", "fleet_remove_confirm=another", confirmed=False)
        assert run.status != 0
        assert running(fleet) == before

    @pytest.mark.usefixtures("unchecked")
    def test_a_dry_run_shows_it_and_changes_nothing(self, fleet: Fleet, tmp_path: Path) -> None:
        path, before = tmp_path / "plan.json", running(fleet)
        looks = {host: footprint.look(fleet.containers[host]) for host in fleet.hosts("fleet")}
        run = remove(fleet, "dry", "--check", "-e", f"fleet_plan_json={path}", confirmed=False)
        assert run.status == 0, run.end
        found = json.loads(path.read_text())["hosts"]
        assert set(found) == set(fleet.hosts("fleet"))
        app = fleet.of("fleet")["celery_app_name"]
        redis = found[fleet.one("redis")]
        assert f"redis@{app}-broker.service" in redis["units"]
        assert redis["messages"]["state"] == "counted"
        assert "redis-server" in redis["purge"].split()
        assert f"user {app}" in found[fleet.one("celery_workers")]["users"]
        assert running(fleet) == before
        for host, look in looks.items():
            assert footprint.differences(look, footprint.look(fleet.containers[host])) == {}, host

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                ["-e", "celery_app_inventory_name=elsewhere"],
                ["elsewhere", "celery_app_inventory_name"],
            ),
            (["-e", '{"fleet_remove_keep": ["everything"]}'], ["fleet_remove_keep", "redis_data"]),
            (["-e", '{"celery_app_name": "../shop"}'], ["celery_app_name", "no name"]),
        ],
        ids=["another inventory's", "what can't be kept", "no name"],
    )
    def test_mistaken_arguments_are_refused(
        self, fleet: Fleet, arguments: list[str], words: list[str]
    ) -> None:
        before = running(fleet)
        run = remove(fleet, "refused", *arguments)
        assert run.status != 0
        assert [word for word in words if word not in run.text] == []
        assert running(fleet) == before

    def test_messages_are_only_given_up_by_name(self, fleet: Fleet) -> None:
        name = queue(fleet, 3)
        run = remove(fleet, "messages")
        assert run.status != 0
        assert f"3 messages that wait ({name} 3)" in run.text
        assert "fleet_remove_discard_messages=true" in run.text
        app = fleet.of("fleet")["celery_app_name"]
        broker = f"redis@{app}-broker.service"
        assert (
            fleet.must(fleet.one("redis"), ["systemctl", "is-active", broker]).strip() == "active"
        )

    def test_a_host_that_is_down_is_left_for_later(self, fleet: Fleet, tmp_path: Path) -> None:
        """The fleet is removed from the other hosts; the next test removes it from this one."""
        for host, path in own_files(fleet).items():
            fleet.must(host, f"cat >{path}", OWN)
        down, app = fleet.one("celery_workers"), fleet.of("fleet")["celery_app_name"]
        layer = tmp_path / "layer.yml"
        nowhere = {"ansible_port": 1, "ansible_ssh_retries": 0}
        layer.write_text(json.dumps({"all": {"hosts": {down: nowhere}}}))
        before = running(fleet)
        run = whole(fleet, "down-refused", tmp_path, f"--inventory={layer}")
        assert run.status != 0
        assert "fleet_remove_ignore_unreachable=true" in run.text
        assert running(fleet) == before
        missing = (f"--inventory={layer}", "-e", "fleet_remove_ignore_unreachable=true")
        run = whole(fleet, "down", tmp_path, *missing)
        assert run.status != 0
        words = f"{down} could not be reached and may still have {app}"
        assert words in " ".join(run.text.split()), run.end
        others = [host for host in fleet.hosts("fleet") if host != down]
        assert {host for host, number in run.changed.items() if number} == set(others)
        for host in others:
            assert fleet.execute(host, f"ls /etc/celery-fleet/{app}/fleet.json").status != 0
        listed = json.loads(fleet.must(down, f"cat /etc/celery-fleet/{app}/manifest.json"))
        assert f"{app}.target" in listed["units"]
        path = own_files(fleet)[fleet.one("redis")]
        assert f"{path} is still there" in run.text

    def test_hosts_are_as_they_were_before(self, fleet: Fleet, tmp_path: Path) -> None:
        own, down = own_files(fleet), fleet.one("celery_workers")
        run = whole(fleet, "whole", tmp_path)
        assert run.status == 0, run.end
        assert f"{own[down]} is still there" in run.text
        assert set(PURGE) == set(fleet.hosts("fleet"))
        for host in fleet.hosts("fleet"):
            apt = "DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes purge"
            fleet.must(host, PURGE[host].replace("apt purge", apt, 1))
            fleet.must(host, "systemctl daemon-reload")
            found = differences(fleet, host)
            left = {line.partition(": ")[0] for line in found.pop("files", [])}
            path = own.get(host, "")
            assert left == ({path, *map(str, Path(path).parents)} & left if path else set()), host
            assert (path in left) == bool(path)
            assert found == {}, host
        for host, path in own.items():
            assert fleet.must(host, ["cat", path]) == OWN

    def test_a_second_removal_does_nothing(self, fleet: Fleet) -> None:
        run = remove(fleet, "again")
        assert run.status == 0, run.end
        assert run.changed == dict.fromkeys(run.changed, 0)
        assert "is on none of" in run.text
        for host, path in own_files(fleet).items():
            fleet.must(host, f"rm {path}")
            fleet.must(host, f"rmdir -p --ignore-fail-on-non-empty {Path(path).parent}")
            assert differences(fleet, host) == {}, host

    def test_a_removal_keeps_what_it_is_asked_to(self, fleet: Fleet) -> None:
        run = plays.play(fleet, "remove-between")
        assert run.status == 0, run.end
        host = fleet.one("redis")
        fleet.must(host, "celery-fleet redis -- set fleet:test-kept yes")
        run = remove(fleet, "keep", "-e", '{"fleet_remove_keep": ["redis_data"]}')
        assert run.status == 0, run.end
        app = fleet.of("fleet")["celery_app_name"]
        assert f"/var/lib/celery-fleet-redis/{app}-broker is still there" in run.text
        run = plays.play(fleet, "remove-kept")
        assert run.status == 0, run.end
        assert fleet.must(host, "celery-fleet redis -- get fleet:test-kept").strip() == "yes"
        fleet.must(host, "celery-fleet redis -- del fleet:test-kept")
