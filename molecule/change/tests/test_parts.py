"""Parts of a run: limits, tags, a start in the middle. Also upgrades of Debian, which restart nothing."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support import plays, units
from support.change import Fleets

OTHER = "not-of-the-fleet.service"


def test_a_run_of_verify_reports_that_all_is_up_and_changes_nothing(changes: Fleets) -> None:
    before, files = changes.pids(), changes.files()
    run = plays.play(changes.fleet, "verify-alone", "--tags=verify")
    assert run.status == 0, run.end
    assert not any(run.changed.values())
    assert (changes.pids(), changes.files()) == (before, files)
    assert "Plan:" not in run.text
    for host in changes.fleet.hosts("celery_workers"):
        for worker in changes.fleet.expected[host]["celery_worker_host_instances"]:
            assert f"{worker}@{host}" in run.text


@pytest.mark.parametrize(
    "task",
    [
        "celery_fleet.core.celery_beat : Validating*",
        "Bring files and units to the wanted state",
        "celery_fleet.core.verify : Wait for every service",
    ],
)
def test_a_start_in_the_middle_is_refused_with_the_remedy(changes: Fleets, task: str) -> None:
    before, files = changes.pids(), changes.files()
    wanted = changes.variables(celery_app_env={"SOME_SWITCH": "halfway"})
    run = plays.play(changes.fleet, "in-the-middle", f"--start-at-task={task}", *wanted)
    assert run.status != 0
    assert "this run has skipped the first steps of every run" in " ".join(run.text.split()), (
        run.end
    )
    assert run.contacts == 0, "a host was contacted before"
    assert (changes.pids(), changes.files()) == (before, files)


@pytest.mark.usefixtures("settled")
def test_a_limit_and_tags_change_their_part_and_the_next_run_the_rest(changes: Fleets) -> None:
    wanted = changes.variables(celery_app_env={"SOME_SWITCH": "in-parts"})
    workers, beat = changes.fleet.hosts("celery_workers"), changes.fleet.hosts("celery_beat")
    before = changes.pids()
    limited = changes.site("parts-limit", f"--limit={workers[1]}", *wanted)
    assert limited.run.status == 0, limited.run.end
    assert {host for host, _ in changes.restarted(before)} == {workers[1]}
    assert {item.host for item in limited.items} == {workers[1]}

    before = changes.pids()
    tagged = changes.site("parts-tag", "--tags=celery_beat", *wanted)
    assert tagged.run.status == 0, tagged.run.end
    assert changes.restarted(before) == {(host, f"{changes.app}-beat.service") for host in beat}

    before = changes.pids()
    rest = changes.site("parts-rest", *wanted)
    assert rest.run.status == 0, rest.run.end
    done = {host for host, _ in changes.restarted(before)}
    assert workers[0] in done
    assert workers[1] not in done
    assert (beat[0], f"{changes.app}-beat.service") not in changes.restarted(before)


# --- upgrades of Debian ------------------------------------------------------------------------------

# A process with an old library that belongs to no fleet, to show that needrestart does restart something.
OTHERS_UNIT = """
[Service]
Type=exec
ExecStart=/usr/bin/python3 -c "import ssl, time; time.sleep(86400)"
"""


@pytest.fixture
def upgraded(changes: Fleets) -> Generator[list[str]]:
    """Hosts with needrestart on which libraries were replaced under all processes, as an upgrade does."""
    hosts = [*changes.fleet.hosts("redis"), changes.fleet.hosts("celery_workers")[0]]
    install = "apt-get install --quiet --yes --no-install-recommends"
    for host in hosts:
        changes.fleet.must(host, "apt-get update --quiet")
        changes.fleet.must(host, f"DEBIAN_FRONTEND=noninteractive {install} needrestart")
        changes.fleet.must(host, f"cat > /etc/systemd/system/{OTHER}", OTHERS_UNIT)
        changes.fleet.must(host, f"systemctl daemon-reload && systemctl start {OTHER}")
        changes.fleet.must(
            host,
            "for f in /usr/lib/*/libssl.so.3 /usr/lib/*/libcrypto.so.3 /usr/lib/*/libc.so.6; do"
            ' cp -a "$f" "$f.fresh" && mv "$f.fresh" "$f"; done',
        )
    yield hosts
    for host in hosts:
        changes.fleet.must(host, f"systemctl stop {OTHER}; rm /etc/systemd/system/{OTHER}")
        changes.fleet.must(host, "systemctl daemon-reload")
        changes.fleet.must(host, "apt-get purge --quiet --yes needrestart")


def test_upgrades_of_debian_restart_nothing_of_the_fleet(
    changes: Fleets, upgraded: list[str]
) -> None:
    for host in upgraded:
        mine = {unit for where, unit in changes.pids() if where == host and "@" in unit}
        assert mine
        stranger = units.state(changes.fleet, host, OTHER)["MainPID"]
        before = changes.pids()
        # needrestart lists them, so that an operator can restart them later.
        listed = changes.fleet.must(host, "needrestart -b -r l")
        assert mine <= {line.removeprefix("NEEDRESTART-SVC: ") for line in listed.splitlines()}, (
            listed
        )
        said = changes.fleet.must(host, "needrestart -m a -r a 2>&1")
        changed = {unit for where, unit in changes.restarted(before) if where == host}
        assert changed & mine == set(), said
        assert [unit for unit in changed if changes.app in unit] == [], said
        assert units.state(changes.fleet, host, OTHER)["MainPID"] != stranger, said
    # The plan is the same as before.
    assert changes.plan("after-upgrades").items == []


def test_upgrades_of_packages_that_the_fleet_uses_restart_nothing_of_it(changes: Fleets) -> None:
    """Debian's maintainer scripts only know their own units."""
    (host,) = changes.fleet.hosts("redis")
    before = changes.pids()
    again = "apt-get install --quiet --yes --reinstall redis-server redis-tools"
    changes.fleet.must(host, f"DEBIAN_FRONTEND=noninteractive {again}")
    assert changes.restarted(before) == set()
    assert (
        changes.fleet.execute(host, "systemctl is-enabled redis-server").output.strip() == "masked"
    )
    assert changes.plan("after-a-new-redis").items == []
