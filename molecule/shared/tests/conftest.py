"""Fixtures and hooks of all tests on hosts: what to expect of a host, how to ask it, and what to show after a failure.

The expected values come from the inventory: every public variable of the roles, rendered by Ansible for each
host. A marker says on which hosts a test runs:

    @pytest.mark.hosts("celery_workers", each="celery_worker_host_instances")
    @pytest.mark.unit("{celery_app_name}-worker@{each}.service")
    def test_worker(host, variables, each): ...

`hosts` names a group (default: all hosts). A group without hosts is a failure, so that renaming a group is
noticed. `each` names a variable with a list or a dictionary, and runs the test for each item or key. In addition to
the inventory's variables there are `units` and `services`, the units of a host. `unit` names the unit whose journal
is shown if the test fails; a test about several hosts names them: `unit("…", "redis")`.

`stage(n)` runs tests that disturb the fleet after those that only look: 1 replaces releases and workers, 2 kills and
freezes processes, 3 stops the broker, 4 shuts the hosts down, and 5 checks what the whole run has left. Each stage
leaves a working fleet.

The fleet is that of the Molecule scenario, or else that of CELERY_FLEET_SCENARIO (default: the demo).
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support import order, resp
from support.inventory import Fleet, Variables, load_fleet
from support.notes import (  # noqa: F401  # a fixture and a hook, which pytest finds by their names
    note,
    pytest_terminal_summary,
)
from support.order import pytest_collection_modifyitems  # noqa: F401  # a hook, like that of notes
from support.units import Look
from testinfra.host import Host

JOURNAL_LINES = 60


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    order.pytest_configure(config)
    config.addinivalue_line("markers", "hosts(group, each=variable): the hosts a test runs on")
    config.addinivalue_line(
        "markers", "unit(name, group): the unit whose journal is shown on failure"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per host of its group, and once per item if it uses `each`."""
    if "host_name" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("hosts") or pytest.mark.hosts("all").mark
    fleet = load_fleet()
    try:
        hosts = fleet.hosts(*marker.args)
    except ValueError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from error
    variable = marker.kwargs.get("each")
    if variable is None:
        metafunc.parametrize("host_name", hosts, scope="session")
        return
    pairs = [(name, item) for name in hosts for item in fleet.expected[name][variable]]
    if not pairs:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: {variable} is empty on {', '.join(hosts)}"
        )
    metafunc.parametrize(("host_name", "each"), pairs, scope="session")


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts under test and what is expected of them."""
    return load_fleet()


@pytest.fixture(scope="session", autouse=True)
def first_look(fleet: Fleet) -> Look:
    """Return the state of all units before the first test, to compare with a later look."""
    return Look.at(fleet)


@pytest.fixture
def nothing_refused(fleet: Fleet) -> Generator[None]:
    """Check that Redis refuses nothing during the test; a restart clears its ACL log, so check before the test, too."""
    for kind in ("broker", "results"):
        assert resp.acl_log(fleet, kind) == []
    yield
    for kind in ("broker", "results"):
        assert resp.acl_log(fleet, kind) == []


@pytest.fixture
def host(fleet: Fleet, host_name: str) -> Host:
    """Return the host of this run of the test, as root."""
    return fleet.connect(host_name)


@pytest.fixture
def variables(fleet: Fleet, host_name: str) -> Variables:
    """Return the variables of this run's host."""
    return fleet.expected[host_name]


def journals(item: pytest.Item) -> list[tuple[str, str]]:
    """Return a heading and the end of the journal for each unit that `item` is about."""
    fleet, found = load_fleet(), []
    values = getattr(item, "funcargs", {})
    for marker in item.iter_markers("unit"):
        if len(marker.args) > 1:
            names = fleet.hosts(marker.args[1])
        elif "host_name" in values:
            names = [values["host_name"]]
        else:
            continue
        for name in names:
            unit = marker.args[0].format_map({**fleet.expected[name], **values})
            status = f"systemctl --no-pager --full status '{unit}'"
            command = f"{status}; journalctl --no-pager --lines={JOURNAL_LINES} --unit='{unit}'"
            found.append((f"{unit} on {name}", fleet.execute(name, command).output))
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the journal of a failing test's unit."""
    report = yield
    if report.failed and call.when != "teardown":
        report.sections.extend(journals(item))
    return report
