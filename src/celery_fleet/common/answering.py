"""Read the request of a program that other parts of the fleet run, and print its answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from celery_fleet.common.errors import FleetError, one_line
from celery_fleet.common.redact import redact, secrets_in

Request = TypeVar("Request")


def serve(
    read: Callable[[Any], Request], answer: Callable[[Request], Mapping[str, Any]]
) -> NoReturn:
    """Answer the request on standard input, as `finish` does.

    If it can't be read, there is no answer: one line on standard error says why, and the status is 1.

    Args:
        read: Creates the request from the JSON.
        answer: Returns the document to print.
    """
    raw = None
    try:
        raw = json.loads(sys.stdin.read())
        request = read(raw)
    except FleetError as error:
        sys.exit(one_line(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = redact(f"{type(error).__name__}: {one_line(error)}", secrets_in(raw))
        sys.exit(
            f"the request is damaged ({what}): run site.yml, so that the control node and this host have one version"
        )
    finish(lambda: answer(request))


def finish(answer: Callable[[], Mapping[str, Any]]) -> NoReturn:
    """Print a program's answer as a line of JSON and end the process, with status 1 if its `ok` is false.

    Anything else that is printed goes to standard error.
    """
    kept = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(kept, "w", encoding="utf-8") as output:
        found = answer()
        print(json.dumps(found, default=str), file=output)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in a socket, or that the application started, must not keep the process alive.
    os._exit(0 if found.get("ok", True) else 1)
