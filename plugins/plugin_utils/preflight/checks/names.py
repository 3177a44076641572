"""Checks names of variables, applications, workers, queues and hosts."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from ...desired.application_options import UNIX_NAME
from ..model.inventory import (
    Model,
    Problem,
    Severity,
    as_list,
    as_mapping,
    as_strings,
    dotted,
    each_worker,
)
from ..model.specs import options_of

# useradd takes 32 characters, and `<application>-flower` is a user too.
APPLICATION = re.compile(r"[a-z][a-z0-9_-]{0,24}")
_LONGEST_WITH_EXPORTER: Final = 32 - len("-exporter")
_WORKER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Components of an application that the operator's command names like workers.
_SERVICES: Final = frozenset({"beat", "flower", "web"})
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# The upper bound of a certificate's common name (RFC 5280): no certificate is made for a longer one.
_LONGEST_HOST = 64
_WORD = re.compile(r"\w*")
# Variables that list the names that preflight accepts, and the remedy for a wrong entry of each.
_ALLOWANCES: Final = {
    "preflight_allowed_variables": "name the variables that are your own",
    "preflight_allowed_placeholders": "name each secret that only looks like a placeholder, such as "
    "celery_app_secret_env.API_TOKEN",
    "preflight_allowed_distributions": "name each distribution with its version, such as ubuntu-24.04",
}
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?", re.ASCII)
# Redis's ACL file has no quoting (tried: control bytes can't be written), and its patterns are globs. `celery -Q`
# splits at commas, and the arguments are split as in a shell.
_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+=~/-]{0,127}")
_KOMBU_KEYS = re.compile(r"unacked(_index|_mutex)?|celeryev.*|.*celery\.pidbox")
# Users and groups of Debian itself and of services that often run on the same host.
_TAKEN_USERS: Final = frozenset(
    """
    root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup _apt sshd
    messagebus adm tty disk kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow utmp video
    sasl plugdev staff users input sgx kvm render crontab syslog systemd-network systemd-resolve systemd-timesync
    systemd-journal redis valkey postgres nginx mysql rabbitmq memcache dhcpcd polkitd
    """.split()  # noqa: SIM905 - as a list it would be a page of quotes
)


# Names that other software uses for directories in /etc/celery-fleet, /opt, /var/lib and /var/log, for files in
# /etc/logrotate.d, or for units of systemd. In all of these places an application uses its name without a prefix.
_TAKEN_NAMES: Final = frozenset(
    """
    alternatives apt aptitude apache2 bind celery-fleet celery-fleet-redis chrony cloud cloud-init containerd cron dbus
    dhcp docker dpkg exim4 fail2ban git grub initramfs-tools installer journal logrotate lost-found mariadb mysql nginx
    ntp pam polkit-1 postfix postgres postgresql postgresql-common private puppet python python3 rabbitmq redis
    redis-server rsyslog runit samba snapd sudo supervisor sysstat systemd ubuntu-advantage ucf ufw unattended-upgrades
    upstart usbutils valkey valkey-server vim wtmp btmp xml-core
    basic bluetooth default emergency exit factory-reset final first-boot-complete getty getty-pre graphical halt
    hibernate hybrid-sleep init initrd initrd-fs initrd-switch-root initrd-usr kexec local-fs local-fs-pre machine
    machines multi-user network network-online network-pre nss-lookup nss-user-lookup paths poweroff printer
    reboot remote-cryptsetup remote-fs remote-fs-pre remote-veritysetup rescue rpcbind runlevel0 runlevel1 runlevel2
    runlevel3 runlevel4 runlevel5 runlevel6 shutdown sigpwr sleep slices smartcard sockets sound suspend
    suspend-then-hibernate swap sysinit system system-update system-update-pre time-set time-sync timers umount
    usb-gadget user veritysetup veritysetup-pre
    boot-complete capsule misc soft-reboot ssh-access storage-target-mode tpm2 wtmpdb
    """.split()  # noqa: SIM905 - as a list it would be a page of quotes
)


def check_unknown(model: Model) -> Iterator[Problem]:
    """Report unknown variables with a role's prefix, and near misses of known names.

    A near miss is a mistake; a variable that only has one of our prefixes may belong to another role.
    """
    known = tuple(model.specs.options)
    is_allowed = allowed(model, "preflight_allowed_variables")
    for name, hosts in model.given_names.items():
        if name in model.specs.options or is_allowed(name):
            continue
        own = model.specs.role_of(name)
        near = [known_name for known_name in known if near_miss(name, known_name)]
        # An inventory may have had celery_env for another role, so that is only worth a warning.
        longer = name.replace("celery_", "celery_app_", 1) if own is None else ""
        if own is None and not near and longer not in known:
            continue
        # Other roles may use our prefixes, except those that begin with celery_.
        ours = bool(near) or (own is not None and own.startswith("celery_"))
        likely = _likely(model, name, own) if own and ours else ""
        guess = f"did you mean {[*near, longer][0]}?" if near or longer else likely
        # Never show the value, which may be a secret under a misspelt name. Don't show the text after a name either:
        # `redis_passwords:s3cret` without a space is one key.
        shown = name if name.isidentifier() else f"{_WORD.match(name)[0]}… (the rest is not shown)"  # type: ignore[index]  # it matches anything
        yield Problem(
            variable=shown,
            message=(
                f"is not a variable of the role {own}" if own else "looks like a misspelt variable"
            )
            + ("" if ours else ", so it has no effect here"),
            remedy=" ".join(
                part
                for part in (
                    guess,
                    "If it is your own variable, add it to preflight_allowed_variables.",
                )
                if part
            ),
            hosts=hosts,
            severity=Severity.ERROR if ours else Severity.WARNING,
        )


def _likely(model: Model, name: str, own: str) -> str:
    """Return a question with what an unknown variable of a role probably means, or an empty string."""
    rest = name.removeprefix(f"{own}_")
    if own == "celery_worker" and rest in model.specs.element_options("celery_worker_instances"):
        return f"did you mean the option {rest} of a worker, in celery_worker_instances or celery_worker_defaults?"
    of_role = [known for known in model.specs.options if known.startswith(f"{own}_")]
    inside = [known for known in of_role if rest in options_of(model.specs.options[known])]
    if inside:
        return f"did you mean {inside[0]}.{rest}?"
    longer = [known for known in of_role if known.endswith(f"_{rest}")]
    if longer:
        return f"did you mean {longer[0]}?"
    # Without the prefix, which makes any two variables of a role look alike.
    near = difflib.get_close_matches(rest, [known.removeprefix(f"{own}_") for known in of_role], 1)
    return f"did you mean {own}_{near[0]}?" if near else ""


@functools.cache
def near_miss(name: str, known: str) -> bool:
    """Return whether a name is almost a known one: in upper case, with dashes, or with a letter or two wrong."""
    if name == known:
        return False
    if name.lower().replace("-", "_") == known:
        return True
    if abs(len(name) - len(known)) > 2:
        return False
    cutoff = 0.9 if len(known) >= 10 else 0.8
    return difflib.SequenceMatcher(None, name, known).ratio() >= cutoff


def check_application(model: Model) -> Iterator[Problem]:
    """Check the application's name, owner, user, group and module."""
    for value, hosts in model.distinct("celery_app_name"):
        name = _name(value)
        if name is not None and not APPLICATION.fullmatch(name):
            yield Problem(
                "celery_app_name",
                "can't be the name of units, users and directories",
                "begin with a letter; use only a-z, 0-9, - and _, at most 25 characters",
                value=model.show(("celery_app_name",), name),
                hosts=hosts,
            )
        elif name in _TAKEN_NAMES:
            yield Problem(
                "celery_app_name",
                "is already the name of units, directories or files of other software",
                "choose a name that only this application has",
                value=model.show(("celery_app_name",), name),
                hosts=hosts,
            )
        elif name is not None and len(name) > _LONGEST_WITH_EXPORTER:
            exporters = [h for h in hosts if model.value(h, "celery_exporter_enabled") is True]
            if exporters:
                yield Problem(
                    "celery_exporter_enabled",
                    f"needs a Unix user {name}-exporter, but Linux takes 32 characters",
                    f"choose a celery_app_name of at most {_LONGEST_WITH_EXPORTER} characters, or switch it off",
                    hosts=tuple(exporters),
                )
    for value, hosts in model.distinct("celery_app_inventory_name"):
        if isinstance(value, str) and not (value.isprintable() and value.strip()):
            yield Problem(
                "celery_app_inventory_name",
                "is not the name of an owner",
                "write one line, such as the name of the environment",
                value=model.show(("celery_app_inventory_name",), value),
                hosts=hosts,
            )
    for value, hosts in model.distinct("celery_app_user"):
        name = _name(value)
        if name in _TAKEN_USERS:
            yield Problem(
                "celery_app_user",
                "is a user that belongs to the system or to another service",
                "choose a name that only this application has (set celery_app_user, or rename the application)",
                value=model.show(("celery_app_user",), name),
                hosts=hosts,
            )
    for variable, what in (("celery_app_user", "user"), ("celery_app_proxy_group", "group")):
        for value, hosts in model.distinct_given(variable):
            name = _name(value)
            if name is not None and not UNIX_NAME.fullmatch(name):
                yield Problem(
                    variable,
                    f"can't be the name of a Unix {what}",
                    "begin with a letter; use only a-z, 0-9, - and _, at most 32 characters",
                    value=model.show((variable,), name),
                    hosts=hosts,
                )
    for value, hosts in model.distinct("celery_app_module"):
        name = _name(value)
        if name is not None and (not _MODULE.fullmatch(name) or name.endswith(".py")):
            yield Problem(
                "celery_app_module",
                "is not a module that `celery -A` accepts",
                "write it with dots and without .py, as in app.celery_app or app.celery_app:app",
                value=model.show(("celery_app_module",), name),
                hosts=hosts,
            )
    names = {str(value) for value, _ in model.distinct("celery_app_name")}
    if len(names) > 1:
        yield Problem(
            "celery_app_name",
            "differs between the hosts of one fleet",
            "set it once, in group_vars/all or group_vars/fleet",
            value=model.show(("celery_app_name",), ", ".join(sorted(names))),
        )


