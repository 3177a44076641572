"""The Celery application, as `celery -A app.celery_app` finds it.

Broker and result backend come from the environment; without it they are the local Redis.
"""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/1")

QUEUES = ("discounts", "maintenance", "analytics")

celery_app = Celery(
    "flexiprice",
    broker=CELERY_BROKER_URL,
    backend=CELERY_RESULT_BACKEND,
    include=["app.tasks"],
)

# There is no beat_schedule here, because it differs between sites: it is set where the application is deployed
# (README.md, "Custom schedule").
celery_app.conf.update(
    task_time_limit=30 * 60,
    task_soft_time_limit=25 * 60,
    worker_prefetch_multiplier=4,
    worker_max_tasks_per_child=1000,
    # Declared, so that a worker started without -Q takes all of them. The exchange is named because
    # Celery would bind queues without one to one shared exchange, with one routing key for all.
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
    task_default_queue="maintenance",
    task_routes={
        "app.tasks.recompute_all_discounts": {"queue": "discounts"},
        "app.tasks.cleanup_expired_discounts": {"queue": "maintenance"},
        "app.tasks.update_price_history": {"queue": "analytics"},
    },
    # The status endpoint can then tell "running" from "waiting".
    task_track_started=True,
    result_expires=60 * 60,
    broker_connection_retry_on_startup=True,
    # In seconds. Celery's default for the broker is none: a call would wait for ever on a dead peer.
    broker_transport_options={"socket_connect_timeout": 3, "socket_timeout": 10},
    redis_socket_connect_timeout=3,
    redis_socket_timeout=10,
)
