"""The loader that pins the inventory's settings over an application; ``CELERY_LOADER`` names it.

Celery instantiates the loader of every app in the process. The settings are pinned when the app has
configured itself, the first time that any setting is read. ``on_after_configure`` runs after
``Celery(broker=…)``, ``config_from_object`` and ``conf.update``, and before any part of Celery
(pools, backends, bound tasks) reads a setting. Earlier hooks lose to the application, later ones
miss producers. :mod:`celery_fleet` documents the precedence.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from typing import Any, NoReturn

from celery_fleet.common import errors
from celery_fleet.compat import gevent as patching
from celery_fleet.compat import versions

try:
    patching.finish()  # before anything of kombu and redis-py is imported
    versions.require()
except errors.FleetError as _unsupported:
    errors.refuse(_unsupported, os.environ)

from celery import signals
from celery.loaders.app import AppLoader

from celery_fleet.common import identity
from celery_fleet.common.errors import FleetError
from celery_fleet.common.redact import redact_all
from celery_fleet.compat import settings as compat_settings
from celery_fleet.compat import tasks
from celery_fleet.config.current import COMPONENT, current_settings, use_settings
from celery_fleet.config.entries import celery_entry
from celery_fleet.config.pins import SCHEDULE, PinnedChanges, PinnedSchedule
from celery_fleet.config.settings import (
    DATABASE,
    PERSISTENT,
    REDBEAT,
    REPLACE,
    URL_VARIABLES,
    FleetSettings,
    with_essentials,
)
from celery_fleet.delivery import sending_time, tags
from celery_fleet.delivery.fetch import install as take
from celery_fleet.delivery.hand_back import worker_side
from celery_fleet.supervision import journal
from celery_fleet.supervision.notify import Notifier
from celery_fleet.worker import canary

logger = logging.getLogger("celery_fleet.loader")

errors.tell_of_connections(os.environ)

#: Components that report to systemd through this package; others may use the notify socket themselves.
NOTIFYING = frozenset({"worker", "beat"})

#: An operator's command uses the credentials of these components; Redis refuses them what a worker or beat needs.
BORROWED = frozenset({"producer", "operator"})

# Early, so that few processes inherit the socket. The application's module is imported before its app
# creates the loader, so processes that the module starts do inherit it. NotifyAccess=main refuses those.
NOTIFIER = Notifier.take(os.environ) if COMPONENT in NOTIFYING else Notifier(None)

TRANSPORT_OPTIONS = "broker_transport_options"


class FleetLoader(AppLoader):  # type: ignore[misc]  # Celery ships no types
    """Celery's application loader, with the fleet's settings pinned over the application's."""

    @property
    def conf(self) -> Any:
        """The application's configuration, which Celery reads just before it configures the app."""
        try:
            settings = current_settings()
            schedule = _celery_schedule(settings, self.app)
        except FleetError as exc:
            errors.refuse(exc, os.environ)

        if settings.metrics:
            sending_time.install()
        from celery_fleet.compat import redis_pools, redis_tls

        redis_pools.install()
        redis_tls.install(settings.celery)
        if str(settings.celery.get("broker_url")).startswith("sentinel://"):
            from celery_fleet.compat import primary

            primary.install()
        if settings.scheduler == REDBEAT:
            from celery_fleet.compat import redbeat

            redbeat.connect(self.app)

        def pin(sender: Any = None, source: Any = None, **_: Any) -> None:
            try:
                pin_settings(source, settings, schedule)
            except Exception as exc:
                # Celery's signals swallow exceptions. An unpinned process may use another broker than
                # everyone expects, so it must not continue.
                logger.critical("celery_fleet: settings can't be pinned", exc_info=True)
                raise SystemExit(errors.EX_CONFIG) from exc

        # The application's own on_after_configure handlers must see the pinned values.
        tasks.run_first(self.app.on_after_configure, pin, ("celery_fleet", id(self.app)))
        return super().conf

    def on_worker_init(self) -> None:
        """Install the runtime's parts; Celery calls this in worker and beat after importing the task modules."""
        if COMPONENT in BORROWED:
            _refuse_service(current_settings().app)
        super().on_worker_init()
        settings = current_settings()
        if COMPONENT in NOTIFYING:
            worker_name = os.environ.get("CELERY_FLEET_NODE", "").partition("@")[0]
            journal.install(
                settings.app, worker_name, as_json=settings.log_json, environ=os.environ
            )
        if COMPONENT == "beat":
            from celery_fleet.beat import schedule_file
            from celery_fleet.beat import steps as beat

            in_database = settings.scheduler == DATABASE
            if in_database:
                from celery_fleet.beat.database import scheduler as database_beat

                database_beat.prepare(self.app, NOTIFIER)
            if settings.scheduler == REDBEAT:
                from celery_fleet.beat import on_broker

                on_broker.prepare(self.app, NOTIFIER, standby=settings.standby)
            if settings.scheduler != PERSISTENT:
                schedule_file.remove_left(os.environ.get(schedule_file.DIRECTORY_VARIABLE))
            beat.install(
                self.app,
                NOTIFIER,
                log_precedence,
                in_database=in_database,
                metrics=settings.metrics_file,
                missed=settings.missed,
                standby=settings.standby,
            )
        else:
            from celery_fleet.worker import steps as worker

            identity.remember()
            canary.register(self.app)
            _install_delivery(self.app)
            # An application's process that embeds a worker fetches as stock Celery does, so it has no delivery.
            delivery = current_settings().delivery if COMPONENT == "worker" else None
            worker.install(
                self.app, NOTIFIER, delivery, settings.metrics_file, settings.history_size
            )
            signals.celeryd_after_setup.connect(
                lambda **_: log_precedence(self.app), weak=False, dispatch_uid="celery_fleet.log"
            )


