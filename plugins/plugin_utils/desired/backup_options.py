"""The table of the options of `redis_backup`; `Option` in `option.py` describes the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from .option import Option

VARIABLE: Final = "redis_backup"
# Its user in Redis, and the key of its password in `redis_passwords`.
BACKUP_USER: Final = "backup"
KEPT: Final = 48
EVERY: Final = "1h"
_SECONDS: Final = {"min": 60, "h": 3600, "d": 86400}
_PATH = r"/[\w./@+-]*[\w@+-]"
_HOST = r"(?:[\w.+-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*"
# A key for OpenPGP in its text form.
PUBLIC_KEY: Final = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
PRIVATE_KEY: Final = "PRIVATE KEY"

# fmt: off
BACKUP: Final[tuple[Option, ...]] = (
    Option("to", "str",
           "The target, which no other environment shares: a directory on a filesystem of another machine, "
           "C(host:path) for rsync by SSH, or C(rsync://host/module/path).",
           syntax=re.compile(rf"{_PATH}|{_HOST}:[\w./@+-]+|rsync://{_HOST}(?::\d+)?{_PATH}", re.ASCII),
           like="/mnt/backup/shop, backup@backup1:/srv/shop or rsync://backup1/shop"),
    Option("command", "list",
           "Instead of C(to), a command line that stores a backup. Its last argument will be the path of the backup's "
           "directory. It decides itself how many backups it keeps.",
           elements="str"),
    Option("every", "str", f"Time between two backups, such as C(30min), C(6h) or C(1d). By default C({EVERY}).",
           syntax=re.compile(r"[1-9]\d{0,3}(min|h|d)"), like="30min, 6h or 1d"),
    Option("keep", "int",
           f"Number of backups that stay in C(to), {KEPT} by default. Older ones are removed after a good backup.",
           lowest=1),
    Option("encrypt_for", "str",
           "An OpenPGP public key in its text form. With it, the target gets only encrypted files, which no host can "
           "decrypt."),
    Option("ssh_key", "str", "The private key with which rsync logs in by SSH.", secret=True),
    Option("ssh_known_hosts", "str",
           "Lines for SSH's C(known_hosts) with the target's host key, as C(ssh-keyscan) prints them. No other host is "
           "trusted."),
)
# fmt: on


def variable() -> Option:
    """Return the variable of the role `redis`."""
    return Option(
        VARIABLE,
        "dict",
        "Backups of broker and result store, made by a timer; see docs/backup.md. Empty for no backups. It needs "
        f"C(redis_passwords.{BACKUP_USER}).",
        default={},
        options=BACKUP,
    )


def interval(options: Mapping[str, Any]) -> float:
    """Return the seconds between two backups; 0 if there are none, or if the option is not valid."""
    every = str(options.get("every") or EVERY)
    match = re.fullmatch(r"(\d+)(\w+)", every)
    if not options or match is None or match[2] not in _SECONDS:
        return 0.0
    return float(int(match[1]) * _SECONDS[match[2]])
