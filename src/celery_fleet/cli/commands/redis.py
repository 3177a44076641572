"""``celery-fleet redis``: redis-cli as the right user, over TLS."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import click

from celery_fleet.cli import ask
from celery_fleet.cli.application import Application, Instance
from celery_fleet.cli.errors import BAD, USAGE, CommandError, need_root
from celery_fleet.cli.options import Context, Seconds, command
from celery_fleet.common.redis_client import Client, ClientError, Server

KINDS = ("broker", "results", "cache")
#: Both work with Redis and with Valkey, and read REDISCLI_AUTH.
CLIENTS = ("redis-cli", "valkey-cli")
#: The directory for a socket. It can be written to on a full disk.
RUNTIME = "/run"


def split(words: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the instance (the broker if none is named) and redis-cli's arguments."""
    if words and words[0] in KINDS:
        return words[0], list(words[1:])
    return "broker", list(words)


class Login(NamedTuple):
    """How to log in to an instance."""

    user: str
    password: str
    database: str = ""
    tls: bool = True


def hosts(instance: Instance) -> str:
    """Return the hosts of an instance that the fleet runs, as text."""
    return ", ".join(host for host, _ in instance.sentinels) or instance.host


def remedy(instance: Instance) -> str:
    """Return what to look at if an instance does not answer; empty if the fleet does not run it."""
    return f"; see systemctl status {instance.unit} on {instance.host}" if instance.unit else ""


def login(application: Application, instance: Instance, user: str) -> Login:
    """Return the login of a user, from a file that only root may read.

    Raises:
        CommandError: It is not on this host, or this user may not read it.
    """
    if user == "operator":
        setting = "broker_url" if instance.kind == "broker" else "result_backend"
        settings: Mapping[str, str] = application.settings()["celery"]
        # All Sentinels' addresses have the same login.
        url = urlsplit(settings[setting].partition(";")[0])
        name, secret = unquote(url.username or "default"), unquote(url.password or "")
        tls = url.scheme in ("rediss", "sentinel")
        return Login(name, secret, url.path.strip("/").removeprefix("0"), tls)
    if not instance.unit:
        raise CommandError(
            f"the fleet does not run {instance.host}, so --as admin does not work there", USAGE
        )
    pattern = rf"^user {re.escape(user)} .*?>(\S+)"
    try:
        found = re.search(pattern, instance.acl.read_text(encoding="utf-8"), re.MULTILINE)
    except PermissionError:
        raise need_root(f"read {instance.acl}") from None
    except OSError:
        found = None
    if found is None:
        raise CommandError(
            f"{user}'s password is only on hosts of Redis; run this on {hosts(instance)}"
        )
    return Login(user, found[1])


def located(application: Application, instance: Instance) -> Instance:
    """Return an instance with the address that it has now, if it has replicas.

    Raises:
        CommandError: No Sentinel knows a primary that answers.
    """
    if not instance.sentinels:
        return instance
    who = login(application, instance, "operator")
    ca = str(application.ca)
    shown = {name: str(path) for name, path in application.client.items()}
    primary = Server(
        instance.name,
        0,
        ca,
        who.user,
        who.password,
        certificate=shown.get("certificate"),
        key=shown.get("key"),
        sentinels=tuple(
            Server(host, port, ca, who.user, who.password) for host, port in instance.sentinels
        ),
    )
    try:
        with Client(primary) as client:
            return replace(instance, host=client.server.host, port=client.server.port)
    except (OSError, ClientError) as error:
        raise CommandError(
            f"the primary of the {instance.kind} is not known: {error}; see systemctl status"
            f" {application.name}-sentinel {instance.unit} on {hosts(instance)}"
        ) from None


