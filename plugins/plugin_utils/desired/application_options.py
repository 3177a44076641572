"""The options of an application, of a schedule's entries and of release commands.

A default that Ansible computes is in `defaults/main.yml` of the role.
"""

from __future__ import annotations

import re
from typing import Final

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import Option

# fmt: off
URL: Final[tuple[Option, ...]] = (
    Option("scheme", "str", "Such as C(postgresql) or C(rediss).", required=True),
    Option("host", "str", "A name or an address; or an absolute path, for a directory of sockets as libpq takes one.",
           required=True),
    Option("port", "int", "TCP port; without one the client takes its own default."),
    Option("user", "str", "Name of the login."),
    Option("password", "str", "Password of the login.", secret=True),
    Option("path", "str", "What stands behind the host, such as the database's name or number."),
    Option("query", "dict",
           "Parameters behind the question mark, name to value; a list of values gives the name several times."),
)

LOG_ROTATE: Final[tuple[Option, ...]] = (
    Option("when", "str", "How often.", default="daily", choices=("daily", "weekly")),
    Option("keep", "int", "Old files that are kept; all of workers and beat but the newest are compressed.",
           default=14, lowest=1),
    Option("size", "str",
           "Rotate earlier where a file is larger, such as C(100M), as often as logrotate looks, which "
           "is daily. Not for Flower's.",
           syntax=re.compile(r"[1-9][0-9]*[kMG]?"), like="100M"),
)

APPLICATION: Final[tuple[Option, ...]] = (
    Option("celery_app_name", "str",
           "Prefix of everything that belongs to the application; a name that systemd, Unix and Redis take.",
           required=True),
    Option("celery_app_module", "str", "What a person would give to C(celery -A), such as C(app.celery_app).",
           required=True),
    Option("celery_app_source", "dict",
           "Where the code is taken from; exactly one of C(path), C(git), C(archive) and C(pip).",
           required=True,
           options=(
               Option("path", "str", "A directory on the control side; relative ones start at the checkout."),
               Option("git", "str",
                      "URL of a repository that the control side can read, without a login in it, which git finds "
                      "by itself."),
               Option("version", "str", "Branch, tag or commit of the repository."),
               Option("archive", "str", "A tar archive. Not supported yet."),
               Option("pip", "str", "A requirement that pip installs. Not supported yet."),
               Option("directory", "str",
                      "The directory within the source that holds the code, and in which the processes run.",
                      default="."),
               Option("requirements", "str",
                      "The requirements file, within that directory or else the source's; its hashes are checked "
                      "where it has some.",
                      default="requirements.txt"),
           )),
    Option("celery_app_owner", "str",
           "Which inventory the application is deployed from.\n"
           "The application's mark on each host names it, so that preflight refuses to touch another inventory's "
           "application of the same name.\n"
           "The name of the inventory's directory is the same in each checkout; where two projects call theirs "
           "alike, one of them sets a name of its own."),
    Option("celery_app_user", "str", "Unix user and group of the application's processes."),
    Option("celery_app_env", "dict",
           "The application's environment, readable by every user of the host. Names that Celery Fleet sets or "
           "removes itself, such as C(PYTHONPATH) and C(CELERY_BROKER_URL), are refused here and in the other "
           "environments, and so are lists and mappings as values.",
           default={}),
    Option("celery_app_secret_env", "dict", "The secret part of its environment, in a file that systemd alone reads.",
           default={}, secret=True),
    Option("celery_app_urls", "dict",
           "URLs of the secret environment, such as C(DATABASE_URL): the variable's name to the parts of which it "
           "is composed, each percent-encoded. See C(url) below.",
           default={}),
    Option("celery_app_settings", "dict",
           "Celery settings (in lower case) that win over the application's own, in every process. The broker's "
           "address, a Redis elsewhere in C(result_backend), TLS options that verify less, and names that Celery "
           "5.4 to 5.7 does not have or would not take here are refused; names of packages and of the application "
           "pass. See docs/operations.md.",
           default={}),
    Option("celery_app_task_routes", "dict",
           "Celery's C(task_routes), a pattern of task names to a dictionary with C(queue).",
           default={}),
    Option("celery_app_delivery", "str",
           "Which promise on delivery the fleet makes; C(inherit) leaves it to the application. See "
           "docs/delivery.md.\n"
           "C(at_least_once) acknowledges a task when it has ended, takes one task ahead for each process, and has "
           "a task whose process died retried as one that failed. A task may run twice, so it must bear that. "
           "Workers take tasks atomically (C(celery_worker_take)), with all that stands on it.\n"
           "C(at_most_once) acknowledges a task before it begins. What dies with its process is lost, and nothing "
           "runs twice.\n"
           "C(celery_app_settings) win over what it sets, and a task's own options win over both. C(delivery) of a "
           "worker overrides it for that worker.",
           default="inherit", choices=("inherit", "at_least_once", "at_most_once")),
    Option("celery_app_log_destination", "str",
           "Where workers, beat and Flower write their log.\n"
           "C(file) is C(celery_<worker>.log) and C(celery_beat.log) in C(/var/log/<application>), rotated by "
           "logrotate, and C(flower.log) in C(/var/log/<application>-flower), rotated by Flower. What a process "
           "says before its log is set up still goes to the journal.",
           default="journal", choices=("journal", "file")),
    Option("celery_app_log_format", "str",
           "Celery's C(worker_log_format), for workers and beat; empty for the application's own.",
           default=""),
    Option("celery_app_task_log_format", "str",
           "Celery's C(worker_task_log_format), for what tasks log; empty for the application's own.",
           default=""),
    Option("celery_app_log_rotate", "dict", "How log files are rotated.",
           default={},
           options=LOG_ROTATE),
    Option("celery_app_visibility_timeout", "int",
           "Seconds after which an unacknowledged task is given to another worker.\n"
           "By default 300 where all workers renew what they hold (C(celery_worker_lease) with the atomic take). A "
           "task may last longer; it comes back this long after its host has died.\n"
           "Else an hour, or longer where C(prefetch_multiplier), C(time_limit) and C(drain_timeout) of a worker "
           "without the lease ask for it, or C(task_time_limit) and C(worker_prefetch_multiplier) of "
           "C(celery_app_settings)."),
    Option("celery_app_broker_host", "str",
           "Name or address of the broker's host, as its certificate has it; an IPv6 address without brackets."),
    Option("celery_app_broker_port", "int", "TLS port of the broker.", default=6379),
    Option("celery_app_results_host", "str",
           "Name or address of the result store's host, as its certificate has it; an IPv6 address without "
           "brackets."),
    Option("celery_app_results_port", "int", "TLS port of the result store.", default=6380),
    Option("celery_app_host_names", "list", "What others call this host, for certificates and web sites.",
           elements="str"),
    Option("celery_app_directory", "path", "Directory of the application's configuration on a host."),
    Option("celery_app_root", "path", "Directory of its releases."),
    Option("celery_app_state", "path", "Directory of its state."),
    Option("celery_app_ca", "path", "The certificate against which every client checks the servers."),
    Option("celery_app_runtime", "path", "Directory of the fleet's own runtime on a host."),
    Option("celery_app_proxy_group", "str", "Unix group that may open the sockets of Flower and of the web process."),
)

