"""Checks what the alerts are made from: thresholds, and SLOs that can be measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from ...desired.exporters import FLOWER, NODE, REDIS
from ...desired.monitoring.fleet import THRESHOLDS
from ...desired.monitoring.objectives import BUCKETS, LEAST, MOST, duration, percent, seconds
from ..model.inventory import Model, Problem, as_mapping, dotted, each_worker
from . import health

_METRICS: Final = "celery_app_metrics"
# Variables that switch other exporters on, by a path on the site.
_KNOWN: Final = {
    "node": NODE,
    "flower": FLOWER,
    **{f"redis-{kind}": REDIS for kind in ("broker", "results", "cache")},
}
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
# The characters are those that stand for themselves in nginx's configuration.
_ON_THE_HOST: Final = re.compile(
    r"http://(127(\.\d{1,3}){3}(:\d{1,5})?|localhost(:\d{1,5})?|\[::1\](:\d{1,5})?|unix:/[\w./@-]+:)"
    r"/[\w./?=&%:@+,~-]*"
)
_INSTANCES: Final = "celery_worker_instances"
_DEFAULTS: Final = "celery_worker_defaults"

Path = tuple[str, ...]


def check_thresholds(model: Model) -> Iterator[Problem]:
    """Check the thresholds of alerts as those of the health check."""
    variable = "celery_monitoring_thresholds"
    yield from health.check_thresholds(model, variable, THRESHOLDS, "queue_age_seconds")


def check_other_exporters(model: Model) -> Iterator[Problem]:
    """Refuse other exporters that the site can't pass on, or that are not on the host."""
    variable = "celery_exporter_others"
    for value, hosts in model.distinct(variable, model.members("fleet")):
        others = as_mapping(value)
        listening = tuple(
            host
            for host in hosts
            if others
            and model.value(host, "celery_exporter_enabled") is True
            and model.value(host, "celery_exporter_listen") != ""
        )
        if listening:
            yield Problem(
                variable,
                "needs the site of the exporter, which celery_exporter_listen switches off",
                "have the agent scrape the other exporters at their own addresses",
                hosts=listening,
            )
        for name, address in others.items():
            if not _NAME.fullmatch(name) or name == "metrics":
                message = "is not a name that the site can have as a path"
                remedy = "use letters, digits, - and _, as in node; /metrics is the fleet's own"
            elif not isinstance(address, str) or not _ON_THE_HOST.fullmatch(address):
                message = "is not an address of the host itself"
                remedy = (
                    "write it as in http://127.0.0.1:9100/metrics or "
                    "http://unix:/run/shop-flower/flower.sock:/metrics"
                )
            else:
                continue
            shown = model.show((variable, name), address)
            yield Problem(dotted((variable, name)), message, remedy, value=shown, hosts=hosts)


def check_known_exporters(model: Model) -> Iterator[Problem]:
    """Refuse exporters that variables switch on and that nothing would pass on."""
    enabled, listen = "celery_exporter_enabled", "celery_exporter_listen"
    for name, variable in _KNOWN.items():
        on = [host for host in model.members("fleet") if model.value(host, variable) is True]
        without = tuple(host for host in on if model.value(host, enabled) is False)
        if without:
            yield Problem(
                variable,
                f"needs the fleet's own exporter, but {enabled} is false",
                f"set {enabled}: true, or {variable}: false",
                hosts=without,
            )
        twice = tuple(h for h in on if name in as_mapping(model.value(h, "celery_exporter_others")))
        if twice:
            yield Problem(
                dotted(("celery_exporter_others", name)),
                f"is the path of the exporter that {variable} adds",
                f"remove it, or set {variable}: false",
                hosts=twice,
            )
        flowers = model.members("flower") if variable == FLOWER else ()
        unreachable = tuple(h for h in on if h in flowers and model.value(h, listen) != "")
        if unreachable:
            yield Problem(
                variable,
                f"needs the site of the exporter, which {listen} switches off: Flower only listens on a socket",
                f"set {variable}: false, or remove {listen}",
                hosts=unreachable,
            )


def check_slos(model: Model) -> Iterator[Problem]:
    """Refuse SLOs that can't be measured, or whose alerts could never fire."""
    for path, slo, hosts in _slos(model):
        unmeasured = tuple(host for host in hosts if model.value(host, _METRICS) is False)
        if unmeasured:
            yield Problem(
                dotted(path),
                f"can't be measured: {_METRICS} is false",
                f"set {_METRICS}: true, or remove the SLO",
                hosts=unmeasured,
            )
        for key, message, remedy in _faults(slo):
            below = (*path, key) if key else path
            value = model.show(below, slo[key]) if key else ""
            yield Problem(dotted(below), message, remedy, value=value, hosts=hosts)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, options, hosts in each_worker(model):
        there = found.setdefault(name, {})
        slo_text = repr(options.get("slo"))
        there[slo_text] = (*there.get(slo_text, ()), *hosts)
    for name, different in found.items():
        if len(different) > 1:
            yield Problem(
                dotted((_INSTANCES, name, "slo")),
                "differs between hosts, but all hosts of a worker share its SLO",
                "write it once, for the whole fleet",
                hosts=tuple(host for hosts in different.values() for host in hosts),
            )


def _slos(model: Model) -> Iterator[tuple[Path, Mapping[str, object], tuple[str, ...]]]:
    """Yield each SLO with its path and its hosts."""
    members = model.members("celery_workers")
    for value, hosts in model.distinct(_DEFAULTS, members):
        if slo := as_mapping(as_mapping(value).get("slo")):
            yield (_DEFAULTS, "slo"), slo, hosts
    for value, hosts in model.distinct(_INSTANCES, members):
        for name, options in as_mapping(value).items():
            if slo := as_mapping(as_mapping(options).get("slo")):
                yield (_INSTANCES, name, "slo"), slo, hosts


def _faults(slo: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield key, message and remedy of each fault; the key is empty for the whole SLO."""
    wait, failures, objective = (slo.get(key) for key in ("wait", "failures", "objective"))
    if isinstance(wait, (str, int, float)):
        given = seconds(str(wait))
        if given is None:
            yield "wait", "is not a duration", "write it as in 30s or 5m"
        elif given not in BUCKETS:
            near = sorted(sorted(BUCKETS, key=lambda bucket: abs(bucket - given))[:2])
            yield (
                "wait",
                "can't be measured: workers count waits up to certain durations",
                f"write {' or '.join(map(duration, near))}",
            )
    for key, value, low, high in (
        ("failures", failures, LEAST, MOST),
        ("objective", objective, 100 - MOST, 100 - LEAST),
    ):
        if not isinstance(value, (str, int, float)):
            continue
        share = percent(str(value))
        if share is None:
            yield key, "is not a percentage", "write it with its sign, as in 1%"
        elif not low <= share <= high:
            why = (
                "its alert could never fire"
                if (share > high) == (key == "failures")
                else ("it takes more tasks to measure than a worker runs in three days")
            )
            yield key, f"is outside {low:g}% to {high:g}%: {why}", f"write {low:g}% to {high:g}%"
    if objective is not None and wait is None:
        yield "objective", "is about the wait, which is not set", "set wait, or remove it"
    if wait is None and failures is None:
        yield "", "promises nothing", "set wait, failures, or both"