def line(application: Application, instance: Instance, who: Login, words: list[str]) -> list[str]:
    """Return the command line of redis-cli, or of Valkey's equivalent, without the socket.

    The password is not in it.
    """
    found = (shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") for name in CLIENTS)
    program = next((path for path in found if path is not None), None)
    if program is None:
        there = f"run this on {hosts(instance)}, or " if instance.unit else ""
        raise CommandError(
            f"redis-cli is not on {application.host}: {there}apt install redis-tools"
        )
    # Without -e, the exit status is 0 even if Redis refuses a command or the login fails.
    database = ["-n", who.database] if who.database else []
    return [program, "-e", "--user", who.user, *database, *words]


class Tunnel:
    """A local socket that leads to Redis over TLS.

    redis-cli does not check the server's name in its certificate, and would give the password to any server with a
    certificate of the same authority. So this class does TLS, and redis-cli connects to it.
    """

    def __init__(self, application: Application, instance: Instance, tls: bool = True) -> None:
        self._application = application
        self._instance = instance
        self._tls = tls
        #: The error if a connection could not be made.
        self.trouble: OSError | None = None

    async def run(self, program: list[str], environment: dict[str, str], timeout: float) -> int:
        """Run redis-cli to its end; return its exit status.

        Raises:
            TimeoutError: It took longer.
            OSError: It can't be run.
        """
        # The directory makes the socket accessible only to root.
        with tempfile.TemporaryDirectory(prefix="celery-fleet-", dir=RUNTIME) as directory:
            path = f"{directory}/redis"
            server = await asyncio.start_unix_server(self._lead, path)
            client = await asyncio.create_subprocess_exec(
                program[0], "-s", path, *program[1:], env=environment
            )
            try:
                return await asyncio.wait_for(client.wait(), timeout or None)
            finally:
                server.close()
                if client.returncode is None:
                    client.kill()
                    await client.wait()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, questions = await asyncio.open_connection(
                self._instance.host, self._instance.port, ssl=self._context() if self._tls else None
            )
        except OSError as error:
            self.trouble = error
            writer.close()
            return
        ways = [
            asyncio.create_task(_copy(reader, questions)),
            asyncio.create_task(_copy(answers, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            questions.transport.abort()

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._application.ca)
        if self._application.client:
            pair = self._application.client
            context.load_cert_chain(pair["certificate"], pair["key"])
        return context


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy the data until one side ends."""
    with suppress(OSError):
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()


@command(
    formats=False,
    timeout=False,
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
    help="The Redis user; admin (settings and ACL, no keys) only works on the Redis host.",
)
@click.option(
    "--timeout",
    type=Seconds(0),
    metavar="SECONDS",
    help=f"Stop redis-cli after this time, {ask.BOUND:g} by default; 0 waits forever.",
)
@click.argument("words", nargs=-1, required=True, metavar="[broker|results|cache] -- COMMAND...")
def redis(context: Context, words: tuple[str, ...], user: str, timeout: float | None) -> None:
    """Run a Redis COMMAND on the broker (default), the result store or the application's cache."""
    kind, rest = split(words)
    if not rest:
        raise CommandError("no command for Redis: celery-fleet redis broker -- ping", USAGE)
    if kind not in context.application.redis:
        raise CommandError(f"{context.application.name} has no {kind} (celery_app_cache)", USAGE)
    instance = context.application.redis[kind]
    who = login(context.application, instance, user)
    instance = located(context.application, instance)
    program = line(context.application, instance, who, rest)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "REDISCLI_AUTH": who.password}
    tunnel = Tunnel(context.application, instance, who.tls)
    timeout = context.bound() if timeout is None else timeout
    try:
        status = asyncio.run(tunnel.run(program, environment, timeout))
    except TimeoutError:
        raise CommandError(
            f"{kind} {instance.host}:{instance.port}: no answer within {timeout:g} s{remedy(instance)}"
        ) from None
    except OSError as error:
        raise CommandError(f"{program[0]} can't be run: {error.strerror}") from None
    if tunnel.trouble is not None:
        raise CommandError(
            f"{kind} {instance.host}:{instance.port} can't be reached: {tunnel.trouble}{remedy(instance)}"
        )
    if status:
        raise click.exceptions.Exit(BAD)
