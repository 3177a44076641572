from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab, solar

from celery_fleet.beat import described
from tests.unit.runtime.conftest import Run

pytestmark = pytest.mark.slow

APP = "from celery import Celery\nprint('noise')\napp = Celery('shop', include=['shop_tasks'])\n"
TASKS = "from shop import app\n@app.task\ndef total(a, b):\n    return a + b\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the directory of an application's code, which is not the working directory."""
    made = tmp_path / "code"
    made.mkdir()
    (made / "shop.py").write_text(APP)
    (made / "shop_tasks.py").write_text(TASKS)
    return made


def check(run: Run, source: Path, app: str = "shop", **request: Any) -> tuple[int, dict[str, Any]]:
    done = run(
        "-m",
        "celery_fleet.release.check",
        stdin=json.dumps({"app": app, "directory": str(source), **request}),
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_good_application_passes(run: Run, source: Path) -> None:
    status, report = check(
        run,
        source,
        tasks=["shop_tasks.total"],
        settings={"task_acks_late": True, "beat_schedule": {"e": {"task": "x", "interval": 5}}},
    )

    assert (status, report["ok"], report["errors"]) == (0, True, [])
    assert report["tasks"] == ["shop_tasks.total"]
    assert report["application"]["goes_to"] == {
        "shop_tasks.total": {"goes_to": "celery", "fixed": False}
    }
    assert set(report["versions"]) == {"python", "celery", "kombu", "redis"}
    assert "details" not in report


def test_tasks_that_are_not_registered_are_named(run: Run, source: Path) -> None:
    status, report = check(run, source, tasks=["shop.total", "nope"])

    assert status == 1
    assert report["errors"] == [
        "task shop.total is not registered by shop: did you mean shop_tasks.total?",
        "task nope is not registered by shop: is its module in include or imports?",
    ]


@pytest.mark.parametrize(
    ("app", "code", "message", "details"),
    [
        ("nope", "", "there is no module nope; check celery_app_module", False),
        ("wrong:x", "", "module wrong has no x", False),
        ("wrong", "import nothere\n", "No module named 'nothere' at wrong.py, line 1; add", True),
        ("wrong", "\nx=\n", "SyntaxError: invalid syntax at wrong.py, line 2", True),
        (
            "wrong",
            "import os\nos.environ['DATABASE_URL']\n",
            "KeyError: 'DATABASE_URL' at wrong.py, line 2; correct it there; environment variables",
            True,
        ),
        ("wrong", "raise SystemExit(3)\n", "SystemExit: 3 at wrong.py, line 1", True),
        ("wrong", "x = 1\n", "so it holds no Celery app", False),
        ("wrong", "app = 5\n", "is of type int, not a Celery app", False),
        (
            "wrong",
            "raise OSError('redis://u:geheim@h/0 refused')\n",
            "OSError: redis://u:***@h/0 refused",
            True,
        ),
        (
            "wrong",
            "from celery import Celery\napp = Celery('x', include=['missing_tasks'])\n",
            "No module named 'missing_tasks'",
            False,
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(
    run: Run, source: Path, app: str, code: str, message: str, details: bool
) -> None:
    (source / "wrong.py").write_text(code)

    status, report = check(run, source, app)

    assert status == 1
    (error,) = report["errors"]
    assert message in error
    assert "\n" not in error
    assert ("details" in report) == details
    assert "geheim" not in json.dumps(report)


def test_a_schedule_that_celery_refuses_is_named(run: Run, source: Path) -> None:
    entry = {"task": "shop.total", "crontab": {"minute": "99"}}

    _, report = check(run, source, settings={"beat_schedule": {"e": entry}})

    assert report["errors"] == ["crontab of e: Invalid end range: 99 > 59."]


@pytest.mark.parametrize(
    ("accept", "accepted"),
    [
        (["json"], True),
        (["application/json", "pickle"], True),
        (["pickle"], False),
        ([], False),
        (None, True),
    ],
)
def test_an_application_that_accepts_no_json_is_refused(
    run: Run, source: Path, accept: Any, accepted: bool
) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write(f"app.conf.accept_content = {accept!r}\n")

    _, report = check(run, source, settings={})

    assert report["ok"] == accepted
    if not accepted:
        (error,) = report["errors"]
        assert "add json to accept_content, for example with celery_app_settings" in error
        settings = {"accept_content": ["json", "pickle"]}
        assert check(run, source, settings=settings)[1]["errors"] == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"task_serializer": "jsn"}, "celery_app_settings.task_serializer is 'jsn', but no serializer of that name"),
        ({"task_serializer": "jsn"}, "did you mean json?"),
        ({"result_serializer": "picle"}, "did you mean pickle?"),
        ({"accept_content": ["json", "jason"]}, "celery_app_settings.accept_content has 'jason'"),
        ({"accept_content": ["jason"]}, "did you mean json?"),
        ({"result_accept_content": ["xyz"]}, "known are json, msgpack, pickle, yaml"),
        ({"task_serializer": "pickle"}, "but accept_content lacks it"),
        ({"task_serializer": "pickle", "accept_content": None}, "but accept_content lacks it"),
        ({"task_serializer": "yaml", "result_accept_content": ["yaml", "json"]}, "add yaml to accept_content"),
        ({"result_serializer": "yaml"}, "add yaml to accept_content"),
        (
            {"result_serializer": "yaml", "accept_content": ["yaml", "json"], "result_accept_content": ["json"]},
            "add yaml to result_accept_content",
        ),
        ({"task_serializer": ["json"]}, "but no serializer of that name"),
    ],
    ids=str,
)  # fmt: skip
def test_a_serializer_that_can_not_be_used_is_refused(
    run: Run, source: Path, settings: dict[str, Any], expected: str
) -> None:
    _, report = check(run, source, settings=settings)
    (error,) = report["errors"]
    assert expected in error


