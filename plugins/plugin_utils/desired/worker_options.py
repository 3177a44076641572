"""The options of workers."""

from __future__ import annotations

import re
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import Option

_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?[KMGT]?|infinity|(100|[1-9]?[0-9])(\.[0-9]+)?%")
_CPU = re.compile(r"[1-9][0-9]*(\.[0-9]+)?%")
_TASKS = re.compile(r"[1-9][0-9]*|infinity|(100|[1-9]?[0-9])%")

# fmt: off
WORKER: Final[tuple[Option, ...]] = (
    Option("queues", "list", "Queues that it consumes; without any, the one of its own name.", elements="str"),
    Option("concurrency", "int", "Processes or threads of its pool, 1000 at most; greenlets may be more.",
           lowest=1, flag="--concurrency"),
    Option("pool", "str", "Kind of its pool.",
           choices=("prefork", "threads", "solo", "gevent", "eventlet"), flag="--pool"),
    Option("pool_start_method", "str", "How a prefork pool makes its processes.",
           choices=("fork", "spawn"), flag="--pool-start-method"),
    Option("prefetch_multiplier", "int", "Tasks that it takes ahead for each process; 1 leaves the most for others.",
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
           "Level of its log. C(INFO) shows each task that it takes and ends; Celery's own default shows none.",
           default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), flag="--loglevel"),
    Option("autoscale", "str", "Largest and smallest number of processes, as C(10,3).", flag="--autoscale"),
    Option("optimization", "str", "Celery's scheduling of tasks over processes.",
           choices=("default", "fair"), flag="-O"),
    Option("heartbeat_interval", "int", "Seconds between two heartbeat events.", lowest=1, flag="--heartbeat-interval"),
    Option("statedb", "path", "File that keeps revoked tasks over a restart.", flag="--statedb"),
    Option("task_events", "bool", "Whether it sends the events that monitors show.", flag="--task-events"),
    Option("without_gossip", "bool", "Whether it does not listen to other workers.", flag="--without-gossip"),
    Option("without_mingle", "bool", "Whether it does not synchronise with others at start.", flag="--without-mingle"),
    Option("without_heartbeat", "bool", "Whether it sends no heartbeat event.", flag="--without-heartbeat"),
    Option("disable_prefetch", "bool", "Whether it takes a task only once a process is free.",
           flag="--disable-prefetch"),
    Option("purge", "bool", "Whether it empties its queues at start.", flag="--purge"),
    Option("exclude_queues", "list", "Queues that it does not consume.", elements="str", flag="--exclude-queues"),
    Option("include", "list", "Further modules that it imports.", elements="str", flag="--include"),
    Option("drain_timeout", "float",
           "Seconds that a stopping worker waits for its running tasks; by default its hard time limit, else 600.",
           lowest=0),
    Option("watchdog_sec", "int",
           "Seconds without proof of life after which systemd replaces the worker; 0 for never.\n"
           "A task of another pool than prefork that keeps the interpreter to itself for longer is taken for a "
           "hang.",
           default=30, lowest=0, directive="WatchdogSec"),
    Option("memory_max", "str", "systemd's C(MemoryMax), with its unit, as C(512M); 32M or more.",
           syntax=_MEMORY, like="512M, 2G, 40% or infinity", directive="MemoryMax"),
    Option("memory_high", "str", "systemd's C(MemoryHigh), with its unit; not above C(memory_max).",
           syntax=_MEMORY, like="512M, 2G, 40% or infinity", directive="MemoryHigh"),
    Option("cpu_quota", "str", "systemd's C(CPUQuota).",
           syntax=_CPU, like="50% for half a core, or 200% for two", directive="CPUQuota"),
    Option("tasks_max", "str", "systemd's C(TasksMax).", syntax=_TASKS, like="64 or infinity", directive="TasksMax"),
    Option("nice", "int",
           "systemd's C(Nice), for all processes of the worker: the higher, the longer they wait while others want the "
           "processor.",
           lowest=-20, highest=19, directive="Nice"),
    Option("environment", "dict", "Environment of this worker alone."),
    Option("memory_deny_write_execute", "bool",
           "systemd's C(MemoryDenyWriteExecute); applications with a JIT compiler need it off.",
           default=True, directive="MemoryDenyWriteExecute"),
    Option("proc_subset_pid", "bool",
           "Whether it sees nothing of C(/proc) but processes; readers of C(/proc/meminfo), such as psutil, need it "
           "off.",
           default=True, directive="ProcSubset", words=("all", "pid")),
    Option("read_write_paths", "list", "Directories that it may write to beside its own.",
           elements="path", directive="ReadWritePaths"),
    Option("delivery", "str", "In place of C(celery_app_delivery), for what this worker runs.",
           choices=("inherit", "at_least_once", "at_most_once")),
    Option("take", "str", "In place of C(celery_worker_take), for this worker.", choices=("auto", "atomic", "stock")),
    Option("overlap", "bool",
           "Whether a second instance serves while it restarts, where the rest of its queues' consumers are too "
           "few.\n"
           "By default so with more than one process of prefork; with threads and gevent where it is true; with "
           "other pools never."),
)

