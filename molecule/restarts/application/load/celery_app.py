"""The Celery application. It sets acknowledgement only if LOAD_ACKNOWLEDGE is set, so the fleet's own is tested."""

from __future__ import annotations

import os

from celery import Celery
from kombu import Exchange, Queue

from load import events

QUEUES = ("fast", "medium", "slow")
# The queues of molecule/delivery/workers; `named` and `topic` have exchanges with other names than the queues.
WORKERS = ("warm", "cold", "threads", "greenlets", "once")
EXCHANGES = (
    Queue("named", Exchange("jobs"), routing_key="job"),
    Queue("topic", Exchange("media", type="topic"), routing_key="media.#"),
)
# Seconds; every ETA and every task is much shorter. The fleet gets its own value from the inventory.
VISIBILITY_TIMEOUT = int(os.environ.get("LOAD_VISIBILITY_TIMEOUT", "120"))

app = Celery(
    "load",
    broker=os.environ.get("CELERY_BROKER_URL"),
    backend=os.environ.get("CELERY_RESULT_BACKEND"),
    include=["load.tasks"],
)
app.conf.update(
    # The exchange is named because Celery would bind queues without one to one shared exchange.
    task_queues=[
        *(Queue(name, Exchange(name), routing_key=name) for name in (*QUEUES, *WORKERS)),
        *EXCHANGES,
    ],
    task_default_queue="fast",
    result_expires=600,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT},
)
if os.environ.get("LOAD_ACKNOWLEDGE") == "late":
    # For the stock units, to separate the effect of late acknowledgement from that of the fleet.
    app.conf.update(
        task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1
    )

events.connect()
