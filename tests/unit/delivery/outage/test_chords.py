"""The last member of a chord whose count reaches Redis, but not the answer to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError

from celery_fleet.delivery.outage import sending
from tests.support.redis_server import redis_server


def lose(answers: int) -> Callable[..., Any]:
    """Call a script, and lose the first answers."""
    call, left = Script.__call__, [answers]

    def called(script: Script, *args: Any, **options: Any) -> Any:
        answer = call(script, *args, **options)
        if left[0]:
            left[0] -= 1
            raise RedisConnectionError("the answer is lost")
        return answer

    return called


def repeat(script: Script, *args: Any, **options: Any) -> Any:
    """Call a script as redis-py does that has lost an answer itself."""
    CALL(script, *args, **options)
    return CALL(script, *args, **options)


CALL = Script.__call__


@pytest.mark.parametrize("call", [CALL, repeat, lose(1), lose(2)], ids=["none", "own", "1", "2"])
def test_the_body_is_sent_once_if_an_answer_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_a_task: SimpleNamespace, call: Any
) -> None:
    with redis_server(tmp_path) as server:
        app = Celery("shop", set_as_current=False, broker=server.url, backend=server.url)
        body = app.signature("shop.body")
        request = SimpleNamespace(
            id="member", group="g", group_index=0, chord=body, retries=0, delivery_info={}
        )
        in_a_task.request = request
        backend = sending._patient_backend(app.backend)
        backend.set_chord_size("g", 1)
        monkeypatch.setattr(Script, "__call__", call)
        backend.on_chord_part_return(request, "SUCCESS", 1)
        monkeypatch.undo()
        assert server.client.llen("celery") == 1
        # Another delivery of the member finds the chord dispatched.
        backend.on_chord_part_return(request, "SUCCESS", 1)
        assert server.client.llen("celery") == 1
        app.close()
