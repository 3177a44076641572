"""Each kind of mistake in an inventory is refused, by name and with a remedy; a valid inventory is accepted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.groups import (
    group_names,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.names import (
    near_miss,
    queue_fits,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import report
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Control,
    Problem,
    Severity,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.render import build
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.run import check

from tests.unit.preflight.inventory import (
    GROUPS,
    ROOT,
    changed,
    model,
    problems,
    secret,
    specs,
    trusted,
    valid,
)

Variables = dict[str, Any]
CLUSTER = "Redis Cluster has no Celery transport"


@pytest.fixture
def variables(tmp_path: Path) -> Variables:
    return valid(tmp_path / "source")


def text_of(found: list[Problem]) -> str:
    return report.block("Refused", found, GROUPS, GROUPS["fleet"])


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, text_of(found)
    return found[0]


def test_a_valid_inventory_passes(variables: Variables) -> None:
    assert problems(variables) == []


def test_queues_of_exchanges_pass(variables: Variables) -> None:
    topic = {"exchange": "media", "exchange_type": "topic", "routing_key": "media.#"}
    variables["celery_app_settings"] = {"task_queues": {"discounts": topic}}
    route = {"queue": "discounts", "exchange": "media", "routing_key": "media.film"}
    variables["celery_app_task_routes"] = {"app.*": route}
    variables["celery_beat_schedule"]["history"]["options"] = {"routing_key": "media.film"}
    assert problems(variables) == []


@pytest.mark.parametrize(
    "options",
    [
        {"memory_max": "64M", "memory_high": "64M"},
        {"memory_max": "2147483648", "memory_high": "1.5G"},
        {"memory_max": "1G", "memory_high": "90%"},
        {"memory_max": "1G", "memory_high": "infinity"},
        {"memory_max": "40%", "memory_high": "30%"},
        {"max_memory_per_child": 204800},
        {"autoscale": {"min": 2, "max": 10, "wait": "30s"}},
        {"autoscale": {"min": "3", "max": 3, "wait": "5m"}, "concurrency": 8},
        {"autoscale": {}},
        {"concurrency": 1000},
        {"concurrency": 4000, "pool": "gevent"},
        {"read_write_paths": ["/srv/my data", "-/srv/b", "+/srv/c"]},
        {"environment": {"A": True, "B": None, "C": 1}},
    ],
    ids=str,
)
def test_valid_options_of_a_worker_pass(variables: Variables, options: Variables) -> None:
    variables["celery_worker_instances"]["discounts"] = options
    assert problems(variables) == []


W = "celery_worker_instances"
D = f"{W}/discounts"
A = f"{W}.discounts.autoscale"
AUTO = {"min": 2, "max": 10, "wait": "30s"}
B = "celery_beat_schedule"
S = "celery_app_source"
IN = "celery_app_package_index"
PEM = "-----BEGIN {}-----\n…".format
P = "celery_producer_web_protected_paths"
U = "celery_app_env_urls/OTHER_URL"
R = "celery_release_commands"
SET = "celery_app_settings"
DIR = "celery_app_directories"
MIGRATE = {"name": "migrate", "argv": ["python", "manage.py", "migrate"]}

# path, value, variable that is named, part of the message, part of the remedy
ERRORS: list[tuple[str, Any, str, str, str]] = [
    # names
    ("celery_workers_instances", {}, "celery_workers_instances", "misspelt", W),
    ("celery_apps_name", "x", "celery_apps_name", "misspelt", "celery_app_name"),
    ("flowr_port", 1, "flowr_port", "misspelt", "flower_port"),
    ("redis_pasword", "x", "redis_pasword", "not a variable of the role redis", "redis_passwords"),
    ("celery_app_zz", "x", "celery_app_zz", "of the role celery_app", "preflight_allowed_variables"),
    ("celery_app_name", "My Shop", "celery_app_name", "can't be the name", "begin with a letter"),
    (W, {"web": {}}, f"{W}.web", "`celery-fleet restart web` means", "web-tasks: {queues: [web]}"),
    ("celery_app_name", "a" * 26, "celery_app_name", "can't be the name", "25 characters"),
    ("celery_app_user", "root", "celery_app_user", "belongs to the system", "choose a name"),
    ("celery_app_user", "valkey", "celery_app_user", "belongs to the system", "choose a name"),
    ("celery_app_proxy_group", "a b", "celery_app_proxy_group", "name of a Unix group", "begin with"),
    ("celery_app_user", "My User", "celery_app_user", "name of a Unix user", "begin with a letter"),
    ("celery_app_module", "app/celery", "celery_app_module", "not a module that", "with dots"),
    (f"{W}/a@b", {"queues": ["celery"]}, f"{W}['a@b']", "name of a worker", "use only a-z"),
    (f"{W}/Big_Queue", {}, f"{W}.Big_Queue", "name of a worker", "as in big_queue: {queues: [Big_Queue]}"),
    (f"{D}/queues", ["a b"], f"{W}.discounts.queues", "not a queue name", "use only letters"),
    (f"{D}/queues", ["discounts", "unacked"], f"{W}.discounts.queues", "own keys", "another"),
    ("preflight_allowed_variables", ["*"], "preflight_allowed_variables[0]", "every name", "name"),
    ("preflight_allowed_placeholders", ["?*"], "preflight_allowed_placeholders[0]", "every name", "name each secret"),
    # types
    (W, [], W, "a list, but must be a mapping", "key: value"),
    (D, None, f"{W}.discounts", "has no value", "write {}"),
    (f"{D}/concurrrency", 4, f"{W}.discounts.concurrrency", "not a known key", "concurrency"),
    (f"{D}/concurrency", "four", f"{W}.discounts.concurrency", "a string, but must be a whole", "whole"),
    (f"{D}/concurrency", True, f"{W}.discounts.concurrency", "a boolean, but must be a whole", "whole"),
    (f"{D}/queues", "discounts", f"{W}.discounts.queues", "a string, but must be a list", "- item"),
    (f"{D}/queues", ["discounts", "{{ no }}"], f"{W}.discounts.queues[1]", "undefined", "define"),
    (f"{D}/task_events", "no", f"{W}.discounts.task_events", "must be a boolean", "true or false"),
    (f"{D}/pool", "preforked", f"{W}.discounts.pool", "none of the allowed", "prefork?"),
    ("celery_app_name", ["a"], "celery_app_name", "a list, but must be a string", "one string"),
    ("celery_app_env", "A=1", "celery_app_env", "a string, but must be a mapping", "key: value"),
    ("celery_worker_host_instances", "discounts", "celery_worker_host_instances", "must be a list", "- item"),
    # rendering
    (f"{D}/concurrency", "{{ cores }}", f"{W}.discounts.concurrency", "'cores' is undef", "define"),
    (f"{D}/concurrency", "{{ 1 / 0 }}", f"{W}.discounts.concurrency", "can't be rendered", "correct"),
    (f"{D}/concurrency", "{{ x", f"{W}.discounts.concurrency", "can't be rendered", "correct"),
    (
        f"{D}/concurrency",
        "{{ celery_apps }}",
        f"{W}.discounts.concurrency",
        "'celery_apps' is undefined",
        "did you mean celery_app_",
    ),
    (
        f"{D}/concurrency",
        "{{ ansible_processor_vcpus }}",
        f"{W}.discounts.concurrency",
        "is undefined",
        "facts of hosts are not known",
    ),
    ("firewall_address", "{{ ansible_host }}", "firewall_address", "is undefined", "define ansible_host"),
    # workers
    ("celery_worker_host_instances", ["discounts", "maintenance", "analytics", "analyticz"],
     "celery_worker_host_instances", "does not have", "analytics?"),
    (f"{D}/concurrency", 0, f"{W}.discounts.concurrency", "below 1", "1 or more"),
    (f"{D}/soft_time_limit", 1800, f"{W}.discounts.soft_time_limit", "not below", "less than 1800"),
    (f"{D}/memory_max", "1GB", f"{W}.discounts.memory_max", "not a value that systemd", "did you mean 1G?"),
    (f"{D}/memory_max", "512 MiB", f"{W}.discounts.memory_max", "not a value that systemd", "did you mean 512M?"),
    (f"{D}/memory_max", "lots", f"{W}.discounts.memory_max", "not a value that systemd", "512M"),
    (f"{D}/nice", 20, f"{W}.discounts.nice", "is above 19", "write -20 to 19"),
    (f"{D}/nice", -21, f"{W}.discounts.nice", "is below -20", "write -20 to 19"),
    (f"{D}/cpu_quota", "2", f"{W}.discounts.cpu_quota", "not a value that systemd", "50%"),
    (f"{D}/memory_high", "1GB", f"{W}.discounts.memory_high", "not a value that systemd", "1G?"),
    (f"{D}/tasks_max", "0", f"{W}.discounts.tasks_max", "not a value that systemd", "64"),
    ("celery_worker_defaults", {"memory_max": "1GB"}, "celery_worker_defaults.memory_max", "not a value that", "1G?"),
    # absurd sizes
    (f"{D}/memory_max", "2048", f"{W}.discounts.memory_max", "less than a process of Celery", "did you mean 2048M?"),
    (f"{D}/memory_max", 2048, f"{W}.discounts.memory_max", "less than a process of Celery", "without a unit is bytes"),
    (f"{D}/memory_max", "31M", f"{W}.discounts.memory_max", "less than a process of Celery", "512M or 2G"),
    (f"{D}/memory_max", "20000000", f"{W}.discounts.memory_max", "less than a process of Celery", "512M or 2G"),
    (f"{D}/memory_high", "512", f"{W}.discounts.memory_high", "less than a process of Celery", "did you mean 512M?"),
    (D, {"memory_max": "1G", "memory_high": "2G"}, f"{W}.discounts.memory_high", "above memory_max (1G)", "less than"),
    (D, {"memory_max": "1G", "memory_high": "1025M"}, f"{W}.discounts.memory_high", "above memory_max", "remove it"),
    (D, {"memory_max": "20%", "memory_high": "30%"}, f"{W}.discounts.memory_high", "above memory_max", "remove it"),
    (f"{D}/max_memory_per_child", 200, f"{W}.discounts.max_memory_per_child", "in KiB", "mean 204800 (200 MiB)"),
    (f"{D}/max_memory_per_child", 1, f"{W}.discounts.max_memory_per_child", "in KiB", "204800 for 200 MiB"),
    # autoscale
    (f"{D}/autoscale", "2,10", A, "the form of Celery's own option", "write {min: 2, max: 10, wait: 30s}"),
    (f"{D}/autoscale", "10,3", A, "the form of Celery's own option", "write {min: 3, max: 10, wait: 30s}"),
    (f"{D}/autoscale", "10,0", A, "the form of Celery's own option", "write {min: 1, max: 10, wait: 30s}"),
    (f"{D}/autoscale", 8, A, "the form of Celery's own option", "write {min: 1, max: 8, wait: 30s}"),
    (f"{D}/autoscale", "10-2", A, "the form of Celery's own option", "write {min: 2, max: 10, wait: 30s}"),
    (f"{D}/autoscale", {**AUTO, "min": 11}, f"{A}.min", "above max (10)", "10 or less, or raise max"),
    (f"{D}/autoscale", {**AUTO, "min": 0}, f"{A}.min", "below 1", "write 1 to 1000"),
    (f"{D}/autoscale", {**AUTO, "max": 4000}, f"{A}.max", "above 1000", "write 1 to 1000"),
    (f"{D}/autoscale", {**AUTO, "wait": "soon"}, f"{A}.wait", "not a duration", "30s or 5m"),
    (f"{D}/autoscale", {**AUTO, "wait": 30}, f"{A}.wait", "not a duration", "30s or 5m"),
    (f"{D}/autoscale", {**AUTO, "wait": "500ms"}, f"{A}.wait", "outside 1s to 1h", "write 1s to 1h"),
    (f"{D}/autoscale", {**AUTO, "wait": "2h"}, f"{A}.wait", "outside 1s to 1h", "write 1s to 1h"),
    (f"{D}/autoscale", {"max": 10}, A, "lacks min and wait", "write all three"),
    (D, {"autoscale": AUTO, "pool": "threads"}, A, "the pool is threads", "write concurrency, or write pool: prefork"),
    (D, {"autoscale": AUTO, "pool": "solo"}, A, "the pool is solo", "write concurrency, or write pool: prefork"),
    (f"{D}/concurrency", 4000, f"{W}.discounts.concurrency", "more than the 1000", "pool: gevent"),
    (D, {"concurrency": 4000, "pool": "threads"}, f"{W}.discounts.concurrency", "more than the 1000", "pool: gevent"),
    # directories
    (DIR, {"srv": {}}, f"{DIR}.srv", "not an absolute path", "/srv/shop/media"),
    (DIR, {"/srv": {}}, f"{DIR}['/srv']", "two parts", "/srv/shop/media"),
    (DIR, {"/srv/../etc/x": {}}, f"{DIR}['/srv/../etc/x']", "absolute", "/srv/"),
    (DIR, {"/etc/ssl": {}}, f"{DIR}['/etc/ssl']", "belongs to the system", "own"),
    (DIR, {"/var/lib/": {}}, f"{DIR}['/var/lib/']", "to the system", "own"),
    (DIR, {"/var/lib/celery-fleet/x": {}}, f"{DIR}['/var/lib/celery-fleet/x']", "system", "own"),
    (DIR, {"/home/admin": {}}, f"{DIR}['/home/admin']", "the system", "own"),
    (DIR, {"/opt/shop/pins": {}}, f"{DIR}['/opt/shop/pins']",
     "belongs to the fleet (celery_app_root)", "own files"),
    (DIR, {"/var/lib/shop/": {}}, f"{DIR}['/var/lib/shop/']", "fleet (celery_app_state_directory)", "own files"),
    (DIR, {"/var/lib/shop/metrics": {}}, f"{DIR}['/var/lib/shop/metrics']", "belongs to the fleet", "own files"),
    (DIR, {"/var/log/shop": {}}, f"{DIR}['/var/log/shop']", "fleet (celery_app_name)", "own files"),
    (DIR, {"/var/log/celery-fleet/shop": {}}, f"{DIR}['/var/log/celery-fleet/shop']", "system", "own files"),
    (DIR, {"/srv/a": {"mode": "rwx"}}, f"{DIR}['/srv/a'].mode", "be the mode", "2750"),
    (DIR, {"/srv/a": {"mode": 0o1770}}, f"{DIR}['/srv/a'].mode", "the mode", '"2750"'),
    (DIR, {"/srv/a": {"owner": "A B"}}, f"{DIR}['/srv/a'].owner", "the owner", "shop"),
    (DIR, {"/srv/a": {"user": "x"}}, f"{DIR}['/srv/a'].user", "known key", "owner"),
    # the web process's address
    ("celery_producer_web_listen", "5000", "celery_producer_web_listen", "an address with a port", "127.0.0.1:5000"),
    ("celery_producer_web_listen", "localhost:5000", "celery_producer_web_listen", "not an address with", "[::1]:5000"),
    ("celery_producer_web_listen", "[fe80::1%eth0]:5000",
     "celery_producer_web_listen", "an address with a port", "write it"),
    ("celery_producer_web_listen", "0.0.0.0:0", "celery_producer_web_listen", "an address with a port", "write it"),
    ("celery_producer_web_listen", "127.0.0.1:443",
     "celery_producer_web_listen", "port of celery_producer_web_port", "another"),
    ("celery_producer_web_listen", 5000, "celery_producer_web_listen", "an address with a port", "write it"),
    # the firewall
    ("firewall_enabled", "yes", "firewall_enabled", "a string, but must be a boolean", "true or false"),
    ("firewall_redis_clients", ["monitor1"], "firewall_redis_clients[0]", "is not an address", "10.1.0.0/24"),
    ("firewall_redis_clients", ["10.1.0.7/24"], "firewall_redis_clients[0]", "with the mask", "10.1.0.0/24"),
    ("firewall_redis_clients", ["10.0.0.0/33"], "firewall_redis_clients[0]", "impossible mask", "10.1.0.0/24"),
    ("firewall_redis_clients", ["0.0.0.0/0"], "firewall_redis_clients[0]", "let everyone in", "write the address"),
    ("firewall_redis_clients", ["127.0.0.1"], "firewall_redis_clients[0]", "not an address that", "the client"),
    ("firewall_redis_clients", ["fe80::1"], "firewall_redis_clients[0]", "only valid on one link", "write the address"),
    ("firewall_redis_clients", [10.1], "firewall_redis_clients[0]", "is not an address", "10.1.0.0/24"),
    ("firewall_redis_clients", ["::ffff:10.1.0.7"], "firewall_redis_clients[0]", "in IPv6 notation", "write 10.1.0.7"),
    ("firewall_redis_clients", "10.1.0.7", "firewall_redis_clients", "a string, but must be a list", "- item"),
    # Redis Cluster
    ("celery_app_settings", {"broker_url": "rediscluster://h/0"},
     "celery_app_settings.broker_url", CLUSTER, "three hosts in the group redis"),
    ("celery_app_settings", {"result_backend": "redis+cluster://h"},
     "celery_app_settings.result_backend", CLUSTER, "append-only"),
    ("celery_app_settings", {"broker_transport_options": {"cluster_nodes": []}},
     "celery_app_settings.broker_transport_options.cluster_nodes", CLUSTER, "their own instances"),
    ("celery_app_env", {"CELERY_BROKER_URL": "rediss-cluster://h"},
     "celery_app_env.CELERY_BROKER_URL", CLUSTER, "remove it"),
    ("celery_app_env_urls", {"CELERY_RESULT_BACKEND": {"scheme": "rediscluster", "host": "h"}},
     "celery_app_env_urls.CELERY_RESULT_BACKEND.scheme", CLUSTER, "remove it"),
    # settings that would lead away from the fleet's Redis, or leave its certificate unchecked
    (SET, {"broker_url": "redis://h/0"}, f"{SET}.broker_url", "is an address of the broker", "celery_app_broker_url"),
    (SET, {"broker_url": "amqp://h"}, f"{SET}.broker_url", "is an address of the broker", "remove it"),
    (SET, {"broker_read_url": "rediss://h"}, f"{SET}.broker_read_url", "is an address of the broker", "remove it"),
    (SET, {"broker_write_url": None}, f"{SET}.broker_write_url", "is an address of the broker", "remove it"),
    (SET, {"CELERY_BROKER_URL": "redis://h"}, f"{SET}.CELERY_BROKER_URL", "is an address of the broker", "remove it"),
    (SET, {"BROKER_URL": "redis://h"}, f"{SET}.BROKER_URL", "is an address of the broker", "remove it"),
    (SET, {"broker_transport": "memory"}, f"{SET}.broker_transport", "is an address of the broker", "remove it"),
    (SET, {"result_backend": "rediss://h/0"}, f"{SET}.result_backend", "a different Redis", "celery_app_results_host"),
    (SET, {"CELERY_RESULT_BACKEND": "redis"}, f"{SET}.CELERY_RESULT_BACKEND", "a different Redis", "django-db"),
    (SET, {"result_backend": "sentinel://h"}, f"{SET}.result_backend", "a different Redis", "remove it"),
    (SET, {"result_backend": "celery.backends.redis:RedisBackend"}, f"{SET}.result_backend", "different Redis", ""),
    (SET, {"result_backend": "rpc://"}, f"{SET}.result_backend", "to a queue of the process", "django-db"),
    (SET, {"result_backend": "celery.backends.rpc:RPCBackend"}, f"{SET}.result_backend", "to a queue of the", "remove"),
    (SET, {"result_backend": "celery.backends.rpc.RPCBackend"}, f"{SET}.result_backend", "to a queue of the", "remove"),
    (SET, {"broker_use_ssl": False}, f"{SET}.broker_use_ssl", "turns off a check", "pki_source: external"),
    (SET, {"BROKER_USE_SSL": True}, f"{SET}.BROKER_USE_SSL", "turns off a check", "remove it"),
    (SET, {"redis_backend_use_ssl": None}, f"{SET}.redis_backend_use_ssl", "turns off a check", "remove it"),
    (SET, {"broker_use_ssl": {"ssl_cert_reqs": "none"}}, f"{SET}.broker_use_ssl.ssl_cert_reqs", "turns off", "remove"),
    (SET, {"broker_use_ssl": {"ssl_cert_reqs": 0}}, f"{SET}.broker_use_ssl.ssl_cert_reqs", "turns off", "remove"),
    (SET, {"redis_backend_use_ssl": {"ssl_cert_reqs": "CERT_OPTIONAL"}},
     f"{SET}.redis_backend_use_ssl.ssl_cert_reqs", "turns off a check", "remove it"),
    (SET, {"CELERY_REDIS_BACKEND_USE_SSL": {"ssl_check_hostname": False}},
     f"{SET}.CELERY_REDIS_BACKEND_USE_SSL.ssl_check_hostname", "turns off a check", "remove it"),
    (SET, {"broker_transport_options": {"sentinel_kwargs": {"socket_timeout": 5}}},
     f"{SET}.broker_transport_options.sentinel_kwargs", "log in to Sentinels", "remove it"),
    (SET, {"result_backend_transport_options": {"sentinel_kwargs": {"ssl": False}}},
     f"{SET}.result_backend_transport_options.sentinel_kwargs", "check their certificates", "remove it"),
    (SET, {"result_backend_transport_options": None},
     f"{SET}.result_backend_transport_options", "log in to Sentinels", "remove it"),
    # restarts
    ("celery_restart_min_capacity", 0, "celery_restart_min_capacity", "below 1", "from 1 to 100"),
    ("celery_restart_min_capacity", 101, "celery_restart_min_capacity", "above 100", "1 to 100"),
    ("celery_restart_min_capacity", "101", "celery_restart_min_capacity", "above 100", "1 to 100"),
    ("celery_restart_min_capacity", "50%", "celery_restart_min_capacity", "must be a whole", "whole"),
    ("celery_restart_batch", 0, "celery_restart_batch", "below 1", "1 or more"),
    ("verify_timeout", 0, "verify_timeout", "below 1", "seconds"),
    ("flower_start_timeout", -1, "flower_start_timeout", "below 1", "seconds"),
    ("celery_beat_max_loop_interval", 0, "celery_beat_max_loop_interval", "below 1", "seconds"),
    ("celery_release_keep", -1, "celery_release_keep", "below 0", "0 or more"),
    ("celery_restart_batch", [1], "celery_restart_batch", "a list, but must be a whole", "whole"),
    ("celery_restart_workers", ["analyticz"], "celery_restart_workers", "does not have", "analytics?"),
    ("celery_restart_workers", "discounts,zzz", "celery_restart_workers", "does not have", "choose from"),
    ("celery_restart_workers", {"a": 1}, "celery_restart_workers", "a mapping, but must be a list", "- item"),
    ("celery_restart_all", "maybe", "celery_restart_all", "must be a boolean", "true or false"),
    (f"{D}/overlap", "yes", f"{W}.discounts.overlap", "must be a boolean", "true or false"),
    (D, {"overlap": True, "pool": "solo"}, f"{W}.discounts.overlap", "pool solo", "prefork"),
    ("celery_app_delivery", "exactly_once", "celery_app_delivery", "none of the", "at_least_once"),
    # release commands
    (R, [{**MIGRATE, "umask": 0o27}], f"{R}[0].umask", "is not a umask", '"0027"'),
    (R, [{**MIGRATE, "umask": "rwx"}], f"{R}[0].umask", "is not a umask", '"0027"'),
    (R, {"migrate": []}, R, "a mapping, but must be a list", "- item"),
    (R, ["migrate"], f"{R}[0]", "a string, but must be a mapping", "name: migrate"),
    (R, [{"argv": ["x"]}], f"{R}[0].name", "is not set", "name the command"),
    (R, [MIGRATE | {"name": "mi.grate"}], f"{R}[0].name", "can't be the name", "letters, digits"),
    (R, [MIGRATE | {"name": "x" * 49}], f"{R}[0].name", "can't be the name", "48 at most"),
    (R, [MIGRATE | {"name": 5}], f"{R}[0].name", "can't be the name", "letters, digits"),
    (R, [MIGRATE, MIGRATE], f"{R}[1].name", "also the name of celery_release_commands[0]", "its own"),
    (R, [{"name": "a"}], f"{R}[0].argv", "is not set", "manage.py"),
    (R, [MIGRATE | {"argv": "python manage.py"}], f"{R}[0].argv", "a string, but must be a list", "manage.py"),
    (R, [MIGRATE | {"argv": []}], f"{R}[0].argv", "names no program", "manage.py"),
    (R, [MIGRATE | {"argv": ["sleep", 5]}], f"{R}[0].argv[1]", "a number, but must be a string", "quotes"),
    (R, [MIGRATE | {"argv": ["a", "b\0"]}], f"{R}[0].argv[1]", "NUL", "remove it"),
    (R, [MIGRATE | {"when": "releasee"}], f"{R}[0].when", "none of the allowed", "release?"),
    (R, [MIGRATE | {"hosts": "both"}], f"{R}[0].hosts", "none of the allowed", "one, all"),
    (R, [MIGRATE | {"timeout": 0}], f"{R}[0].timeout", "not a number of seconds", "as a number"),
    (R, [MIGRATE | {"timeout": "60"}], f"{R}[0].timeout", "not a number of seconds", "as a number"),
    (R, [MIGRATE | {"timeout": True}], f"{R}[0].timeout", "not a number of seconds", "as a number"),
    (R, [MIGRATE | {"tmeout": 5}], f"{R}[0].tmeout", "not a known key", "timeout?"),
    # schedule
    (f"{B}_policy", "replce", f"{B}_policy", "none of the allowed", "replace?"),
    (f"{B}_policy", "refuse", B, "has recompute, clean, history, but", "policy: add"),
    (f"{B}/off", {"enabled": True}, f"{B}.off.task", "is not set", "name the task"),
    ("celery_app_settings", {"timezone": "Europe/Berln"}, "celery_app_settings.timezone",
     "not a time zone", "Europe/Berlin?"),
    ("celery_app_settings", {"timezone": "CEST"}, "celery_app_settings.timezone", "not a time zone", "a city's"),
    ("celery_app_settings", {"timezone": "GMT+2"}, "celery_app_settings.timezone", "not a time zone", "a city's"),
    ("CELERY_BROKER_URL", "redis://x", "CELERY_BROKER_URL", "is a setting of Celery", "the fleet's own Redis"),
    ("celery_task_time_limit", 5, "celery_task_time_limit", "is a setting of Celery", "task_time_limit in"),
    ("CELERY_BEAT_SCHEDULE", {}, "CELERY_BEAT_SCHEDULE", "is a setting of Celery", "use celery_beat_schedule"),
    ("celery_app_module", "shop.celery.py", "celery_app_module", "not a module", "without .py"),
    ("celery_release_python", 3.9, "celery_release_python", "nor a version from 3.11 on", "such as 3.12"),
    (f"{D}/loglevel", "info", f"{W}.discounts.loglevel", "none of the allowed", "did you mean INFO?"),
    ("celery_app_broker_host", "redis://redis1", "celery_app_broker_host", "more than a host", "broker_port"),
    ("celery_app_broker_host", "redis1:6379", "celery_app_broker_host", "more than a host", "broker_port"),
    ("celery_app_broker_host", "cache.example.org", "celery_app_broker_host", "would refuse", "outside of the fleet"),
    (f"{B}/recompute/crontab", "0 2 * * mon", f"{B}.recompute.crontab", "a string, but must be",
     'write {minute: 0, hour: 2, day_of_week: "mon"}'),
    (f"{B}/recompute/crontab", "@daily", f"{B}.recompute.crontab", "but must be", 'as in {minute: 0, hour: "*/6"}'),
    (f"{B}/recompute/crontab", "0 25 * * *", f"{B}.recompute.crontab", "a string, but must be", "as in {minute: 0"),
    ("celery_app_settings", {"task_always_eager": True}, "celery_app_settings.task_always_eager",
     "no worker would ever", "remove it"),
    ("celery_beat_scheduler", "zookeeper", "celery_beat_scheduler", "not supported", "redbeat"),
    (f"{B}_on_edit", "rset", f"{B}_on_edit", "none of the allowed", "reset?"),
    (f"{B}_on_edit", "reset", f"{B}_on_edit", "only edits in a database", "database"),
    (f"{B}/clean", "0 2 * * *", f"{B}.clean", "a string, but must be a mapping", "crontab"),
    (f"{B}/clean/task", 5, f"{B}.clean.task", "not a task's name", "as Celery registers it"),
    (f"{B}/clean/tsk", "x", f"{B}.clean.tsk", "not a known key", "task?"),
    (f"{B}/clean/interval", 5, f"{B}.clean", "more than one time", "exactly one"),
    (f"{B}/history/interval", "1h", f"{B}.history.interval", "not a number of seconds", "as a number"),
    (f"{B}/history/interval", 0, f"{B}.history.interval", "not a number of seconds", "as a number"),
    (f"{B}/clean/crontab", "0 2 * * *", f"{B}.clean.crontab", "mapping of fields", "minute: 0"),
    (f"{B}/clean/crontab/minute", 60, f"{B}.clean.crontab.minute", "not from 0 to 59", "0 to 59"),
    (f"{B}/clean/crontab/minute", "1,abcdefgh-5", f"{B}.clean.crontab.minute", "has a part, which is no", "steps"),
    ("celery_app_module", 1, "celery_app_module", "not a module that", "with dots"),
    ("celery_app_name", 5, "celery_app_name", "can't be the name", "begin with"),
    (f"{B}/clean/crontab/minute", "*/x", f"{B}.clean.crontab.minute", "step 'x'", "steps"),
    (f"{B}/clean/crontab/day_of_week", 7, f"{B}.clean.crontab.day_of_week", "0 to 6", "Sunday is 0"),
    (f"{B}/clean/crontab/day", 1, f"{B}.clean.crontab.day", "not a field", "day_of"),
    (f"{B}/clean/crontab", {}, f"{B}.clean.crontab", "is empty", "at least one field"),
    (f"{B}/clean/crontab", {"minute": 0, "day_of_month": 30, "month_of_year": 2},
     f"{B}.clean.crontab", "never due", "change"),
    (f"{B}/clean/args", "x", f"{B}.clean.args", "a string, but must be a list", "as such"),
    (f"{B}/clean/kwargs", [], f"{B}.clean.kwargs", "a list, but must be a mapping", "as such"),
    (f"{B}/sun", {"task": "t", "queue": "analytics",
                  "solar": {"event": "sunsat", "latitude": 48, "longitude": 16}},
     f"{B}.sun.solar.event", "not a solar event", "sunset?"),
    (f"{B}/sun", {"task": "t", "queue": "analytics",
                  "solar": {"event": "sunset", "latitude": 91, "longitude": 16}},
     f"{B}.sun.solar.latitude", "-90 to 90", "degrees"),
    # queues
    (f"{B}/clean/queue", "maintenanc", f"{B}.clean.queue", "no enabled worker", "maintenance?"),
    (f"{B}/clean", {"task": "app.x", "interval": 9}, f"{B}.clean.queue", "default queue celery",
     "analytics, discounts, maintenance"),
    ("celery_app_task_routes/app.*", {"queue": "nowhere"},
     "celery_app_task_routes['app.*'].queue", "no enabled worker", "write one of"),
    ("celery_app_task_routes/app.*", "discounts", "celery_app_task_routes['app.*']",
     "a string, but must be a mapping", "{queue: …}"),
    ("celery_app_task_routes/app.*", None, "celery_app_task_routes['app.*']", "empty, but must be", "{queue: …}"),
    ("celery_app_task_routes/app.*", ["discounts"], "celery_app_task_routes['app.*']", "a list, but", "{queue: …}"),
    ("celery_app_task_routes/app.*", {"qqueue": "discounts"}, "celery_app_task_routes['app.*'].qqueue", "not a known",
     "queue?"),
    ("celery_app_task_routes/app.*", {"queue": ["discounts"]}, "celery_app_task_routes['app.*'].queue",
     "a list, but must be the name of a queue", "write the queue's name"),
    ("celery_app_task_routes/app.*", {"queue": ""}, "celery_app_task_routes['app.*'].queue", "not a queue", "begin"),
    ("celery_app_task_routes/app.*", {"exchange": "media", "routing_key": "media.film"},
     "celery_app_task_routes['app.*'].exchange", "drops such a task without an error", "add the queue"),
    ("celery_app_task_routes/app.*", {"queue": "discounts", "exchange": "all", "exchange_type": "fanout"},
     "celery_app_task_routes['app.*'].exchange_type", "a broadcast", "direct or topic"),
    (f"{B}/recompute/options", {"exchange": "media"}, f"{B}.recompute.options.exchange", "without a queue", "add the"),
    ("celery_app_settings", {"task_queues": {"news": {"exchange": "news", "exchange_type": "fanout"}}},
     "celery_app_settings.task_queues.news.exchange_type", "a broadcast", "direct or topic"),
    ("celery_app_settings", {"task_queues": {"news": {"expires": 60}}},
     "celery_app_settings.task_queues.news.expires", "sending fails", "remove it"),
    ("celery_app_settings", {"task_queues": {"news": {"queue_arguments": {"x-expires": 60}}}},
     "celery_app_settings.task_queues.news.queue_arguments.x-expires", "sending fails", "remove it"),
    ("celery_app_settings", {"beat_enable_remote_control": True},
     "celery_app_settings.beat_enable_remote_control", "may not have a mailbox", "celery-fleet status"),
    ("celery_app_settings", {"task_queues": ["news"]},
     "celery_app_settings.task_queues", "a list, but must be a mapping", "exchange"),
    ("celery_app_task_routes/app tasks", {"queue": "discounts"}, "celery_app_task_routes['app tasks']", "can't match",
     "as Celery registers it"),
    (f"{B}/clean/options", {"priorityy": 3}, f"{B}.clean.options.priorityy", "not an option that Celery", "priority?"),
    (f"{B}/history/interval", 1e300, f"{B}.history.interval", "longer than Python", "fewer"),
    (SET, {"task_default_queue": "maintenanc"}, f"{SET}.task_default_queue", "no enabled worker", "maintenance?"),
    (SET, {"task_default_queue": "zzz"}, f"{SET}.task_default_queue", "no enabled worker", "add it to a worker's"),
    (SET, {"task_default_queue": "a b"}, f"{SET}.task_default_queue", "not a queue name", "use only letters"),
    # secrets
    ("redis_passwords/worker", "", "redis_passwords.worker", "is empty", "openssl rand"),
    ("redis_passwords/worker", "CHANGE_ME", "redis_passwords.worker", "placeholder", "openssl"),
    ("redis_passwords/worker", "<your password>", "redis_passwords.worker", "placeholder", "openssl"),
    ("redis_passwords/worker", "REPLACE_WITH_32_CHARACTERS", "redis_passwords.worker",
     "placeholder", "openssl"),
    ("redis_passwords/worker", "s3cr3t", "redis_passwords.worker", "shorter than 16", "openssl"),
    ("redis_passwords/worker", "a blank within that is long", "redis_passwords.worker", "space", ""),
    ("redis_passwords/worker", "a-line-that-has-an-end\n", "redis_passwords.worker", "line end", ""),
    ("redis_passwords/worker", secret(1), "redis_passwords.beat", "same secret", "its own"),
    ("redis_passwords/workerr", secret(77), "redis_passwords.(a key that is not shown)",
     "not a known key", "worker?"),
    ("pki_ca_passphrase", "changeme", "pki_ca_passphrase", "placeholder", "openssl"),
    ("celery_app_secret_env/SECRET", "<fill in>", "celery_app_secret_env.SECRET", "placeholder", ""),
    ("celery_app_secret_env/DATABASE_URL", "postgresql://u:CHANGE_ME@db/shop",
     "celery_app_secret_env.DATABASE_URL", "placeholder", "real value"),
    ("celery_app_name", "multi-user", "celery_app_name", "already the name of units", "only this application"),
    ("celery_app_name", "soft-reboot", "celery_app_name", "already the name of units", "only this application"),
    ("celery_app_name", "celery-fleet", "celery_app_name", "already the name of units", "only this application"),
    ("celery_app_inventory_name", " ", "celery_app_inventory_name", "not the name of an owner", "environment"),
    # the application's environment
    (U, {"host": "db"}, "celery_app_env_urls.OTHER_URL.scheme", "is not set", "a string"),
    (U, {"scheme": "postgresql"}, "celery_app_env_urls.OTHER_URL.host", "is not set", "a string"),
    (U, {"scheme": "x", "host": "h", "hots": 1}, "celery_app_env_urls.OTHER_URL.(a key that is not shown)",
     "not a known key", "host?"),
    (U, {"scheme": "x://", "host": "h"}, "celery_app_env_urls.OTHER_URL.scheme", "not the scheme", "without ://"),
    (U, {"scheme": "x", "host": "h/db"}, "celery_app_env_urls.OTHER_URL.host", "not a host", "their own keys"),
    (U, {"scheme": "x", "host": "db1.example.com:5432"}, "celery_app_env_urls.OTHER_URL.host", "not a host",
     "their own keys"),
    (U, {"scheme": "x", "host": "10.0.0.1:5432"}, "celery_app_env_urls.OTHER_URL.host", "not a host", "their own keys"),
    (U, {"scheme": "x", "host": "h", "port": 0}, "celery_app_env_urls.OTHER_URL.port", "not a TCP port", "65535"),
    (U, {"scheme": "x", "host": "h", "query": {"a": {}}}, "celery_app_env_urls.OTHER_URL.query.a",
     "can't be the value of a URL", "a list"),
    (U, {"scheme": "x", "host": "h", "password": "CHANGE_ME"}, "celery_app_env_urls.OTHER_URL.password",
     "placeholder", "vault.yml"),
    (U, "postgresql://u:p@db/shop", "celery_app_env_urls.OTHER_URL", "a string, but must be a mapping", "key: value"),
    ("celery_app_env_urls/DEBUG", {"scheme": "x", "host": "h"}, "celery_app_env_urls.DEBUG",
     "is also in celery_app_env", "remove it here"),
    ("celery_app_env/DATABASE_URL", "x", "celery_app_env.DATABASE_URL", "is also in celery_app_secret", "remove"),
    ("celery_app_env_urls/DATABASE_URL", {"scheme": "x", "host": "h"}, "celery_app_env_urls.DATABASE_URL",
     "is also in celery_app_secret_env", "remove it here"),
    ("celery_app_env_urls/a-b", {"scheme": "x", "host": "h"}, "celery_app_env_urls.(a name that is not shown)",
     "name of an environment variable", "letters"),
    (f"{D}/environment", {"a-b": "x"}, f"{W}.discounts.environment.a-b", "name of an environment variable", "letters"),
    ("celery_worker_defaults", {"environment": {"": 1}}, f"{W}.discounts.environment['']",
     "name of an environment variable", "letters"),
    ("celery_producer_web/environment", {"1": "x"}, "celery_producer_web.environment.1", "name of an env", "letters"),
    ("celery_app_env/A", "a\x1bb", "celery_app_env.A", "control character", "base64"),
    ("celery_app_secret_env/A", "a\r\n", "celery_app_secret_env.A", "control character", "base64"),
    (f"{D}/environment", {"A": "\0"}, f"{W}.discounts.environment.A", "control character", "base64"),
    (IN, {"url": "packages.example.org/simple"}, f"{IN}.url", "not the URL of an HTTP server", "https://packages"),
    (IN, {"url": "https://me:hush@packages.example.org"}, f"{IN}.url", "contains a login", f"{IN}.logins"),
    (IN, {"url": "https://a/simple", "extra_urls": ["https://token@b/"]}, f"{IN}.extra_urls[0]", "contains a login",
     "remove it"),
    (IN, {"proxy": "proxy.example.org:3128"}, f"{IN}.proxy", "not the URL", "http://proxy.example.org:3128"),
    (IN, {"proxy": "http://a:b@proxy:3128"}, f"{IN}.proxy", "contains a login", f"{IN}.logins"),
    (IN, {"url": "https://a:x/simple"}, f"{IN}.url", "not the URL", "https://"),
    (IN, {"url": "https://a", "logins": [{"host": "b", "user": "u", "password": "p"}]}, f"{IN}.logins[0].host",
     "the host of no URL", "one of a"),
    (IN, {"url": "https://a", "logins": [{"host": "a", "user": "u", "password": "p"}] * 2}, f"{IN}.logins[1].host",
     "two logins", "one of them"),
    (IN, {"url": "https://a", "logins": [{"host": "a", "user": "u", "password": "p\nq"}]}, f"{IN}.logins[0].password",
     "more than one line", "as the service gives it"),
    (IN, {"url": "https://a", "logins": [{"host": "a", "user": "u"}]}, f"{IN}.logins[0].password", "", ""),
    (IN, {"ca": "/etc/ssl/ca.pem"}, f"{IN}.ca", "not in PEM form", "lookup('file'"),
    (IN, {"client_certificate": PEM("CERTIFICATE")}, f"{IN}.client_certificate", "lacks PRIVATE KEY", "lookup"),
    (IN, {"client_certificate": PEM("CERTIFICATE") + PEM("ENCRYPTED PRIVATE KEY")},
     f"{IN}.client_certificate", "encrypted key", "without a passphrase"),
    ("celery_app_env/HOSTS", ["a", "b"], "celery_app_env.HOSTS", "a list, but must be a string", "JSON in quotes"),
    ("celery_app_env/MAP", {"a": 1}, "celery_app_env.MAP", "a mapping, but must be a string", "JSON in quotes"),
    ("celery_app_secret_env/HOSTS", ["a"], "celery_app_secret_env.HOSTS", "a list, but must be a string", "a,b"),
    (f"{D}/environment", {"A": []}, f"{W}.discounts.environment.A", "a list, but must be a string", "a,b"),
    ("celery_producer_web/environment", {"A": {}}, "celery_producer_web.environment.A", "a mapping, but", "a,b"),
    ("celery_app_env/PYTHONPATH", "/srv/lib", "celery_app_env.PYTHONPATH", "has no effect",
     "celery_app_source.directory"),
    ("celery_app_secret_env/CELERY_BROKER_URL", "redis://h/0", "celery_app_secret_env.CELERY_BROKER_URL",
     "has no effect", "in its settings"),
    ("celery_app_env_urls/CELERY_RESULT_BACKEND", {"scheme": "redis", "host": "h"},
     "celery_app_env_urls.CELERY_RESULT_BACKEND", "has no effect", "remove it"),
    (f"{D}/environment", {"CELERY_LOADER": "app"}, f"{W}.discounts.environment.CELERY_LOADER",
     "has no effect", "loader"),
    ("celery_producer_web/environment", {"CELERY_FLEET_ARGS": "x"},
     "celery_producer_web.environment.CELERY_FLEET_ARGS", "has no effect", "the fleet's own"),
    ("celery_app_env/1ST", "x", "celery_app_env.1ST", "name of an environment variable", "letters"),
    ("celery_release_build_packages", ["gcc", "-oAPT::x=y"], "celery_release_build_packages[1]", "not the name",
     "libpq-dev"),
    ("celery_release_build_packages", ["g++", "sudo-"], "celery_release_build_packages[1]", "not the name",
     "libpq-dev"),
    # what the sandbox hides
    ("celery_release_python", "/home//python3", "celery_release_python", "below /home", "one below /opt"),
    ("celery_release_python", "/opt/../root", "celery_release_python", "below /root", "/usr/bin/python3"),
    ("celery_release_python", "/tmp/python3", "celery_release_python", "PrivateTmp=", "below /opt"),
    ("celery_release_python", "python3.12", "celery_release_python", "neither a path", "/usr/bin/python3"),
    (f"{D}/read_write_paths", ["/srv/a", '/srv/"b'], f"{W}.discounts.read_write_paths[1]", "quotation mark", "rename"),
    (f"{D}/read_write_paths", ["/srv/a\nUser=root"], f"{W}.discounts.read_write_paths[0]",
     "control character", "rename"),
    (f"{D}/read_write_paths", ["srv/a"], f"{W}.discounts.read_write_paths[0]", "not an absolute path", "with /"),
    # logs
    ("celery_app_log_format", "%(message)s %(task_name)s", "celery_app_log_format", "'task_name'", "%(asctime)s"),
    ("celery_app_task_log_format", "%(messages)s", "celery_app_task_log_format", "'messages'", "%(asctime)s"),
    ("celery_app_log_format", "%(levelname)d", "celery_app_log_format", "is required", "%(asctime)s"),
    ("celery_app_log_format", "no field", "celery_app_log_format", "nvalid format", "%(asctime)s"),
    ("celery_app_log_rotate", {"keep": 0}, "celery_app_log_rotate.keep", "lose lines", "at least 1"),
    ("celery_app_log_rotate", {"size": "100 MB"}, "celery_app_log_rotate.size", "not a size", "100M"),
    ("celery_app_log_rotate", {"when": "hourly"}, "celery_app_log_rotate.when", "none of the allowed", "daily"),
    ("celery_app_log_destination", "syslog", "celery_app_log_destination", "none of the allowed", "journal"),
    # the visibility timeout compared with what a worker can hold
    ("celery_app_visibility_timeout", 3600, "celery_app_visibility_timeout", "second time", "9000"),
    # source
    (S, {}, S, "none of path", "exactly one"),
    (S, {"path": "a", "git": "https://x/y"}, S, "path and git", "exactly one"),
    (S, {"git": "not an address"}, f"{S}.git", "not the address", "https://"),
    (S, {"git": "--upload-pack=x"}, f"{S}.git", "not the address", "https://"),
    (S, {"git": "https://ghp_token@github.com/a/b"}, f"{S}.git", "contains a login", "credential helper"),
    (S, {"git": "https://me:hush@github.com/a/b"}, f"{S}.git", "contains a login", "SSH key"),
    (S, {"git": "ssh://git:hush@github.com/a/b"}, f"{S}.git", "contains a login", "SSH key"),
    (S, {"path": "~nobody-of-that-name/x"}, f"{S}.path", "does not exist", str(ROOT)),
    (S, {"path": "no/such/place"}, f"{S}.path", "does not exist", str(ROOT)),
    (f"{S}/directory", "backend", f"{S}.directory", "not a directory of", "its directories: app"),
    (S, {"git": "https://example.org/a", "version": 1.1}, f"{S}.version", "YAML changes numbers", "in quotes"),
    (f"{S}/directory", "../x", f"{S}.directory", "leads outside", "without .."),
    (f"{S}/requirements", "req.txt", f"{S}.requirements", "does not have", "name the one"),
    ("celery_app_module", "app.celery", "celery_app_module", "not below", "celery_app_source"),
    (S, {"pip": "shop=1.2"}, f"{S}.pip", "not the name of a package with its version", "shop==1.2"),
    (S, {"pip": "shop @ https://a/shop.whl"}, f"{S}.pip", "not the name of a package with its version", "shop==1.2"),
    (S, {"pip": "shop==1.2", "requirements": "no/lock.txt"}, f"{S}.requirements", "does not exist", str(ROOT)),
    (S, {"pip": "shop==1.2", "directory": "backend"}, f"{S}.directory", "no effect with pip", "remove it"),
    (S, {"archive": "no/such.tar"}, f"{S}.archive", "not a file", str(ROOT)),
    (S, {"archive": "ftp://a/b.tar.gz"}, f"{S}.archive", "neither the URL", "https://"),
    (S, {"archive": "https://a/b.tar.gz"}, f"{S}.sha256", "is not set", "`sha256sum`"),
    (S, {"archive": "https://me:hush@a/b.tar.gz", "sha256": "0" * 64}, f"{S}.archive", "contains a login", "~/.netrc"),
    (S, {"archive": "https://a/b.tar.gz", "sha256": "0" * 40}, f"{S}.sha256", "not a SHA-256", "64 hexadecimal"),
    (f"{S}/sha256", "0" * 64, f"{S}.sha256", "no effect with path", "remove it"),
    (f"{S}/extras", ["a"], f"{S}.extras", "not a lock", "pyproject.toml"),
    # network
    ("redis_broker_port", 70000, "redis_broker_port", "not a TCP port", "1 to 65535"),
    ("redis_broker_maxmemory", "256 MB", "redis_broker_maxmemory", "not a memory limit", "256mb"),
    ("redis_broker_maxmemory", 0, "redis_broker_maxmemory", "no limit at all", "256mb"),
    ("redis_broker_maxmemory", "256", "redis_broker_maxmemory", "full at once", "did you mean 256mb?"),
    ("redis_broker_maxmemory", 256, "redis_broker_maxmemory", "full at once", "without a unit is bytes"),
    ("redis_results_maxmemory", "1mb", "redis_results_maxmemory", "full at once", "256mb or 2gb"),
    ("flower_auth_user", "a:b", "flower_auth_user", "could log in", "as in admin"),
    ("flower_auth_user", "a,b", "flower_auth_user", "could log in", "as in admin"),
    ("flower_auth_user", "", "flower_auth_user", "could log in", "as in admin"),
    ("celery_producer_web_auth_user", "#x", "celery_producer_web_auth_user", "could log in", ""),
    ("flower_url_prefix", "/a b/", "flower_url_prefix", "not a path within", "as in flower"),
    ("flower_url_prefix", "admin", "flower_url_prefix", "contains /admin/", "another prefix"),
    (P, ["admin/"], f"{P}[0]", "would protect nothing", "as in /admin/"),
    (P, ["/admin/", "/api/admin/*"], f"{P}[1]", "would protect nothing", "without wildcards"),
    (P, ["/admin?x=1"], f"{P}[0]", "would protect nothing", "from the root"),
    (P, ["/admin%2F"], f"{P}[0]", "would protect nothing", "decoded"),
    (P, ["//admin"], f"{P}[0]", "would protect nothing", ""),
    (P, ["/a/../admin"], f"{P}[0]", "would protect nothing", ""),
    (P, ["/admin/."], f"{P}[0]", "would protect nothing", ""),
    (P, ["/a b/"], f"{P}[0]", "would protect nothing", ""),
    (P, ["/a; }"], f"{P}[0]", "would protect nothing", ""),
    (P, ["/admin/", "/admin/"], f"{P}[1]", "is there twice", "once"),
    ("flower_port", 443, "celery_producer_web_port", "port of flower_port", "another"),
]  # fmt: skip


# Mistakes that only matter if the schedule is in a database.
DATABASE = [
    (
        f"{B}/{'x' * 201}",
        {"task": "t", "interval": 5, "queue": "analytics"},
        f"{B}['{'x' * 201}']",
        "201 characters",
        "",
    ),
    (f"{B}/clean/task", "t" * 201, f"{B}.clean.task", "the database only stores 200", "shorter"),
    (
        f"{B}/clean/crontab/day_of_week",
        ",".join("0" * 33),
        f"{B}.clean.crontab.day_of_week",
        "only stores 64",
        "shorter",
    ),
    (f"{B}/history/interval", 1e-7, f"{B}.history.interval", "can't store", "round it"),
    (f"{B}/history/interval", 2147.500001, f"{B}.history.interval", "can't store", "round it"),
    (
        f"{B}/clean/options",
        {"compression": "gzip"},
        f"{B}.clean.options.compression",
        "can't store",
        "priority",
    ),
    (
        f"{B}/clean/options",
        {"expires": 1.5},
        f"{B}.clean.options.expires",
        "whole number",
        "as a number",
    ),
    (
        "celery_app_settings",
        {"beat_scheduler": "x"},
        "celery_app_settings.beat_scheduler",
        "no meaning",
        "remove it",
    ),
]


@pytest.mark.parametrize(("path", "value", "variable", "message", "remedy"), DATABASE)
def test_an_entry_that_the_database_cannot_hold_is_refused(
    variables: Variables, path: str, value: Any, variable: str, message: str, remedy: str
) -> None:
    given = changed(variables, path, value)
    assert problems(given) == []
    found = only(problems({**given, "celery_beat_scheduler": "database"}))
    # Messages shorten a long name.
    assert found.variable[:50] == variable[:50]
    assert found.severity is Severity.ERROR
    assert message in found.message
    assert remedy in found.remedy


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_database_gets_time_to_answer(variables: Variables, seconds: Any) -> None:
    name = "celery_beat_schedule_timeout"
    given = {**variables, "celery_beat_scheduler": "database", name: seconds}
    assert "60 is the default" in only(problems(given)).remedy
    assert problems({**given, name: 1}) == []


@pytest.mark.parametrize("name", ["beat_scheduler", "redbeat_redis_url", "redbeat_lock_timeout"])
def test_a_schedule_on_the_broker_has_no_settings_of_its_own(
    variables: Variables, name: str
) -> None:
    given = {**variables, "celery_beat_scheduler": "redbeat"}
    assert problems(given) == []
    found = [
        one.variable
        for one in problems({**given, "celery_app_settings": {name: "x"}})
        if "celery_beat_scheduler is redbeat" in one.message
    ]
    assert found == [f"celery_app_settings.{name}"]


def test_a_schedule_on_the_broker_has_no_sun(variables: Variables) -> None:
    entry = {
        "task": "t",
        "solar": {"event": "sunset", "latitude": 1, "longitude": 2},
        "queue": "analytics",
    }
    given = changed(variables, f"{B}/evening", entry)
    assert problems(given) == []
    found = only(problems({**given, "celery_beat_scheduler": "redbeat"}))
    assert found.variable == "celery_beat_schedule.evening.solar"


def test_edits_are_kept_only_in_a_database(variables: Variables) -> None:
    given = {**variables, "celery_beat_schedule_on_edit": "reset"}
    for scheduler in ("persistent", "redbeat"):
        found = only(problems({**given, "celery_beat_scheduler": scheduler}))
        assert f"celery_beat_scheduler is {scheduler}" in found.message


def test_a_schedule_in_a_database_is_accepted(variables: Variables) -> None:
    given = {
        **variables,
        "celery_beat_scheduler": "database",
        "celery_beat_schedule_on_edit": "reset",
    }
    entry = {"task": "t", "interval": 0.5, "queue": "analytics", "options": {"expires": 60}}
    assert problems(changed(given, f"{B}/Sync All Suppliers", entry)) == []


@pytest.mark.parametrize(
    ("path", "value", "variable", "message", "remedy"),
    ERRORS,
    ids=[f"{e[0]}={e[1]}" for e in ERRORS],
)
def test_a_mistake_is_refused(
    variables: Variables, path: str, value: Any, variable: str, message: str, remedy: str
) -> None:
    found = problems(changed(variables, path, value))
    fitting = [problem for problem in found if problem.variable == variable]
    assert fitting, text_of(found)
    assert any(
        message in problem.message
        and remedy in problem.remedy
        and problem.severity is Severity.ERROR
        for problem in fitting
    ), text_of(found)


def test_an_index_without_encryption_is_a_warning(variables: Variables) -> None:
    found = only(problems({**variables, IN: {"url": "http://packages.example.org/simple"}}))
    assert found.severity is Severity.WARNING
    assert "replace packages" in found.message


def test_an_index_with_all_options_is_accepted(variables: Variables) -> None:
    index = {
        "url": "https://packages.example.org:8443/simple",
        "extra_urls": ["https://pypi.org/simple"],
        "proxy": "http://proxy.example.org:3128",
        "ca": PEM("CERTIFICATE"),
        "client_certificate": PEM("CERTIFICATE") + PEM("PRIVATE KEY"),
        "logins": [
            {"host": "packages.example.org", "user": "u", "password": "p"},
            {"host": "proxy.example.org", "user": "u", "password": "p"},
        ],
    }
    assert problems({**variables, IN: index}) == []


def test_two_redis_instances_with_the_same_port_are_refused(variables: Variables) -> None:
    found = problems({**variables, "redis_results_port": 6379})
    assert "port of redis_broker_port" in found[0].message
    assert found[0].hosts == ("redis1",)


def test_clients_with_other_ports_than_redis_are_refused(variables: Variables) -> None:
    found = only(problems(variables, hosts={"redis1": {"redis_broker_port": 7000}}))
    assert (found.variable, found.value) == ("redis_broker_port", "7000")
    assert "write celery_app_broker_port: 7000 for all hosts instead" in found.remedy
    assert problems({**variables, "celery_app_broker_port": 7000}) == []


def test_ports_of_redis_and_clients_that_are_both_set_and_differ(variables: Variables) -> None:
    found = only(problems({**variables, "redis_broker_port": 7000, "celery_app_broker_port": 7001}))
    assert found.variable == "redis_broker_port"
    assert found.remedy.startswith("set both to the same port, or only celery_app_broker_port")


def test_a_port_that_only_some_clients_have(variables: Variables) -> None:
    found = only(problems(variables, hosts={"worker1": {"celery_app_results_port": 7000}}))
    assert (found.variable, found.hosts) == ("celery_app_results_port", ("worker1",))
    assert "also for redis1" in found.remedy


@pytest.mark.parametrize(
    "name",
    ["celery_app_name", "redis_passwords", W, "pki_ca_passphrase", S, "flower_cookie_secret"],
)
def test_a_missing_required_variable_is_named(variables: Variables, name: str) -> None:
    del variables[name]
    found = [problem for problem in problems(variables) if problem.variable == name]
    assert "is not set" in only(found).message


@pytest.mark.parametrize(
    ("name", "host"), [("redis_passwords", "redis1"), (W, "worker1")], ids=["passwords", "workers"]
)
def test_a_variable_that_all_hosts_read_is_not_only_for_its_group(
    variables: Variables, name: str, host: str
) -> None:
    value = variables.pop(name)
    every = problems(variables, hosts={host: {name: value}})
    found = only([problem for problem in every if problem.variable == name])
    assert found.message == "is not set; all hosts of the fleet need it"
    assert host not in found.hosts
    assert len(found.hosts) >= 2


def test_protected_paths_need_a_password(variables: Variables) -> None:
    del variables["celery_producer_web_auth_password"]
    assert "protected_paths" in only(problems(variables)).message


def test_a_list_allows_own_variables(variables: Variables) -> None:
    variables |= {"redis_exporter_port": 1, "pki_zone": 2, "flower_shop": 3}
    assert len(problems(variables)) == 3
    variables["preflight_allowed_variables"] = ["redis_exporter_*", "pki_zone", "flower_shop"]
    assert problems(variables) == []


@pytest.mark.parametrize(
    ("groups", "variable", "message"),
    [
        ({"fleet": []}, "fleet", "without hosts"),
        ({"celery_workers": []}, "celery_workers", "without hosts"),
        ({"redis": []}, "redis", "celery_app_broker_url is not set"),
        ({"redis": ["redis1", "worker1"]}, "redis", "only replaced by a majority"),
        ({"redis": ["redis1", "other"]}, "redis", "not in fleet"),
        ({"celery_beat": []}, "celery_beat", "nothing would send them"),
        ({"celery_producers": []}, "celery_producers", "nothing would run it"),
        ({"flower": ["control1", "other"]}, "flower", "not in fleet"),
        ({"celery_worker": ["worker3"]}, "celery_worker", "looks like the group celery_workers"),
        ({"flowers": ["worker1"]}, "flowers", "looks like the group flower"),
        ({"fleet": [*GROUPS["fleet"], "idle1"]}, "fleet", "nothing would run there"),
    ],
)
def test_mistakes_in_groups_are_refused(
    variables: Variables, groups: dict[str, list[str]], variable: str, message: str
) -> None:
    found = problems(variables, groups={**GROUPS, **groups})
    assert any(one.variable == variable and message in one.message for one in found), text_of(found)


@pytest.mark.parametrize(
    "groups",
    [
        # A subgroup of ours, a similar name elsewhere, and names that belong to no group of ours.
        {"flowers": ["control1"]},
        {"redis2": ["cache1"], "redis_9": ["cache2"]},
        {"databases": ["db1"], "workers": ["worker9"]},
    ],
)
def test_other_groups_are_accepted(variables: Variables, groups: dict[str, list[str]]) -> None:
    assert problems(variables, groups={**GROUPS, **groups}) == []


def test_a_hosts_name_must_fit_into_its_certificate(variables: Variables) -> None:
    for name, good in (("h" * 64, True), ("h" * 65, False), ("a b", False)):
        groups = {
            group: [name if host == "worker2" else host for host in hosts]
            for group, hosts in GROUPS.items()
        }
        found = [one.variable for one in problems(variables, groups=groups)]
        assert ("inventory_hostname" in found) != good


def test_a_machine_with_two_names_is_refused(variables: Variables) -> None:
    twice = {**ADDRESSES, "worker2": ADDRESSES["worker1"]}
    one = only(problems(variables, twice))
    assert (one.variable, one.value, one.hosts) == ("ansible_host", "10.1.0.2", ("worker2",))
    assert "address of worker1" in one.message
    # Addresses are compared in every notation.
    long = {"worker1": {"ansible_host": "FD00:0::1"}, "worker2": {"ansible_host": "fd00::1"}}
    assert only(problems(variables, long)).hosts == ("worker2",)
    # Names are compared, too; but another port of a machine that forwards is allowed, and so is the control node
    # itself.
    assert only(problems(variables, {"worker2": {"ansible_host": "Worker1"}})).hosts == ("worker2",)
    twice["worker2"] = {**ADDRESSES["worker1"], "ansible_port": 2202}
    assert problems(variables, twice) == []
    here = {"ansible_connection": "local", "ansible_host": "10.1.0.2"}
    assert problems(variables, {**ADDRESSES, "worker2": here}) == []


def test_a_host_without_an_address_is_named_if_all_others_have_one(variables: Variables) -> None:
    given = {name: address for name, address in ADDRESSES.items() if name != "worker2"}
    one = only(problems(variables, given))
    assert (one.variable, one.hosts, one.severity) == (
        *("ansible_host", ("worker2",)),
        Severity.WARNING,
    )
    del given["worker1"]
    assert problems(variables, given) == []


def test_files_for_unknown_groups_and_hosts_are_named(variables: Variables, tmp_path: Path) -> None:
    for name in (
        "celery_worker.yml",
        "fleet/vault.yml",
        "all.yml",
        ".x.yml",
        "README.md",
        "prod/a.yml",
        "workers.yml",
    ):
        path = tmp_path / "group_vars" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "host_vars/worker11").mkdir(parents=True)
    (tmp_path / "host_vars/contol1.yml").touch()
    els = "Otherwise rename or remove it, or add the {}"
    found = problems({**variables, "inventory_dir": str(tmp_path)})
    assert {(one.variable, one.severity, one.remedy) for one in found} == {
        (
            "group_vars/celery_worker",
            Severity.ERROR,
            "did you mean celery_workers? " + els.format("group"),
        ),
        (
            "group_vars/workers",
            Severity.ERROR,
            "did you mean celery_workers? " + els.format("group"),
        ),
        ("group_vars/prod", Severity.WARNING, "rename or remove it, or add the group"),
        # One is for a removed host, the other for a misspelt one.
        ("host_vars/worker11", Severity.WARNING, "rename or remove it, or add the host"),
        ("host_vars/contol1", Severity.WARNING, "did you mean control1? " + els.format("host")),
    }


def test_files_that_ansible_does_not_read_are_warned_of(
    variables: Variables, tmp_path: Path
) -> None:
    unread = {
        "group_vars/celery_workers.yml.txt",
        "group_vars/redis.YML",
        "group_vars/all/limits.YML",
        "group_vars/all/more/limits.yml.new",
        "group_vars/all/limits.d/one.yml",
        "host_vars/worker1/limits.conf",
    }
    for name in (
        *unread,
        "group_vars/all/limits.yml",
        "group_vars/all/more/limits.yaml",
        "group_vars/all/limits",
        "group_vars/all/.limits.yml.swp",
        "group_vars/all/limits.yml~",
        "group_vars/README.txt",
        *(
            f"group_vars/all/limits.yml{end}"
            for end in (".bak", ".orig", ".swp", ".md", ".example")
        ),
        "host_vars/worker2.example.org",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    given = {**variables, "inventory_dir": str(tmp_path)}
    groups = {**GROUPS, "others": ["worker2.example.org"]}
    found = problems(given, groups=groups)
    assert {one.severity for one in found} == {Severity.WARNING}
    assert {one.variable for one in found} == {
        "group_vars/all/limits.d" if name.endswith("one.yml") else name for name in unread
    }
    assert "move it out of group_vars" in found[0].remedy
    loader = DataLoader()
    read = {
        str(Path(path).relative_to(tmp_path))
        for folder, names in (("group_vars", groups), ("host_vars", groups["all"]))
        for name in names
        for path in loader.find_vars_files(str(tmp_path / folder), name)
    }
    assert {"group_vars/all/limits.yml", "group_vars/all/more/limits.yaml"} < read
    assert not read & unread


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        ("redis_passwords: {worker: x}\n", True),
        ("$ANSIBLE_VAULT;1.1;AES256\n3132\n", False),
        ("redis_passwords:\n  worker: !vault |\n    $ANSIBLE_VAULT;1.1;AES256\n", False),
        ("token: \"{{ lookup('pipe', 'pass show token') }}\"\n", False),
        ("---\n# nothing yet\n", False),
    ],
)
def test_an_unencrypted_vault_only_warns(
    variables: Variables, tmp_path: Path, text: str, is_plain: bool
) -> None:
    vault = tmp_path / "group_vars/all/vault.yml"
    vault.parent.mkdir(parents=True)
    vault.write_text(text)
    found = problems({**variables, "inventory_dir": str(tmp_path)})
    told = [(one.variable, one.message, one.remedy, one.severity) for one in found]
    wanted = (
        "group_vars/all/vault.yml",
        "is not encrypted",
        f"ansible-vault encrypt {vault}",
        Severity.WARNING,
    )
    assert told == ([wanted] if is_plain else [])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SECRET_KEY", "k7", "looks like a secret by its name"),
        ("DB_PASSWORD", "k7", "looks like a secret by its name"),
        ("SENTRY_TOKEN", "k7", "looks like a secret by its name"),
        ("AWS_SECRET_ACCESS_KEY", "k7", "looks like a secret by its name"),
        ("DATABASE_URL", "postgresql://shop:k7@db/shop", "is a URL with a password in it"),
        ("DATABASE_URL", "postgresql://db/shop", ""),
        ("COMPASS_URL", "https://example.org", ""),
        ("MAX_TOKENS", "4096", ""),
        ("USE_TOKEN", "true", ""),
        ("DB_PASSWORD_FILE", "/run/secrets/db", ""),
        ("API_KEY", "/etc/shop/key", ""),
        ("AUTH_PASSWORD_VALIDATORS", "none of them", ""),
    ],
)
@pytest.mark.parametrize(
    "path", ["celery_app_env", f"{D}/environment", "celery_producer_web/environment"]
)
def test_secrets_in_plain_variables_only_warn(
    variables: Variables, path: str, name: str, value: str, message: str
) -> None:
    # A name that is in both environments is refused.
    given = changed({**variables, "celery_app_secret_env": {}}, path, {name: value})
    found = problems(given)
    if not message:
        assert found == []
        return
    one = only(found)
    assert (one.variable, one.severity) == (f"{path.replace('/', '.')}.{name}", Severity.WARNING)
    assert message in one.message
    assert "celery_app_secret_env" in one.remedy
    assert "k7" not in report.line(one, GROUPS, GROUPS["fleet"])


@pytest.mark.parametrize(
    "name", ["redis_port", "firewall_allowed_tcp_ports", "verify_ssl", "pki_dir", "flower_version"]
)
def test_variables_of_other_roles_only_warn(variables: Variables, name: str) -> None:
    one = only(problems({**variables, name: 1}))
    assert (one.variable, one.severity) == (name, Severity.WARNING)
    assert "did you mean" not in one.remedy
    assert "preflight_allowed_variables" in one.remedy


def test_misspelt_names_are_errors(variables: Variables) -> None:
    for name in ("redis_pasword", "flowr_port", "celery_worker_instance"):
        one = only(problems({**variables, name: "x"}))
        assert one.severity is Severity.ERROR
        assert "did you mean" in one.remedy
        assert "preflight_allowed_variables" in one.remedy


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("celery_app_secret_env/API_TOKEN", "celery_app_secret_env.API_TOKEN"),
        ("celery_app_secret_env/API_TOKEN", "celery_app_secret_env.*"),
        ("celery_app_env_urls/OTHER_URL/password", "celery_app_env_urls.OTHER_URL.password"),
        ("redis_passwords/worker", "redis_passwords.worker"),
    ],
)
def test_a_value_that_looks_like_a_placeholder_is_allowed_by_name(
    variables: Variables, path: str, allowed: str
) -> None:
    given = changed(variables, path, "change-me-said-nobody")
    assert "preflight_allowed_placeholders" in only(problems(given)).remedy
    assert problems({**given, "preflight_allowed_placeholders": [allowed]}) == []
    assert len(problems({**given, "preflight_allowed_placeholders": ["another"]})) == 1


@pytest.mark.parametrize(
    "source",
    [
        {"pip": "shop[web]==1.2", "extras": ["mail"]},
        {"archive": "https://packages.example.org/shop-1.2.tar.gz", "sha256": "0" * 64},
    ],
)
def test_a_source_of_another_kind_passes(variables: Variables, source: dict[str, Any]) -> None:
    assert problems({**variables, S: source, "celery_app_module": "shop.celery"}) == []


def test_a_run_that_goes_back_needs_no_source(variables: Variables) -> None:
    variables["celery_app_source"] = {"archive": "dist/shop.tar.gz"}
    assert only(problems(variables)).variable == "celery_app_source.archive"
    back = Control("2.19.14", "3.11.2", ROOT, needs_source=False)
    assert problems(variables, control=back) == []


def test_a_package_without_a_version_is_a_warning(variables: Variables) -> None:
    found = only(problems({**variables, S: {"pip": "shop>=1.2"}}))
    assert (found.variable, found.severity) == (f"{S}.pip", Severity.WARNING)
    assert "shop==1.2" in found.remedy


def test_a_module_that_only_a_package_can_have_is_a_warning(
    variables: Variables, tmp_path: Path
) -> None:
    found = only(problems({**variables, "celery_app_module": "shop_core.celery:app"}))
    assert (found.variable, found.severity) == ("celery_app_module", Severity.WARNING)
    assert "a package in the requirements must provide it" in found.message
    # There is no warning if the requirements list it.
    (tmp_path / "source/requirements.txt").write_text("Shop.Core[web]==1.2\n")
    assert problems({**variables, "celery_app_module": "shop_core.celery:app"}) == []


@pytest.mark.parametrize("python", [3.12, "3.11", "/opt/python3"])
def test_an_interpreter_is_a_path_or_a_version(variables: Variables, python: object) -> None:
    assert problems({**variables, "celery_release_python": python}) == []


def test_code_from_git_needs_a_version(variables: Variables) -> None:
    address = "https://git.example.org/team/shop.git"
    one = only(problems({**variables, S: {"git": address}}))
    assert (one.variable, one.severity) == (f"{S}.version", Severity.WARNING)
    assert problems({**variables, S: {"git": address, "version": "v1"}}) == []


def test_braces_in_a_secret_have_a_remedy(variables: Variables) -> None:
    one = only(
        problems(changed(variables, "celery_app_secret_env/KEY", trusted("a{{ notjinja }}")))
    )
    assert one.remedy == (
        "define notjinja for the host; or, if the braces are part of the secret, put !unsafe before it"
    )


def test_a_network_with_an_invalid_mask_is_refused(variables: Variables) -> None:
    one = only(problems({**variables, "firewall_redis_clients": ["10.0.0.0/33"]}))
    assert "mask" in one.message
    assert "resolved" not in one.message


def test_a_misspelt_host_in_a_group_is_named(variables: Variables) -> None:
    groups = {**GROUPS, "celery_workers": ["wroker1", "worker2"]}
    groups["fleet"] = [*GROUPS["fleet"], "wroker1"]
    found = problems(variables, groups=groups)
    assert any(
        "wroker1, which is in a group, may be worker1 misspelt" in one.remedy for one in found
    )


def test_a_missing_mapping_is_named_with_its_keys(variables: Variables) -> None:
    del variables["redis_passwords"]
    remedy = only(problems(variables)).remedy
    assert "a mapping with worker, beat, producer, flower, operator, admin)" in remedy


def test_addresses_in_a_file_next_to_the_given_one_are_found(
    variables: Variables, tmp_path: Path
) -> None:
    (tmp_path / "hosts.yml").write_text("fleet: {}\n")
    given = {
        **variables,
        "preflight_hosts_hint": "run make demo",
        "inventory_file": str(tmp_path / "hosts.yml"),
    }
    assert only(problems(given)).remedy == "run make demo"
    (tmp_path / "demo.yml").write_text("fleet: {hosts: {a: {ansible_host: b}}}\n")
    assert only(problems(given)).remedy == (
        f"demo.yml beside it has addresses; use the whole directory, -i {tmp_path}. Otherwise: run make demo"
    )


def test_the_right_name_of_a_misspelt_group_is_suggested(variables: Variables) -> None:
    groups = {**GROUPS, "celery_worker": GROUPS["celery_workers"]}
    del groups["celery_workers"]
    found = problems(variables, groups=groups)
    assert any("the group celery_worker is, rename it to" in problem.remedy for problem in found)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("celery_workers", "workers"), ("celery_beat", "beat"), ("redis", "redis_servers")],
)
def test_the_right_name_of_a_group_with_a_word_too_many_or_few_is_suggested(
    variables: Variables, ours: str, theirs: str
) -> None:
    groups = {theirs if name == ours else name: hosts for name, hosts in GROUPS.items()}
    found = {one.variable: one.remedy for one in problems(variables, groups=groups)}
    assert found[ours].startswith(f"if that is what the group {theirs} is, rename it to {ours}")


RENAMED = {"fleet_groups": {"fleet": "shop", "redis": "celery_redis"}}
THEIRS = {"fleet": "shop", "redis": "celery_redis"}


def test_renamed_groups_may_exist_together_with_groups_of_our_names(variables: Variables) -> None:
    groups = {THEIRS.get(name, name): hosts for name, hosts in GROUPS.items()}
    groups |= {"fleet": ["van1"], "redis": ["cache1", "cache2"]}
    found = model({**variables, **RENAMED}, groups=groups)
    assert found.members("redis") == ("redis1",)
    assert list(found.hosts) == GROUPS["fleet"]
    assert check(found) == []


@pytest.mark.parametrize(
    ("given", "hosts", "variable", "message"),
    [
        ({"redis": "celery_redis"}, None, "celery_redis", "is a group that the inventory lacks"),
        ({"celery_beat": "redis"}, None, "fleet_groups", "one group for redis and celery_beat"),
        ({"reddis": "x"}, None, "fleet_groups.reddis", "is not a known key"),
        ({"redis": ["x"]}, None, "fleet_groups.redis", "is a list"),
        ({}, {"worker1": {"fleet_groups": {"redis": "x"}}}, "fleet_groups", "first host"),
    ],
)
def test_wrong_names_of_groups_are_refused(
    variables: Variables, given: dict[str, Any], hosts: Any, variable: str, message: str
) -> None:
    found = problems({**variables, "fleet_groups": given}, hosts)
    assert any(one.variable == variable and message in one.message for one in found), text_of(found)


def test_an_optional_group_that_is_misspelt_is_refused(variables: Variables) -> None:
    groups = {"flowers" if name == "flower" else name: hosts for name, hosts in GROUPS.items()}
    found = {one.variable: one.severity for one in problems(variables, groups=groups)}
    assert found["flowers"] == Severity.ERROR


def test_an_option_that_workers_inherit_is_reported_once_where_it_is_written(
    variables: Variables,
) -> None:
    variables["celery_worker_defaults"] = {"soft_time_limit": 1800, "time_limit": 1800}
    variables["celery_worker_instances"]["discounts"] = {"soft_time_limit": 1900}
    found = problems(variables)
    assert [one.variable for one in found] == [
        f"{W}.discounts.soft_time_limit",
        "celery_worker_defaults.soft_time_limit",
    ]


def test_workers_as_a_list_are_one_mistake(variables: Variables) -> None:
    variables["celery_worker_instances"] = ["discounts"]
    variables["celery_worker_host_instances"] = ["discounts"]
    variables["celery_app_task_routes"] = variables["celery_beat_schedule"] = {}
    assert only(problems(variables)).variable == W


def test_queues_with_commas_are_one_mistake(variables: Variables) -> None:
    variables["celery_worker_instances"]["maintenance"]["queues"] = "maintenance, mail"
    assert only(problems(variables)).variable == f"{W}.maintenance.queues"


def test_a_step_beyond_its_field_is_pointed_out(variables: Variables) -> None:
    variables["celery_beat_schedule"]["recompute"]["crontab"] = {"minute": "*/90"}
    one = only(problems(variables))
    assert (one.severity, one.message) == (
        Severity.WARNING,
        "has a step beyond the field, so it is the same as 0",
    )
    variables["celery_beat_schedule"]["recompute"]["crontab"] = {"minute": "*/30"}
    assert problems(variables) == []


def test_a_file_that_ansible_does_not_read_is_refused(variables: Variables, tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "group_vars/all.yml").touch()
    one = only(problems({**variables, "inventory_dir": str(tmp_path)}))
    assert (one.variable, one.remedy) == ("group_vars/all.yml", "move it into group_vars/all/")


def test_a_user_in_an_address_is_refused(variables: Variables) -> None:
    for wrong in ("deploy@10.0.0.2", "[2001:db8::1]", "2001:db8:::1", "192.0.2.2:22"):
        found = only(problems(variables, hosts={"worker1": {"ansible_host": wrong}}))
        assert (found.variable, found.hosts) == ("ansible_host", ("worker1",))
        assert found.message == "is not the name or address of a host"
    for right in ("2001:db8::1", "fe80::1%eth0", "worker1.example.com", "worker_1"):
        assert problems(variables, hosts={"worker1": {"ansible_host": right}}) == []


def test_a_schedule_needs_beat(variables: Variables) -> None:
    none = {**GROUPS, "celery_beat": []}
    variables["celery_beat_schedule"] = {}
    assert problems(variables, groups=none) == []
    variables["celery_beat_schedule"] = {"theirs": {"enabled": False}}
    assert problems(variables, groups=none) == []


def test_a_command_of_the_web_process_needs_a_host(variables: Variables) -> None:
    none = {name: hosts for name, hosts in GROUPS.items() if name != "celery_producers"}
    one = only(problems(variables, groups=none))
    assert (one.variable, one.severity) == ("celery_producers", Severity.ERROR)
    assert "lacks, but celery_producer_web has a command" in one.message
    assert "put the hosts of the web process into it" in one.remedy
    # A misspelt name is one mistake.
    one = only(problems(variables, groups={**none, "celery_producer": ["control1"]}))
    assert "rename it to celery_producers" in one.remedy
    assert problems({**variables, "celery_producer_web": {}}, groups=none) == []


@pytest.mark.parametrize(
    ("path", "value", "variable", "message"),
    [
        (f"{D}/drain_timeout", 10, f"{W}.discounts.drain_timeout", "below time_limit"),
        ("celery_worker_host_instances", ["discounts", "maintenance", "analytics"], None, None),
        (f"{W}/idle", {}, None, None),
        (f"{B}/clean/crontab", {"hour": 2}, f"{B}.clean.crontab.minute", "every minute"),
        # Values from the command line are strings.
        ("celery_restart_workers", "discounts, analytics", None, None),
        ("celery_restart_workers", ["analytics"], None, None),
        ("celery_restart_workers", "", None, None),
        ("celery_restart_all", "true", None, None),
        ("celery_restart_batch", "2", None, None),
        ("celery_restart_min_capacity", 100, None, None),
        (f"{D}/overlap", True, None, None),
        ("celery_app_delivery", "at_most_once", None, None),
        ("celery_app_settings", {"task_acks_late": False}, None, None),
    ],
)
def test_warnings_name_the_variable(
    variables: Variables, path: str, value: Any, variable: str | None, message: str | None
) -> None:
    found = problems(changed(variables, path, value))
    if variable is None:
        assert found == []
    else:
        assert message is not None
        one = only(found)
        assert (one.variable, one.severity) == (variable, Severity.WARNING)
        assert message in one.message


# The inventory's values, and the smallest sufficient number of seconds; None if 3600 is enough.
HOUR = "celery_app_visibility_timeout"
OVER = "celery_app_settings.broker_transport_options.visibility_timeout"


@pytest.mark.parametrize(
    ("instances", "defaults", "settings", "delivery", "least"),
    [
        ({"a": {"time_limit": 1800, "prefetch_multiplier": 1}}, {}, {}, "inherit", None),
        ({"a": {"time_limit": 1801, "prefetch_multiplier": 1}}, {}, {}, "inherit", 3602),
        # The document's hour, set in each of the three places.
        ({"a": {"time_limit": 3600}}, {}, {}, "at_least_once", 7200),
        # Another worker has its own promise.
        ({"a": {"time_limit": 3600, "delivery": "at_least_once"}}, {}, {}, "inherit", 7200),
        ({"a": {}}, {"time_limit": 3600, "prefetch_multiplier": 1}, {}, "inherit", 7200),
        ({"a": {}}, {}, {"task_time_limit": 3600}, "inherit", 4 * 3600 + 600),
        ({"a": {}}, {}, {"task_time_limit": 3600, "worker_prefetch_multiplier": 1}, "inherit", 4200),
        # A worker's own option overrides the setting, whichever is longer.
        ({"a": {"time_limit": 60}}, {}, {"task_time_limit": 9000}, "inherit", None),
        ({"a": {"time_limit": 900, "prefetch_multiplier": 2}}, {}, {"worker_prefetch_multiplier": 1}, "inherit", None),
        # A given drain counts as it is.
        ({"a": {"time_limit": 3000, "prefetch_multiplier": 1, "drain_timeout": 3000}}, {}, {}, "inherit", 6000),
        # Nothing limits a task.
        ({"a": {}}, {}, {}, "inherit", None),
        # The message names the longest of all, so that the next run reports nothing new.
        ({"a": {"time_limit": 60}, "b": {"time_limit": 7200}, "c": {"time_limit": 3600}}, {}, {}, "at_least_once",
         14400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", [HOUR, OVER])
def test_the_visibility_timeout_must_suffice_for_every_worker(
    variables: Variables,
    instances: dict[str, Any],
    defaults: dict[str, Any],
    settings: dict[str, Any],
    delivery: str,
    least: int | None,
    where: str,
) -> None:
    for name in ("celery_beat_schedule", "celery_app_task_routes"):
        variables.pop(name)
    variables |= {W: instances, "celery_worker_defaults": defaults, "celery_app_delivery": delivery}
    variables["celery_worker_fetch"] = "stock"
    variables["celery_app_settings"] = dict(settings)
    if where == HOUR:
        variables[HOUR] = 3600
    else:
        variables["celery_app_settings"]["broker_transport_options"] = {"visibility_timeout": 3600}
    found = [p for p in problems(variables) if p.severity is Severity.ERROR]
    if least is None:
        assert found == []
    else:
        one = only(found)
        assert (one.variable, one.value) == (where, "3600")
        assert f"({least} s: prefetch_multiplier x" in one.message
        assert f"write {least} or more" in one.remedy
    # The role's own default is never refused.
    variables.pop(HOUR, None)
    variables["celery_app_settings"].pop("broker_transport_options", None)
    assert [p for p in problems(variables) if p.variable == HOUR] == []


@pytest.mark.parametrize(
    ("options", "setting", "waits"),
    [
        ({}, 601, "600"),
        ({}, 600, None),
        ({"drain_timeout": 30}, 31, "30"),
        ({"drain_timeout": 3600}, 3600, None),
        ({"time_limit": 20}, 3600, None),
    ],
)
def test_a_drain_that_is_shorter_than_the_time_limit_is_reported(
    variables: Variables, options: dict[str, Any], setting: int, waits: str | None
) -> None:
    for name in ("celery_beat_schedule", "celery_app_task_routes"):
        variables.pop(name)
    variables |= {W: {"a": options}, "celery_app_settings": {"task_time_limit": setting}}
    found = problems(variables)
    if waits is None:
        assert found == []
    else:
        one = only(found)
        assert (one.variable, one.severity) == (f"{W}.a.drain_timeout", Severity.WARNING)
        assert (
            f"is {waits} s, below celery_app_settings.task_time_limit ({setting} s)" in one.message
        )


def test_a_visibility_timeout_below_an_hour_needs_a_limit_for_every_task(
    variables: Variables,
) -> None:
    for name in ("celery_beat_schedule", "celery_app_task_routes"):
        variables.pop(name)
    given = {**variables, HOUR: 120, "celery_worker_defaults": {"prefetch_multiplier": 1}}
    one = only(problems({**given, W: {"a": {"time_limit": 30}, "b": {}}}))
    assert one.variable == HOUR
    assert "it has no time limit" in one.message
    assert "write 3600 or more" in one.remedy
    assert problems({**given, W: {"a": {"time_limit": 30}, "b": {"time_limit": 60}}}) == []


def test_a_worker_without_a_host_that_nothing_needs(variables: Variables) -> None:
    variables[W]["idle"] = {}
    enabled = {"celery_worker_host_instances": ["discounts", "maintenance", "analytics"]}
    one = only(problems(variables, hosts={"worker1": enabled, "worker2": enabled}))
    assert (one.variable, one.severity) == (f"{W}.idle", Severity.WARNING)


def test_a_worker_without_a_host_that_an_entry_needs(variables: Variables) -> None:
    enabled = {"celery_worker_host_instances": ["discounts", "maintenance"]}
    found = problems(variables, hosts={"worker1": enabled, "worker2": enabled})
    assert [one.variable for one in found if one.severity is Severity.ERROR] == [
        f"{B}.history.queue"
    ]


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ({"queue": "analytics"}, True),
        ({"options": {"queue": "analytics"}}, True),
        ({"enabled": False}, True),
        ({}, False),
    ],
)
def test_an_entry_needs_a_consumed_queue(
    variables: Variables, entry: dict[str, Any], right: bool
) -> None:
    variables[B]["other"] = {"task": "other.task", "interval": 60, **entry}
    assert (problems(variables) == []) is right


def test_the_default_queue_comes_from_the_settings(variables: Variables) -> None:
    variables[B]["other"] = {"task": "other.task", "interval": 60}
    variables["celery_app_settings"] = {"task_default_queue": "analytics"}
    assert problems(variables) == []


def test_hosts_that_do_not_exist_yet_are_one_problem(variables: Variables) -> None:
    del variables["redis_passwords"]
    one = only(problems({**variables, "preflight_hosts_hint": "run make demo"}))
    assert one.variable == "ansible_host"
    assert one.remedy == "run make demo"
    assert one.hosts == tuple(GROUPS["fleet"])


def test_hosts_that_exist_need_no_hint(variables: Variables) -> None:
    variables |= {"preflight_hosts_hint": "run make demo"}
    assert problems(variables, ADDRESSES) == []


@pytest.mark.parametrize(
    ("ansible", "python", "variable", "severity"),
    [
        ("2.18.1", "3.11.2", "ansible-core", Severity.ERROR),
        # It may work, and there may be no other version.
        ("2.21.0", "3.11.2", "ansible-core", Severity.WARNING),
        ("2.19.0", "3.10.9", "python", Severity.ERROR),
    ],
)
def test_unsupported_versions_of_the_control_node_are_reported(
    variables: Variables, ansible: str, python: str, variable: str, severity: Severity
) -> None:
    one = only(problems(variables, control=Control(ansible, python, ROOT)))
    assert (one.variable, one.severity) == (variable, severity)
    # Without a checkout there is no make setup.
    assert "; in a checkout, run make setup" in one.remedy
    assert "ansible-core" in one.remedy


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [
        ("strategy", "free", True),
        ("strategy", "ansible.builtin.host_pinned", True),
        ("strategy", "ansible.builtin.linear", False),
        ("private_role_vars", "True", True),
        ("private_role_vars", "False", False),
    ],
)
def test_settings_of_ansible_that_break_a_run_are_refused(
    variables: Variables, name: str, value: str, is_refused: bool
) -> None:
    found = problems(variables, control=Control("2.19.0", "3.11.2", ROOT, {name: value}))
    assert [one.variable for one in found] == [f"ansible.cfg: {name}"] * is_refused
    assert all(f"ANSIBLE_{name.upper()}=" in one.remedy for one in found)


def test_relative_sources_start_next_to_ansible_cfg(variables: Variables, tmp_path: Path) -> None:
    variables[S] = {"path": "source"}
    assert problems(variables, control=Control("2.19.0", "3.11.0", tmp_path)) == []


def test_all_errors_are_reported_at_once(variables: Variables) -> None:
    variables[D.split("/", maxsplit=1)[0]]["discounts"]["concurrency"] = 0
    variables["redis_broker_port"] = "x"
    variables["celery_app_module"] = "no.such"
    variables["pki_ca_passphrase"] = "short"
    assert len(problems(variables)) == 4


def test_one_problem_of_many_hosts_is_reported_once(variables: Variables) -> None:
    variables["celery_app_env"] = {"A": "{{ nowhere }}"}
    one = only(problems(variables))
    assert one.hosts == tuple(GROUPS["fleet"])
    assert "(all hosts)" in text_of([one])


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ((), ""),
        (("worker1",), "worker1"),
        (("worker1", "worker2"), "all hosts of celery_workers"),
        (("worker1", "redis1"), "worker1, redis1"),
        (tuple(f"h{n}" for n in range(9)), "h0, h1, h2, h3, h4, h5 and 3 more"),
    ],
)
def test_lists_of_hosts_are_short(hosts: tuple[str, ...], text: str) -> None:
    assert report.where(hosts, GROUPS, GROUPS["fleet"]) == text


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("celery_workers_instances", "celery_worker_instances", True),
        ("celery_workerr_instances", "celery_worker_instances", True),
        ("celery_worker_instances", "celery_worker_instances", False),
        ("redis_port", "redis_passwords", False),
        ("flower_sort", "flower_port", True),
        ("pki_kye", "pki_key", True),
        ("my_own_variable", "celery_app_name", False),
    ],
)
def test_similar_names_are_found(name: str, known: str, near: bool) -> None:
    assert near_miss(name, known) is near


@pytest.mark.parametrize(
    "queue", ["a b", "a*", "a?", "a[b]", "a\\b", "a,b", "", "a\n", "'a'", "%a"]
)
def test_invalid_names_of_queues(queue: str) -> None:
    assert not queue_fits(queue)


@pytest.mark.parametrize("queue", ["celery", "high.priority", "eu:mails", "a-b_c", "9"])
def test_valid_names_of_queues(queue: str) -> None:
    assert queue_fits(queue)


MARK = "hush-this-is-it-5fe2"
SHAPES: list[Callable[[], Any]] = [
    lambda: MARK,
    lambda: [MARK],
    lambda: {"worker": MARK, "beat": MARK},
    lambda: {MARK: None},
    lambda: {f"worker:{MARK}": None},
    lambda: {"worker": [MARK], "beat": {MARK: MARK}},
    lambda: MARK + "\n",
    lambda: MARK + " with blanks",
    lambda: {"worker": "{{ '" + MARK + "' | no_such_filter }}"},
    lambda: "{{ '" + MARK + "' | from_json }}",
    lambda: "{{ undefined_name ~ '" + MARK + "' }}",
    lambda: "{{ '" + MARK,
    lambda: {"workerr": MARK},
]


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize(
    "name",
    [
        "redis_passwords",
        "redis_pasword",
        "pki_ca_passphrase",
        "flower_auth_password",
        "celery_app_secret_env",
        "celery_app_env_urls",
        "celery_producer_web_auth_password",
    ],
)
def test_no_secret_is_ever_shown(variables: Variables, name: str, shape: int) -> None:
    assert MARK not in text_of(problems({**variables, name: SHAPES[shape]()}))


@pytest.mark.parametrize("word", ["secret", "SECRET", "worker", "secret\n"])
def test_a_secret_that_is_a_word_of_our_names_hides_none(variables: Variables, word: str) -> None:
    variables["celery_app_secret_env"] = {"DJANGO_SECRET_KEY": word}
    variables["celery_worker_instances"]["discounts"]["concurrency"] = 0
    variables["celery_app_env"] = {"DJANGO_SECRET_KEY": "x"}
    text = text_of(problems(variables))
    assert "celery_app_secret_env" in text
    assert "DJANGO_SECRET_KEY" in text
    assert "celery_worker_instances.discounts.concurrency" in text


def test_a_secret_that_is_also_a_name_does_not_hide_the_name(variables: Variables) -> None:
    variables["celery_app_secret_env"] = {"A": "discounts", "B": MARK}
    variables["celery_worker_instances"]["discounts"] = {"concurrency": MARK}
    one = only(problems(variables))
    assert one.variable == "celery_worker_instances.discounts.concurrency"
    assert MARK not in text_of([one])


@pytest.mark.parametrize(
    ("template", "message", "remedy"),
    [
        (
            "{{ lookup('pipe', 'exit 3 # MARK') }}",
            "the lookup pipe failed",
            "install its collection",
        ),
        (
            "{{ lookup('no.such.store', 'MARK') }}",
            "the lookup no.such.store failed",
            "unlock its store",
        ),
        (
            "{{ lookup('pipe', 'echo can not decrypt MARK; exit 1') }}",
            "the lookup pipe failed",
            "install its collection",
        ),
        ("{{ 'MARK' | from_json }}", "the filter ansible.builtin.from_json failed", "correct the"),
    ],
)
def test_a_failed_plugin_is_named_without_the_secret(
    variables: Variables, template: str, message: str, remedy: str
) -> None:
    template = template.replace("MARK", MARK)
    one = only(problems({**variables, "celery_app_secret_env": {"TOKEN": template}}))
    assert one.variable == "celery_app_secret_env.TOKEN"
    assert message in one.message
    assert remedy in one.remedy
    assert MARK not in text_of([one])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("celery_app_name", MARK),
        ("celery_app_env", {"A": "{{ [redis_passwords.worker] | from_json }}"}),
        ("celery_app_env", [f"redis://x:{MARK}@y"]),
        ("celery_app_module", f"{MARK}!"),
        (f"{B}", {"x": {"task": MARK + " "}}),
    ],
)
def test_no_secret_is_shown_in_another_place(variables: Variables, name: str, value: Any) -> None:
    variables["redis_passwords"]["worker"] = MARK
    assert MARK not in text_of(problems({**variables, name: value}))


def test_a_password_of_flower_must_not_have_a_comma(variables: Variables) -> None:
    text = f"{MARK}, and more"
    found = only(problems({**variables, "flower_auth_password": text}))
    assert (found.variable, found.message.partition(",")[0]) == (
        "flower_auth_password",
        "has a comma",
    )
    assert MARK not in text_of([found])
    assert problems({**variables, "celery_producer_web_auth_password": text}) == []


@pytest.mark.parametrize(
    "host", ["db1", "10.0.0.1", "2001:db8::1", "fe80::1%eth0", "/run/postgresql"]
)
def test_valid_hosts_of_urls_are_accepted(variables: Variables, host: str) -> None:
    variables["celery_app_env_urls"] = {"OTHER_URL": {"scheme": "x", "host": host}}
    assert problems(variables) == []


def test_a_key_without_a_space_does_not_show_its_value(variables: Variables) -> None:
    variables["celery_app_source"] = {"git:https://user:hunter2@host/a": None}
    variables["celery_app_task_routes"] = {"app.*": {"queue:hunter2": None}}
    variables["redis_passwords:hunter2"] = None
    variables["celery_beat_schedule:hunter2"] = None
    text = text_of(problems(variables))
    assert "hunter2" not in text
    for shown in ("celery_app_source['git:…']", "['app.*']['queue:…']", "redis_passwords…"):
        assert shown in text


def test_logins_in_urls_are_not_shown(variables: Variables) -> None:
    variables["celery_app_source"] = {"git": "https://user:hunter2@host/a b"}
    assert "hunter2" not in text_of(problems(variables))


GARBAGE: list[Any] = [
    None, [], {}, 0, -1, "", "x", True, 1.5, float("nan"), float("inf"), 10**400, [[]], [None], {1: 2},
    {None: None}, {"a": None}, {"a": {"b": []}}, {"discounts": "x"}, {"discounts": {"queues": {}}},
    [{"a": 1}], "{{ nosuch }}", "{{ 1 / 0 }}", "{{ [", "{{ omit }}", "{% for %}", "\x00", "a\nb", "é" * 300,
    {"path": None}, {"path": "\x00"}, {"git": 5}, {"path": ["x"]}, {"task": None}, {"x": {"crontab": {"minute": None}}},
    {"x": {"crontab": {"minute": "1" * 5000}}}, {"x": {"crontab": {1: 2}}}, {"x": {"solar": {}}}, {"*": 5},
]  # fmt: skip


# Options that checks read; of the others only the specs are checked.
LOOKED_INTO = [
    W, B, S, "celery_app_name", "celery_app_module", "celery_app_task_routes", "celery_worker_host_instances",
    "celery_worker_defaults", "redis_passwords", "preflight_allowed_variables", "preflight_hosts_hint",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOKED_INTO)
def test_no_value_of_a_variable_leads_to_a_traceback(variables: Variables, name: str) -> None:
    base = model(variables)
    for value in GARBAGE:
        if isinstance(value, str) and "{" in value:
            text_of(problems({**variables, name: value}))
        else:
            hosts = {host: {**own, name: value} for host, own in base.hosts.items()}
            given = {host: names | {name} for host, names in base.given.items()}
            text_of(check(replace(base, hosts=hosts, given=given, _distinct={})))


@pytest.mark.slow
@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
def test_no_value_of_all_variables_leads_to_a_traceback(value: Any) -> None:
    everything = dict.fromkeys(sorted(specs().options), value)
    assert text_of(problems(copy.deepcopy(everything)))


def test_an_endless_template_is_refused(variables: Variables) -> None:
    found = problems({**variables, "celery_app_env": "{{ celery_app_env }}"})
    assert any(problem.variable == "celery_app_env" for problem in found)


def test_names_of_variables_that_are_no_strings(variables: Variables) -> None:
    assert problems({**variables, 1: 2, None: 3}) == []


def test_values_that_many_hosts_share_are_checked_once(variables: Variables) -> None:
    hosts = [f"worker{number}" for number in range(20)]
    groups = {**GROUPS, "celery_workers": hosts, "fleet": [*GROUPS["fleet"], *hosts]}
    shared = model(variables, groups=groups)
    assert len(shared.distinct(W)) == 1
    one = only(problems(changed(variables, f"{D}/concurrency", 0), groups=groups))
    assert one.hosts == tuple(hosts)


def test_flower_within_the_web_site_needs_one_on_its_host(variables: Variables) -> None:
    variables["flower_url_prefix"] = "/flower/"
    # Flower does not use its own port then.
    assert problems({**variables, "flower_port": 443}) == []
    # Even without a web process there is a site, and so a port.
    taken = {**variables, "celery_producer_web": {}, "celery_producer_web_protected_paths": []}
    assert problems(taken) == []
    (found,) = problems(
        {**taken, "redis_broker_port": 443, "celery_app_broker_port": 443},
        groups={**GROUPS, "redis": ["control1"], "fleet": GROUPS["fleet"][1:]},
    )
    assert found.variable == "celery_producer_web_port"
    (found,) = problems(variables, groups={**GROUPS, "flower": ["worker1"]})
    assert (found.variable, found.hosts) == ("flower_url_prefix", ("worker1",))
    assert "no web site" in found.message


def test_documented_log_formats_pass(variables: Variables) -> None:
    variables["celery_app_log_format"] = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    task = "[%(asctime)s: %(levelname)s/%(processName)s][%(task_name)s(%(task_id)s)] %(message)s"
    variables["celery_app_task_log_format"] = task
    variables["celery_app_log_rotate"] = {"when": "weekly", "keep": 4, "size": "100M"}
    assert problems({**variables, "celery_app_log_destination": "file"}) == []


def test_an_entry_of_the_code_can_be_switched_off_by_its_name(variables: Variables) -> None:
    variables["celery_beat_schedule"]["theirs"] = {"enabled": False}
    assert problems(variables) == []


def test_a_schedule_that_systemd_cannot_pass_to_beat_is_refused(variables: Variables) -> None:
    entry = {"task": "app.tasks.clean", "interval": 3600, "queue": "discounts"}

    def entries(number: int) -> dict[str, Any]:
        return {f"tenant-{one}": dict(entry) for one in range(number)}

    assert problems({**variables, "celery_beat_schedule": entries(8000)}) == []
    found = only(problems({**variables, "celery_beat_schedule": entries(11_000)}))
    assert (found.variable, found.message.split(", but")[0]) == (
        "celery_beat_schedule",
        "has 11000 entries of 923 kB",
    )
    database = {**variables, "celery_beat_scheduler": "database"}
    assert problems({**database, "celery_beat_schedule": entries(11_000)}) == []


def test_valid_release_commands_pass(variables: Variables) -> None:
    variables[R] = [
        MIGRATE | {"when": "release", "hosts": "one", "timeout": 300},
        {"name": "static_files-2", "argv": ["python", ""], "hosts": "all"},
        {"name": "demo", "argv": ["./load"], "when": "once", "timeout": 0.5},
    ]
    assert problems(variables) == []


def test_release_commands_that_differ_between_hosts(variables: Variables) -> None:
    found = only(problems(variables, {"worker2": {R: [MIGRATE]}}))
    assert (found.variable, found.hosts) == (R, ("worker2",))
    assert "differs between hosts" in found.message


# --- the firewall ------------------------------------------------------------------------------------

ADDRESSES: dict[str, dict[str, Any]] = {
    name: {"ansible_host": f"10.1.0.{number}"} for number, name in enumerate(GROUPS["fleet"], 1)
}


def closed(variables: Variables, **hosts: dict[str, Any]) -> list[Problem]:
    return problems(
        {**variables, "firewall_enabled": True},
        {name: {**own, **hosts.get(name, {})} for name, own in ADDRESSES.items()},
    )


@pytest.mark.parametrize(
    "address", ["10.1.0.9", "10.2.0.0/24", "2001:db8::9", ["10.1.0.9", "fd00::/64"]]
)
def test_addresses_that_the_firewall_accepts(variables: Variables, address: Any) -> None:
    assert closed(variables, worker1={"firewall_address": address}) == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("worker1.example.com", "is not an address; a name would have to be resolved at each boot"),
        ("", "is not an address"),
        (7, "is not an address"),
        (None, "is not an address"),
        ("::ffff:10.1.0.9", "is an IPv4 address in IPv6 notation"),
        ({}, "is not an address"),
        ("127.0.0.1", "is not an address that another host could connect from"),
        ("0.0.0.0", "is not an address that another host"),  # noqa: S104 - nothing listens
        ("::/0", "would let everyone in"),
        ("10.1.0.9/24", "is a single address with the mask of a network"),
        ("fe80::1%eth0", "is an address that is only valid on one link"),
        ([], "is empty"),
        (["10.1.0.9", "worker1"], "is not an address"),
    ],
)
def test_addresses_that_the_firewall_refuses(
    variables: Variables, address: Any, message: str
) -> None:
    one = only(closed(variables, worker1={"firewall_address": address}))
    assert one.variable.partition("[")[0] == "firewall_address"
    assert message in one.message
    assert one.hosts == ("worker1",)


def test_an_address_that_no_host_needs_may_be_missing(variables: Variables) -> None:
    # The host of Redis uses its own loopback.
    assert closed(variables, redis1={"ansible_host": "redis1.example.com"}) == []
    # Without a firewall no host needs an address.
    assert problems(variables) == []
    # The firewall also closes a web process on TCP, so its host needs the addresses of all others.
    found = closed(
        {**variables, "celery_producer_web_listen": "0.0.0.0:5000"},
        redis1={"ansible_host": "redis1.example.com"},
    )
    assert (only(found).variable, only(found).hosts) == ("firewall_address", ("redis1",))


def test_a_firewall_needs_addresses(variables: Variables) -> None:
    found = problems({**variables, "firewall_enabled": True})
    assert {(one.variable, one.hosts) for one in found} == {
        ("firewall_address", (host,)) for host in ("worker1", "worker2", "control1")
    }


def test_a_web_process_that_is_open_to_all_is_reported(variables: Variables) -> None:
    name = "celery_producer_web_listen"
    one = only(problems({**variables, name: "0.0.0.0:5000"}))
    assert (one.variable, one.severity, one.hosts) == (name, Severity.WARNING, ("control1",))
    assert "open to everyone" in one.message
    assert problems({**variables, name: "127.0.0.1:5000"}) == []
    assert problems({**variables, name: "[::1]:5000"}) == []
    assert closed({**variables, name: "0.0.0.0:5000"}) == []


def test_the_listen_address_of_a_host_without_a_web_process_is_checked_as_well(
    variables: Variables,
) -> None:
    name = "celery_producer_web_listen"
    one = only(problems(variables, {"redis1": {name: "localhost:5000"}}))
    assert (one.variable, one.hosts) == (name, ("redis1",))


def test_a_web_process_with_a_port_of_redis_is_refused(variables: Variables) -> None:
    groups = {**GROUPS, "celery_producers": ["redis1"], "flower": ["control1"]}
    name = "celery_producer_web_listen"
    one = only(problems({**variables, name: "127.0.0.1:6380"}, groups=groups))
    assert (one.variable, one.value) == (name, "6380")
    assert "redis_results_port" in one.message


def test_settings_that_only_sound_like_a_cluster_are_accepted(variables: Variables) -> None:
    mine = {"CACHE_URL": {"scheme": "rediscluster", "host": "cache"}}
    assert problems({**variables, "celery_app_env_urls": mine}) == []
    assert problems({**variables, "celery_app_env": {"CLUSTER": "eu", "NAME": "cluster"}}) == []


def test_the_address_of_a_cluster_is_not_shown(variables: Variables) -> None:
    url = "rediscluster://:s3cret@cluster1:7000/0"
    found = problems({**variables, "celery_app_secret_env": {"CELERY_BROKER_URL": url}})
    assert "Redis Cluster has no Celery transport" in only(found).message
    assert "s3cret" not in text_of(found)


# --- what hosts share ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ mine }}",
        "{{ between }}",
        "{{ nested.a[0].b }}",
        "{{ inventory_hostname }}",
        "{{ hostvars[inventory_hostname].mine }}",
        "{{ lookup('vars', 'mi' ~ 'ne') }}",
        "{% if mine == 'of worker1' %}x{% endif %}",
    ],
)
def test_a_value_that_depends_on_the_host_is_rendered_for_each(
    variables: Variables, text: str
) -> None:
    between = {"between": "{{ mine }}", "nested": {"a": [{"b": "{{ between }}"}]}}
    hosts = {name: {"mine": f"of {name}"} for name in GROUPS["fleet"]}
    given = {**variables, **between, "celery_app_env": {"A": text}}
    made = model(given, hosts)
    found = {host: str(made.value(host, "celery_app_env")) for host in GROUPS["celery_workers"]}
    assert len(set(found.values())) == 2


def test_a_value_that_all_hosts_share_is_rendered_once(variables: Variables) -> None:
    rendered: list[object] = []
    everywhere = trusted({**variables, "celery_app_env": {"A": "{{ ours }}"}, "ours": "x"})

    def renderer(available: dict[str, object]) -> Any:
        render = Templar(loader=DataLoader(), variables=available).template

        def spied(value: object) -> object:
            rendered.append(value)
            return render(value)

        return spied

    made = build(
        *(specs(), GROUPS, lambda host: {**everywhere, "inventory_hostname": host}, renderer),
        Control("2.19.14", "3.11.2", ROOT),
        group_names(None),
    )
    assert [*map(repr, rendered)].count("{'A': '{{ ours }}'}") == 1
    assert {str(made.value(host, "celery_app_env")) for host in GROUPS["fleet"]} == {"{'A': 'x'}"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("celery_app_root", "/"),
        ("celery_app_root", "/opt"),
        ("celery_app_root", "/opt/*"),
        ("celery_app_root", "state"),
        ("redis_config_directory", "/etc/celery fleet"),
        ("celery_app_config_directory", "/etc/shop"),
        ("celery_app_config_directory", "/etc/celery-fleet/other"),
        ("celery_app_state_directory", "/data/shop"),
    ],
)
def test_directories_that_a_removal_could_not_delete_are_refused(
    variables: dict[str, Any], variable: str, value: str
) -> None:
    (found,) = problems({**variables, variable: value})
    assert found.variable == variable
    assert found.value == value


def test_directories_of_an_application_may_be_elsewhere(variables: dict[str, Any]) -> None:
    assert problems({**variables, "celery_app_root": "/srv/shop/"}) == []


def test_directories_that_can_only_be_one(variables: dict[str, Any]) -> None:
    same = {
        "celery_app_config_directory": "/etc/celery-fleet/shop",
        "celery_app_state_directory": "/var/lib/shop/",
    }
    assert problems({**variables, **same}) == []
    # Units have StateDirectory= below /var/lib, and may write to nothing else.
    found = only(problems({**variables, "celery_app_state_directory": "/srv/state"}))
    assert "beat could not write its schedule" in found.message
    assert found.remedy == "leave it out; it is /var/lib/shop"


@pytest.mark.parametrize(
    "settings",
    [
        # The command line and the plan also know that results are elsewhere.
        {"result_backend": "django-db"},
        {"result_backend": "db+postgresql://redis.example/x"},
        {"result_backend": None},
        {"broker_use_ssl": {"ssl_cert_reqs": "required", "ssl_check_hostname": True}},
        {"redis_backend_use_ssl": {"ssl_cert_reqs": "CERT_REQUIRED", "ssl_min_version": 771}},
        {"broker_transport_options": {}, "broker_pool_limit": 5},
    ],
)
def test_settings_that_do_not_change_the_connections_pass(
    variables: Variables, settings: Variables
) -> None:
    assert problems(variables | {SET: settings}) == []


def test_the_login_of_a_refused_address_is_not_shown(variables: Variables) -> None:
    one = only(problems(variables | {SET: {"broker_url": "redis://u:s3cret@h/0"}}))
    assert "s3cret" not in text_of([one])
    assert one.value == "redis://***@h/0"


@pytest.mark.parametrize(
    "value",
    [
        "todoist-7f3a9c",
        "replacement-service-token",
        "replace_Xk39sk2",
        "<RSAKeyValue><Modulus>x</Modulus></RSAKeyValue>",
    ],
)
def test_a_secret_that_begins_like_a_placeholder_is_accepted(
    variables: Variables, value: str
) -> None:
    given = changed(variables, "celery_app_secret_env/SECRET", value)
    assert problems(given) == []


@pytest.mark.parametrize(
    "value",
    ["TODO", "todo: ask ops", "FIXME-later", "replace", "replace_with_yours", "change_me_please"],
)
def test_placeholders_for_a_secret_are_refused(variables: Variables, value: str) -> None:
    one = only(problems(changed(variables, "celery_app_secret_env/SECRET", value)))
    assert "placeholder" in one.message


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/team/shop.git",
        "https://git.example.org/@team/shop@v1",
        "ssh://git@github.com/team/shop.git",
        "git@github.com:team/shop.git",
        "/srv/me:x@y",
    ],
)
def test_an_address_without_a_login_is_accepted(variables: Variables, address: str) -> None:
    assert problems(variables | {S: {"git": address, "version": "main"}}) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("celery-app-env", "did you mean celery_app_env?"),
        ("CELERY_APP_SETTINGS", "did you mean celery_app_settings?"),
        ("celery_worker_time_limit", "did you mean the option time_limit of a worker"),
        ("celery_worker_queues", "did you mean the option queues of a worker"),
        ("celery_worker_concurrency", "give it to a worker, as `concurrency` in"),
        ("celery_beat_memory_max", "did you mean celery_beat_unit.memory_max?"),
        ("celery_app_version", "did you mean celery_app_source.version?"),
        ("celery_app_routes", "did you mean celery_app_task_routes?"),
    ],
)
def test_an_unknown_name_is_followed_by_what_it_probably_means(
    variables: Variables, name: str, words: str
) -> None:
    assert words in only(problems({**variables, name: {"a": "b"}})).remedy


def test_a_name_without_a_part_of_its_role_is_a_warning(variables: Variables) -> None:
    found = only(problems({**variables, "celery_env": {"A": "b"}}))
    assert found.severity == Severity.WARNING
    assert "did you mean celery_app_env?" in found.remedy


def test_nothing_is_suggested_that_only_has_the_same_prefix(variables: Variables) -> None:
    assert "did you mean" not in only(problems({**variables, "celery_beat_zzz": 1})).remedy


@pytest.mark.parametrize(
    "text",
    [
        "your_redis_password_here",
        "generate-a-password",
        "put-your-passphrase-here",
        "django-insecure-change-me-in-production",
        "${TOKEN}",
        "__CHANGE__",
        "sk-...",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "12345678901234567890",
    ],
)
def test_common_placeholders_are_refused(variables: Variables, text: str) -> None:
    secret = {**variables["celery_app_secret_env"], "NEW": text}
    found = only(problems({**variables, "celery_app_secret_env": secret}))
    assert found.variable == "celery_app_secret_env.NEW"
    assert "add celery_app_secret_env.NEW to preflight_allowed_placeholders" in found.remedy


def test_ciphertext_without_its_tag_is_refused(variables: Variables) -> None:
    text = "$ANSIBLE_VAULT;1.1;AES256\n6162636465666768\n"
    found = only(problems({**variables, "flower_auth_password": text}))
    assert "`!vault |`" in found.remedy
    nested = {**variables["celery_app_secret_env"], "NEW": text}
    found = only(problems({**variables, "celery_app_secret_env": nested}))
    assert found.variable == "celery_app_secret_env.NEW"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("celery_app_root", "/var/lib"),
        ("celery_app_root", "/home/admin/"),
        ("celery_app_root", "/usr/local"),
        ("celery_app_root", "/usr/share/shop"),
        ("celery_app_root", "/tmp/shop"),
        ("celery_app_root", "/etc/ssl"),
        ("redis_config_directory", "/etc/redis"),
    ],
)
def test_a_directory_of_the_system_is_not_the_applications(
    variables: Variables, variable: str, value: str
) -> None:
    found = only(problems({**variables, variable: value}))
    assert found.variable == variable
    assert "belongs to the system" in found.message


@pytest.mark.parametrize(
    "value", ["/srv/shop", "/usr/local/shop", "/var/lib/other/shop", "/library/a"]
)
def test_a_directory_of_the_applications_own_is_accepted(variables: Variables, value: str) -> None:
    assert problems({**variables, "celery_app_root": value}) == []


def test_celerys_autoscale_is_refused_once(variables: Variables) -> None:
    workers = {"default": {"queues": ["celery"], "autoscale": "2,10"}}
    found = [p for p in problems({**variables, W: workers}) if p.variable.endswith("autoscale")]
    assert "write {min: 2, max: 10, wait: 30s}" in only(found).remedy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_memory_per_child": 209715200}, "did you mean 204800 (200 MiB)?"),
        ({"max_memory_per_child": 409600, "memory_max": "200M"}, "write less than 204800"),
    ],
)
def test_more_memory_than_a_process_can_have(
    variables: Variables, options: dict[str, object], words: str
) -> None:
    first = next(iter(variables[W]))
    workers = {**variables[W], first: {**variables[W][first], **options}}
    found = only(problems({**variables, W: workers}))
    assert found.variable == f"{W}.{first}.max_memory_per_child"
    assert words in found.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGPASSWORD", "s3cret-s3cret"),
        ("DB_PASSWORD", 12345678),
        ("DB_PASSWORD_1", "s3cret-s3cret"),
        ("RSA", "-----BEGIN " + "PRIVATE KEY-----"),
    ],
)
def test_secrets_in_the_clear_by_other_names(
    variables: Variables, name: str, value: object
) -> None:
    found = only(problems({**variables, "celery_app_env": {name: value}}))
    assert (found.variable, found.severity) == (f"celery_app_env.{name}", Severity.WARNING)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("accept_content", "json", "write [json]"),
        ("accept_content", "json, yaml", "write [json, yaml]"),
        ("task_time_limit", -5, "write 0 or more"),
        ("worker_prefetch_multiplier", -1, "write 0 or more"),
    ],
)
def test_values_of_settings_that_celery_would_misread(
    variables: Variables, name: str, value: object, words: str
) -> None:
    found = only(problems({**variables, "celery_app_settings": {name: value}}))
    assert found.variable == f"celery_app_settings.{name}"
    assert words in found.remedy
    fine = {"accept_content": ["json"], "task_time_limit": 0}
    assert problems({**variables, "celery_app_settings": fine}) == []
