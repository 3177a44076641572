"""The API under the fleet's settings for producers, with nothing at the addresses of broker and results."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.settings import (
    process_settings,
)

from tests.facts import facts
from tests.unit.aiecommerce.conftest import Run

SRC = Path(__file__).resolve().parents[3] / "src"
ASK = """
import json
import django
django.setup()
from django.core.management import call_command
from django.test import Client
call_command("migrate", verbosity=0)
client = Client(headers={"host": "localhost"}, raise_request_exception=False)

def ask(method, path, body=None):
    answer = getattr(client, method)(f"/api/v1/admin/{path}", body, "application/json")
    return [answer.status_code, answer.headers["Content-Type"], answer.content.decode()]

from aiecommerce.catalog.models import Product
other = Product.objects.create(sku="B", name="B")
answers = {
    "create": ask("post", "products", {"sku": "A", "name": "A"}),
    "price": ask("post", f"products/{other.id}/price", {"price": 1}),
    "task": ask("get", "tasks/11111111-2222-4333-8444-555555555555"),
}
print(json.dumps(answers))
"""


@pytest.fixture
def closed() -> Iterator[int]:
    """Reserve a port on which no process can listen during the test."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.slow
def test_an_outage_of_broker_and_results_is_reported_in_json(
    run: Run, tmp_path: Path, closed: int
) -> None:
    endpoint = {"host": "127.0.0.1", "port": closed}
    # Shorter timeouts than the fleet's, so that the test is short; everything else is as deployed.
    impatient = {
        "result_backend_transport_options": {"retry_policy": {"timeout": 0.2}},
        "result_backend_max_retries": 1,
    }
    settings = process_settings(
        facts("aiecommerce", broker=endpoint, results=endpoint, settings=impatient),
        "producer",
        "not-a-real-password",
    )
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    done = run(
        "-c",
        ASK,
        DEBUG="1",
        DATABASE_URL=f"sqlite:///{tmp_path}/db.sqlite3",
        DJANGO_SETTINGS_MODULE="aiecommerce.settings",
        CELERY_LOADER="celery_fleet.loader.FleetLoader",
        CELERY_FLEET_COMPONENT="producer",
        CELERY_FLEET_SETTINGS=str(path),
        PYTHONPATH=str(SRC),
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    assert set(answers) == {"create", "price", "task"}
    for status, content_type, _ in answers.values():
        assert (status, content_type) == (503, "application/json"), done.stderr
    assert "is created, but" in answers["create"][2]
    # This request does not use the result store, so it names the broker.
    assert "OperationalError" in done.stderr
    assert "ResultsUnavailable" in done.stderr