# Of celery_beat_schedule. An entry has one of the first three.
ENTRY: Final[tuple[Option, ...]] = (
    Option("crontab", "dict",
           "When it is due, by C(minute), C(hour), C(day_of_month), C(month_of_year) and C(day_of_week)."),
    Option("interval", "float", "Seconds between two times."),
    Option("solar", "dict", "When it is due, by C(event), C(latitude) and C(longitude)."),
    Option("task", "str", "The task's name, as Celery registers it.", required=True),
    Option("args", "list", "Its arguments."),
    Option("kwargs", "dict", "Its keyword arguments."),
    Option("queue", "str", "The queue that it goes to; without one the routes decide."),
    Option("options", "dict", "Further options of C(apply_async), such as C(expires)."),
    Option("enabled", "bool",
           "Whether it is sent. An entry that has nothing else, as false, switches off one of the application's code.",
           default=True),
)

# Of celery_release_commands.
COMMAND: Final[tuple[Option, ...]] = (
    Option("name", "str", "Its name, by which a run knows what was done.", required=True,
           syntax=re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}"),
           like="letters, digits, - and _, 48 at most, and begin with a letter or a digit"),
    Option("argv", "list", "Its command line; C(python) stands for the release's interpreter.",
           required=True, elements="str"),
    Option("when", "str", "Once for each release, or once ever.", default="release", choices=("release", "once")),
    Option("on", "str", "On one host, or on all that have the release.", default="one", choices=("one", "all")),
    Option("timeout", "float", "Seconds that it may take.", default=600),
)
# fmt: on
