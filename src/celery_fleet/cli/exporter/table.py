"""The table of all metrics, from which docs/metrics.md is made; standard library only.

It is a single file so that you can read all metrics, their cost and their source in one place.
"""

from __future__ import annotations

from celery_fleet.cli.exporter.metric import Metric, Source

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

#: Upper bounds of the buckets of all histograms in seconds; the last bucket, +Inf, is in addition.
BOUNDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

#: Redis commands per second, on average and on all instances together, that the exporter does not exceed.
COMMANDS_PER_SECOND = 4.5
#: The longest time in seconds between two looks at the queues, even if they cost more commands than that.
LONGEST_PAUSE = 120.0

_TASK = ("name", "hostname", "worker", "queue_name")
_WORKER = ("hostname", "worker")


def _counted(what: str, meaning: str) -> Metric:
    return Metric(f"celery_task_{what}_total", COUNTER, _TASK, meaning)


def _gauge(name: str, meaning: str) -> Metric:
    """Return a gauge without labels."""
    return Metric(name, GAUGE, (), meaning)


SOURCES = (
    Source(
        "Tasks and workers",
        ("worker:<worker>",),
        "Each worker counts its own tasks and writes `/var/lib/<app>/metrics/worker-<worker>.json` every 10 s. The "
        "counts go on after a restart. A worker has at most 200 pairs of a task's name and its queue, and 50 "
        "exceptions for each of them; the rest is counted as `other`. Gauges except `celery_fleet_task_metrics` are "
        "left out if the file is older than 30 s. On a full disk the figures stand still, and only the file's time "
        "changes.",
        "one small file for each worker",
        (
            _counted("received", "Tasks that the worker has received."),
            _counted("started", "Tasks that the worker has started."),
            _counted("succeeded", "Tasks that have succeeded."),
            _counted("retried", "Runs of tasks that have ended with a retry."),
            _counted("revoked", "Tasks that were revoked."),
            _counted("rejected", "Tasks that were rejected."),
            Metric(
                "celery_task_failed_total",
                COUNTER,
                (*_TASK, "exception"),
                "Tasks that have failed, by the class of the exception.",
            ),
            Metric(
                "celery_task_runtime",
                HISTOGRAM,
                _TASK,
                "Run time of the tasks that have succeeded, in seconds.",
            ),
            Metric(
                "celery_fleet_task_wait_seconds",
                HISTOGRAM,
                (*_WORKER, "queue_name"),
                "Seconds from sending a task, or from its ETA, until its start.",
            ),
            Metric(
                "celery_fleet_task_wait_unknown_total",
                COUNTER,
                (*_WORKER, "queue_name"),
                "Tasks that were started without a known wait: their sender does not note the time.",
            ),
            Metric("celery_worker_tasks_active", GAUGE, _WORKER, "Tasks that the worker runs now."),
            Metric("celery_fleet_worker_slots", GAUGE, _WORKER, "Tasks that it can run at a time."),
            Metric(
                "celery_fleet_worker_slots_min",
                GAUGE,
                _WORKER,
                "The least that autoscaling or an operator lets it run at a time; its slots without either.",
            ),
            Metric("celery_fleet_worker_slots_max", GAUGE, _WORKER, "The most, in the same way."),
            Metric(
                "celery_fleet_worker_scalings_total",
                COUNTER,
                (*_WORKER, "direction"),
                "Changes of its number of processes while it ran, `up` and `down`.",
            ),
            Metric(
                "celery_fleet_worker_scaling_blocked",
                GAUGE,
                _WORKER,
                "1 if it would have more processes if there were memory for them.",
            ),
            Metric(
                "celery_fleet_worker_prefetched",
                GAUGE,
                _WORKER,
                "Tasks that it has received and not started, without those with an ETA.",
            ),
            Metric("celery_fleet_worker_eta", GAUGE, _WORKER, "Tasks that wait there for an ETA."),
            Metric(
                "celery_fleet_task_overrun_seconds",
                GAUGE,
                _WORKER,
                "Seconds for which a running task exceeds its own hard time limit, of the worst one; 0 if none does.",
            ),
            Metric(
                "celery_active_worker_count",
                GAUGE,
                ("queue_name",),
                "Workers of this host that are connected and have the queue. Those that are paused or draining count "
                "as well, although they fetch nothing. Add up the hosts.",
            ),
            Metric(
                "celery_active_process_count",
                GAUGE,
                ("queue_name",),
                "Tasks of the queue that these workers can run at a time.",
            ),
            Metric(
                "celery_fleet_worker_paused",
                GAUGE,
                (*_WORKER, "queue_name"),
                "1 if an operator has paused the queue in the worker.",
            ),
            Metric("celery_fleet_drains_total", COUNTER, _WORKER, "Drains of the worker."),
            Metric(
                "celery_fleet_task_metrics",
                GAUGE,
                _WORKER,
                "1 if the worker counts tasks; 0 if it can't with this version of Celery.",
            ),
        ),
    ),
    Source(
        "Units",
        ("units",),
        "systemd says what runs, and how often it has restarted a unit. A worker is up if its unit is, and if it has "
        "written its file within 30 s. A worker that has no file at all is up if its unit is. A worker that is "
        "starting also counts as up, until the `bad` value of [`starting_seconds`](health.md#checks-and-thresholds), "
        "unless systemd starts it again after a failure.",
        "one call of `systemctl show` for all units",
        (
            Metric("celery_worker_up", GAUGE, _WORKER, "1 if the worker is up."),
            Metric("celery_fleet_unit_up", GAUGE, ("unit",), "1 if the unit is active."),
            Metric(
                "celery_fleet_unit_restarts_total",
                COUNTER,
                ("unit",),
                "Restarts by systemd since the unit was last started.",
            ),
        ),
    ),
    Source(
        "Ends of units",
        ("ends",),
        "Each unit counts its ends in `/var/lib/celery-fleet/ends/<unit>.json`, by systemd's `$SERVICE_RESULT`.",
        "one small file for each unit",
        (
            Metric(
                "celery_fleet_unit_ends_total",
                COUNTER,
                ("unit", "result"),
                "Ends of the unit, with a result such as `success`, `watchdog`, `oom-kill` or `exit-code`.",
            ),
        ),
    ),
    Source(
        "Hand-backs",
        ("hand_backs",),
        "What became of the messages that a worker still held when it ended, from "
        "`/var/lib/<app>/metrics/hand-back-<worker>.json`. A drain leaves none.",
        "one small file for each worker",
        (
            Metric(
                "celery_fleet_handed_back_total",
                COUNTER,
                (*_WORKER, "outcome"),
                "Messages by outcome: `returned` to their queues, `acknowledged` because their tasks had ended, "
                "`parked` as dead letters, `left` until the lease runs out.",
            ),
        ),
    ),
    Source(
        "Releases",
        ("releases",),
        "The release that a unit starts from is the target of its link in `/opt/<app>/pins`. A worker names the one "
        "that it runs in its file, so that is in the part of the worker.",
        "one link for each unit",
        (
            Metric(
                "celery_fleet_release_info",
                GAUGE,
                ("unit", "release", "state"),
                "1; the state is `running` or `pinned`.",
            ),
        ),
    ),
    Source(
        "Beat",
        ("beat", "beat:schedule", "beat:counts"),
        "Only on beat's host: `tick` and `schedule.json` in `/run/<app>-beat`, which disappear with the process, and "
        "`/var/lib/<app>/metrics/beat.json`. The first 100 entries by name are shown one by one. The others are "
        "counted as `other`. A beat that stands by for another one has no due times.",
        "three small files",
        (
            _gauge(
                "celery_fleet_beat_tick_timestamp_seconds",
                "When beat last looked at its schedule.",
            ),
            Metric("celery_fleet_beat_entries", GAUGE, (), "Entries of the schedule."),
            _gauge(
                "celery_fleet_beat_next_due_timestamp_seconds",
                "When the next entry is due.",
            ),
            _gauge(
                "celery_fleet_beat_overdue_seconds",
                "Seconds since the next entry should have been sent; 0 if none is overdue.",
            ),
            Metric(
                "celery_fleet_beat_entry_due_timestamp_seconds",
                GAUGE,
                ("entry",),
                "When the entry is due next.",
            ),
            Metric("celery_fleet_beat_sent_total", COUNTER, ("entry",), "Times it was sent."),
            Metric(
                "celery_fleet_beat_missed_total",
                COUNTER,
                ("entry", "reason"),
                "Runs that were not sent on schedule, by reason: `failed` (sending failed), `late` (sent more than a "
                "minute late), `collapsed` (missed while beat was down, and sent once for all), `skipped` (missed "
                "while beat was down, by an entry with `missed: skip`).",
            ),
        ),
    ),
    Source(
        "Disks",
        ("disk",),
        "The filesystems that the fleet writes to.",
        "one system call for each",
        (
            Metric(
                "celery_fleet_filesystem_free_ratio",
                GAUGE,
                ("path",),
                "Free part of the space that users other than root can fill.",
            ),
            Metric(
                "celery_fleet_filesystem_inodes_free_ratio",
                GAUGE,
                ("path",),
                "Free part of the inodes.",
            ),
        ),
    ),
    Source(
        "Memory",
        ("memory",),
        "`/proc/meminfo`.",
        "one file",
        (
            Metric(
                "celery_fleet_memory_available_ratio", GAUGE, (), "Available part of the memory."
            ),
        ),
    ),
    Source(
        "Certificates",
        ("certificates",),
        "The certificates that the [health check](health.md) looks at. They are read again only if a file has changed. "
        "For the web site's own, the exporter repeats what the last health check saw.",
        "one system call for each file",
        (
            Metric(
                "celery_fleet_certificate_expiry_timestamp_seconds",
                GAUGE,
                ("file",),
                "When the first certificate in use in this file expires.",
            ),
        ),
    ),
    Source(
        "Health",
        ("health",),
        "The last result of the [health check](health.md). Without a result there are no series.",
        "one small file",
        (
            _gauge(
                "celery_fleet_health_state", "State of the host: 0 is good, 1 a warning, 2 bad."
            ),
            Metric(
                "celery_fleet_health_check_state", GAUGE, ("check",), "The same for each check."
            ),
            _gauge("celery_fleet_health_checked_timestamp_seconds", "When the last check began."),
            Metric(
                "celery_fleet_canary_ok",
                GAUGE,
                _WORKER,
                "1 if the worker, on any host, ran the last test task, was busy with other tasks, paused or draining.",
            ),
            Metric("celery_fleet_canary_seconds", GAUGE, _WORKER, "Time that the test task took."),
            _gauge(
                "celery_fleet_clock_offset_seconds",
                "How far this host's clock is ahead of that of the broker's host.",
            ),
        ),
    ),
    Source(
        "Backups",
        ("backup",),
        "The record of the last [backup of Redis](backup.md), on hosts that make one. Before the first, the time of "
        "the timer's file.",
        "one small file",
        (
            _gauge(
                "celery_fleet_redis_last_backup_timestamp_seconds",
                "When the last good backup began; 0 if all have failed. Before the first one there is no series.",
            ),
            _gauge(
                "celery_fleet_redis_backup_enabled_timestamp_seconds",
                "When backups were switched on, or `every` was changed; only before the first one was tried.",
            ),
            _gauge(
                "celery_fleet_redis_last_backup_size_bytes",
                "Size of its snapshots before encryption.",
            ),
        ),
    ),
    Source(
        "Changes",
        ("change",),
        "The time of the file `/var/lib/celery-fleet/changed/<app>`.",
        "one system call",
        (
            _gauge(
                "celery_fleet_last_change_timestamp_seconds",
                "When a run last changed something on this host.",
            ),
        ),
    ),
    Source(
        "Redis",
        ("broker", "results", "cache"),
        "Only on the host that asks Redis: each instance by its own connection, which stays open. With several hosts "
        "of Redis, the primary is asked, which also knows its replicas.",
        "`PING` and `INFO` for each instance, and a second `INFO` if it has replicas",
        (
            Metric(
                "celery_fleet_redis_up",
                GAUGE,
                ("redis",),
                "1 if the instance accepts the login and answers `PING`.",
            ),
            Metric("celery_fleet_redis_seconds", GAUGE, ("redis",), "Time that the answer took."),
            Metric(
                "celery_fleet_redis_memory_used_bytes", GAUGE, ("redis",), "Memory that it uses."
            ),
            Metric(
                "celery_fleet_redis_memory_max_bytes",
                GAUGE,
                ("redis",),
                "Memory that it may use (`maxmemory`); 0 without a limit, and no series if it evicts keys.",
            ),
            Metric("celery_fleet_redis_replicas", GAUGE, ("redis",), "Replicas that are in sync."),
        ),
    ),
    Source(
        "Queues",
        ("queues",),
        "Only on the host that asks Redis. An age is that of the header `x-fleet-sent`. A message without it is as old "
        "as the exporter has seen it at the head of its list, which is too young rather than too old. If all commands "
        f"to Redis would exceed {COMMANDS_PER_SECOND:g} per second on average, the values stay for longer, at most "
        f"{LONGEST_PAUSE:g} s; `celery_fleet_collected_timestamp_seconds` shows since when.",
        "`EXISTS` for each priority, `HLEN`, `ZRANGE` and `ZCARD`; for each priority that has messages, `LLEN` for "
        "each queue, and `LINDEX` for each list that is not empty, which transfers the message",
        (
            Metric(
                "celery_queue_length",
                GAUGE,
                ("queue_name",),
                "Messages that wait in the queue, of all priorities.",
            ),
            Metric(
                "celery_fleet_queue_oldest_seconds",
                GAUGE,
                ("queue_name",),
                "Age of the oldest message in the queue; 0 without one.",
            ),
            _gauge(
                "celery_fleet_messages_held",
                "Messages that workers hold: running, prefetched, or with an ETA.",
            ),
            _gauge(
                "celery_fleet_lease_oldest_seconds",
                "Seconds since the lease of a held message was last renewed, of the oldest one; 0 without one.",
            ),
            Metric("celery_fleet_dead_letters", GAUGE, (), "Dead letters on the broker."),
        ),
    ),
    Source(
        "The exporter",
        (),
        "What the exporter says about itself. The parts are named above.",
        "nothing more",
        (
            Metric(
                "celery_fleet_build_info",
                GAUGE,
                ("version", "asks_redis"),
                "1; the version of Celery Fleet, and whether this host asks Redis.",
            ),
            Metric(
                "celery_fleet_collect_seconds", GAUGE, ("part",), "Time that the part took last."
            ),
            Metric(
                "celery_fleet_collect_error",
                GAUGE,
                ("part",),
                "1 if the part failed; then its series are left out. The journal says why.",
            ),
            Metric(
                "celery_fleet_collected_timestamp_seconds",
                GAUGE,
                ("part",),
                "When the values of the part were collected.",
            ),
            Metric(
                "celery_fleet_collect_redis_commands_total",
                COUNTER,
                (),
                "Commands that the exporter has sent to Redis.",
            ),
        ),
    ),
)

METRICS = {metric.name: metric for source in SOURCES for metric in source.metrics}
