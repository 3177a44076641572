"""``celery-fleet client``: what an application outside of the fleet needs to use it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from celery_fleet.cli import complete, output
from celery_fleet.cli.application import Application
from celery_fleet.cli.commands.redis import login
from celery_fleet.cli.errors import USAGE, CommandError
from celery_fleet.cli.options import Context, command

#: In place of a password that is not shown.
HIDDEN = "PASSWORD"
#: A hundred years in seconds: then Celery never returns overdue tasks while it waits for answers of workers.
_NEVER = 3_153_600_000


def settings(application: Application, name: str, show_password: bool) -> dict[str, Any]:
    """Return the Celery settings of a client, with paths of files on its own host.

    Raises:
        CommandError: Its password is to be shown and can't be read here.
    """
    options = application.clients[name]
    verified = {"ssl_cert_reqs": "required", "ssl_ca_certs": "ca.crt", "ssl_check_hostname": True}
    tls = dict(verified)
    if application.client:
        tls |= {"ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
    broker = application.redis["broker"]
    password = login(application, broker, name).password if show_password else HIDDEN
    secret = quote(password, safe="")

    def url(kind: str) -> str:
        instance = application.redis[kind]
        scheme = "sentinel" if instance.sentinels else "rediss"
        return ";".join(
            f"{scheme}://{name}:{secret}@{f'[{host}]' if ':' in host else host}:{port}/0"
            for host, port in instance.sentinels or [(instance.host, instance.port)]
        )

    def transport(kind: str) -> dict[str, Any]:
        if not application.redis[kind].sentinels:
            return {}
        known = {
            "username": name,
            "password": password,
            "ssl": True,
            **verified,
            # One that is down must not delay the others for long.
            "socket_timeout": 1,
            "socket_connect_timeout": 1,
            "retry": None,
        }
        return {"master_name": application.redis[kind].name, "sentinel_kwargs": known}

    # A client gives up a primary that hangs, or has lost its power, after as many seconds as the fleet's processes.
    limits = {"socket_timeout": 5, "socket_connect_timeout": 3, "health_check_interval": 5}

    found: dict[str, Any] = {"broker_url": url("broker"), "broker_use_ssl": tls}
    if options.get("results"):
        found |= {"result_backend": url("results"), "redis_backend_use_ssl": tls}
        if transport("results"):
            found["result_backend_transport_options"] = transport("results")
            # Before 5.6, Celery takes the password from the Sentinels' addresses, but not the user.
            found["redis_username"] = name
            found["redis_socket_timeout"] = limits["socket_timeout"]
            found["redis_socket_connect_timeout"] = limits["socket_connect_timeout"]
            found["redis_backend_health_check_interval"] = limits["health_check_interval"]
    if options.get("consume"):
        found["broker_transport_options"] = {
            f"{key}_key": f"{name}:{key}" for key in ("unacked", "unacked_index", "unacked_mutex")
        }
        found["worker_enable_remote_control"] = False
    elif options.get("control"):
        found["broker_transport_options"] = {"visibility_timeout": _NEVER}
    if transport("broker"):
        given = found.get("broker_transport_options", {})
        found["broker_transport_options"] = {**given, **transport("broker"), **limits}
    return found


def rights(options: dict[str, Any]) -> list[str]:
    """Return what a client may do, in words."""
    queues, consumed = options.get("queues"), options.get("consume")
    return [
        *([f"send to {', '.join(queues)}"] if queues else []),
        *([f"consume {', '.join(consumed)}"] if consumed else []),
        *(["read results"] if options.get("results") else []),
        *(["control workers"] if options.get("control") else []),
    ]


def example(name: str, options: dict[str, Any], conf: dict[str, Any]) -> str:
    """Return the lines of Python that a client needs."""
    tls = conf["broker_use_ssl"]
    lines = [f"tls = {tls!r}", f'app = Celery("{name}")', "app.conf.update("]
    lines += [f"    {key}={'tls' if value is tls else repr(value)}," for key, value in conf.items()]
    lines.append(")")
    for queue in (options.get("queues") or ())[:1]:
        lines.append(f'app.send_task("NAME.OF.A.TASK", args=[1], queue="{queue}")')
    return "\n".join(["from celery import Celery", "", *lines])


@command(
    timeout=False,
    examples=(
        "celery-fleet client partner",
        "sudo celery-fleet client partner --show-password",
    ),
)
@click.option(
    "--show-password",
    is_flag=True,
    help="Show the password in the URLs; only root can, on the Redis host.",
)
@click.argument("name", shell_complete=complete.client)
def client(context: Context, name: str, show_password: bool) -> None:
    """Show what an application outside of the fleet needs to send tasks to it, as the client NAME of the inventory.

    These are its URLs, its rights, the certificate to copy, and an example in Python.
    """
    application = context.application
    if name not in application.clients:
        have = ", ".join(application.clients) or "none"
        raise CommandError(
            f"{name} is not a client of {application.name}: celery_app_clients has {have}", USAGE
        )
    options = dict(application.clients[name])
    conf = settings(application, name, show_password)
    if context.json:
        output.as_json(
            {"client": name, "ca": str(application.ca), "rights": options, "settings": conf}
        )
        return
    output.say(f"Client {name} of {application.name}; it may {', '.join(rights(options))}.")
    output.say(f"Copy {application.ca} to its host, as ca.crt.\n")
    output.say(example(name, options, conf))