def _install_delivery(app: Any) -> None:
    """Install the delivery that the settings ask for, and reduce them to what is available; repeatable."""
    settings = current_settings()
    if COMPONENT != "worker":  # an application's process may embed a worker
        return
    delivery = take.install(settings.delivery)
    pins = dict(settings.celery)
    if settings.delivery.lease and not delivery.lease:
        # Nothing renews this worker's messages, so the lease would be much too short for its tasks.
        given = dict(pins.get(TRANSPORT_OPTIONS) or {})
        wanted = max(given.get("visibility_timeout", 0), delivery.stock_visibility)
        pins[TRANSPORT_OPTIONS] = {**given, "visibility_timeout": wanted}
    use_settings(replace(settings, delivery=delivery, celery=pins))
    changes = compat_settings.changes_of(app.conf)
    if isinstance(changes, PinnedChanges) and pins != settings.celery:
        changes.repin(TRANSPORT_OPTIONS, pins[TRANSPORT_OPTIONS])
    # Its sender is the node's name.
    signals.celeryd_init.connect(
        lambda sender, **_: tags.begin(str(sender)), weak=False, dispatch_uid="celery_fleet.node"
    )
    worker_side.install(app, delivery, os.environ)


def _refuse_service(app: str) -> NoReturn:
    """End a worker or a beat that was started by hand with the credentials of another component.

    Raises:
        SystemExit: always with :data:`errors.EX_CONFIG`, since a command line and not application code started it.
    """
    line = (
        f"celery_fleet: neither a worker nor a beat can run with the credentials of the {COMPONENT}; on"
        f" hosts of the fleet they are services: systemctl status '{app}-worker@*' {app}-beat; the inventory sets their"
        " options and log levels (celery_worker_instances, celery_beat_loglevel)"
    )
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(errors.EX_CONFIG)


def _celery_schedule(
    settings: FleetSettings, app: Any
) -> tuple[dict[str, Any], frozenset[str]] | None:
    if settings.schedule is None:
        # With a database, the application's own entries must never reach beat.
        return ({}, frozenset()) if settings.scheduler == DATABASE else None
    entries = settings.schedule.values()
    enabled = {entry.name: celery_entry(entry, app) for entry in entries if entry.enabled}
    return enabled, frozenset(entry.name for entry in entries if not entry.enabled)


def pin_settings(
    conf: Any,
    settings: FleetSettings,
    schedule: tuple[dict[str, Any], frozenset[str]] | None = None,
) -> PinnedChanges:
    """Pin the settings over ``conf``, an app's loaded settings; a second call does no harm."""
    pins = with_essentials(settings)
    wanted = compat_settings.application_settings(conf, [*pins, SCHEDULE])
    merged = None
    if schedule is not None:
        merged = PinnedSchedule(
            *schedule,
            application=wanted.get(SCHEDULE),
            whole=settings.schedule_policy == REPLACE,
        )
    changes = PinnedChanges(
        compat_settings.changes_of(conf), pins, compat_settings.prefix_of(conf), merged
    )
    for variable, name in URL_VARIABLES.items():
        value = os.environ.pop(variable, None)
        if value and name in pins:
            changes.note(name, value)
    for name, value in wanted.items():
        if name != SCHEDULE and value is not None:
            changes.note(name, value)
    compat_settings.replace_changes(conf, changes)
    compat_settings.censor_table(conf, redact_all)
    if COMPONENT not in NOTIFYING:
        _log(changes)  # a producer has no start at which to log; its logging may not be set up yet
    return changes


def log_precedence(app: Any) -> None:
    """Log the settings that the fleet overrules in this application, once logging is set up."""
    changes = compat_settings.changes_of(app.conf)
    if isinstance(changes, PinnedChanges):
        _log(changes)
    if COMPONENT == "worker":
        visibility = (app.conf.broker_transport_options or {}).get("visibility_timeout", 3600)
        delivery = take.describe(current_settings().delivery, visibility)
        if delivery is not None:
            logger.info("%s", delivery)


def _log(changes: PinnedChanges) -> None:
    for line in changes.lines():
        logger.info("%s", line)