# How tasks are delivered.
DELIVERY: Final[tuple[Option, ...]] = (
    Option("celery_worker_take", "str",
           "How workers take tasks from Redis. See docs/delivery.md.\n"
           "C(atomic) takes and notes a task in one step, so that none is lost in between; it wants Redis 6.2. "
           "C(stock) is Celery's own way. C(auto) is C(atomic) with C(celery_app_delivery: at_least_once), else "
           "C(stock).",
           default="auto", choices=("auto", "atomic", "stock")),
    Option("celery_worker_lease", "bool",
           "With the atomic take, whether workers renew what they hold, so that a short visibility timeout is safe.",
           default=True),
    Option("celery_worker_hand_back", "bool",
           "With the atomic take, whether what a dead process held is put back at once by its unit.",
           default=True),
    Option("celery_worker_carry", "bool",
           "With the atomic take, whether running tasks go on through a lost connection and are acknowledged on the "
           "next one.",
           default=True),
    Option("celery_worker_outage", "bool",
           "With the atomic take, whether a worker's loop goes on while Redis hangs, with time limits and signals.\n"
           "Without effect with C(gevent) and C(eventlet), which have no such loop.",
           default=True),
    Option("celery_worker_dead_letters", "bool",
           "With C(at_least_once), whether tasks that can't be run are kept with their reason instead of being "
           "dropped.",
           default=True),
    Option("celery_worker_unknown_delay", "float", "Seconds until a task that a worker does not know is offered again.",
           default=60, lowest=1),
    Option("celery_worker_unknown_for", "float",
           "Seconds for which that goes on before it is a dead letter; longer than a rollout takes.",
           default=3600, lowest=1),
    Option("celery_worker_poison_deaths", "int", "Processes that may die of a task before it is a dead letter.",
           default=3, lowest=1),
    Option("celery_worker_dead_letters_keep", "int", "Dead letters that are kept; the oldest go first.",
           default=10000, lowest=1),
    Option("celery_worker_failed_keep", "int",
           "While there are fewer dead letters than this, a task that has failed for good (after its last retry) "
           "becomes one, too.\n"
           "C(0) keeps none of them. Without effect on tasks that are acknowledged early.",
           default=0),
)

WORKER_VARIABLES: Final[tuple[Option, ...]] = (
    Option("celery_worker_instances", "dict",
           "The workers of the application; the key names the worker, its unit and its node.\n"
           "Each takes the options of C(celery_worker_defaults).",
           required=True),
    Option("celery_worker_enabled", "list", "Workers that this host takes.", elements="str"),
    Option("celery_worker_start_timeout", "int", "Seconds that a worker may take until it consumes.",
           default=90, lowest=1),
    *DELIVERY,
    Option("celery_worker_defaults", "dict", "Options of all workers; an instance's own win.",
           default={}, options=WORKER),
)
# fmt: on
