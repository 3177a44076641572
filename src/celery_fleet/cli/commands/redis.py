"""``celery-fleet redis``: redis-cli as the right user, over TLS."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import click

from celery_fleet.cli.application import Application, Instance
from celery_fleet.cli.errors import BAD, USAGE, CommandError, need_root
from celery_fleet.cli.options import Context, command

KINDS = ("broker", "results")
#: Either talks to Redis and to Valkey; both read REDISCLI_AUTH.
CLIENTS = ("redis-cli", "valkey-cli")
_ADMIN = re.compile(r"^user admin .*?>(\S+)", re.MULTILINE)


def split(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """Which instance, and redis-cli's arguments; the broker where none is named."""
    if words and words[0] in KINDS:
        return words[0], list(words[1:])
    return "broker", list(words)


def password(application: Application, instance: Instance, user: str) -> str:
    """The user's password, from where root alone reads it.

    Raises:
        CommandError: It is not on this host.
    """
    if user == "operator":
        setting = "broker_url" if instance.kind == "broker" else "result_backend"
        settings: Mapping[str, str] = application.settings()["celery"]
        return unquote(urlsplit(settings[setting]).password or "")
    try:
        found = _ADMIN.search(instance.acl.read_text(encoding="utf-8"))
    except PermissionError:
        raise need_root(instance.acl) from None
    except OSError:
        found = None
    if found is None:
        raise CommandError(
            f"the password of admin is on the host of Redis alone; run this on {instance.host}"
        )
    return found[1]


def line(application: Application, instance: Instance, user: str, words: list[str]) -> list[str]:
    """The command line of redis-cli, or of Valkey's, which is the same; the password is not in it."""
    found = (shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") for name in CLIENTS)
    program = next((path for path in found if path is not None), None)
    if program is None:
        raise CommandError(
            f"redis-cli is not on {application.host}: run this on {instance.host}, or apt install"
            " redis-tools"
        )
    address = ["-h", instance.host, "-p", str(instance.port)]
    tls = ["--tls", "--cacert", str(application.ca)]
    if application.client:
        tls += ["--cert", str(application.client["certificate"])]
        tls += ["--key", str(application.client["key"])]
    # Without -e a command that Redis refuses, and a login that fails, end with 0.
    return [program, "-e", *address, *tls, "--user", user, *words]


@command(
    formats=False,
    examples=(
        "sudo celery-fleet redis -- ping",
        "sudo celery-fleet redis -- llen discounts",
        "sudo celery-fleet redis results -- info memory",
        "sudo celery-fleet redis --as admin -- acl log",
    ),
)
@click.option(
    "--as",
    "user",
    type=click.Choice(["operator", "admin"]),
    default="operator",
    show_default=True,
    help="admin (settings, ACL, no keys) on the hosts of Redis alone.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="End redis-cli after so long; 0 waits for ever.",
)
@click.argument("words", nargs=-1, required=True, metavar="[broker|results] -- COMMAND...")
def redis(context: Context, words: tuple[str, ...], user: str, timeout: float) -> None:
    """Run a COMMAND of Redis on the broker (default) or the result store."""
    kind, rest = split(words)
    if not rest:
        raise CommandError("no command for Redis: celery-fleet redis broker -- ping", USAGE)
    instance = context.application.redis[kind]
    secret = password(context.application, instance, user)
    program = line(context.application, instance, user, rest)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "REDISCLI_AUTH": secret}
    try:
        done = subprocess.run(program, env=environment, timeout=timeout or None, check=False)
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"{kind} {instance.host}:{instance.port}: no answer within {timeout:g} s; see"
            f" systemctl status {instance.unit} on {instance.host}"
        ) from None
    except OSError as error:
        raise CommandError(f"{program[0]} can't be run: {error.strerror}") from None
    if done.returncode:
        raise click.exceptions.Exit(BAD)
