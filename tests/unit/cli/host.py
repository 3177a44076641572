"""A host with an application, in a directory."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

from celery_fleet.cli.application import Application, parse

SOURCE = Path(__file__).parents[3] / "src"
PASSWORD = "s3cr3t-of-the-operator"


def document(root: Path, name: str = "shop", **more: Any) -> dict[str, Any]:
    """Return a ``cli.json`` as the control side writes it."""
    return {
        "format": 1,
        "app": name,
        "host": "worker1",
        "module": "shop.celery",
        "user": getpass.getuser(),
        "runtime": str(SOURCE),
        "python": sys.executable,
        "root": str(root / "opt" / name),
        "directory": str(root / "etc" / name),
        "units": [f"{name}-worker@mail.service", f"{name}-worker@bulk.service"],
        "hosts": {
            "redis1": ["redis"],
            "worker1": ["celery_workers"],
            "control1": ["celery_beat", "celery_producers", "flower"],
        },
        "workers": {"mail@worker1": ["mail"], "bulk@worker1": ["bulk", "slow"]},
        "queues": ["bulk", "mail", "slow"],
        "redis": {
            "ca": str(root / "ca.crt"),
            "instances": {
                kind: {
                    "host": "redis1",
                    "port": port,
                    "unit": f"redis@{name}-{kind}.service",
                    "acl": str(root / "redis" / f"{name}-{kind}" / "users.acl"),
                    "here": False,
                }
                for kind, port in (("broker", 6379), ("results", 6380))
            },
        },
        "schedule": str(root / "schedule.json"),
        "schedule_state": str(root / "celerybeat-schedule"),
        "slice": f"{name}.slice",
        "logs": {"destination": "journal", "directory": f"/var/log/{name}"},
        **more,
    }


def application(root: Path, **more: Any) -> Application:
    """Return the application that such a document describes."""
    return parse(document(root, **more))


def settings(component: str = "operator", port: int = 1, scheme: str = "redis") -> dict[str, Any]:
    """Return a component's settings, for a broker at a port of this machine."""
    url = f"{scheme}://{component}:{PASSWORD}@127.0.0.1:{port}/0"
    celery = {"broker_url": url, "result_backend": url}
    return {"format": 1, "app": "shop", "component": component, "celery": celery}


def install(root: Path, name: str = "shop", **more: Any) -> Path:
    """Put an application on the host; return the directory of its configuration."""
    directory = root / "etc" / name
    (directory / "credentials").mkdir(parents=True)
    (directory / "cli.json").write_text(json.dumps(document(root, name, **more)))
    for component in ("operator", "producer"):
        path = directory / "credentials" / f"{component}.json"
        path.write_text(json.dumps(settings(component, scheme="rediss")))
    return directory


def release(root: Path, identity: str = "r1", name: str = "shop", current: bool = True) -> Path:
    """Create a release whose Python is that of the tests."""
    path = root / "opt" / name / "releases" / identity
    (path / "venv" / "bin").mkdir(parents=True)
    # Python is not a link, because it would look for its virtualenv next to the link.
    python = path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (path / "source").mkdir()
    (path / "release.json").write_text(json.dumps({"id": identity, "directory": "source"}))
    if current:
        (root / "opt" / name / "current").symlink_to(f"releases/{identity}")
    return path