@pytest.mark.parametrize(
    "settings",
    [
        {"task_serializer": "pickle", "accept_content": ["json", "application/x-python-serialize"]},
        {"result_serializer": "yaml", "result_accept_content": ["yaml"]},
        {"task_serializer": "own", "accept_content": ["json", "own"]},
    ],
    ids=str,
)
def test_a_serializer_that_is_accepted_passes(
    run: Run, source: Path, settings: dict[str, Any]
) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write(
            "from kombu.serialization import register\n"
            "register('own', lambda data: data['x'], None, 'application/x-own')\n"
        )
    assert check(run, source, settings=settings)[1]["errors"] == []


def test_a_serializer_in_the_code_is_checked_as_well(run: Run, source: Path) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write("app.conf.task_serializer = 'yaml'\n")
    (error,) = check(run, source, settings={})[1]["errors"]
    assert error.startswith("task_serializer of application shop is 'yaml', but accept_content")
    assert check(run, source, settings={"task_serializer": "json"})[1]["errors"] == []


def test_a_key_prefix_in_the_code_is_refused(run: Run, source: Path) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write("app.conf.result_backend_transport_options = {'global_keyprefix': 'shop:'}\n")
    (error,) = check(run, source, settings={})[1]["errors"]
    assert "result_backend_transport_options has a global_keyprefix" in error
    # Then it has no effect.
    pinned = {"result_backend_transport_options": {"retry_policy": {"timeout": 5.0}}}
    for settings in (pinned, {"result_backend": "django-db"}):
        assert check(run, source, settings=settings)[1]["errors"] == []


