"""docs/on-a-host.md says what the roles put on hosts."""

from __future__ import annotations

import pytest

from scripts import on_a_host
from tests.render.conftest import RENDERS
from tests.render.fleet import Fleet


@pytest.fixture(scope="module")
def fleets(pytestconfig: pytest.Config) -> dict[str, Fleet]:
    return {name: run.result() for name, run in pytestconfig.stash[RENDERS].items()}


@pytest.fixture(scope="module")
def page(fleets: dict[str, Fleet]) -> str:
    others = [fleet for name, fleet in fleets.items() if name != "local"]
    return on_a_host.write(fleets["local"], others)


def test_the_page_is_up_to_date(page: str) -> None:
    assert on_a_host.OUTPUT.read_text() == page, "stale: run `python -m scripts.on_a_host`"


def test_what_belongs_to_one_inventory_is_not_on_it(page: str, fleets: dict[str, Fleet]) -> None:
    for fleet in fleets.values():
        assert [name for name, secret in fleet.secrets.items() if secret in page] == []
        for host in fleet.hosts.values():
            assert host.variables["celery_app_name"] not in page
            assert f"@{host.name}" not in page


def test_each_file_of_each_host_is_on_it(page: str, fleets: dict[str, Fleet]) -> None:
    for fleet in fleets.values():
        for host in fleet.hosts.values():
            app, workers = (
                host.variables["celery_app_name"],
                host.variables["celery_worker_instances"],
            )
            for path in [*host.files, *host.links]:
                name = on_a_host.general(path, app, workers)
                assert f"| `{name}` |" in page or "/<version>/" in name, (host.name, path)
