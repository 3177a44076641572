"""Checks the options of the health check: known thresholds in the right order, and a sufficient interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.health import QUEUES, THRESHOLDS, Threshold
from ...desired.option import as_number
from ..model.inventory import UNKNOWN, Model, Problem, as_list, as_mapping, dotted
from ..model.report import with_hosts
from .values import kind_of, not_a_mapping, suggestion, unknown_keys
from .workers import served

_THRESHOLDS: Final = "celery_health_thresholds"
_INTERVAL: Final = "celery_health_interval"
_ON_CHANGE: Final = "celery_health_on_change"
# Seconds that a check may take.
_SHORTEST: Final = 60

_LEVELS: Final = ("warning", "bad")
_EXAMPLE: Final = "write it as in {warning: 15, bad: 5}; null means never"


def check_health(model: Model) -> Iterator[Problem]:
    """Check the variables of the health check."""
    for value, hosts in model.distinct(_INTERVAL):
        number = as_number(value)
        if number is not None and number < _SHORTEST:
            yield Problem(
                _INTERVAL,
                f"is below {_SHORTEST} s, but a check may take that long",
                f"write {_SHORTEST} or more",
                value=model.show((_INTERVAL,), value),
                hosts=hosts,
            )
    for value, hosts in model.distinct(_ON_CHANGE):
        words = as_list(value)
        if words and words[0] == "":
            yield Problem(
                dotted((_ON_CHANGE, 0)),
                "names no program",
                "write it as in [/usr/local/bin/tell-us, --host, worker1]",
                hosts=hosts,
            )
    yield from check_thresholds(model, _THRESHOLDS, THRESHOLDS, "queue_length")


def check_thresholds(
    model: Model, variable: str, table: Mapping[str, Threshold], general: str
) -> Iterator[Problem]:
    """Check a variable with thresholds.

    Args:
        model: The inventory.
        variable: The variable.
        table: The thresholds that it may have.
        general: The one of these that `queues` replaces for single queues.
    """
    for value, hosts in model.distinct(variable):
        found = _thresholds(model, variable, as_mapping(value), table, general)
        yield from with_hosts(hosts, found)


def _thresholds(
    model: Model,
    variable: str,
    given: Mapping[str, object],
    table: Mapping[str, Threshold],
    of_queues: str,
) -> Iterator[Problem]:
    yield from unknown_keys((variable,), given, (*table, QUEUES))
    for name, default in table.items():
        if name in given:
            yield from _bounds(model, (variable, name), given[name], default)
    if QUEUES not in given or given[QUEUES] is UNKNOWN:
        return
    queues = given[QUEUES]
    if not isinstance(queues, Mapping):
        remedy = "write the bounds by queue, as in {emails: {warning: 10, bad: 100}}"
        yield not_a_mapping(model, (variable, QUEUES), queues, remedy)
        return
    known = tuple(sorted(served(model)))
    general = as_mapping(given.get(of_queues))
    own = table[of_queues].bounds
    base = [general.get(level, own[level]) for level in _LEVELS]
    for queue, bounds in queues.items():
        path = (variable, QUEUES, queue)
        if known and queue not in known:
            yield Problem(
                dotted(path),
                "is a queue that no worker consumes",
                suggestion(str(queue), known) or f"choose from {', '.join(known)}",
            )
        else:
            warning, bad = (None if one is None else as_number(one) for one in base)
            yield from _bounds(model, path, bounds, Threshold(warning, bad))


def _bounds(
    model: Model,
    path: tuple[object, ...],
    value: object,
    default: Threshold,
) -> Iterator[Problem]:
    if value is UNKNOWN:
        return
    if not isinstance(value, Mapping):
        yield not_a_mapping(model, path, value, _EXAMPLE)
        return
    yield from unknown_keys(path, value, _LEVELS)
    found = default.bounds
    for level in _LEVELS:
        if level not in value:
            continue
        one = value[level]
        number = None if isinstance(one, str) else as_number(one)
        if one is UNKNOWN:
            return
        if one is not None and (number is None or number < 0):
            yield Problem(
                dotted((*path, level)),
                f"is {kind_of(one)}, but must be a number" if number is None else "is below 0",
                _EXAMPLE,
                value=model.show((*path, level), one),
            )
            return
        found[level] = number
    warning, bad = found["warning"], found["bad"]
    if warning is None or bad is None or warning == bad:
        return
    if (warning < bad) is default.low:
        side = "below" if default.low else "above"
        yield Problem(
            dotted(path),
            f"is bad ({bad:g}) before it is a warning ({warning:g})",
            f"write a `bad` {side} `warning`, which is {default.warning:g} unless it is set"
            if default.warning is not None
            else f"write a `bad` {side} `warning`",
        )
