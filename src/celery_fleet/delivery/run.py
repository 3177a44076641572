"""Run our scripts with a redis-py client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from celery_fleet.delivery.scripts import Script


def run(client: Any, script: Script, names: Sequence[str], args: Sequence[Any]) -> Any:
    """Run a script: one round trip, unless Redis has forgotten the script.

    Raises:
        redis.exceptions.RedisError, OSError: The script failed, or no answer came.
    """
    try:
        return client.evalsha(script.sha, len(names), *names, *args)
    except NoScriptError:
        client.script_load(script.text)
        return client.evalsha(script.sha, len(names), *names, *args)


def run_each(
    client: Any, script: Script, calls: Iterable[tuple[Sequence[str], Sequence[Any]]]
) -> list[Any]:
    """Run a script once for each pair of keys and arguments, in one round trip.

    Returns:
        For each call its answer, or Redis's error as an exception.

    Raises:
        redis.exceptions.RedisError, OSError: The connection failed, so it is not known what ran.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.script_load(script.text)
        for names, args in calls:
            pipe.evalsha(script.sha, len(names), *names, *args)
        answers: list[Any] = pipe.execute(raise_on_error=False)
    return answers[1:]
