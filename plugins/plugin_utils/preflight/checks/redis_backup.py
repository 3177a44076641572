"""Checks the options of backups of Redis: where they go, how often, and the keys that they need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from ...desired.backup_options import BACKUP, PRIVATE_KEY, PUBLIC_KEY, VARIABLE
from ...desired.option import as_number
from ..model.inventory import (
    UNKNOWN,
    Model,
    Problem,
    Severity,
    as_list,
    as_mapping,
    as_text,
    dotted,
)
from ..model.report import with_hosts
from .sandbox import hidden_by_sandbox
from .values import check_pem

_EXAMPLE: Final = "write it as in {to: /mnt/backup/shop, every: 1h, keep: 48}"
_DATA: Final = PurePosixPath("/var/lib/celery-fleet-redis")
# What does not last, or of which the unit has its own.
_PASSING: Final = re.compile(r"/(run|dev|proc|sys)(/.*)?")


def check_redis_backup(model: Model) -> Iterator[Problem]:
    """Check `redis_backup`. That Redis has a user for it is checked with the other passwords."""
    for value, hosts in model.distinct(VARIABLE):
        options = as_mapping(value)
        if not options:
            continue
        for check in (_form, _target, _path, _keys):
            yield from with_hosts(hosts, check(model, options))


def _form(model: Model, options: Mapping[str, object]) -> Iterator[Problem]:
    """Check the form of texts and the range of numbers."""
    for option in BACKUP:
        value = options.get(option.name)
        number = as_number(value)
        path, message, remedy = (VARIABLE, option.name), "", f"write {option.bounds}"
        if option.syntax is None and number is not None and option.violation(number):
            message = f"is {option.violation(number)}"
        elif option.syntax and isinstance(value, (str, int)) and not option.fits(str(value)):
            message, remedy = "has another form", f"write it as in {option.like}"
        if message:
            yield Problem(dotted(path), message, remedy, value=model.show(path, value))


def _target(model: Model, options: Mapping[str, object]) -> Iterator[Problem]:
    """Check that there is one target, and that options belong to it."""
    command = as_list(options.get("command"))
    if UNKNOWN in (options.get("to"), options.get("command")):
        return
    if ("to" in options) is ("command" in options):
        number = "both to and command" if "to" in options else "neither to nor command"
        yield Problem(VARIABLE, f"has {number}, so it does not say where backups go", _EXAMPLE)
    elif "command" in options and (not command or command[0] == ""):
        yield Problem(
            dotted((VARIABLE, "command")),
            "names no program",
            "write it as in [/usr/local/bin/store-backup, --bucket, shop]",
        )
    elif "command" in options and "keep" in options:
        yield Problem(
            dotted((VARIABLE, "keep")),
            "has no effect with command, which decides itself how many backups it keeps",
            "remove it",
        )


def _path(model: Model, options: Mapping[str, object]) -> Iterator[Problem]:
    """Check that a path is a place outside of Redis's own, to which the unit can write."""
    text = as_text(options.get("to"))
    if text is None or not text.startswith("/"):
        return
    path, where = PurePosixPath(text), dotted((VARIABLE, "to"))
    apps = {as_text(value) for value, _ in model.distinct("celery_app_name")}
    own = [_DATA, *(PurePosixPath(f"/var/lib/{app}-backup") for app in apps if app)]
    remedy = (
        "mount a filesystem of another machine, and write a directory there, as in /mnt/backup/shop"
    )
    if ".." in path.parts:
        yield Problem(where, "leads through ..", "write the whole path", value=text)
    elif any(path.is_relative_to(one) or one.is_relative_to(path) for one in own):
        yield Problem(where, "is where Redis and its backups have their data", remedy, value=text)
    elif hidden_by_sandbox(text) or _PASSING.fullmatch(text):
        yield Problem(where, "is not visible to the unit, or does not last", remedy, value=text)


def _keys(model: Model, options: Mapping[str, object]) -> Iterator[Problem]:
    """Check the keys for encryption and for SSH."""
    recipient, target = options.get("encrypt_for"), as_text(options.get("to")) or ""
    if isinstance(recipient, (str, int)):
        recipient = str(recipient)
        path = (VARIABLE, "encrypt_for")
        if PRIVATE_KEY in recipient:
            yield Problem(
                dotted(path),
                "is a private key, which would be on the host with the data that it protects",
                "write the public key: gpg --armor --export",
            )
        else:
            yield from check_pem(path, recipient, (PUBLIC_KEY,))
    ssh = ":" in target and not target.startswith(("/", "rsync://"))
    for name, need in (("ssh_key", PRIVATE_KEY), ("ssh_known_hosts", "")):
        text, path = as_text(options.get(name)), (VARIABLE, name)
        if options.get(name) is UNKNOWN:
            continue
        if ssh and not text:
            yield Problem(
                dotted(path),
                "is not set, but rsync logs in to the target by SSH",
                "make a key without a passphrase: ssh-keygen -t ed25519 -N ''; put it into vault.yml"
                if need
                else "write the output of ssh-keyscan for the target, after a check of its key",
            )
        elif text and not ssh:
            yield Problem(
                dotted(path), "has no effect: backups don't go to a host by SSH", "remove it"
            )
        elif text and need:
            yield from check_pem(path, text, (need,))
    if target.startswith("rsync://") and not recipient:
        yield Problem(
            dotted((VARIABLE, "to")),
            "is not encrypted: anyone on the network between can read the tasks",
            "set encrypt_for, or use host:path, which goes by SSH",
            severity=Severity.WARNING,
        )
