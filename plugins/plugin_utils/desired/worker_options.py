"""Tables of the options of workers and of the variables around them, one row for each.

They are data on the control node: preflight checks the inventory by them, `workers.py` makes command lines and units
from them, and `python scripts/reference.py` writes the role's argument spec and README. `Option` in `option.py`
describes the fields of a row. Options that systemd enforces for other units too are in `unit_options.py`. "Your first
change" in docs/development.md says how to add one.
"""

from __future__ import annotations

from typing import Final

from .option import Option
from .unit_options import UNIT

# fmt: off
SLO: Final[tuple[Option, ...]] = (
    Option("wait", "str",
           "How long a task may wait from its sending to its start, as in C(30s). It is one of the "
           "durations that workers count: 100ms, 500ms, 1s, 2s, 5s, 10s, 30s, 1m, 2m, 5m, 10m, 30m, 1h."),
    Option("failures", "str", "Share of tasks that may fail for good, from C(0.01%) to C(6%)."),
    Option("objective", "str",
           "Share of tasks that keep to C(wait), from C(94%) to C(99.99%); C(99%) by default."),
)
AUTOSCALE: Final[tuple[Option, ...]] = (
    Option("min", "int", "The least number of processes, with which it starts.", lowest=1, highest=1000),
    Option("max", "int", "The largest number of processes.", lowest=1, highest=1000),
    Option("wait", "str",
           "How long the oldest task may wait before another process starts, as in C(30s); from C(1s) to C(1h)."),
)
WORKER: Final[tuple[Option, ...]] = (
    Option("queues", "list",
           "Queues that it consumes; by default the queue with the worker's own name.", elements="str"),
    Option("concurrency", "int", "Processes or threads of its pool, 1000 at most; greenlets may be more.",
           lowest=1, flag="--concurrency"),
    Option("pool", "str", "Kind of its pool.",
           choices=("prefork", "threads", "solo", "gevent", "eventlet"), flag="--pool"),
    Option("pool_start_method", "str", "How a prefork pool makes its processes.",
           choices=("fork", "spawn"), flag="--pool-start-method"),
    Option("prefetch_multiplier", "int",
           "Tasks that it prefetches for each process; 1 leaves the most for other workers.",
           lowest=0, flag="--prefetch-multiplier"),
    Option("time_limit", "float", "Seconds after which a task is killed.", lowest=1, flag="--time-limit"),
    Option("soft_time_limit", "float", "Seconds after which a task gets SoftTimeLimitExceeded.",
           lowest=1, flag="--soft-time-limit"),
    Option("max_tasks_per_child", "int", "Tasks after which a process is replaced.",
           lowest=1, flag="--max-tasks-per-child"),
    Option("max_memory_per_child", "int",
           "Resident memory in KiB beyond which a process is replaced after its task; 32768 or more.",
           lowest=1, flag="--max-memory-per-child"),
    Option("loglevel", "str",
           "Level of its log. C(INFO) shows each task that it receives and finishes; Celery's own default shows none.",
           default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), flag="--loglevel"),
    Option("autoscale", "dict",
           "Bounds between which the number of its processes follows the wait of the oldest task, instead of "
           "C(concurrency). See docs/scaling.md.\n"
           "All three keys are needed. C({}) switches off what C(celery_worker_defaults) says.",
           options=AUTOSCALE),
    Option("optimization", "str", "Celery's scheduling of tasks over processes.",
           choices=("default", "fair"), flag="-O"),
    Option("heartbeat_interval", "int", "Seconds between two heartbeat events.", lowest=1, flag="--heartbeat-interval"),
    Option("statedb", "path", "File in which revoked tasks survive a restart.", flag="--statedb"),
    Option("task_events", "bool", "Whether it sends the events that monitors show.", flag="--task-events"),
    Option("without_gossip", "bool", "Whether it ignores other workers' events.", flag="--without-gossip"),
    Option("without_mingle", "bool",
           "Whether it does not synchronise with other workers at its start.", flag="--without-mingle"),
    Option("without_heartbeat", "bool", "Whether it sends no heartbeat events.", flag="--without-heartbeat"),
    Option("disable_prefetch", "bool", "Whether it fetches a task only when a process is free.",
           flag="--disable-prefetch"),
    Option("purge", "bool", "Whether it empties its queues at its start.", flag="--purge"),
    Option("exclude_queues", "list", "Queues that it does not consume.", elements="str", flag="--exclude-queues"),
    Option("include", "list", "Other modules that it imports.", elements="str", flag="--include"),
    Option("drain_timeout", "float",
           "Seconds that a stopping worker waits for its running tasks; by default its hard time limit, or 600 "
           "without one.",
           lowest=0),
    Option("watchdog_sec", "int",
           "Seconds without proof of life after which systemd replaces the worker; 0 for never.\n"
           "With other pools than prefork, a task that keeps the interpreter busy for longer is taken for a hang.",
           default=30, lowest=0, directive="WatchdogSec"),
    *UNIT,
    Option("delivery", "str", "Replaces C(celery_app_delivery) for the tasks that this worker runs.",
           choices=("inherit", "at_least_once", "at_most_once")),
    Option("fetch", "str", "Replaces C(celery_worker_fetch) for this worker.", choices=("auto", "atomic", "stock")),
    Option("overlap", "bool",
           "Whether a second instance serves while it restarts, if its queues would otherwise have too few "
           "consumers.\n"
           "The default is C(true) for a prefork pool with more than one process. With threads and gevent it must be "
           "set; other pools never overlap."),
    Option("slo", "dict",
           "What its users may expect. It becomes alerts, see docs/monitoring.md, and restarts nothing.", options=SLO),
)

