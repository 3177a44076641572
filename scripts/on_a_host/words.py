"""What no render tells: which variable brings what, what ports and files with secrets are for, and the page's words.

A thing that is new on a host and optional or secret needs a line here.
"""

from __future__ import annotations

HEAD = """\
# What is put on a host

Made by `python -m scripts.on_a_host` from dry runs of `site.yml`: what the roles want on the hosts of the delivered
inventories, and of ones with all that these leave off. Edit the roles.

`<app>` is `celery_app_name`, `<worker>` a key of `celery_worker_instances`, `<id>` a release, `<version>` that of the
runtime. *Option* names what brings a thing that a fleet does not have by default; *by* is the role that puts it there,
on [its hosts](#roles-and-hosts). Where owner or mode is not told, it is root's, and 0644 for a file or 0755 for a
directory.

Not in these lists are Debian's packages ([architecture](architecture.md#why-each-dependency-is-there)), the files
within a release and within the runtime, and what processes write at their work; where that lies stands in
[names](architecture.md#names). On each host `/etc/celery-fleet/<app>/manifest.json`, for root only,
lists what the application has there; [a removal](operations.md#taking-a-fleet-off-its-hosts) goes by it.
"""

# What is in no delivered fleet: a pattern of what is put there, and the variable that brings it.
OPTIONS = {
    r"valkey": "`redis_flavor: valkey`",
    r"firewall|celery_fleet_<app>": "`firewall_enabled`",
    r"logrotate|/var/log/<app>": "`celery_app_log_destination: file`",
    r"credentials/schedule\.json": "`celery_beat_scheduler: database`",
    r"nginx-web/flower\.conf": "`flower_url_prefix`",
    r"^backend$": "`celery_producer_web_listen`",
}
# What a port is for, its variable, and who is let in.
PORTS = {
    "broker": ("Redis, broker", "celery_app_broker_port", "TLS, a password for each component"),
    "results": ("Redis, results", "celery_app_results_port", "TLS, a password for each component"),
    "web": (
        "nginx, web process",
        "celery_producer_web_port",
        "TLS, a password for what is protected",
    ),
    "flower": ("nginx, Flower", "flower_port", "TLS, a password"),
    "backend": ("web process, past nginx", "celery_producer_web_listen", "nothing"),
}
PORTS_ROLE = {
    "broker": "redis",
    "results": "redis",
    "web": "celery_producer",
    "flower": "flower",
    "backend": "celery_producer",
}
# What no value gives away: it is kept as a hash, or made of others.
HOLDS = {
    r"web\.htpasswd$": "a hash of `celery_producer_web_auth_password`",
    r"flower\.htpasswd$": "a hash of `flower_auth_password`",
    r"host\.key$": "the host's private key",
    r"health\.json$": "`celery_health_on_change`",
}
# Who reads a file with secrets, where systemd hands it to nobody.
READ_BY = {
    r"\.htpasswd$": "nginx",
    r"host\.key$": "nginx",
    r"exec\.env$|producer\.json$": "`celery-fleet`, commands of a release",
    r"operator\.json$": "`celery-fleet`, the check of health",
    r"schedule\.json$": "`celery-fleet schedule`",
    r"health\.json$": "the check of health",
    r"users\.acl$": "Redis, `celery-fleet redis --as admin`",
}
# What brings a reader that a file does not have by default.
GIVEN_BY = {r"host\.key$": "`pki_mode: mutual`"}
INTRODUCTIONS = {
    "Secrets": (
        "Root opens all of them. What lies in `credentials/`, a directory of root's with the mode 0700, nobody else",
        "can open: systemd reads it and gives it to the units named, and what a process was given its user can read.",
        "Those of the control side: [operations](operations.md#secrets).",
        "",
    ),
    "Ports": (
        "The firewall, where it is on, lets nobody but the fleet's hosts reach Redis, nor the web process past nginx:",
        "[operations](operations.md#firewall).",
        "",
    ),
    "Directories of units": (
        "systemd makes them when it starts the unit; what is below `/run` goes at its end.",
        "",
    ),
}
