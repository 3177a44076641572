"""Checks names in `celery_app_settings`. A misspelt name has no effect; one in another form stops every process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from ...desired.worker_options import WORKER
from ..model.inventory import Model, Problem, Severity, as_mapping, dotted
from ..model.report import with_hosts
from .connections import refusals
from .names import allowed, near_miss
from .values import safe_key, suggestion

VARIABLE: Final = "celery_app_settings"
# The oldest and newest minor that `celery_fleet.compat.versions` supports. Tests compare them, and the names below with
# each minor's.
SUPPORTED: Final = ("5.4", "5.7")

# Celery reads these too, without a default (`conf.get` in its code).
_WITHOUT_DEFAULT: Final = (
    "cassandra_secure_bundle_path",
    "dynamodb_endpoint_url",
    "firestore_project",
    "gcs_threadpool_maxsize",
    "override_backends",
    "redis_backend_credential_provider",
    "redis_backend_health_check_interval",
    "redis_client_name",
    "result_backend_thread_safe",
)
# Settings that Celery reads as numbers, and switches. Celery does not convert values: "false" in quotes is on.
_NUMBERS: Final = frozenset(
    """
    azureblockblob_connection_timeout azureblockblob_read_timeout azureblockblob_retry_increment_base
    azureblockblob_retry_initial_backoff_sec azureblockblob_retry_max_attempts beat_cron_starting_deadline
    beat_max_loop_interval beat_remote_control_max_tick_age beat_sync_every broker_connection_max_retries
    broker_connection_timeout broker_heartbeat broker_heartbeat_checkrate broker_pool_acquire_timeout
    broker_pool_limit broker_port cassandra_entry_ttl control_queue_expires control_queue_ttl
    cosmosdbsql_max_retry_attempts cosmosdbsql_max_retry_wait_time elasticsearch_max_retries
    elasticsearch_timeout event_queue_expires event_queue_ttl gcs_ttl redis_db redis_max_connections redis_port
    redis_socket_connect_timeout redis_socket_timeout result_backend_base_sleep_between_retries_ms
    result_backend_max_retries result_backend_max_sleep_between_retries_ms result_cache_max result_chord_expires
    result_chord_join_timeout result_chord_retry_interval result_expires result_failure_expires task_protocol
    task_queue_max_priority task_repr_maxlevels task_soft_time_limit task_time_limit worker_eta_task_limit
    worker_lost_wait worker_max_memory_per_child worker_max_tasks_per_child worker_prefetch_multiplier
    worker_proc_alive_timeout worker_soft_shutdown_timeout worker_timer_precision
    """.split()  # noqa: SIM905 - as a list it would be a page of quotes
)
_SWITCHES: Final = frozenset(
    """
    beat_enable_remote_control broker_channel_error_retry broker_connection_retry
    broker_connection_retry_on_startup control_queue_durable control_queue_exclusive
    database_create_tables_at_setup database_short_lived_sessions elasticsearch_retry_on_timeout
    elasticsearch_save_meta_as_text enable_utc event_queue_durable event_queue_exclusive redis_retry_on_timeout
    redis_socket_keepalive result_backend_always_retry result_extended result_persistent task_acks_late
    task_acks_on_failure task_acks_on_failure_or_timeout task_acks_on_timeout
    task_allow_error_cb_on_chord_header task_always_eager task_create_missing_queues task_eager_propagates
    task_ignore_result task_inherit_parent_priority task_publish_retry task_reject_on_worker_lost
    task_remote_tracebacks task_retry_on_worker_lost task_send_sent_event task_store_eager_result
    task_store_errors_even_if_ignored task_track_started worker_cancel_long_running_tasks_on_connection_loss
    worker_deduplicate_successful_tasks worker_detect_quorum_queues worker_direct worker_disable_prefetch
    worker_disable_rate_limits worker_enable_prefetch_count_reduction worker_enable_remote_control
    worker_enable_soft_shutdown_on_idle worker_hijack_root_logger worker_log_color worker_pool_putlocks
    worker_pool_restarts worker_redirect_stdouts worker_send_task_events
    """.split()  # noqa: SIM905 - as a list it would be a page of quotes
)
# All settings in `celery.app.defaults` of the supported minors.
_DEFAULTS: Final = sorted(
    _NUMBERS
    | _SWITCHES
    | set(
        """
        accept_content arangodb_backend_settings azureblockblob_base_path azureblockblob_container_name
        beat_schedule beat_schedule_filename beat_scheduler broker_failover_strategy broker_host broker_login_method
        broker_native_delayed_delivery_queue_type broker_password broker_read_url broker_transport
        broker_transport_options broker_url broker_use_ssl broker_user broker_vhost broker_write_url cache_backend
        cache_backend_options cassandra_auth_kwargs cassandra_auth_provider cassandra_bundle_path cassandra_keyspace
        cassandra_options cassandra_port cassandra_read_consistency cassandra_servers cassandra_table
        cassandra_write_consistency control_exchange cosmosdbsql_collection_name cosmosdbsql_consistency_level
        cosmosdbsql_database_name couchbase_backend_settings database_engine_callback database_engine_options
        database_table_names database_table_schemas database_url event_exchange event_queue_prefix event_serializer
        gcs_base_path gcs_bucket gcs_project imports include mongodb_backend_settings redis_backend_use_ssl
        redis_host redis_password redis_username result_accept_content result_backend
        result_backend_transport_options result_compression result_exchange result_exchange_type result_serializer
        s3_access_key_id s3_base_path s3_bucket s3_endpoint_url s3_region s3_secret_access_key security_cert_store
        security_certificate security_digest security_key security_key_password task_annotations task_compression
        task_create_missing_queue_exchange_type task_create_missing_queue_type task_default_delivery_mode
        task_default_exchange task_default_exchange_type task_default_priority task_default_queue
        task_default_queue_type task_default_rate_limit task_default_routing_key task_publish_retry_policy
        task_queues task_routes task_serializer timezone worker_agent worker_autoscaler worker_concurrency
        worker_consumer worker_log_datefmt worker_log_format worker_pool worker_pool_start_method
        worker_redirect_stdouts_level worker_state_db worker_task_log_datefmt worker_task_log_format worker_timer
        """.split()  # noqa: SIM905 - like the lists above
    )
)
# What kombu and Celery read in the options of the two connections to Redis.
_TRANSPORTS: Final = ("broker_transport_options", "result_backend_transport_options")
_TRANSPORT_NUMBERS: Final = frozenset(
    """
    connect_retries_timeout health_check_interval interval_max interval_start interval_step max_connections max_retries
    min_other_sentinels polling_interval socket_connect_timeout socket_timeout unacked_mutex_expire
    unacked_restore_interval unacked_restore_limit visibility_timeout
    """.split()  # noqa: SIM905 - like the list above
)
TRANSPORT: Final = sorted(
    _TRANSPORT_NUMBERS
    | set(
        """
        ack_emulation additional_connection_errors body_encoding client_name credential_provider deadletter_queue
        fanout_patterns fanout_prefix global_keyprefix master_name priority_steps queue_order_strategy
        reauth_check_interval result_chord_ordered retry_on_timeout retry_policy sentinel_fanout_compat
        sentinel_kwargs sep socket_keepalive socket_keepalive_options unacked_index_key unacked_key
        unacked_mutex_key unacked_restore_throttle
        """.split()  # noqa: SIM905 - like the lists above
    )
)
KNOWN: Final = (*_DEFAULTS, *_WITHOUT_DEFAULT)
# The same as in `celery_fleet.config.settings`, which refuses them when a process starts.
UNPINNABLE: Final = ("include", "imports")
# Settings that have their own variable. Preflight checks these variables, but would not see the settings here.
OWN_VARIABLES: Final = {
    "beat_schedule": "celery_beat_schedule",
    "task_routes": "celery_app_task_routes",
}
NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

# First words of Celery's own names. An unknown name that begins with one is unlikely to come from a package.
_OWN_WORDS: Final = frozenset(name.partition("_")[0] for name in _DEFAULTS if "_" in name)
# Celery reads a text in place of a list as its letters.
_LISTS: Final = ("accept_content", "result_accept_content")
_NOT_NEGATIVE: Final = frozenset(
    """
    task_soft_time_limit task_time_limit worker_concurrency worker_max_memory_per_child worker_max_tasks_per_child
    worker_prefetch_multiplier
    """.split()  # noqa: SIM905 - like the lists above
)
# Celery also takes an older name of prefork, a class, and what CELERY_CUSTOM_WORKER_POOL names.
_POOLS: Final = next(tuple(map(str, one.choices)) for one in WORKER if one.name == "pool")
_POOL: Final = re.compile(rf"{'|'.join(_POOLS)}|processes|custom|.*[.:].*")
# Variables with these prefixes can be settings in the spelling of Django projects.
_CELERYS: Final = ("celery_", "celeryd_", "celerybeat_")
_WORKERS: Final = "celery_worker_instances"
_ADDRESSES: Final = ("broker_url", "broker_read_url", "broker_write_url", "result_backend")
# How similar a name has to be to be suggested.
_LIKELY: Final = 0.8
# Prefixes in the spelling of Django projects and Celery 3, each with the current prefix.
_PREFIXES: Final = (
    ("", ("",)),
    ("celery_", ("", "task_", "result_", "worker_")),
    ("celeryd_", ("", "worker_")),
    ("celerybeat_", ("beat_",)),
)


def check_settings(model: Model) -> Iterator[Problem]:
    """Refuse names that have no effect or that no process accepts; packages and the application may have their own."""
    is_allowed = allowed(model, "preflight_allowed_variables")
    for value, hosts in model.distinct(VARIABLE):
        for name, item in as_mapping(value).items():
            # Don't report a setting twice if `check_connections` refuses it.
            if not any(refusals(model, name, item)):
                yield from with_hosts(hosts, _setting(name, item, is_allowed))


def _setting(name: str, item: object, is_allowed: Callable[[str], bool]) -> Iterator[Problem]:
    path = dotted((VARIABLE, safe_key(name)))
    yield from _name(name, path, is_allowed(path))
    yield from _value(name, item, path)
    if name in _TRANSPORTS:
        yield from _options(name, item, is_allowed)


def check_misplaced(model: Model) -> Iterator[Problem]:
    """Refuse settings that are variables of the inventory, such as CELERY_BROKER_URL: nothing reads them."""
    is_allowed = allowed(model, "preflight_allowed_variables")
    for name, hosts in model.given_names.items():
        setting = _meant(name) if name.lower().startswith(_CELERYS) else ""
        if not setting or name in model.specs.options or is_allowed(name):
            continue
        variable = OWN_VARIABLES.get(setting)
        if setting in _ADDRESSES:
            remedy = "remove it; processes get the addresses of the fleet's own Redis"
        elif (option := name.removeprefix("celery_worker_")) in model.specs.element_options(
            _WORKERS
        ):
            remedy = (
                f"give it to a worker, as `{option}` in {_WORKERS} or in celery_worker_defaults"
            )
        else:
            remedy = f"use {variable}" if variable else f"write {setting} in {VARIABLE}"
        yield Problem(
            str(safe_key(name)),
            "is a setting of Celery, which has no effect as a variable of the inventory",
            f"{remedy}. If it is your own variable, add it to preflight_allowed_variables.",
            hosts=hosts,
        )


def _value(name: str, item: object, path: str) -> Iterator[Problem]:
    """Refuse values of another type than Celery reads, and numbers without a meaning."""
    if name in _NUMBERS:
        yield from _number(item, path)
    elif name in _SWITCHES and item is not None and not isinstance(item, bool):
        yield Problem(
            path,
            'has to be true or false; Celery reads any other value, even "false" in quotes, as true',
            "write true or false, without quotes",
        )
    elif name in _LISTS and isinstance(item, str):
        yield Problem(
            path,
            "has to be a list; Celery reads a text as a list of its letters",
            f"write [{', '.join(item.replace(',', ' ').split())}]",
        )
    elif name == "worker_pool" and isinstance(item, str) and not _POOL.fullmatch(item):
        near = suggestion(item, _POOLS)
        yield Problem(
            path,
            "is not a pool that Celery knows, so no worker would start",
            " ".join(part for part in (near, f"known are {', '.join(_POOLS)}") if part),
            value=item,
        )
    if name in _NOT_NEGATIVE and isinstance(item, (int, float)) and item < 0:
        yield Problem(path, "can't be negative", "write 0 or more, or remove it", value=str(item))


def _number(item: object, path: str) -> Iterator[Problem]:
    """Refuse anything but a number or nothing."""
    if item is None or (isinstance(item, (int, float)) and not isinstance(item, bool)):
        return
    is_quoted = isinstance(item, str) and re.fullmatch(r"\s*-?\d+(\.\d+)?\s*", item)
    example = item.strip() if is_quoted and isinstance(item, str) else "300"
    yield Problem(
        path,
        "has to be a number, and Celery does not convert text to one",
        f"write {example}, without quotes"
        + ("" if is_quoted else " or unit; times are in seconds"),
    )


def _options(name: str, item: object, is_allowed: Callable[[str], bool]) -> Iterator[Problem]:
    """Refuse numbers that are text, and options that are almost the name of a known one: nothing would read them."""
    for option, value in as_mapping(item).items():
        path = dotted((VARIABLE, name, safe_key(option)))
        if option in _TRANSPORT_NUMBERS:
            yield from _number(value, path)
        near = next((known for known in TRANSPORT if near_miss(option, known)), "")
        if near and option not in TRANSPORT and not is_allowed(path):
            yield Problem(
                path,
                "is not an option of the connections to Redis, so it has no effect",
                f"did you mean {near}? If something reads it, add {path} to preflight_allowed_variables.",
            )


def _name(name: str, path: str, is_allowed: bool) -> Iterator[Problem]:
    meant = _meant(name)
    if name in UNPINNABLE or meant in UNPINNABLE:
        yield Problem(
            path,
            "can't be set here: each worker sets it itself when it starts",
            "name the modules in `include` of the worker in celery_worker_instances, or set it in the application's "
            "code",
        )
    elif variable := OWN_VARIABLES.get(name) or OWN_VARIABLES.get(meant):
        yield Problem(
            path,
            "has its own variable, in which queues, tasks and times are checked",
            f"move it to {variable}",
        )
    elif not NAME.fullmatch(name):
        bare = re.sub(r"^celery(d|beat)?_", "", _form(name))
        guess = f"write {meant}" if meant else suggestion(bare, KNOWN, _LIKELY)
        yield Problem(
            path,
            "is not the name of a setting: write names in lower case, with underscores and without the prefix CELERY_",
            (guess or "write it that way, or set it in the application's code")
            + ("; mind the space after the colon" if ":" in name else ""),
        )
    elif name in KNOWN or is_allowed:
        return
    elif meant:
        yield Problem(path, "has no effect: Celery has another name for it", f"write {meant}")
    else:
        near = next((known for known in KNOWN if near_miss(name, known)), "")
        without = next((known for known in KNOWN if known.partition("_")[2] == name), "")
        ours = name.partition("_")[0] in _OWN_WORDS
        if not (near or without or ours):
            return
        guess = (
            f"did you mean {near or without}?"
            if near or without
            else suggestion(name, KNOWN, _LIKELY)
        )
        yield Problem(
            path,
            f"is not a setting of Celery {' to '.join(SUPPORTED)}, so it has no effect unless the application or a "
            "package reads it",
            f"{guess} If something reads it, add {path} to preflight_allowed_variables.".lstrip(),
            severity=Severity.ERROR if near else Severity.WARNING,
        )


def _form(name: str) -> str:
    """Return a name in Celery's spelling, without what follows a colon."""
    return re.sub(r"[^a-z0-9]+", "_", name.partition(":")[0].lower()).strip("_")


def _meant(name: str) -> str:
    """Return the setting that a name in another spelling means, or an empty string."""
    form = _form(name)
    for prefix, instead in _PREFIXES:
        if form.startswith(prefix):
            for word in instead:
                found = word + form.removeprefix(prefix)
                if found in KNOWN and found != name:
                    return found
    return ""
