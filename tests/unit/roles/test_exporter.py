"""The host's exporter stays while another application of the host uses it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.contract.test_repository import ROOT

UNIT = "celery-fleet-node-exporter.service"
WITH: dict[str, Any] = {"ports": {"metrics": 9808, "node": 9100}}
WITHOUT: dict[str, Any] = {"ports": {"metrics": 9808}}


def owned(*marks: dict[str, Any]) -> Any:
    """Return what the role removes on a host with these marks if the variable is false."""
    loader = DataLoader()
    path = str(ROOT / "roles/celery_exporter/vars/main.yml")
    role = loader.load_from_file(path, trusted_as_template=True)
    facts = {"fleet": {"marks": list(marks)}}
    variables = {**role, "celery_app_name": "shop", "ansible_facts": facts}
    return Templar(loader, variables).template(role["__celery_exporter_no_node"])["owned"]


@pytest.mark.parametrize(
    "marks",
    [
        [],
        [{"app": "shop", **WITH}],
        [{"app": "shop", **WITHOUT}, {"app": "flash", **WITHOUT}],
        [{"path": "/etc/celery-fleet/x/fleet.json", "error": "it is not JSON"}],
    ],
)
def test_the_last_application_removes_it(marks: list[dict[str, Any]]) -> None:
    assert owned(*marks) == {"units": [UNIT], "files": [f"/etc/systemd/system/{UNIT}"]}


def test_it_stays_if_another_application_uses_it() -> None:
    assert owned({"app": "shop", **WITHOUT}, {"app": "flash", **WITH}) == {}