def _name(value: object) -> str | None:
    """Return a name, which may be empty, or a number, which Ansible's specs accept as a string; else None."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return str(value)


def check_workers_and_queues(model: Model) -> Iterator[Problem]:
    """Check names of workers and of all queues: consumed, routed to, scheduled and external."""
    for name, options, hosts in each_worker(model):
        path = ("celery_worker_instances", name)
        if not _WORKER.fullmatch(name):
            is_queue = "queues" not in options and queue_fits(name) and worker_fits(name.lower())
            yield Problem(
                dotted(path),
                "can't be the name of a worker: it becomes part of a unit's and a node's name",
                "use only a-z, 0-9, - and _, at most 64 characters"
                + (f"; as in {name.lower()}: {{queues: [{name}]}}" if is_queue else ""),
                hosts=hosts,
            )
            if "queues" not in options:
                continue
        if name in _SERVICES:
            yield Problem(
                dotted(path),
                f"can't be the name of a worker: `celery-fleet restart {name}` means the application's {name} process",
                f"choose another name, as in {name}-tasks: {{queues: [{name}]}}",
                hosts=hosts,
            )
        for queue in as_strings(options.get("queues", [name])):
            yield from _queue(model, (*path, "queues"), queue, hosts)
    for value, hosts in model.distinct("celery_app_task_routes"):
        for pattern, route in as_mapping(value).items():
            named = as_mapping(route).get("queue")
            if isinstance(named, str):
                yield from _queue(model, ("celery_app_task_routes", pattern, "queue"), named, hosts)
    for value, hosts in model.distinct("celery_app_settings"):
        default = as_mapping(value).get("task_default_queue")
        if isinstance(default, str):
            yield from _queue(model, ("celery_app_settings", "task_default_queue"), default, hosts)
    for value, hosts in model.distinct("celery_app_external_queues"):
        for queue in as_strings(value):
            yield from _queue(model, ("celery_app_external_queues",), queue, hosts)
    for value, hosts in model.distinct("celery_beat_schedule"):
        for entry, body in as_mapping(value).items():
            named = as_mapping(body).get("queue")
            if isinstance(named, str):
                yield from _queue(model, ("celery_beat_schedule", entry, "queue"), named, hosts)


def application_fits(name: str) -> bool:
    """Return whether a host's units, users and directories leave room for an application of this name."""
    return APPLICATION.fullmatch(name) is not None and name not in _TAKEN_NAMES | _TAKEN_USERS


