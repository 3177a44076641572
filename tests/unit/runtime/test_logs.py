"""Log files under rotation: no line is lost or truncated while all processes of a prefork worker write at once.

Celery's `--logfile` is a `WatchedFileHandler` in each process: before each line it checks whether the file still has
that name, and opens a new one if it does not. A line that is being written at that time goes to the file that was moved
away. So nothing needs a signal, and nothing may be copied or compressed at once.
"""

from __future__ import annotations

import getpass
import grp
import gzip
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import required
from tests.render.units import render

TASKS, LINES, PROCESSES = 8, 2500, 4
APPLICATION = f"""
import time
from pathlib import Path
from celery import Celery
from celery.utils.log import get_task_logger

app = Celery("talk", broker="filesystem://")
app.conf.broker_transport_options = {{
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control",
}}
logger = get_task_logger(__name__)

@app.task(name="talk")
def talk(number):
    for line in range({LINES}):
        logger.info("line %s-%s.", number, line)
        if line % 50 == 0:
            time.sleep(0.02)  # so that it lasts for some rotations on a quick machine, too
    Path(f"done-{{number}}").touch()
"""


def by_rename(log: Path) -> Callable[[], None]:
    """Rotate like logrotate, as often as possible."""
    count = 0

    def rotate() -> None:
        nonlocal count
        if log.exists():
            count += 1
            log.rename(log.with_name(f"{log.name}.{count}"))
        time.sleep(0.01)

    return rotate


def by_logrotate(log: Path) -> Callable[[], None]:
    """Rotate with the configuration that the fleet writes."""
    logrotate = required("logrotate")
    user = getpass.getuser()
    group = grp.getgrgid(os.getgid()).gr_name
    configuration = render(
        "logrotate.j2",
        {
            "__celery_app_log_directory": str(log.parent),
            "__celery_app_log_rotate": {"when": "daily", "keep": 1000},
            "celery_app_name": "shop",
            "celery_app_user": user,
        },
    )
    path = log.parent.parent / "logrotate.conf"
    path.write_text(configuration.replace(f"su {user} {user}", f"su {user} {group}"))
    path.chmod(0o644)
    state = str(path.with_name("state"))

    def rotate() -> None:
        done = subprocess.run(
            [logrotate, "--force", "--state", state, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # It is compressed in the next rotation, when no process has it open any more.
        time.sleep(0.3)

    return rotate


@pytest.mark.slow
@pytest.mark.parametrize("how", [by_rename, by_logrotate], ids=lambda how: how.__name__)
def test_no_line_is_lost(tmp_path: Path, how: Callable[[Path], Callable[[], None]]) -> None:
    (tmp_path / "talk.py").write_text(APPLICATION)
    for name in ("queue", "control", "log"):
        (tmp_path / name).mkdir()
    # logrotate refuses a directory that other users may write to.
    (tmp_path / "log").chmod(0o750)
    log = tmp_path / "log/celery_talk.log"
    send = f"from talk import talk\nfor n in range({TASKS}): talk.delay(n)"
    subprocess.run([sys.executable, "-c", send], cwd=tmp_path, check=True, timeout=120)
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", "talk", "worker", "--loglevel=INFO"),
            *(f"--concurrency={PROCESSES}", "--prefetch-multiplier=1", f"--logfile={log}"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ],
        cwd=tmp_path,
        env={**os.environ, "C_FORCE_ROOT": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    rotate = how(log)
    try:
        deadline = time.monotonic() + 180
        while not all((tmp_path / f"done-{n}").exists() for n in range(TASKS)):
            assert worker.poll() is None
            assert time.monotonic() < deadline, "the tasks have not ended"
            rotate()
    finally:
        # All lines are written; kill the worker with its processes.
        worker.kill()
        worker.wait(timeout=20)
    files = sorted((tmp_path / "log").iterdir())
    texts = [
        (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        for path in files
    ]
    found = Counter(re.findall(r"line (\d+-\d+)\.$", "".join(texts), re.MULTILINE))
    assert found == Counter(f"{n}-{line}" for n in range(TASKS) for line in range(LINES))
    # The rotations happened while they wrote, not before or after.
    assert sum("line " in text for text in texts) > 2
    # Each process wrote to a file that another one had begun.
    assert any(len(set(re.findall(r"ForkPoolWorker-\d+", text))) > 1 for text in texts)
