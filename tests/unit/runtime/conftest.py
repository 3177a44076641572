from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[3] / "src"


def document(component: str = "producer", **celery: Any) -> dict[str, Any]:
    """Return a settings document; values that a test does not give are minimal."""
    settings: dict[str, Any] = {
        "broker_url": "rediss://worker:s3cr3tpw@redis1:6379/0",
        "broker_read_url": None,
        "broker_write_url": None,
        "result_backend": "rediss://worker:s3cr3tpw@redis1:6380/0",
    }
    settings.update(celery)
    return {"format": 1, "component": component, "app": "shop", "celery": settings}


class Manager:
    """Replaces systemd at the other end of the socket: collects the datagrams of sd_notify."""

    def __init__(self, path: str) -> None:
        self.address = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(0.05)

    def heard(self) -> list[str]:
        """Return everything received since the last call."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except TimeoutError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    # tmp_path may be too long, because a socket's address has at most 107 characters.
    directory = tempfile.mkdtemp(prefix="fleet-")
    listener = Manager(str(Path(directory) / "notify"))
    yield listener
    listener.close()
    shutil.rmtree(directory)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs Python in a clean environment, with the loader and a settings document."""

    def runner(
        *argv: str,
        component: str | None = None,
        settings: object = None,
        stdin: str | None = None,
        **environ: str,
    ) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SOURCE),
            "CELERY_LOADER": "celery_fleet.loader.FleetLoader",
            **environ,
        }
        if component:
            env["CELERY_FLEET_COMPONENT"] = component
        if settings is not None:
            path = tmp_path / "settings.json"
            path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
            env["CELERY_FLEET_SETTINGS"] = str(path)
        return subprocess.run(
            [sys.executable, *argv],
            cwd=tmp_path,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return runner
