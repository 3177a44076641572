"""Tables of the options of an application, of a schedule's entries and of release commands, one row for each.

They are data on the control node: preflight checks the inventory by them, and `python scripts/reference.py` writes the
argument specs and the pages of the roles. `Option` in `option.py` describes the fields of a row. A default that
Ansible computes is in the role's `defaults/main.yml`.
"""

from __future__ import annotations

import re
from typing import Final

from .option import Option

# fmt: off
URL: Final[tuple[Option, ...]] = (
    Option("scheme", "str", "Such as C(postgresql) or C(rediss).", required=True),
    Option("host", "str", "A name, an address, or an absolute path for a directory of sockets, as libpq takes one.",
           required=True),
    Option("port", "int", "TCP port; without one the client uses its default."),
    Option("user", "str", "Name of the login."),
    Option("password", "str", "Password of the login.", secret=True),
    Option("path", "str", "What follows the host, such as the database's name or number."),
    Option("query", "dict", "Parameters after the question mark, name to value. A list of values repeats the name."),
)

UNIX_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

# Of celery_app_directories.
DIRECTORY: Final[tuple[Option, ...]] = (
    Option("owner", "str", "Unix user that owns it; by default C(celery_app_user).", syntax=UNIX_NAME, like="shop"),
    Option("group", "str", "Its Unix group; by default that of C(celery_app_user).", syntax=UNIX_NAME,
           like="shop-proxy"),
    Option("mode", "str", "Its permissions as four digits in quotes; by default C(0750).",
           syntax=re.compile("[0-7]{4}"), like='"2750"'),
)

LOGIN: Final[tuple[Option, ...]] = (
    Option("host", "str", "The host in the URL of the index or the proxy, without a port.", required=True),
    Option("user", "str", "Name of the login. Some services take any name with a token as password.", required=True),
    Option("password", "str", "Its password or token.", required=True, secret=True),
)

PACKAGE_INDEX: Final[tuple[Option, ...]] = (
    Option("url", "str",
           "URL of the index that replaces PyPI, such as C(https://packages.example.org/simple), without a login."),
    Option("extra_urls", "list",
           "URLs of further indexes. pip takes the highest version of all indexes, so an index that others can write "
           "to can replace your own packages. A lock with hashes prevents that.",
           elements="str"),
    Option("logins", "list", "Logins of indexes and of the proxy.", elements="dict", options=LOGIN),
    Option("ca", "str",
           "Certificates of the authorities that have signed the indexes' certificates, in PEM form. The host's own "
           "are trusted as well."),
    Option("client_certificate", "str", "Certificate of the client, followed by its key, in PEM form.", secret=True),
    Option("proxy", "str", "URL of an HTTP proxy, such as C(http://proxy.example.org:3128), without a login."),
)

LOG_ROTATE: Final[tuple[Option, ...]] = (
    Option("when", "str", "How often.", default="daily", choices=("daily", "weekly")),
    Option("keep", "int", "Number of old files to keep. Those of workers and beat are compressed, except the newest.",
           default=14, lowest=1),
    Option("size", "str",
           "Rotate earlier if a file is larger, such as C(100M). logrotate checks this once a day. Not for Flower's "
           "log.",
           syntax=re.compile(r"[1-9][0-9]*[kMG]?"), like="100M"),
)

#: The hash of an archive (`celery_app_source.sha256`).
SHA256: Final = re.compile(r"[0-9A-Fa-f]{64}")

