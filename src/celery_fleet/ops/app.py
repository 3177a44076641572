"""Create a Celery app with an operator's settings and without the application's code."""

from __future__ import annotations

from typing import Any

from celery_fleet.common.errors import FleetError
from celery_fleet.config.settings import FleetSettings

#: Socket timeout in seconds; kombu and redis-py make several attempts within the overall limit.
SOCKET_TIMEOUT = 3.0


def make_app(settings: FleetSettings) -> Any:
    """Create a bare Celery app that talks to the fleet's broker and gives up quickly.

    Raises:
        FleetError: The settings lack a URL.
    """
    from celery import Celery

    from celery_fleet.compat import redis_tls

    conf = dict(settings.celery)
    for name in ("broker_url", "result_backend"):
        if not conf.get(name):
            raise FleetError(f"settings: {name} is missing, so there is no server to ask")
    transport = {
        **(conf.get("broker_transport_options") or {}),
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "max_retries": 1,
    }
    conf.update(
        broker_transport_options=transport,
        broker_connection_retry=False,
        broker_connection_timeout=SOCKET_TIMEOUT,
        broker_pool_limit=None,
        redis_socket_timeout=SOCKET_TIMEOUT,
        redis_socket_connect_timeout=SOCKET_TIMEOUT,
        result_backend_always_retry=False,
        task_publish_retry=False,
        task_serializer="json",
        task_always_eager=False,
        task_send_sent_event=False,
        worker_direct=False,
    )
    # Name loader and fixups, so that the environment can't add parts of an application.
    app = Celery("celery_fleet.probe", set_as_current=False, loader="app", fixups=[])
    app.conf.update(conf)
    redis_tls.install(conf)
    if str(conf["broker_url"]).startswith("sentinel://"):
        # A connection that only listens for events would wait for a primary that is on a lost host.
        from celery_fleet.compat import primary

        primary.install()
    return app