# How tasks are delivered.
DELIVERY: Final[tuple[Option, ...]] = (
    Option("celery_worker_fetch", "str",
           "How workers fetch tasks from Redis. See docs/delivery.md.\n"
           "C(atomic) fetches and records a task in one step, so that none is lost in between; it needs Redis 6.2. "
           "C(stock) is Celery's own way. C(auto) is C(atomic) with C(celery_app_delivery: at_least_once), else "
           "C(stock).",
           default="auto", choices=("auto", "atomic", "stock")),
    Option("celery_worker_lease", "bool",
           "With atomic fetching, whether workers renew what they hold, so that a short visibility timeout is safe.",
           default=True),
    Option("celery_worker_requeue_on_crash", "bool",
           "With atomic fetching, whether a worker's unit puts back at once what a dead process held.",
           default=True),
    Option("celery_worker_keep_tasks_on_reconnect", "bool",
           "With atomic fetching, whether running tasks continue through a lost connection and are acknowledged on "
           "the next one.",
           default=True),
    Option("celery_worker_outage_guard", "bool",
           "With atomic fetching, whether a worker keeps handling time limits and signals while Redis hangs.\n"
           "It has no effect with C(gevent) and C(eventlet), which have no such loop.",
           default=True),
    Option("celery_worker_dead_letters", "bool",
           "With C(at_least_once), whether tasks that can't be run are kept with the reason instead of being dropped.",
           default=True),
    Option("celery_worker_unknown_task_retry_delay", "float",
           "Seconds until a task that a worker does not know is offered again.",
           default=60, lowest=1),
    Option("celery_worker_unknown_task_retention", "float",
           "Seconds after which a task that stays unknown becomes a dead letter; longer than a rollout takes.",
           default=3600, lowest=1),
    Option("celery_worker_max_crashes_per_task", "int",
           "A task that has killed this many worker processes becomes a dead letter.",
           default=3, lowest=1),
    Option("celery_worker_max_dead_letters", "int", "Number of dead letters to keep; the oldest are dropped.",
           default=10000, lowest=1),
    Option("celery_worker_max_failed_dead_letters", "int",
           "A task that failed for good, after its last retry, becomes a dead letter while there are fewer dead "
           "letters than this.\n"
           "C(0) keeps none of them. It has no effect on tasks that are acknowledged early.",
           default=0),
)

WORKER_VARIABLES: Final[tuple[Option, ...]] = (
    Option("celery_worker_instances", "dict",
           "The application's workers; the key is the name of the worker, and part of its unit's and its node's "
           "name.\n"
           "Each takes the options of C(celery_worker_defaults).",
           required=True),
    Option("celery_worker_host_instances", "list",
           "Workers that this host runs; others of C(celery_worker_instances) run elsewhere.", elements="str"),
    Option("celery_worker_start_timeout", "int", "Seconds that a worker may take until it consumes.",
           default=90, lowest=1),
    *DELIVERY,
    Option("celery_worker_defaults", "dict", "Options of all workers. A worker's own options override them.",
           default={}, options=WORKER),
)
# fmt: on
