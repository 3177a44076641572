"""Running one of our scripts by redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from celery_fleet.delivery.scripts import Script


def run(client: Any, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
    """Run a script; one round trip, unless Redis has forgotten it."""
    try:
        return client.evalsha(script.sha, len(names), *names, *args)
    except NoScriptError:
        client.script_load(script.text)
        return client.evalsha(script.sha, len(names), *names, *args)
