"""Report every error of a task as prefork's pool does, also those that Celery's other pools lose.

Celery's tracer handles almost all errors of a task. It raises MemoryError and errors that are no Exception, such as
SystemExit and asyncio.CancelledError. A child of prefork's pool passes them to the error callback of its job
(billiard/pool.py, Worker.workloop). Celery's other pools raise them, or pass them to the callback for success, which
fails (celery/concurrency/base.py). A thread or a greenlet swallows that error. The request would stay reserved, and its
message held, for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo

logger = logging.getLogger("celery_fleet")


def reported(
    target: Callable[..., Any],
    options: dict[str, Any],
    left: tuple[type[BaseException], ...] = (),
    hub: Any = None,
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a job's target and options with which the errors of its task reach ``error_callback``.

    Args:
        target: The function that runs the task.
        options: The options of the pool's ``on_apply``.
        left: Errors that the pool handles itself.
        hub: The event loop that calls ``error_callback``, if the target runs in another thread.
    """
    succeeded, failed = options.get("callback"), options.get("error_callback")
    if succeeded is None or failed is None:
        return target, options

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except left:
            raise
        except BaseException:  # noqa: BLE001  # the callback gets it
            return ExceptionInfo()

    def ended(result: Any) -> None:
        if not isinstance(result, ExceptionInfo):
            succeeded(result)
        elif hub is None:
            _report(failed, result)
        else:
            hub.call_soon(partial(_report, failed, result))

    return run, {**options, "callback": ended}


def _report(failed: Callable[[Any], object], error: Any) -> None:
    """Call an error callback, with billiard's rules for its errors (ApplyResult.safe_apply_callback)."""
    try:
        failed(error)
    except MemoryError:
        raise
    except Exception:
        logger.exception("the failure of a task could not be handled")
