"""Checks logs: formats that Python's logging accepts, and a rotation that keeps something."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from ...desired.application_options import LOG_ROTATE
from ...desired.option import as_number
from ..model.inventory import Model, Problem, as_mapping, as_text, dotted

_FORMATS: Final = ("celery_app_log_format", "celery_app_task_log_format")
_ROTATE: Final = "celery_app_log_rotate"
_OPTIONS: Final = {option.name: option for option in LOG_ROTATE}


def check_logs(model: Model) -> Iterator[Problem]:
    """Refuse invalid formats, with which Python would log an error instead of each line, and unusable rotations."""
    for variable in _FORMATS:
        for value, hosts in model.distinct(variable):
            text = as_text(value)
            if text is not None and (reason := _refused(text, variable == _FORMATS[1])):
                yield Problem(
                    variable,
                    f"is not a valid format of log lines: {reason}",
                    "write it in the style of Python's logging, as in [%(asctime)s: %(levelname)s] %(message)s",
                    value=model.show((variable,), text),
                    hosts=hosts,
                )
    for value, hosts in model.distinct(_ROTATE):
        rotate = as_mapping(value)
        keep, size = as_number(rotate.get("keep")), rotate.get("size")
        if keep is not None and _OPTIONS["keep"].violation(keep):
            yield Problem(
                dotted((_ROTATE, "keep")),
                "would lose lines: a file is removed while processes still write to it",
                "keep at least 1",
                value=model.show((_ROTATE, "keep"), rotate["keep"]),
                hosts=hosts,
            )
        if isinstance(size, (str, int)) and not _OPTIONS["size"].fits(str(size)):
            yield Problem(
                dotted((_ROTATE, "size")),
                "is not a size that logrotate understands",
                "write a number of bytes, or of k, M or G, as in 100M",
                value=model.show((_ROTATE, "size"), size),
                hosts=hosts,
            )


def _refused(text: str, of_tasks: bool) -> str:
    """Return why a format can't be used for a line, or an empty string if it can."""
    record = logging.LogRecord("name", logging.INFO, "path", 1, "text", None, None)
    further = {"asctime": "", "message": ""}
    if of_tasks:
        further |= {"task_id": "", "task_name": ""}
    try:
        logging.PercentStyle(text).validate()
        text % {**record.__dict__, **further}
    except KeyError as error:
        return f"there is no field {error.args[0]!r}"
    except (ValueError, TypeError) as error:
        return str(error)
    return ""