APPLICATION: Final[tuple[Option, ...]] = (
    Option("celery_app_name", "str",
           "Prefix of everything that belongs to the application. systemd, Unix and Redis must accept it as a name.",
           required=True),
    Option("celery_app_module", "str", "What you would pass to C(celery -A), such as C(app.celery_app).",
           required=True),
    Option("celery_app_source", "dict",
           "Where the code comes from: exactly one of C(path), C(git), C(archive) and C(pip).",
           required=True,
           options=(
               Option("path", "str",
                      "A directory on the control node. A relative path starts at the directory of the C(ansible.cfg) "
                      "in use. If that is C(~/.ansible.cfg), in C(/etc/ansible) or missing, it starts at the working "
                      "directory. In a git work tree, files that git ignores are left out. Virtualenvs and the "
                      "inventory of the run are always left out, as are the SSH keys and the files of passwords that "
                      "Ansible uses. The home directory of the user who runs Ansible is refused."),
               Option("git", "str",
                      "URL of a repository that the control node can read. A login must not be in it; git finds that "
                      "by itself."),
               Option("version", "str", "Branch, tag or a commit's full id in the repository."),
               Option("archive", "str",
                      "A tar or zip archive: a file on the control node, or a URL. If one directory holds all of its "
                      "files, that is the source's root. A login is taken from C(~/.netrc) on the control node."),
               Option("sha256", "str",
                      "SHA-256 of the archive, in hexadecimal digits; required for a URL."),
               Option("pip", "str",
                      "The application as a package of the index, such as C(shop==1.2). The release has no files of "
                      "its own; its processes run in an empty directory."),
               Option("directory", "str",
                      "Directory in the source that holds the code and in which the processes run.",
                      default="."),
               Option("requirements", "str",
                      "The requirements file, in that directory or else in the source's root. Hashes are checked if "
                      "it has them.\n"
                      "It may also be a lock beside its C(pyproject.toml): C(uv.lock), C(poetry.lock) or C(pdm.lock). "
                      "The tool that wrote it exports it on the control node, without development dependencies.\n"
                      "Or it is C(pyproject.toml) itself. Then the project is installed as a package, with its "
                      "dependencies.\n"
                      "With C(pip), a file on the control node with the versions of further packages. It may include "
                      "the application, as a lock with hashes does.",
                      default="requirements.txt"),
               Option("extras", "list",
                      "With a lock, C(pyproject.toml) or C(pip), the project's extras to install.",
                      elements="str"),
               Option("groups", "list", "With a lock, the dependency groups to install.", elements="str"),
           )),
    Option("celery_app_package_index", "dict",
           "Where pip gets the packages of the application, of Flower and of the operator's command. What is not set "
           "here is as C(/etc/pip.conf) on the host says, or PyPI.",
           default={},
           options=PACKAGE_INDEX),
    Option("celery_app_inventory_name", "str",
           "The inventory that the application is deployed from, by default the name of the inventory's directory, "
           "which is the same in each checkout.\n"
           "The application's mark on each host names it, so that preflight refuses to touch another inventory's "
           "application of the same name. If two projects use the same name, set another one in one of them."),
    Option("celery_app_user", "str", "Unix user and group of the application's processes."),
    Option("celery_app_env", "dict",
           "The application's environment, readable by every user of the host.\n"
           "Names that Celery Fleet sets or removes itself, such as C(PYTHONPATH) and C(CELERY_BROKER_URL), are "
           "refused here and in the other environments, and so are lists and mappings as values.",
           default={}),
    Option("celery_app_secret_env", "dict", "The secret part of its environment, in a file that only systemd reads.",
           default={}, secret=True),
    Option("celery_app_env_urls", "dict",
           "URLs of the secret environment, such as C(DATABASE_URL): the variable's name to the URL's parts. Each "
           "part is percent-encoded. The entry point C(url) has the parts.",
           default={}),
    Option("celery_app_settings", "dict",
           "Celery settings (in lower case) that override the application's own in every process. See "
           "docs/preflight.md.\n"
           "Refused are the broker's address, a Redis elsewhere in C(result_backend), TLS options that verify less, "
           "and names that Celery 5.4 to 5.7 does not have or would not take here. Names of packages and of the "
           "application are accepted.",
           default={}),
    Option("celery_app_task_routes", "dict",
           "Celery's C(task_routes): patterns of task names to dictionaries with C(queue).",
           default={}),
    Option("celery_app_external_queues", "list",
           "Queues that the application sends to, but only processes outside of the fleet consume. Routes and entries "
           "of the schedule may name them. See docs/clients.md.",
           default=[], elements="str"),
    Option("celery_app_clients", "dict",
           "Applications outside of the fleet that use its queues, by name. Their Redis users have the same names. "
           "The entry point C(client) has the options. See docs/clients.md.",
           default={}),
    Option("celery_app_client_passwords", "dict",
           "Passwords of C(celery_app_clients), by name.",
           default={}, secret=True),
    Option("celery_app_delivery", "str",
           "What the fleet promises on delivery; C(inherit) leaves it to the application. See docs/delivery.md.\n"
           "C(at_least_once) acknowledges a task when it has ended, prefetches one task for each process, and "
           "retries a task if its process died. A task may run twice and must tolerate that. Workers fetch "
           "atomically (C(celery_worker_fetch)), with all that depends on it.\n"
           "C(at_most_once) acknowledges a task before it begins. What dies with its process is lost, and nothing "
           "runs twice.\n"
           "C(celery_app_settings) override what it sets, and a task's own options override both. C(delivery) of a "
           "worker overrides it for that worker.",
           default="inherit", choices=("inherit", "at_least_once", "at_most_once")),
    Option("celery_app_metrics", "bool",
           "Whether workers and beat count tasks, in files in C(/var/lib/<app>/metrics) on their hosts.\n"
           "Each process of the fleet then adds the header C(x-fleet-sent) to the messages that it sends, so that "
           "workers know how long a message waited. Senders outside of the fleet add none.",
           default=True),
    Option("celery_app_history_mb", "int",
           "Megabytes that the history of tasks may take in the result store, for C(celery-fleet task); 0 keeps none.\n"
           "Under load, a megabyte holds at least 10,000 tasks. It needs C(celery_app_metrics), and results in Redis.",
           default=32),
    Option("celery_app_log_destination", "str",
           "Where workers, beat and Flower write their log.\n"
           "C(file) means C(celery_<worker>.log) and C(celery_beat.log) in C(/var/log/<application>), rotated by "
           "logrotate, and C(flower.log) in C(/var/log/<application>-flower), rotated by Flower. What a process says "
           "before its log is set up still goes to the journal.",
           default="journal", choices=("journal", "file")),
    Option("celery_app_log_format", "str",
           "Celery's C(worker_log_format) for workers and beat; empty for the application's own. C(json) writes one "
           "JSON object a line, without results of tasks, for both kinds of logs. See docs/logs.md.",
           default=""),
    Option("celery_app_task_log_format", "str",
           "Celery's C(worker_task_log_format) for what tasks log; empty for the application's own.",
           default=""),
    Option("celery_app_log_rotate", "dict", "How log files are rotated.",
           default={},
           options=LOG_ROTATE),
    Option("celery_app_visibility_timeout", "int",
           "Seconds after which an unacknowledged task is given to another worker. The shortest of all consumers "
           "applies, so it is one number for the application.\n"
           "The default is 300 if all workers renew what they hold (C(celery_worker_lease) with atomic fetching). "
           "A task may last longer; it returns this long after its host has died.\n"
           "Otherwise the default is an hour, or longer if a worker without the lease needs that, by its "
           "C(prefetch_multiplier), C(time_limit) and C(drain_timeout) or by C(task_time_limit) and "
           "C(worker_prefetch_multiplier) of C(celery_app_settings)."),
    Option("celery_app_broker_url", "str",
           "URL of a Redis or Valkey that the fleet does not run, such as C(rediss://user:password@host:6379/0). The "
           "group C(redis) is then empty.\n"
           "No other application may use the same database there. docs/redis.md says which rights the user needs.",
           default="", secret=True),
    Option("celery_app_results_url", "str",
           "URL of the result store, if the fleet does not run it. The default is the broker's URL.", secret=True),
    Option("celery_app_redis_ca", "str",
           "With C(celery_app_broker_url): the authorities that sign the servers' certificates, in PEM form. Without "
           "them, the authorities that the host's own system trusts are used.",
           default=""),
    Option("celery_app_lease_host", "str",
           "Host that keeps the lease of a run, and the marks of release commands that run on one host. Each run must "
           "reach it, also with C(--limit). The default is the host of Redis; if the fleet runs none, set it."),
    Option("celery_app_broker_host", "str",
           "Name or address of the broker's host, as in its certificate; an IPv6 address without brackets."),
    Option("celery_app_broker_port", "int", "TLS port of the broker."),
    Option("celery_app_results_host", "str",
           "Name or address of the result store's host, as in its certificate; an IPv6 address without brackets."),
    Option("celery_app_results_port", "int", "TLS port of the result store."),
    Option("celery_app_sentinel_port", "int",
           "TLS port of the Sentinels, which exist if the group C(redis) has several hosts. See docs/redis.md.",
           default=26379),
    Option("celery_app_wait_replicas", "int",
           "With several hosts in the group C(redis): how many replicas must have a task before it counts as sent, so "
           "that none is lost with the primary. With 0, the last ones may be.",
           default=1),
    Option("celery_app_cache", "bool",
           "Whether the fleet has a third instance of Redis, for the application's own cache. Its processes get the "
           "address as CELERY_FLEET_CACHE_URL. See docs/redis.md.",
           default=False),
    Option("celery_app_cache_host", "str",
           "Name or address of the cache's host, as in its certificate; an IPv6 address without brackets."),
    Option("celery_app_cache_port", "int", "TLS port of the cache.", default=6381),
    Option("celery_app_host_names", "list",
           "Names by which others call this host, for certificates and web sites: by default its name in the "
           "inventory and its address.",
           elements="str"),
    Option("celery_app_directories", "dict",
           "Directories for the application's own files, path to options. A run creates them on each host with the "
           "application's processes, before any of these start. See docs/web.md.\n"
           "Processes need C(read_write_paths) to write there. A path with a symbolic link in it is refused.",
           default={}),
    Option("celery_app_config_directory", "path",
           "Directory of the application's configuration on a host. Other files rely on this and the following "
           "places."),
    Option("celery_app_root", "path", "Directory of the application's releases."),
    Option("celery_app_state_directory", "path", "Directory of the application's state."),
    Option("celery_app_ca", "path", "Certificate with which every client checks the servers."),
    Option("celery_app_runtime", "path", "Directory of Celery Fleet's own runtime on a host."),
    Option("celery_app_proxy_group", "str",
           "Unix group that may open the sockets of Flower and the web process; nginx is a member."),
)