def test_urls_in_the_environment_are_removed_as_on_the_hosts(run: Run, source: Path) -> None:
    (source / "shop.py").write_text(
        "import os\nfrom celery import Celery\n"
        "app = Celery('shop', broker=os.environ['CELERY_BROKER_URL'])\n"
    )
    done = run(
        "-m",
        "celery_fleet.release.check",
        stdin=json.dumps({"app": "shop", "directory": str(source), "settings": {}}),
        CELERY_BROKER_URL="redis://redis1/0",
    )

    (error,) = json.loads(done.stdout)["errors"]
    assert "KeyError: 'CELERY_BROKER_URL' at shop.py, line 3; the fleet sets broker" in error
    assert "read it with os.environ.get('CELERY_BROKER_URL') or leave it out" in error


@pytest.mark.parametrize("variable", ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"])
def test_a_directory_of_services_is_not_advised_as_the_applications_environment(
    run: Run, source: Path, variable: str
) -> None:
    (source / "shop.py").write_text(f"import os\nWORK = os.environ[{variable!r}]\n")
    status, report = check(run, source)
    assert status == 1
    (error,) = report["errors"]
    assert f"KeyError: '{variable}' at shop.py, line 2; systemd sets this" in error
    assert f"read it inside a task, or with os.environ.get('{variable}')" in error
    assert "celery_app_env" not in error


def test_running_threads_of_an_application_do_not_block_the_check(run: Run, source: Path) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        )

    assert check(run, source)[0] == 0


def test_a_missing_directory_is_reported(run: Run, tmp_path: Path) -> None:
    status, report = check(run, tmp_path / "nowhere")
    assert status == 1
    assert "can't be entered" in report["errors"][0]


SCHEDULED = """
from datetime import timedelta
from celery.schedules import crontab, schedule, solar

class Odd(schedule):
    pass

class Unshown:
    pass

app.conf.timezone = "America/Guayaquil"
app.conf.task_routes = lambda name, *rest, **more: {"queue": "routed"} if "slow" in name else None
app.conf.beat_schedule = {
    "crontab": {"task": "shop.x", "schedule": crontab(minute=[0, 30], hour="8-19", day_of_week="mon-sat"),
                "args": (1, Unshown), "kwargs": {"a": [2]}, "options": {"queue": "q", "expires": 5}},
    "float": {"task": "shop.slow", "schedule": 30.0},
    "delta": {"task": "shop.x", "schedule": timedelta(hours=1), "relative": True},
    "interval": {"task": "shop.pinned", "schedule": schedule(5)},
    "odd": {"task": "shop.x", "schedule": Odd(5)},
}

@app.task(queue="own")
def pinned():
    pass

@app.task
def slow():
    pass

@app.on_after_finalize.connect
def late(sender, **rest):
    sender.add_periodic_task(60.0, slow.s(3), name="late")
"""


def scheduled(run: Run, source: Path, code: str, **request: Any) -> tuple[int, dict[str, Any]]:
    (source / "shop.py").write_text(f"from celery import Celery\napp = Celery('shop')\n{code}")
    return check(run, source, **request)


def test_the_applications_schedule_is_reported(run: Run, source: Path) -> None:
    status, report = scheduled(run, source, SCHEDULED)

    assert (status, report["errors"]) == (0, [])
    told = report["application"]
    assert {key: told[key] for key in ("timezone", "zone", "enable_utc", "task_always_eager")} == {
        "timezone": "America/Guayaquil",
        "zone": "America/Guayaquil",
        "enable_utc": True,
        "task_always_eager": False,
    }
    assert (told["default_queue"], told["queues"]) == ("celery", ["celery"])
    assert told["pinned"] == []
    entries = told["schedule"]
    assert entries["crontab"] == {
        "task": "shop.x",
        "crontab": {
            "minute": "0,30",
            "hour": "8-19",
            "day_of_week": "mon-sat",
            "day_of_month": "*",
            "month_of_year": "*",
        },
        "args": [1, "<class 'shop.Unshown'>"],
        "kwargs": {"a": [2]},
        "options": {"expires": 5},
        "queue": "q",
        "goes_to": "q",
        "fixed": True,
    }
    times = {
        name: (entry.get("interval"), entry.get("relative")) for name, entry in entries.items()
    }
    assert times["float"] == (30.0, None)
    assert times["delta"] == (3600.0, True)
    assert times["interval"] == (5.0, None)
    assert times["late"] == (60.0, None)
    assert entries["odd"]["custom"] == "shop.Odd <freq: 5.00 seconds>"
    queues = {
        name: (entry["queue"], entry["goes_to"], entry["fixed"]) for name, entry in entries.items()
    }
    assert queues["float"] == (None, "routed", False)
    assert queues["interval"] == (None, "own", True)
    assert queues["delta"] == (None, "celery", False)


