"""Units and files of others that have names of ours: a run neither ends, removes nor replaces them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from support import plays, units
from support.change import Fleets

#: A host without beat, web process and Redis, so none of these names is needed there.
HOST = "worker1"
KINDS = ("backup", "beat", "exporter", "web")
UNIT = "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
ROTATION = "/var/log/legacy/*.log {\n    weekly\n}\n"


@pytest.fixture(scope="module")
def rotation(changes: Fleets) -> str:
    return f"/etc/logrotate.d/{changes.app}"


@pytest.fixture(scope="module")
def of_others(changes: Fleets, rotation: str) -> Iterator[Mapping[str, str]]:
    """Start units that someone has written by hand; return each with its main process."""
    names = [f"{changes.app}-{kind}.service" for kind in KINDS]
    paths = [f"/etc/systemd/system/{name}" for name in names]
    for path in paths:
        changes.fleet.must(HOST, f"cat > {path}", UNIT)
    changes.fleet.must(HOST, f"cat > {rotation}", ROTATION)
    changes.fleet.must(HOST, ["systemctl", "enable", "--now", "--quiet", *names])
    yield {name: units.state(changes.fleet, HOST, name)["MainPID"] for name in names}
    changes.fleet.must(HOST, ["systemctl", "disable", "--now", "--quiet", *names])
    changes.fleet.must(HOST, ["rm", "-f", *paths, rotation])
    changes.fleet.must(HOST, ["systemctl", "daemon-reload"])


def test_they_go_on(changes: Fleets, rotation: str, of_others: Mapping[str, str]) -> None:
    assert changes.plan("with-names-of-others").items == []
    done = changes.site("beside-names-of-others")
    assert done.run.status == 0, done.run.end
    for name, pid in of_others.items():
        state = units.state(changes.fleet, HOST, name)
        assert (state["MainPID"], state["UnitFileState"]) == (pid, "enabled"), name
        assert changes.fleet.must(HOST, ["cat", f"/etc/systemd/system/{name}"]) == UNIT
    assert changes.fleet.must(HOST, ["cat", rotation]) == ROTATION


@pytest.mark.parametrize("playbook", ["playbooks/plan.yml", "site.yml"])
def test_a_run_that_needs_such_a_name_ends_before_it_changes_anything(
    changes: Fleets, rotation: str, of_others: Mapping[str, str], playbook: str
) -> None:
    before = changes.files()
    logs = changes.variables(celery_app_log_destination="file")
    run = plays.play(changes.fleet, "with-a-name-of-others", *logs, playbook=playbook)
    assert run.status != 0, run.end
    said = " ".join(run.text.split())
    assert f"{rotation} exists, and Celery Fleet has not written it" in said, run.end
    assert changes.fleet.must(HOST, ["cat", rotation]) == ROTATION
    assert changes.files() == before
    assert changes.plan("after-a-name-of-others").items == []
