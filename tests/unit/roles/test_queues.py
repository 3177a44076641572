"""The queues of a fleet, of which Redis's users, the health check and metrics know."""

from __future__ import annotations

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.acl import acl

from tests.fleet import PASSWORDS, ROOT


def test_a_worker_that_only_its_host_defines_may_read_its_queue() -> None:
    loader = DataLoader()
    path = str(ROOT / "roles/celery_app/vars/main.yml")
    own = loader.load_from_file(path, trusted_as_template=True)
    variables = {
        "celery_worker_instances": {"mail": {}},
        "celery_app_task_routes": {},
        "celery_app_external_queues": ["letters"],
        "__celery_app_declared_schedule": {},
        "__celery_app_nodes": {
            "mail@worker1": {"queues": ["mail"]},
            "own@worker2": {"queues": ["own", "mail"]},
        },
    }
    expression = own["__celery_app_facts"]["queues"]
    queues = Templar(loader=loader, variables=variables).template(expression)
    assert queues == ["letters", "mail", "own"]
    text = acl("broker", PASSWORDS, queues)
    assert "~own " in text