def test_a_crontab_of_a_range_or_a_set_is_reported_as_text() -> None:
    """A database gets this text."""
    told = described.spec(crontab(minute=0, hour=range(8, 11), day_of_week={5, 1}))["crontab"]
    assert (told["minute"], told["hour"], told["day_of_week"]) == ("0", "8,9,10", "1,5")
    assert crontab(**told) == crontab(minute=0, hour="8-10", day_of_week="mon,fri")


def test_a_solar_schedule_is_reported_as_in_the_inventory() -> None:
    # Like Celery's, but without the package that computes it, which needs a compiler.
    sun = solar.__new__(solar)
    sun.event, sun.lat, sun.lon = "sunset", 48, 16.5

    assert described.spec(sun) == {
        "solar": {"event": "sunset", "latitude": 48.0, "longitude": 16.5}
    }


def test_the_inventorys_settings_are_used_and_the_applications_are_reported(
    run: Run, source: Path
) -> None:
    settings = {"timezone": "Europe/Berlin", "task_default_queue": "d", "enable_utc": False}
    _, report = scheduled(run, source, SCHEDULED, settings=settings)

    told = report["application"]
    assert (told["zone"], told["timezone"]) == ("Europe/Berlin", "America/Guayaquil")
    assert (told["enable_utc"], told["default_queue"]) == (True, "d")
    assert told["schedule"]["delta"]["goes_to"] == "d"
    # It is listed, so that it is not mistaken for the application's own.
    assert told["pinned"] == ["task_default_queue"]


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        (
            "app.conf.timezone = 'America/Guayaqil'",
            {},
            (
                "the timezone of application shop is 'America/Guayaqil', and there is no such time zone: did you mean"
                " America/Guayaquil?"
            ),
        ),
        (
            "app.conf.timezone = 'America/Guayaquil'",
            {"timezone": "Mars/Olympus Mons"},
            "celery_app_settings.timezone is 'Mars/Olympus Mons', and there is no such time zone",
        ),
        (
            "app.conf.task_always_eager = True",
            {},
            "application shop: task_always_eager (CELERY_TASK_",
        ),
        # With its name from before Celery 4, with and without a namespace.
        (
            "app.config_from_object({'CELERY_ALWAYS_EAGER': True})",
            {},
            "task_always_eager (CELERY_TASK_",
        ),
        (
            "app.config_from_object({'CELERY_ALWAYS_EAGER': True}, namespace='CELERY')",
            {},
            "task_always_eager (CELERY_TASK_",
        ),
        (
            "app.conf.beat_schedule = [1]",
            {},
            "beat_schedule must map entry names to entries, not list",
        ),
        (
            "app.conf.beat_schedule = {'e': {'task': 'x', 'schedle': 5}}",
            {},
            "beat_schedule of the application: entry e: beat can't use it (TypeError: ",
        ),
        (
            "app.conf.beat_schedule = {'e': {'task': 'x', 'schedule': '5 minutes'}}",
            {},
            "entry e: beat can't use it (",
        ),
        ("app.conf.beat_schedule = {'e': {'schedule': 5}}", {}, "entry e: it names no task"),
        (
            (
                "app.conf.task_create_missing_queues = False\n"
                "app.conf.beat_schedule = {'e': {'task': 'x', 'schedule': 5, 'options': {'queue': 'none'}}}\n"
                "app.conf.task_routes = {'x': {'queue': 'none'}}"
            ),
            {},
            "",
        ),
    ],
)
def test_settings_that_the_hosts_could_not_use_are_refused(
    run: Run, source: Path, code: str, settings: dict[str, Any], message: str
) -> None:
    status, report = scheduled(run, source, code, settings=settings)

    if not message:
        assert report["errors"] == []
        return
    assert status == 1
    (error,) = report["errors"]
    assert message in error