# Of celery_app_clients.
CLIENT: Final[tuple[Option, ...]] = (
    Option("queues", "list", "Queues that it may send tasks to.", default=[], elements="str"),
    Option("results", "bool",
           "Whether it may read the results of tasks, and store its groups and chords. A client with C(consume) may "
           "also write results.",
           default=False),
    Option("control", "bool",
           "Whether it may ping, inspect and control workers, which includes stopping them. See docs/network.md first.",
           default=False),
    Option("consume", "list",
           "Queues that it consumes; each must be in C(celery_app_external_queues).",
           default=[], elements="str"),
    Option("addresses", "list",
           "Addresses and networks that it connects from. The firewall (C(firewall_enabled)) lets them reach Redis.",
           default=[], elements="str"),
)

# Of celery_beat_schedule. An entry has one of the first three.
ENTRY: Final[tuple[Option, ...]] = (
    Option("crontab", "dict",
           "When it is due: C(minute), C(hour), C(day_of_month), C(month_of_year) and C(day_of_week)."),
    Option("interval", "float", "Seconds between two runs."),
    Option("solar", "dict", "When it is due: C(event), C(latitude) and C(longitude)."),
    Option("task", "str", "The task's name as Celery registers it.", required=True),
    Option("args", "list", "Its arguments."),
    Option("kwargs", "dict", "Its keyword arguments."),
    Option("queue", "str", "The queue that it goes to; without one the routes decide."),
    Option("options", "dict", "More options of C(apply_async), such as C(expires)."),
    Option("enabled", "bool",
           "Whether it is sent. An entry that only has this, as false, switches off one in the application's code.",
           default=True),
    Option("override", "bool",
           "Whether it replaces the entry of the same name in the application's code. Without this, the policy C(add) "
           "refuses an entry that differs from the code's.",
           default=False),
    Option("missed", "str",
           "What happens to runs that were missed while beat was down for longer than a minute. C(once) sends the task "
           "once for all of them, C(each) once for each, and C(skip) not at all. See docs/schedules.md.",
           default="once", choices=("once", "each", "skip")),
    Option("missed_limit", "int", "With C(missed: each), the number of runs that are sent at most: the latest ones.",
           default=10, lowest=1, highest=1000),
)

# Of celery_release_commands.
COMMAND: Final[tuple[Option, ...]] = (
    Option("name", "str", "Its name, by which a run knows whether it was done.", required=True,
           syntax=re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}"),
           like="letters, digits, - and _, 48 at most, and begin with a letter or a digit"),
    Option("argv", "list", "Its command line; C(python) means the release's interpreter.",
           required=True, elements="str"),
    Option("when", "str", "Once for each release, or once ever.", default="release", choices=("release", "once")),
    Option("hosts", "str", "On one host, or on all that have the release.", default="one", choices=("one", "all")),
    Option("timeout", "float", "Seconds that it may take.", default=600),
    Option("umask", "str",
           "Permissions that its new files don't get, as four digits in quotes; by default only the application's "
           "user can read them.",
           default="0077", syntax=re.compile("0[0-7]{3}"), like='"0027"'),
)
# fmt: on
