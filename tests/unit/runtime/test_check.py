from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run

APP = "from celery import Celery\nprint('noise')\napp = Celery('shop', include=['shop_tasks'])\n"
TASKS = "from shop import app\n@app.task\ndef total(a, b):\n    return a + b\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An application's code, away from the working directory."""
    made = tmp_path / "code"
    made.mkdir()
    (made / "shop.py").write_text(APP)
    (made / "shop_tasks.py").write_text(TASKS)
    return made


def check(run: Run, source: Path, app: str = "shop", **request: Any) -> tuple[int, dict[str, Any]]:
    done = run(
        "-m",
        "celery_fleet.check",
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
            "KeyError: 'DATABASE_URL' at wrong.py, line 2; mend it there; what it needs",
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
def test_an_application_that_takes_no_json_is_refused(
    run: Run, source: Path, accept: Any, accepted: bool
) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write(f"app.conf.accept_content = {accept!r}\n")

    _, report = check(run, source, settings={})

    assert report["ok"] == accepted
    if not accepted:
        (error,) = report["errors"]
        assert "add json to accept_content, for example by celery_app_settings" in error
        settings = {"accept_content": ["json", "pickle"]}
        assert check(run, source, settings=settings)[1]["errors"] == []


def test_the_urls_of_the_environment_are_taken_away_as_on_the_hosts(run: Run, source: Path) -> None:
    (source / "shop.py").write_text(
        "import os\nfrom celery import Celery\n"
        "app = Celery('shop', broker=os.environ['CELERY_BROKER_URL'])\n"
    )
    done = run(
        "-m",
        "celery_fleet.check",
        stdin=json.dumps({"app": "shop", "directory": str(source), "settings": {}}),
        CELERY_BROKER_URL="redis://redis1/0",
    )

    (error,) = json.loads(done.stdout)["errors"]
    assert "KeyError: 'CELERY_BROKER_URL' at shop.py, line 3; the fleet sets broker" in error
    assert "read it with os.environ.get('CELERY_BROKER_URL') or leave it out" in error


def test_an_application_that_leaves_threads_running_does_not_hold_it(
    run: Run, source: Path
) -> None:
    with (source / "shop.py").open("a") as stream:
        stream.write(
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        )

    assert check(run, source)[0] == 0


def test_a_wrong_request_is_told_as_json(run: Run, tmp_path: Path) -> None:
    done = run("-m", "celery_fleet.check", stdin="{")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)

    status, report = check(run, tmp_path / "nowhere")
    assert status == 1
    assert "can't be entered" in report["errors"][0]
