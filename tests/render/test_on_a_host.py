"""docs/on-a-host.md says what the roles put on hosts."""

from __future__ import annotations

import pytest

from scripts.on_a_host.__main__ import OUTPUT
from scripts.on_a_host.page import write
from scripts.on_a_host.things import general
from tests.render.conftest import RENDERS
from tests.render.fleet import WANTED, Fleet


@pytest.fixture(scope="module")
def fleets(pytestconfig: pytest.Config) -> dict[str, Fleet]:
    renders = {name: pytestconfig.stash[RENDERS][name] for name in WANTED}
    return {name: run.result() for name, run in renders.items()}


@pytest.fixture(scope="module")
def page(fleets: dict[str, Fleet]) -> str:
    others = [fleet for name, fleet in fleets.items() if name != "local"]
    return write(fleets["local"], others)


@pytest.mark.slow
def test_the_page_is_up_to_date(page: str) -> None:
    assert OUTPUT.read_text() == page, "stale: run `python -m scripts.on_a_host`"


@pytest.mark.slow
def test_the_page_has_nothing_of_a_single_inventory(page: str, fleets: dict[str, Fleet]) -> None:
    for fleet in fleets.values():
        assert [name for name, secret in fleet.secrets.items() if secret in page] == []
        for host in fleet.hosts.values():
            assert host.variables["celery_app_name"] not in page
            assert f"@{host.name}" not in page


@pytest.mark.slow
def test_the_page_has_each_file_of_each_host(page: str, fleets: dict[str, Fleet]) -> None:
    for fleet in fleets.values():
        assert_told(fleet, page)


def test_the_committed_page_has_each_file(fleet: Fleet) -> None:
    """This is a quick check; whether everything else on it is up to date takes two more runs."""
    assert_told(fleet, OUTPUT.read_text())


def assert_told(fleet: Fleet, page: str) -> None:
    for host in fleet.hosts.values():
        app, workers = (
            host.variables["celery_app_name"],
            host.variables["celery_worker_instances"],
        )
        for path in [*host.files, *host.links]:
            name = general(path, app, workers)
            assert f"| `{name}` |" in page or "/<version>/" in name, (host.name, path)
