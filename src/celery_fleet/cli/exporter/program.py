"""Read what to export, and serve it.

``/etc/celery-fleet/<app>/exporter.json`` has the keys of ``health.json`` and `exporter`:

    {"interval": 15, "asks_redis": true, "state": "/var/lib/<app>"}

systemd hands over the socket on which it listens, and with `asks_redis` the login, settings like those of the operator,
as the credential ``login.json``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from celery_fleet import __version__
from celery_fleet.cli.exporter import beat, broker, host, workers
from celery_fleet.cli.exporter.collect import Collector, MetricPart
from celery_fleet.cli.exporter.places import MetricPlaces
from celery_fleet.cli.exporter.samples import MetricSample
from celery_fleet.cli.exporter.server import serve
from celery_fleet.common.client_certificate import CREDENTIALS_VARIABLE
from celery_fleet.common.counters import SECOND
from celery_fleet.common.errors import EX_CONFIG
from celery_fleet.common.redact import redact, secrets_in
from celery_fleet.health.checks import read as read_setup
from celery_fleet.health.program import CONFIGURATION
from celery_fleet.health.redis_checks import server
from celery_fleet.health.setup import CheckError, Setup
from celery_fleet.health.text import reason

LOGIN = "login.json"

#: The descriptor of the first socket that systemd hands over (sd_listen_fds(3)).
_SOCKET = 3


@dataclass(frozen=True)
class Settings:
    """The key `exporter` of the file: seconds between two collections, whether to ask Redis, the state directory."""

    interval: float
    asks_redis: bool
    state: str


def read(path: Path, credentials: Path) -> tuple[Setup, Settings]:
    """Read the setup of this host.

    Raises:
        CheckError: The file or the login is missing or not valid.
    """
    setup = read_setup(path, credentials / LOGIN)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))["exporter"]
        settings = Settings(float(raw["interval"]), bool(raw["asks_redis"]), str(raw["state"]))
        login = setup.operator if settings.asks_redis else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckError(f"{path} or its login can't be read ({reason(error)})") from None
    if login is None:
        raise CheckError(f"the credential {LOGIN} is missing; run site.yml again")
    return setup, settings


Connections = Mapping[str, broker.ExporterConnection]


def collector(
    setup: Setup, settings: Settings, places: MetricPlaces, connections: Connections
) -> Collector:
    """Return the collector of all metrics of a host, which asks Redis only by these connections."""
    secrets = secrets_in(dict(setup.operator or {}))

    def extra() -> Iterator[MetricSample]:
        asks = "true" if settings.asks_redis else "false"
        yield MetricSample("celery_fleet_build_info", 1.0, (__version__, asks))
        sent = sum(connection.commands for connection in connections.values())
        yield MetricSample("celery_fleet_collect_redis_commands_total", float(sent))

    def say(line: str) -> None:
        print(redact(line, secrets), file=sys.stderr, flush=True)

    parts = [*_local(setup, places), *_remote(setup, settings.interval, connections)]
    return Collector(parts, settings.interval, extra, say)


def _local(setup: Setup, places: MetricPlaces) -> Iterator[MetricPart]:
    for node, worker in host.own_workers(setup).items():
        name = workers.name_of(node)
        file = places.worker(name)
        yield MetricPart(f"worker:{name}", partial(workers.worker, node, worker.unit, file))
        second = places.worker(f"{name}{SECOND}")
        yield MetricPart(f"worker:{name}{SECOND}", partial(workers.stand_in, node, second))
    yield MetricPart("units", partial(host.units, setup, places))
    yield MetricPart("ends", partial(host.ends, setup, places))
    yield MetricPart("hand_backs", partial(host.hand_backs, setup, places))
    yield MetricPart("releases", partial(host.releases, setup))
    yield MetricPart("disk", partial(host.disk, setup))
    yield MetricPart("memory", partial(host.memory, setup))
    yield MetricPart(
        "certificates", host.Certificates(setup.certificates, setup.site_certificate, places.health)
    )
    yield MetricPart("health", partial(host.health, places))
    yield MetricPart("change", partial(host.change, places))
    if setup.backup:
        yield MetricPart("backup", partial(host.backup, places))
    if setup.beat:
        # Without a tick, beat counts as down, so a damaged file of another kind may not hide it.
        yield MetricPart("beat", partial(beat.tick, setup))
        yield MetricPart("beat:schedule", partial(beat.schedule, setup))
        yield MetricPart("beat:counts", partial(beat.counts, places))


def connections_of(setup: Setup) -> Connections:
    """Return a connection for each part that asks Redis, by the part's name. None is open yet."""
    kinds = ("broker", "results", *({"cache"} & {*setup.servers}))
    found = {kind: broker.ExporterConnection(partial(server, setup, kind)) for kind in kinds}
    # The queues have a connection of their own, because the parts are collected at the same time.
    return {**found, "queues": broker.ExporterConnection(partial(server, setup, "broker"))}


def _remote(setup: Setup, interval: float, connections: Connections) -> Iterator[MetricPart]:
    others = 0.0
    for kind, connection in connections.items():
        if kind == "queues":
            yield MetricPart(kind, broker.QueueCollector(setup, connection, others))
        else:
            down = MetricSample("celery_fleet_redis_up", 0.0, (kind,))
            yield MetricPart(kind, partial(broker.instance, kind, connection), (down,))
            others += broker.COMMANDS_OF_INSTANCE / interval


def main(argv: Sequence[str]) -> int:
    """Serve the metrics of an application on this host until the process is stopped."""
    if len(argv) != 1:
        print("usage: python -m celery_fleet.cli.exporter APP", file=sys.stderr)
        return EX_CONFIG
    credentials = Path(os.environ.get(CREDENTIALS_VARIABLE, "/"))
    try:
        setup, settings = read(CONFIGURATION / argv[0] / "exporter.json", credentials)
        connections = connections_of(setup) if settings.asks_redis else {}
        collected = collector(
            setup, settings, MetricPlaces(setup.app, state=settings.state), connections
        )
    except (CheckError, ValueError) as error:
        print(f"<3>{reason(error)}", file=sys.stderr)
        return EX_CONFIG
    if os.environ.get("LISTEN_FDS") != "1":
        print("<3>there is no socket: start the unit of the socket instead", file=sys.stderr)
        return EX_CONFIG
    with socket.socket(fileno=_SOCKET) as listening:
        serving = serve(listening, collected.text)
        serving.serve_forever()
    return 0
