"""What the operator's command says about clients outside of the fleet, and about queues that only they consume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.cli import ask
from tests.unit.cli import host
from tests.unit.cli.conftest import Call

CLIENTS = {
    "partner": {"queues": ["mail"], "consume": ["letters"], "results": True},
    "web": {"queues": ["mail"]},
}


@pytest.fixture
def place(place: Path) -> Path:
    """Return a host whose application has clients, with the broker's file of users."""
    more: dict[str, Any] = {"clients": CLIENTS, "external": ["letters"]}
    document = host.document(place, queues=["bulk", "letters", "mail", "slow"], **more)
    (place / "etc/shop/cli.json").write_text(json.dumps(document))
    acl = place / "redis/shop-broker/users.acl"
    acl.parent.mkdir(parents=True)
    acl.write_text("user partner2 on >other x\nuser partner on >s/e:cret x\n")
    return place


def test_a_client_is_shown_without_its_password(place: Path, call: Call) -> None:
    done = call("client", "partner")
    assert done.exit_code == 0
    assert "it may send to mail, consume letters, read results." in done.stdout
    assert "rediss://partner:PASSWORD@redis1:6379/0" in done.stdout
    assert "rediss://partner:PASSWORD@redis1:6380/0" in done.stdout
    assert "cret" not in done.stdout


def test_a_password_is_encoded_in_the_url(place: Path, call: Call) -> None:
    done = call("client", "partner", "--show-password", "--json")
    settings = json.loads(done.stdout)["settings"]
    assert settings["broker_url"] == "rediss://partner:s%2Fe%3Acret@redis1:6379/0"
    assert settings["broker_transport_options"]["unacked_key"] == "partner:unacked"


def test_a_client_of_several_redis_hosts_asks_the_sentinels(place: Path, call: Call) -> None:
    path = place / "etc/shop/cli.json"
    document = json.loads(path.read_text())
    hosts = ("redis1", "redis2", "redis3")
    for kind, instance in document["redis"]["instances"].items():
        sentinels = [{"host": name, "port": 26379} for name in hosts]
        instance.update(name=f"shop-{kind}", sentinels=sentinels)
    path.write_text(json.dumps(document))
    settings = json.loads(call("client", "partner", "--json").stdout)["settings"]
    url = ";".join(f"sentinel://partner:PASSWORD@{name}:26379/0" for name in hosts)
    assert settings["broker_url"] == settings["result_backend"] == url
    assert settings["redis_username"] == "partner"
    for kind, key in (
        ("broker", "broker_transport_options"),
        ("results", "result_backend_transport_options"),
    ):
        assert settings[key]["master_name"] == f"shop-{kind}"
        assert settings[key]["sentinel_kwargs"]["username"] == "partner"
    # A primary that hangs does not keep a client waiting for ever.
    assert settings["broker_transport_options"]["socket_timeout"] == 5
    assert settings["redis_socket_timeout"] == 5
    assert settings["redis_backend_health_check_interval"] == 5


def test_a_password_is_only_on_the_redis_host(place: Path, call: Call) -> None:
    done = call("client", "web", "--show-password")
    assert (done.exit_code, "run this on redis1" in done.stderr) == (3, True)


def test_a_client_without_results_gets_no_result_backend(place: Path, call: Call) -> None:
    assert "result_backend" not in call("client", "web").stdout


def test_the_example_is_python(place: Path, call: Call) -> None:
    text = call("client", "partner").stdout
    compile(text[text.index("from celery") :], "example", "exec")


def test_a_cache_that_the_application_does_not_have(place: Path, call: Call) -> None:
    done = call("redis", "cache", "--", "ping")
    assert (done.exit_code, "shop has no cache" in done.stderr) == (2, True)


def test_an_unknown_client(place: Path, call: Call) -> None:
    done = call("client", "nosuch")
    assert (done.exit_code, "celery_app_clients has partner, web" in done.stderr) == (2, True)


def test_a_queue_of_others_needs_no_worker(
    place: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = {
        "mail@worker1": {"state": "consuming", "queues": ["mail"]},
        "bulk@worker1": {"state": "consuming", "queues": ["bulk", "slow"]},
    }
    answer = {"workers": workers, "queues": {"bulk": 0, "letters": 2, "mail": 3, "slow": 0}}
    monkeypatch.setattr(ask, "question", lambda *args, **request: answer)
    done = call("status", "--json")
    assert json.loads(done.stdout)["queues"]["letters"] == {"waiting": 2, "consumers": None}
    assert done.exit_code == 0, done.stdout
    assert "letters" in host.application(place, external=["letters"]).consumed
