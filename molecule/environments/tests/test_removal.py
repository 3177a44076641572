"""The way out: a removal leaves hosts as they were before the first deploy, and nobody else's things are touched.

These come last: they take the fleet away, and bring it back.
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


def remove(fleet: Fleet, title: str, *arguments: str, confirmed: bool = True) -> Run:
    """Run the removal as somebody without a terminal does."""
    app = fleet.of("fleet")["celery_app_name"]
    answer = ["-e", f"fleet_remove_confirm={app}"] if confirmed else []
    return plays.play(fleet, f"remove-{title}", *answer, *arguments, playbook=PLAYBOOK)


def queue(fleet: Fleet, number: int) -> str:
    """Put messages into a queue that no worker takes them from; the queue's name."""
    name = str(next(iter(fleet.of("celery_workers")["celery_worker_instances"])))
    app = fleet.of("fleet")["celery_app_name"]
    for host in fleet.hosts("celery_workers"):
        fleet.must(host, f"systemctl stop '{app}-worker@*.service'")
    words = " ".join(["x"] * number)
    fleet.must(fleet.one("redis"), f"celery-fleet redis -- lpush {name} {words}")
    return name


def own_files(fleet: Fleet) -> dict[str, str]:
    """Files of a person's beside ours: host → path."""
    app = fleet.of("fleet")["celery_app_name"]
    worker = next(iter(fleet.of("celery_workers")["celery_worker_instances"]))
    drop_in = f"/etc/systemd/system/{app}-worker@{worker}.service.d/50-own.conf"
    return {
        fleet.one("celery_workers"): drop_in,
        fleet.one("redis"): f"/etc/celery-fleet/{app}/own-notes.txt",
    }


@pytest.fixture(scope="module")
def back(fleet: Fleet) -> Iterator[None]:
    """Whatever becomes of a test, the fleet is there afterwards."""
    yield
    run = plays.play(fleet, "remove-and-back")
    assert run.status == 0, run.end
    units.wait_until_up(fleet, 60)


def running(fleet: Fleet) -> Any:
    return units.main_pids(fleet)


@pytest.mark.usefixtures("back")
class TestRemoval:
    """In this order: what is refused, what is shown, what is lost by nobody's oversight, and the removal itself."""

    def test_without_an_answer_nothing_happens(self, fleet: Fleet) -> None:
        before = running(fleet)
        run = remove(fleet, "unanswered", confirmed=False)
        assert run.status != 0
        assert "Nothing was changed" in run.text
        run = remove(fleet, "misspelt", "-e", "fleet_remove_confirm=another", confirmed=False)
        assert run.status != 0
        assert running(fleet) == before

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
        assert "redis-server" in redis["packages"]
        assert f"user {app}" in found[fleet.one("celery_workers")]["users"]
        assert running(fleet) == before
        for host, look in looks.items():
            assert footprint.differences(look, footprint.look(fleet.containers[host])) == {}, host

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-e", "celery_app_owner=elsewhere"], ["elsewhere", "celery_app_owner"]),
            (["-e", '{"fleet_remove_keep": ["everything"]}'], ["fleet_remove_keep", "redis_data"]),
            (["-e", '{"celery_app_name": "../shop"}'], ["celery_app_name", "no name"]),
        ],
        ids=["another inventory's", "what can't be kept", "no name"],
    )
    def test_what_cannot_be_meant_is_refused(
        self, fleet: Fleet, arguments: list[str], words: list[str]
    ) -> None:
        before = running(fleet)
        run = remove(fleet, "refused", *arguments)
        assert run.status != 0
        assert [word for word in words if word not in run.text] == []
        assert running(fleet) == before

    def test_messages_are_given_up_by_name_alone(self, fleet: Fleet) -> None:
        name = queue(fleet, 3)
        run = remove(fleet, "messages")
        assert run.status != 0
        assert f"3 messages that wait ({name} 3)" in run.text
        assert "fleet_remove_discard=true" in run.text
        app = fleet.of("fleet")["celery_app_name"]
        broker = f"redis@{app}-broker.service"
        assert (
            fleet.must(fleet.one("redis"), ["systemctl", "is-active", broker]).strip() == "active"
        )

    def test_hosts_are_as_they_were_before(self, fleet: Fleet) -> None:
        own = own_files(fleet)
        for host, path in own.items():
            fleet.must(host, f"cat >{path}", OWN)
        run = remove(fleet, "whole", "-e", "fleet_remove_discard=true")
        assert run.status == 0, run.end
        for host in fleet.hosts("fleet"):
            found = footprint.differences(
                footprint.kept(fleet.state, host), footprint.look(fleet.containers[host])
            )
            left = {line.partition(": ")[0] for line in found.pop("files", [])}
            path = own.get(host, "")
            assert left == ({path, *map(str, Path(path).parents)} & left if path else set()), host
            assert (path in left) == bool(path)
            assert found == {}, host
        for host, path in own.items():
            assert fleet.must(host, ["cat", path]) == OWN
            assert f"{path} is still there" in run.text

    def test_a_second_removal_does_nothing(self, fleet: Fleet) -> None:
        run = remove(fleet, "again")
        assert run.status == 0, run.end
        assert run.changed == dict.fromkeys(run.changed, 0)
        assert "is on none of" in run.text
        for host, path in own_files(fleet).items():
            fleet.must(host, f"rm {path}")
            fleet.must(host, f"rmdir -p --ignore-fail-on-non-empty {Path(path).parent}")
            found = footprint.differences(
                footprint.kept(fleet.state, host), footprint.look(fleet.containers[host])
            )
            assert found == {}, host

    def test_keeps_what_it_is_asked_to(self, fleet: Fleet) -> None:
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
