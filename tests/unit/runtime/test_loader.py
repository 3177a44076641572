"""Five styles of applications, and all of them get the inventory's settings."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import ssl
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task
from celery.exceptions import ImproperlyConfigured
from celery.schedules import crontab, schedule
from celery.worker.consumer import Consumer

from celery_fleet import loader
from celery_fleet.config import current
from celery_fleet.config.settings import parse

from .conftest import Run, document

LOADER = "celery_fleet.loader.FleetLoader"
BROKER = "rediss://worker:s3cr3tpw@redis1:6379/0"
PINS: dict[str, Any] = {
    "broker_use_ssl": {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt"},
    "redis_backend_use_ssl": {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.crt"},
    "broker_transport_options": {"visibility_timeout": 3600, "priority_steps": [0, 5]},
    "task_acks_late": True,
    "task_time_limit": 77,
    "worker_prefetch_multiplier": 1,
    "task_routes": {"shop.*": {"queue": "shop"}},
    "beat_schedule": {
        "ours": {"task": "shop.sum", "crontab": {"minute": 0}, "queue": "sums"},
        "off": {"task": "shop.sum", "interval": 5, "enabled": False},
    },
}
THEIRS: dict[str, Any] = {
    "broker_url": "redis://theirs:6379/9",
    "broker_read_url": "redis://theirs:6379/8",
    "result_backend": "redis://theirs:6379/7",
    "broker_use_ssl": False,
    "redis_backend_use_ssl": {"ssl_cert_reqs": "none"},
    "broker_transport_options": {"visibility_timeout": 5},
    "task_acks_late": False,
    "task_time_limit": 1,
    "worker_prefetch_multiplier": 9,
    "result_expires": 55,
    "beat_schedule": {
        "theirs": {"task": "shop.sum", "schedule": 10.0},
        "ours": {"task": "shop.old", "schedule": 10.0},
        "off": {"task": "shop.old", "schedule": 10.0},
    },
}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    current.use_settings(parse(document(**PINS), "test"))
    yield
    current.use_settings(None)


def new(name: str = "shop", **kwargs: Any) -> Celery:
    return Celery(name, loader=LOADER, set_as_current=False, fixups=[], **kwargs)


def add_sum(app: Celery, **options: Any) -> Task:
    def total(a: int, b: int) -> int:
        return a + b

    return app.task(total, name="shop.sum", shared=False, **options)


def with_policy(policy: str, **pins: Any) -> Any:
    """Return the schedule of an application that has its own one, under a policy."""
    made = document("beat", **(PINS | pins)) | {"beat_schedule_policy": policy}
    current.use_settings(parse(made, "test"))
    app = new(**THEIRS)
    add_sum(app)
    return app.conf.beat_schedule


def test_only_the_inventorys_schedule_is_used() -> None:
    merged = with_policy("replace")
    assert set(merged) == {"ours"}
    merged["later"] = {"task": "shop.sum", "schedule": 5}
    assert set(merged) == {"ours"}
    assert merged.overruled == {"theirs", "ours", "off", "later"}
    assert dict(with_policy("replace", beat_schedule={})) == {}


def test_only_the_applications_schedule_is_used() -> None:
    alone = with_policy("refuse", beat_schedule=None)
    assert alone == THEIRS["beat_schedule"]


def test_both_schedules_are_used() -> None:
    merged = with_policy("add")
    assert {name: merged[name]["task"] for name in merged} == {
        "ours": "shop.sum",
        "theirs": "shop.sum",
    }
    assert merged.own == {"ours"}
    only = with_policy("add", beat_schedule={"theirs": {"enabled": False}})
    assert set(only) == {"ours", "off"}


def by_arguments() -> Celery:
    """(a) Everything is given to Celery()."""
    own = dict(THEIRS)
    app = new(broker=own.pop("broker_url"), backend=own.pop("result_backend"), **own)
    add_sum(app)
    return app


def by_update_after_use() -> Celery:
    """(b) Finalized and read at import, and updated afterwards."""
    app = new()
    add_sum(app)
    app.finalize()
    assert app.conf.task_acks_late is True
    app.conf.update(THEIRS)
    return app


def by_attributes() -> Celery:
    """(c) Attributes after a task was bound, and periodic tasks in a handler."""
    app = new()
    add_sum(app)

    @app.on_after_finalize.connect(weak=False)
    def periodic(sender: Celery, **_: Any) -> None:
        sender.add_periodic_task(30.0, sender.signature("shop.sum"), name="added")
        sender.add_periodic_task(30.0, sender.signature("shop.sum"), name="ours")
        sender.conf.update(THEIRS | {"beat_schedule": dict(sender.conf.beat_schedule)})

    app.finalize()
    for key, value in THEIRS.items():
        if key != "beat_schedule":
            setattr(app.conf, key, value)
    app.conf.beat_schedule["theirs"] = THEIRS["beat_schedule"]["theirs"]
    return app


def by_namespace() -> Celery:
    """(d) As Django does: uppercase settings with a prefix."""
    module = types.SimpleNamespace(**{f"CELERY_{k.upper()}": v for k, v in THEIRS.items()})
    app = new()
    app.config_from_object(module, namespace="CELERY")
    add_sum(app)
    return app


def by_old_names() -> Celery:
    """(e) A module with the names of Celery 3."""
    module = types.SimpleNamespace(
        BROKER_URL=THEIRS["broker_url"],
        CELERY_RESULT_BACKEND=THEIRS["result_backend"],
        BROKER_USE_SSL=False,
        CELERY_REDIS_BACKEND_USE_SSL={"ssl_cert_reqs": "none"},
        BROKER_TRANSPORT_OPTIONS=THEIRS["broker_transport_options"],
        CELERY_ACKS_LATE=False,
        CELERYD_TASK_TIME_LIMIT=1,
        CELERYD_PREFETCH_MULTIPLIER=9,
        CELERY_TASK_RESULT_EXPIRES=55,
        CELERYBEAT_SCHEDULE=THEIRS["beat_schedule"],
    )
    app = new()
    app.config_from_object(module)
    add_sum(app)
    return app


STYLES = [by_arguments, by_update_after_use, by_attributes, by_namespace, by_old_names]
styles = pytest.mark.parametrize("make", STYLES, ids=lambda make: make.__name__)


@styles
def test_settings_of_the_inventory_override_the_applications(make: Callable[[], Celery]) -> None:
    app = make()
    conf = app.conf

    assert conf.broker_url == conf.broker_read_url == conf.broker_write_url == BROKER
    assert conf["broker_url"] == conf.get("broker_url") == BROKER
    assert conf.result_backend == document()["celery"]["result_backend"]
    for tls in (conf.broker_use_ssl, conf.redis_backend_use_ssl):
        assert tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.crt"}
    assert conf.broker_transport_options["visibility_timeout"] == 3600
    assert conf.task_acks_late is True
    assert conf.worker_prefetch_multiplier == 1
    assert conf.task_routes == {"shop.*": {"queue": "shop"}}


@styles
def test_bound_tasks_have_the_inventorys_settings(make: Callable[[], Celery]) -> None:
    task = make().tasks["shop.sum"]

    assert task.acks_late is True
    assert task.time_limit == 77


@styles
def test_connections_use_the_inventorys_settings(make: Callable[[], Celery]) -> None:
    connection = make().connection_for_read()

    assert (connection.hostname, connection.port) == ("redis1", 6379)
    assert connection.ssl["ssl_ca_certs"] == "/ca.crt"
    assert connection.transport_options["visibility_timeout"] == 3600


@styles
def test_settings_that_the_inventory_does_not_name_stay(make: Callable[[], Celery]) -> None:
    assert make().conf.result_expires == 55


@styles
def test_schedules_are_merged_by_name(make: Callable[[], Celery]) -> None:
    app = make()
    merged = app.conf.beat_schedule

    assert set(merged) - {"added"} == {"theirs", "ours"}
    assert ("added" in merged) == (make is by_attributes)
    assert merged["ours"]["schedule"] == crontab(minute="0")
    assert merged["ours"]["options"] == {"queue": "sums"}


@styles
def test_nothing_can_be_changed_afterwards(make: Callable[[], Celery]) -> None:
    conf = make().conf

    conf.broker_url = "redis://later"
    conf["broker_url"] = "redis://later"
    conf.update(broker_url="redis://later", BROKER_URL="redis://later")
    conf.update({"CELERY_BROKER_URL": "redis://later"})
    conf.setdefault("broker_url", "redis://later")
    conf.broker_transport_options["visibility_timeout"] = 1
    conf.beat_schedule["ours"]["schedule"] = schedule(1)
    conf.beat_schedule["ours"] = {}
    conf.pop("task_acks_late")
    del conf["task_time_limit"]
    conf.clear()

    assert conf.broker_url == BROKER
    assert conf.broker_transport_options["visibility_timeout"] == 3600
    assert conf.beat_schedule["ours"]["schedule"] == crontab(minute="0")
    assert conf.task_acks_late is True
    assert conf.task_time_limit == 77


@styles
def test_pickles_and_copies_keep_the_pins(make: Callable[[], Celery]) -> None:
    app = make()
    conf = app.conf.finalize()

    pickled = pickle.dumps([conf.changes, new(broker="redis://theirs")])
    changes, unpickled = pickle.loads(pickled)  # noqa: S301  # made just above
    assert changes["broker_url"] == BROKER
    assert unpickled.conf.broker_url == BROKER
    assert copy.copy(conf).broker_url == BROKER
    assert copy.deepcopy(conf.broker_transport_options)["visibility_timeout"] == 3600


@styles
def test_a_class_of_the_consumer_that_was_made_here_is_not_pickled(
    make: Callable[[], Celery],
) -> None:
    app = make()
    assert app.conf.broker_url == BROKER
    app.conf.worker_consumer = type("FleetConsumer", (Consumer,), {})
    changes = pickle.loads(pickle.dumps(app.conf.changes))  # noqa: S301  # made just above
    assert changes["broker_url"] == BROKER
    assert not any(isinstance(value, type) for value in changes.values())
    app.conf.worker_consumer = "shop:OwnConsumer"
    changes = pickle.loads(pickle.dumps(app.conf.changes))  # noqa: S301  # made just above
    assert "shop:OwnConsumer" in changes.values()


def test_a_name_with_the_namespace_returns_the_pinned_value() -> None:
    assert by_namespace().conf["CELERY_BROKER_URL"] == BROKER


@styles
@pytest.mark.parametrize("with_defaults", [True, False])
def test_the_settings_that_a_worker_reports_have_no_secret(
    make: Callable[[], Celery], with_defaults: bool
) -> None:
    # `celery inspect conf` and Flower's pages show these.
    conf = make().conf.finalize()
    table = conf.table(with_defaults=with_defaults)

    assert table["broker_url"].startswith("rediss://worker:*")
    assert "s3cr3tpw" not in json.dumps(table, default=repr)
    assert "s3cr3tpw" not in conf.humanize()


def test_a_later_configuration_is_pinned_again() -> None:
    app = by_arguments()
    assert app.conf.broker_url == BROKER

    app.config_from_object(types.SimpleNamespace(broker_url="redis://x", task_time_limit=3))

    assert app.conf.broker_url == BROKER
    assert app.conf.task_time_limit == 77


def test_a_new_schedule_replaces_only_the_applications_part() -> None:
    app = by_arguments()
    app.conf.beat_schedule = {"newer": {"task": "shop.sum", "schedule": 5}}

    assert set(app.conf.beat_schedule) == {"newer", "ours"}


def test_urls_in_the_environment_do_not_override_the_inventory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://env")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://env")
    app = by_arguments()
    app.finalize()

    assert app.conf.broker_url == BROKER
    assert app.conf.result_backend.startswith("rediss://worker:")


def test_handlers_of_the_application_see_the_pins() -> None:
    seen = []
    app = new(broker="redis://theirs")
    app.on_after_configure.connect(
        lambda sender, **_: seen.append(sender.conf.broker_url), weak=False
    )
    app.finalize()

    assert app.conf.task_acks_late is True
    assert seen == [BROKER]


def test_precedence_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="celery_fleet"):
        app = by_arguments()
        assert app.conf.worker_prefetch_multiplier == 1
    lines = caplog.messages

    assert "worker_prefetch_multiplier: application 9, fleet 1" in lines
    assert (
        "broker_url: application 'redis://theirs:6379/9', fleet 'rediss://worker:***@redis1:6379/0'"
    ) in lines
    assert "beat_schedule: the application's entry ours gives way to the fleet's" in lines
    assert "s3cr3tpw" not in caplog.text
    assert not any(line.startswith("result_expires") for line in lines)


def test_an_equal_value_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="celery_fleet"):
        assert new(task_acks_late=True, task_routes=PINS["task_routes"]).conf.task_acks_late

    assert caplog.messages == []


def test_a_late_change_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    app = new()
    assert app.conf.task_time_limit == 77
    app.conf.task_time_limit = 5

    assert "a later change is refused: task_time_limit: application 5, fleet 77" in caplog.messages


def test_an_application_without_any_configuration_is_pinned() -> None:
    assert new("default").conf.broker_url == BROKER


def test_a_producer_without_settings_can_handle_it(monkeypatch: pytest.MonkeyPatch) -> None:
    current.use_settings(None)
    monkeypatch.delenv("CELERY_FLEET_SETTINGS", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(ImproperlyConfigured, match=r"celery_fleet: no settings: .*LoadCredential"):
        _ = new().conf.broker_url


def test_the_file_is_read_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(document()))
    current.use_settings(None)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert new().conf.broker_url == BROKER

    path.unlink()

    assert new().conf.broker_url == BROKER


def test_settings_that_cannot_be_pinned_end_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("internals changed")

    monkeypatch.setattr(loader, "pin_settings", fail)

    with pytest.raises(SystemExit) as caught:
        _ = new().conf.broker_url
    assert caught.value.code == 78
    assert "can't be pinned" in caplog.text


APP = "from celery import Celery\napp = Celery('shop', broker='redis://theirs')\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "component"),
    [(["worker"], "worker"), (["beat"], "beat"), (["report"], "flower")],
)
def test_a_process_of_the_fleet_refuses_in_one_line(
    run: Run, tmp_path: Any, argv: list[str], component: str
) -> None:
    (tmp_path / "shop.py").write_text(APP)

    done = run("-m", "celery", "-A", "shop", *argv, component=component, settings="{")

    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"celery_fleet: {tmp_path}/settings.json: is not JSON")


def test_another_celery_is_refused(run: Run, tmp_path: Any) -> None:
    information = tmp_path / "celery-5.3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: celery\nVersion: 5.3.1\n")

    done = run("-c", "import celery_fleet.loader", component="worker")

    assert done.returncode == 78
    assert "Celery 5.3.1 is not supported, only 5.7, 5.6, 5.5, 5.4" in done.stderr


def test_versions_are_checked_before_anything_of_celery_is_imported(run: Run) -> None:
    """Without packages, any earlier import would end in a traceback. gevent's patching is also finished first."""
    done = run("-S", "-c", "import celery_fleet.loader", component="worker")

    assert done.returncode == 78
    assert done.stderr.startswith("celery_fleet: celery is not installed: add ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("component", ["producer", "operator"])
@pytest.mark.parametrize("service", ["worker", "beat"])
def test_borrowed_credentials_start_no_service(
    run: Run, tmp_path: Any, component: str, service: str
) -> None:
    (tmp_path / "shop.py").write_text("from celery import Celery\napp = Celery('shop')\n")
    done = run(
        *("-m", "celery", "-A", "shop", service, "--loglevel=debug"),
        component=component,
        settings=document(component=component),
    )
    assert done.returncode == 78
    last = done.stderr.splitlines()[-1]
    assert f"neither a worker nor a beat can run with the credentials of the {component};" in last
    assert "systemctl status 'shop-worker@*' shop-beat" in last
    assert "Traceback" not in done.stderr
