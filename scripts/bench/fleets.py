"""Create fleets to measure on: their inventories, and hosts that exist only during a measurement."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.bench.runs import ROOT, SITE, run

PLACE = ROOT / ".state" / "bench"


def inventory_of(workers: int, queues: int) -> dict[str, Any]:
    """Return an inventory with one Redis and some hosts of workers, each of which consumes all queues.

    The application is the example's. Each number stands for a queue and a worker with one process.
    """
    users = ("worker", "beat", "producer", "flower", "operator", "admin")
    names = [f"worker{number}" for number in range(1, workers + 1)]
    return {
        "all": {
            "vars": {
                "ansible_become": True,
                "pki_directory": "{{ test_fleet_state }}/pki",
                "pki_ca_passphrase": secrets.token_hex(16),
                "redis_passwords": {user: secrets.token_hex(16) for user in users},
                "celery_app_name": "bench",
                "celery_app_module": "app.celery_app",
                "celery_app_source": {"path": "examples/flexiprice/backend"},
                "celery_worker_instances": {
                    f"queue{number}": {"concurrency": 1} for number in range(1, queues + 1)
                },
            }
        },
        "fleet": {
            "children": {
                "redis": {"hosts": {"redis1": {}}},
                "celery_workers": {"hosts": {name: {} for name in names}},
            }
        },
    }


def whole_inventory(hosts: int, queues: int) -> dict[str, Any]:
    """Return an inventory of a whole fleet: Redis, one host for beat, web and Flower, and workers.

    Each queue is used in every possible place. The addresses are reserved for documentation, and no host is contacted.
    """
    found = inventory_of(hosts - 2, queues)
    numbers = range(1, queues + 1)
    groups = found["fleet"]["children"]
    for group in ("celery_beat", "celery_producers", "flower"):
        groups[group] = {"hosts": {"control1": {}}}
    names = dict.fromkeys(name for group in groups.values() for name in group["hosts"])
    found["all"]["hosts"] = {
        name: {"ansible_host": f"192.0.2.{number}"} for number, name in enumerate(names, 1)
    }
    found["all"]["vars"] |= {
        "celery_app_task_routes": {
            f"app.tasks.of{number}.*": {"queue": f"queue{number}"} for number in numbers
        },
        "celery_app_env_urls": {
            "DATABASE_URL": {"scheme": "postgresql", "host": "{{ my_database }}"}
        },
        "my_database": "{{ groups['redis'] | first }}",
        "celery_beat_schedule": {
            f"entry{number}": {
                "task": f"app.tasks.of{number}.run",
                "crontab": {"minute": f"*/{number}"},
                "queue": f"queue{number}",
            }
            for number in numbers
        },
        "celery_worker_defaults": {
            "time_limit": 600,
            "soft_time_limit": 500,
            "memory_max": "{{ my_memory }}",
        },
        "my_memory": "512M",
        "test_fleet_state": "/nowhere",
        "flower_auth_password": secrets.token_hex(16),
        "flower_cookie_secret": secrets.token_hex(16),
        "celery_producer_web": {
            "command": ["python", "-m", "uvicorn", "app.main:app", "--fd", "3"]
        },
    }
    return found


@contextmanager
def fleet(name: str, workers: int, queues: int) -> Iterator[Path]:
    """Deploy a fleet and yield the directory of its inventory; the hosts are removed when the block ends."""
    directory = PLACE / name
    directory.mkdir(parents=True, exist_ok=True)
    wanted = inventory_of(workers, queues)
    (directory / "hosts.yml").write_text(json.dumps(wanted, indent=1))
    hosts = ["redis1", *wanted["fleet"]["children"]["celery_workers"]["hosts"]]
    with hosts_of(f"bench-{name}", directory, hosts):
        print(f"deploying {name}", file=sys.stderr, flush=True)
        run([*SITE, "--inventory", str(directory)])
        yield directory
    shutil.rmtree(directory)


@contextmanager
def hosts_of(scenario: str, inventory: Path, hosts: Sequence[str]) -> Iterator[None]:
    """Create bare hosts; they are removed when the block ends, and if one of them can't be created."""
    script = [sys.executable, "-m", "scripts.hosts"]
    words = [f"--scenario={scenario}", f"--inventory={inventory / 'connection.yml'}"]
    try:
        run([*script, "create", *words, *hosts])
        yield
    finally:
        run([*script, "destroy", *words])