def test_an_eager_application_passes_if_the_inventory_switches_that_off(
    run: Run, source: Path
) -> None:
    settings = {"task_always_eager": False}
    _, report = scheduled(run, source, "app.conf.task_always_eager = True", settings=settings)

    assert report["errors"] == []
    assert report["application"]["task_always_eager"] is True


DJANGO = """
import os
from celery import Celery
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {"hourly": {"task": "stock.tasks.count", "schedule": 3600.0}}
"""


def test_a_django_application_needs_neither_its_database_nor_its_broker(
    run: Run, source: Path
) -> None:
    (source / "shop.py").write_text(DJANGO)
    (source / "site_settings.py").write_text(
        "import os\n"
        "import dj_database_url\n"
        "SECRET_KEY = os.environ['SECRET_KEY']\n"
        "DATABASES = {'default': dj_database_url.parse(os.environ['DATABASE_URL'])}\n"
        "INSTALLED_APPS = ['stock']\n"
        "USE_TZ = True\n"
        "CELERY_TIMEZONE = 'America/Guayaquil'\n"
        "CELERY_BROKER_URL = os.environ.get('CELERY_BROKER_URL', 'redis://nowhere.invalid/0')\n"
    )
    (source / "stock").mkdir()
    (source / "stock/__init__.py").touch()
    (source / "stock/tasks.py").write_text(
        "from celery import shared_task\n@shared_task\ndef count():\n    pass\n"
    )
    request = json.dumps({"app": "shop", "directory": str(source), "settings": {}})
    environment = {
        "SECRET_KEY": "not-a-real-key",
        "DATABASE_URL": "postgresql://u:p@nowhere.invalid/shop?sslmode=require",
    }

    done = run("-m", "celery_fleet.release.check", stdin=request, **environment)

    report = json.loads(done.stdout)
    assert report["errors"] == []
    assert report["tasks"] == ["stock.tasks.count"]
    assert report["application"]["zone"] == "America/Guayaquil"
    assert report["application"]["schedule"]["hourly"]["interval"] == 3600.0

    (error,) = json.loads(run("-m", "celery_fleet.release.check", stdin=request).stdout)["errors"]
    assert "KeyError: 'SECRET_KEY' at site_settings.py, line 3" in error
    assert "celery_app_secret_env" in error


def test_for_a_missing_library_the_debian_package_is_named(run: Run, source: Path) -> None:
    words = "libpq.so.5: cannot open shared object file: No such file or directory"
    status, report = scheduled(run, source, f"raise ImportError({words!r})")

    assert status == 1
    (error,) = report["errors"]
    assert error.endswith("add the Debian package with this library to celery_runtime_packages")


@pytest.mark.parametrize(
    ("route", "queue"),
    [
        ({"exchange": "e", "routing_key": "k"}, None),
        ({"priority": 9}, "shop"),
        ({"routing_key": "k"}, "shop"),
    ],
)
def test_a_route_that_names_no_queue(route: dict[str, Any], queue: str | None) -> None:
    app = Celery("shop", set_as_current=False)
    app.conf.task_routes = {"shop.x": route}
    app.conf.task_default_queue = "shop"

    @app.task(name="shop.x", shared=False)
    def x() -> None:
        """Do nothing."""

    assert described.queues(app, ["shop.x"]) == {"shop.x": {"goes_to": queue, "fixed": False}}