def module_fits(name: str) -> bool:
    """Return whether `celery -A` accepts a module of this name."""
    return _MODULE.fullmatch(name) is not None


def worker_fits(name: str) -> bool:
    """Return whether units and node names can contain this name of a worker."""
    return _WORKER.fullmatch(name) is not None


def queue_fits(queue: str) -> bool:
    """Return whether Redis's ACL file, `celery -Q` and kombu's own keys leave room for this name of a queue."""
    return _QUEUE.fullmatch(queue) is not None and _KOMBU_KEYS.fullmatch(queue) is None


def _queue(
    model: Model, path: tuple[object, ...], queue: str, hosts: tuple[str, ...]
) -> Iterator[Problem]:
    if _KOMBU_KEYS.fullmatch(queue):
        yield Problem(
            dotted(path),
            "is the name of one of Celery's own keys in Redis",
            "choose another name for the queue",
            value=model.show(path, queue),
            hosts=hosts,
        )
    elif not _QUEUE.fullmatch(queue):
        yield Problem(
            dotted(path),
            "is not a queue name that Redis's ACL and `celery -Q` accept",
            "begin with a letter or digit; use only letters, digits and _ . : @ + = ~ / -",
            value=model.show(path, queue or '""'),
            hosts=hosts,
        )


def check_hosts(model: Model) -> Iterator[Problem]:
    """Check the hosts' names in the inventory: they become part of node names and certificates."""
    for host in model.hosts:
        if not _HOST.fullmatch(host) or len(host) > _LONGEST_HOST:
            yield Problem(
                "inventory_hostname",
                "can't be part of a node's name and a certificate",
                f"use at most {_LONGEST_HOST} letters, digits, dots and dashes; give its address in ansible_host",
                value=model.show(("inventory_hostname",), host),
                hosts=(host,),
            )


def allowed(model: Model, variable: str) -> Callable[[str], bool]:
    """Return a function that says whether a variable of the inventory lists a name, directly or by a pattern."""
    patterns = {pattern for value, _ in model.distinct(variable) for pattern in as_strings(value)}
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def check_allowed(model: Model) -> Iterator[Problem]:
    """Refuse a pattern that matches every name in the lists of accepted names."""
    for variable, remedy in _ALLOWANCES.items():
        for value, hosts in model.distinct_given(variable):
            for index, pattern in enumerate(as_list(value)):
                if isinstance(pattern, str) and not pattern.strip("*?"):
                    yield Problem(
                        dotted((variable, index)),
                        "would allow every name",
                        remedy,
                        value=model.show((variable,), pattern),
                        hosts=hosts,
                    )
