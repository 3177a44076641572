"""Texts that no render supplies: which variable adds what, the purpose of ports and secret files, and the page's prose.

Add a line here for each new thing on a host that is optional or secret.
"""

from __future__ import annotations

HEAD = """\
# What is put on a host

Use this page to look up everything that Celery Fleet puts on a host: users, ports, units, files, directories, and who
can read which secret.

`python -m scripts.on_a_host` generates this page from dry runs of `site.yml`: what the roles put on the hosts of the
delivered inventories, and of inventories that also use all other options. To change it, edit the roles.

`<app>` is `celery_app_name`, `<worker>` a key of `celery_worker_instances`, `<directory>` one of
`celery_app_directories`, `<id>` a release, `<virtualenv>` the name of a virtualenv, which releases with the same
packages share, and `<version>` the runtime's version with its hash. *Option* names the variable for a thing that a
fleet does not have by default. *By* is the role that puts it there, on [its hosts](#roles-and-hosts). If no owner is
listed, it is root; if no mode is listed, it is 0644 for a file and 0755 for a directory.

These lists leave out Debian's packages ([dependencies](dependencies.md#on-the-hosts)), the files in a release and in
the runtime, and the files that processes and runs write while they work. [Data](#data) has the places of most of them,
and [names](names.md#places-on-a-host) says what they are. On each host, `/etc/celery-fleet/<app>/manifest.json`, which
only root can read, lists what the application has there; [a removal](removal.md#taking-a-fleet-off-its-hosts) follows
it.
"""

# Patterns of things that no delivered fleet has, and the variable that adds each.
OPTIONS = {
    r"valkey": "`redis_flavor: valkey`",
    r"redis-server": "if a run installs Redis",
    r"<app>-cache|^cache$": "`celery_app_cache`",
    r"sentinel|<app>-hosts|/(first|login)\.conf|^replica$": (
        "[several hosts](redis.md#three-hosts-of-which-one-may-fail) in `redis`"
    ),
    r"firewall|celery_fleet_<app>": "`firewall_enabled`",
    r"logrotate|/var/log/<app>": "`celery_app_log_destination: file`",
    r"credentials/schedule\.json": "`celery_beat_scheduler: database`",
    r"nginx-web/flower\.conf": "`flower_url_prefix`",
    r"^backend$": "`celery_producer_web_listen`",
    r"pki/client\.": "`pki_mode: mutual`",
    r"redis-ca\.crt": "`celery_app_redis_ca`",
    r"letsencrypt": "`celery_producer_web_certificate`",
    r"node-exporter|^node$": "`celery_exporter_node_enabled`",
    r"redis-exporter|^redis_exporter$": "`celery_exporter_redis_enabled`",
    r"exporter|metrics": "`celery_exporter_enabled`",
    r"<app>-backup|backup\.json": "`redis_backup`",
    r"-beat\.service\.d": "`celery_beat_unit`",
    r"-flower\.service\.d": "`flower_unit`",
    r"-web\.service\.d": "[options of the unit](web.md#options-of-the-unit) in `celery_producer_web`",
    r"^<directory>$": "`celery_app_directories`",
}
# The purpose of each port, its variable, and the requirements for a caller.
PORTS = {
    "broker": ("Redis, broker", "celery_app_broker_port", "TLS, a password for each component"),
    "results": ("Redis, results", "celery_app_results_port", "TLS, a password for each component"),
    "sentinel": ("Sentinel", "celery_app_sentinel_port", "TLS, a password for each component"),
    "cache": ("Redis, the application's cache", "celery_app_cache_port", "TLS, a password"),
    "web": (
        "nginx, web process",
        "celery_producer_web_port",
        "TLS, a password for what is protected",
    ),
    "flower": ("nginx, Flower", "flower_port", "TLS, a password"),
    "backend": ("web process, past nginx", "celery_producer_web_listen", "nothing"),
    "metrics": ("nginx, exporter", "celery_exporter_port", "TLS, a password"),
    "exporter": ("exporter, on loopback", "celery_exporter_listen", "nothing"),
    "node": ("exporter of the host, on loopback", "celery_exporter_node_enabled", "nothing"),
    "redis_exporter": ("exporter of Redis, on loopback", "celery_exporter_redis_port", "nothing"),
}
PORTS_ROLE = {
    "broker": "redis",
    "results": "redis",
    "sentinel": "redis",
    "cache": "redis",
    "web": "celery_producer",
    "flower": "flower",
    "backend": "celery_producer",
    "metrics": "celery_exporter",
    "exporter": "celery_exporter",
    "node": "celery_exporter",
    "redis_exporter": "celery_exporter",
}
# Secrets that can't be found in a file by their value, because it has a hash or is made from others.
HOLDS = {
    r"web\.htpasswd$": "a hash of `celery_producer_web_auth_password`",
    r"flower\.htpasswd$": "a hash of `flower_auth_password`",
    r"metrics\.htpasswd$": "a hash of `celery_exporter_auth_password`",
    r"host\.key$": "the host's private key",
    r"client\.key$": "the private key of the host's clients of Redis",
    r"health\.json$": "`celery_health_on_change`",
    r"backup\.json$": "`redis_backup.ssh_key`",
}
# Readers of files with secrets that systemd gives to no unit.
READ_BY = {
    r"\.htpasswd$": "nginx",
    r"host\.key$": "nginx",
    r"client\.key$": "`celery-fleet`, the health check",
    r"exec\.env$|producer\.json$": "`celery-fleet`, commands of a release",
    r"operator\.json$": "`celery-fleet`, the health check",
    r"schedule\.json$": "`celery-fleet schedule`",
    r"backup\.json$": "the backup of Redis",
    r"health\.json$": "the health check",
    r"-sentinel/(users\.acl|logins\.conf)$": "Sentinel",
    r"login\.conf$": "Redis",
    r"(?<!-sentinel)/users\.acl$": "Redis, `celery-fleet redis --as admin`",
    r"-broker/users\.acl$": "`celery-fleet client --show-password`",
}
# The option that adds a reader (the second word) which a file does not have by default.
GIVEN_BY = {
    r"<app>-cache": "`celery_app_cache`",
    r"<app>-sentinel": "[several hosts](redis.md#three-hosts-of-which-one-may-fail) in `redis`",
}
INTRODUCTIONS = {
    "Secrets": (
        "Root can open all of them. Only root can open files in `credentials/`, its directory with mode 0700: systemd",
        "reads them and gives them to the listed units. A process's user can read what the process was given.",
        "With [your own Redis](redis.md#your-own-redis), the files hold",
        "`celery_app_broker_url` in place of the `redis_passwords`. Secrets of the control side:",
        "[operations](operations.md#secrets).",
        "",
    ),
    "Ports": (
        "If the [firewall](network.md#firewall) is enabled, only the fleet's hosts and the clients that you let in",
        "reach Redis, and only the fleet's hosts reach the web process without nginx.",
        "",
    ),
    "Directories of units": (
        "systemd creates them when it starts the unit, and removes those below `/run` when it stops.",
        "",
    ),
    "Data": (
        "What builds, systemd and programs write here goes with [a removal](removal.md), unless another application of",
        "the host has it too. `fleet_remove_keep` with the name in *Kept by* keeps it.",
        "",
    ),
}
