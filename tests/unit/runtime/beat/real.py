"""Beat as its unit runs it, with a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery_fleet.beat import schedule_file
from celery_fleet.beat.loaded import DIRECTORY_VARIABLE, NAME
from tests import fleet
from tests.support.redis_server import Server
from tests.unit.runtime.conftest import document


def counted(path: Path) -> dict[str, dict[str, int]]:
    """Return the counters of beat's entries that are not 0."""
    entries = json.loads(path.read_text())["entries"]
    return {
        name: {counter: number for counter, number in counts.items() if number}
        for name, counts in entries.items()
    }


class RealBeat:
    """Runs one beat after another, all of which send to the same Redis."""

    def __init__(
        self,
        directory: Path,
        redis: Server,
        *,
        standby: bool = False,
        scheduler: str = "persistent",
        url: str = "",
    ) -> None:
        self.directory = directory
        self.redis = redis
        self.standby = standby
        self.scheduler = scheduler
        self.url = url or redis.url
        self.path = directory / "metrics/beat.json"
        self.path.parent.mkdir()
        (directory / "shop.py").write_text("import celery\napp = celery.Celery('shop')\n")

    @property
    def log(self) -> str:
        return (self.directory / "beat.log").read_text()

    @contextmanager
    def running(self, **entries: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a beat with these entries; when the block ends it is stopped and must exit successfully."""
        settings = document(
            "beat",
            broker_url=self.url,
            result_backend="disabled://",
            beat_sync_every=1,
            beat_enable_remote_control=False,
            beat_schedule=entries,
        )
        settings["metrics"] = {"file": str(self.path)}
        if self.standby:
            settings["beat_standby"] = True
        settings["beat_scheduler"] = self.scheduler
        (self.directory / "settings.json").write_text(json.dumps(settings))
        options = ["-l", "INFO", "--max-interval=1", "--pidfile="]
        if self.scheduler == "persistent":
            options += ["-s", "schedule"]
        with (self.directory / "beat.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "shop", "beat", *options],
                cwd=self.directory,
                env={
                    **fleet.environment("beat", self.directory / "settings.json"),
                    DIRECTORY_VARIABLE: str(self.directory),
                    schedule_file.DIRECTORY_VARIABLE: str(self.directory),
                    "NOTIFY_SOCKET": "@no-listener",
                },
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.terminate()
            status = process.wait(60)
        assert status == 0, self.log

    def loaded(self) -> list[dict[str, Any]]:
        """Return the entries that beat says it holds."""
        path = self.directory / NAME
        held: list[dict[str, Any]] = (
            json.loads(path.read_text())["entries"] if path.exists() else []
        )
        return held

    def arrived(self, task: str) -> int:
        messages = self.redis.client.lrange("celery", 0, -1)
        return sum(json.loads(message)["headers"]["task"] == task for message in messages)

    def counts(self, name: str, counter: str) -> int:
        found = counted(self.path) if self.path.exists() else {}
        return found.get(name, {}).get(counter, 0)
