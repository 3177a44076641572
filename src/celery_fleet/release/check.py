"""Check an application in its own release: ``python -m celery_fleet.release.check`` with JSON on stdin.

    {"app": "app.celery_app", "directory": "/opt/…/source", "tasks": ["app.tasks.add"],
     "settings": {…}}

The check imports the application as ``celery -A`` does and loads its task modules as a worker does. It
prints ``{"ok", "errors", "tasks", "versions", "application"}`` and, if the application's own code failed,
its traceback in ``details``. ``application`` describes the application: its schedule (see
:mod:`celery_fleet.beat.described`), its time zone, its queues and routes. ``settings`` are Celery's, pinned
over the application's as on the hosts. It connects to neither broker nor result store. The status is 0
if all is well and 1 if not.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from celery_fleet.common.answering import serve
from celery_fleet.common.errors import COMPONENT_VARIABLE, FleetError, one_line
from celery_fleet.common.redact import redact, secrets_in
from celery_fleet.compat import redbeat, versions
from celery_fleet.config.settings import URL_VARIABLES
from celery_fleet.release import serializers

LOADER = "celery_fleet.loader.FleetLoader"

#: Variables that systemd sets in a unit that has such a directory, and so neither here nor in other commands.
UNIT_VARIABLES = ("STATE_DIRECTORY", "RUNTIME_DIRECTORY")

#: Prefixes of tasks that come from Celery or the fleet and not from an application.
BUILT_IN = ("celery.", "celery_fleet.")


@dataclass(frozen=True)
class CheckRequest:
    """What to check; see the module's docstring."""

    app: str
    directory: str = "."
    tasks: Sequence[str] = ()
    settings: Mapping[str, Any] | None = None


@dataclass
class CheckReport:
    """The findings, printed as JSON."""

    errors: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    details: str | None = None
    application: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the report's public form."""
        result: dict[str, Any] = {
            "ok": not self.errors,
            "errors": self.errors,
            "tasks": self.tasks,
            "versions": self.versions,
            "application": self.application,
        }
        if self.details is not None:
            result["details"] = self.details
        return result


def check(request: CheckRequest) -> CheckReport:
    """Import the application and check its tasks; this changes the working directory and sys.path."""
    report = CheckReport(versions=versions.installed())
    report.errors += versions.problems(report.versions)
    if report.errors:
        return report
    try:
        _enter(request.directory)
        app = _application(request)
    except FleetError as exc:
        report.errors.append(str(exc))
        cause = exc.__cause__
        if cause is not None and _place(cause) is not None:
            report.details = "".join(traceback.format_exception(cause))
        return report
    report.tasks = own_tasks(app)
    for name in request.tasks:
        if name not in app.tasks:
            report.errors.append(_missing(name, request.app, report.tasks))
    report.errors += serializers.problems(
        app.conf, f"application {request.app}", request.settings or {}
    )
    if _has_key_prefix(app, request):
        report.errors.append(
            f"application {request.app}: {_RESULT_OPTIONS} has a global_keyprefix, which the fleet's other"
            " processes don't use; remove it: an application of the fleet has a Redis of its own"
        )
    report.application, errors = _told(app, request)
    report.errors += errors
    return report


def own_tasks(app: Any) -> list[str]:
    """Return the names of the application's own tasks."""
    return sorted(name for name in app.tasks if not name.startswith(BUILT_IN))


#: Recorded settings that the inventory may override, with Celery's defaults.
_OWN = {"timezone": None, "enable_utc": True, "task_always_eager": False}
#: Options of the result store that the application may set.
_RESULT_OPTIONS = "result_backend_transport_options"
#: Settings that decide where entries go; if the inventory sets one, the application's own value is not reported.
_ROUTING = ("task_default_queue", "task_routes")


def _told(app: Any, request: CheckRequest) -> tuple[dict[str, Any], list[str]]:
    """Describe the application's schedule and settings; return them with the errors they would cause on the hosts."""
    from celery_fleet.beat import described
    from celery_fleet.beat.database import available
    from celery_fleet.compat import settings as compat_settings
    from celery_fleet.config.pins import PinnedChanges

    where = f"application {request.app}"
    errors = []
    if app.conf.task_always_eager:
        errors.append(
            f"{where}: task_always_eager (CELERY_TASK_ALWAYS_EAGER, once CELERY_ALWAYS_EAGER) is on, so"
            " tasks would run inside the process that calls them and no worker would ever get one; switch it off"
            " in the settings that the hosts use, or set celery_app_settings.task_always_eager: false"
        )
    try:
        zone = str(app.timezone)
    except Exception:  # noqa: BLE001  # any error that the zone's name causes
        errors.append(
            _no_zone(where, str(app.conf.timezone), "timezone" in (request.settings or {}))
        )
        zone = ""
    changes = compat_settings.changes_of(app.conf)
    overruled = changes.overruled if isinstance(changes, PinnedChanges) else {}
    pinned = request.settings or {}
    own = {
        # If the inventory sets it, report the overruled value of the application, or Celery's default.
        name: described.plain(overruled.get(name, default) if name in pinned else app.conf[name])
        for name, default in _OWN.items()
    }
    told = {
        **own,
        "zone": zone,
        "scheduler": described.plain(app.conf.beat_scheduler),
        # Why its schedule can't be in a database; it matters only if the inventory wants it there.
        "no_database": redact(available.missing()),
        # The same for a schedule on the broker.
        "no_redbeat": redbeat.missing(),
        # The same for a solar entry of the inventory.
        "no_solar": "" if find_spec("ephem") else "there is no ephem in its virtualenv",
        "default_queue": str(app.conf.task_default_queue),
        "routes": described.plain(app.conf.task_routes),
        "pinned": [name for name in _ROUTING if name in pinned],
        "queues": [],
        "goes_to": {},
        "schedule": {},
    }
    if errors:
        return told, errors  # beat's entries can't be created without a zone
    try:
        told["queues"] = sorted(app.amqp.queues)
    except Exception as exc:  # noqa: BLE001  # the application's own declarations may raise anything
        return told, [
            (
                f"{where}: its task_queues can't be used ({type(exc).__name__}: {one_line(exc)}); correct them"
                " in the application's code"
            )
        ]
    told["goes_to"] = described.queues(app, own_tasks(app))
    told["schedule"], errors = described.entries(app)
    return told, errors


def _has_key_prefix(app: Any, request: CheckRequest) -> bool:
    if "result_backend" in (request.settings or {}):
        return False  # preflight only accepts a store there that is no Redis
    options = app.conf[_RESULT_OPTIONS]
    return isinstance(options, Mapping) and bool(options.get("global_keyprefix"))


def _no_zone(where: str, zone: str, ours: bool) -> str:
    import zoneinfo

    place = "celery_app_settings.timezone" if ours else f"the timezone of {where}"
    known = zoneinfo.available_timezones()
    near = difflib.get_close_matches(zone, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "use a name like Europe/Berlin"
    if not known:
        hint = "this host has no time zones: add tzdata to celery_runtime_packages"
    return f"{place} is {zone!r}, and there is no such time zone: {hint}"


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as exc:
        raise FleetError(
            f"{directory}: can't be entered ({exc.strerror}); check the directory of"
            " celery_app_source"
        ) from exc
    # As with `python -m celery` in that directory: the application's code comes first.
    here = str(Path.cwd())
    sys.path[:] = [here, *(path for path in sys.path if path not in ("", here))]
    importlib.invalidate_caches()


def _application(request: CheckRequest) -> Any:
    # The caller's environment may be that of a process of the fleet, which this is not.
    # Processes of the fleet lack the four URLs too, so code that needs them must fail here and not there.
    for variable in ("CELERY_LOADER", COMPONENT_VARIABLE, *URL_VARIABLES):
        os.environ.pop(variable, None)
    if request.settings is not None:
        _pin(request.settings)
    from celery import Celery
    from celery.app.utils import find_app

    where = f"application {request.app} in {Path.cwd()}"
    try:
        app = find_app(request.app)
    except ModuleNotFoundError as exc:
        module, _, attribute = request.app.partition(":")
        if attribute and exc.name == request.app:
            raise FleetError(
                f"{where}: module {module} has no {attribute}; check celery_app_module"
            ) from exc
        if exc.name and (request.app == exc.name or request.app.startswith(f"{exc.name}.")):
            raise FleetError(
                f"{where}: there is no module {exc.name}; check celery_app_module and the directory"
                " of celery_app_source"
            ) from exc
        raise FleetError(_import_error(where, exc)) from exc
    except AttributeError as exc:
        if _place(exc) is None:
            raise FleetError(
                f"{where}: {one_line(exc)}, so it holds no Celery app; check celery_app_module"
            ) from exc
        raise FleetError(_import_error(where, exc)) from exc
    except (Exception, SystemExit) as exc:
        raise FleetError(_import_error(where, exc)) from exc
    if not isinstance(app, Celery):
        raise FleetError(
            f"{where}: is of type {type(app).__name__}, not a Celery app; check celery_app_module"
        )
    app.set_current()
    try:
        app.loader.import_default_modules()
        app.finalize()
        app.conf.finalize()
    except (Exception, SystemExit) as exc:
        raise FleetError(_import_error(f"task modules of {where}", exc)) from exc
    return app


def _pin(settings: Mapping[str, Any]) -> None:
    """Have every app of this process pin ``settings``, without a file."""
    # Set this before the first app is created, because each takes its loader from there.
    os.environ["CELERY_LOADER"] = LOADER
    from celery_fleet.config import current
    from celery_fleet.config.entries import celery_schedule
    from celery_fleet.config.settings import FleetSettings, parse_celery

    pins, schedule = parse_celery(settings)
    for entry in (schedule or {}).values():
        celery_schedule(entry)  # only Celery knows whether a crontab's fields are in range
    current.use_settings(FleetSettings("producer", "check", pins, schedule))


def _import_error(where: str, exc: BaseException) -> str:
    """Describe an exception from the application's code in one line: what, where, and what to do."""
    text = exc.msg if isinstance(exc, SyntaxError) else one_line(exc)
    what = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    place = _place(exc)
    at = f" at {place}" if place else ""
    variable = next((name for name in URL_VARIABLES if name in text), None)
    directory = next((name for name in UNIT_VARIABLES if name in text), None)
    if variable is not None:
        remedy = (
            "the fleet sets broker and result backend itself and removes this variable; read it"
            f" with os.environ.get({variable!r}) or leave it out"
        )
    elif directory is not None:
        remedy = (
            "systemd sets this variable only for services, and this check, release commands and celery-fleet exec"
            f" do not have it: read it inside a task, or with os.environ.get({directory!r})"
        )
    elif isinstance(exc, ModuleNotFoundError):
        remedy = f"add the package with {exc.name} to the application's requirements"
    elif "cannot open shared object file" in text:
        remedy = "add the Debian package with this library to celery_runtime_packages"
    elif isinstance(exc, SyntaxError):
        remedy = "correct it there; this is how the release's Python reads it"
    elif isinstance(exc, SystemExit):
        remedy = "the application must not exit when it is imported"
    else:
        remedy = (
            "correct it there; environment variables that it needs belong in celery_app_env or"
            " celery_app_secret_env"
        )
    return f"{where}: {what}{at}; {remedy}"


def _place(exc: BaseException) -> str | None:
    """Return file and line of the application's last frame in a traceback; None if it has none."""
    here = Path.cwd()
    if isinstance(exc, SyntaxError) and exc.filename:
        path = Path(exc.filename)
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        return f"{shown}, line {exc.lineno}"
    place = None
    for frame in traceback.extract_tb(exc.__traceback__):
        path = Path(frame.filename)
        if path.is_absolute() and path.is_relative_to(here):
            place = f"{path.relative_to(here)}, line {frame.lineno}"
    return place


def _missing(name: str, app: str, registered: list[str]) -> str:
    """Return a line about a missing task, with the names that were probably meant."""
    last = name.rpartition(".")[2]
    near = [other for other in registered if other.rpartition(".")[2] == last]
    hint = f"did you mean {', '.join(near)}?" if near else "is its module in include or imports?"
    return f"task {name} is not registered by {app}: {hint}"


def answer(request: CheckRequest) -> dict[str, Any]:
    """Return the document to print."""
    secrets = secrets_in(request.settings)
    try:
        report = check(request)
    except Exception as exc:  # noqa: BLE001  # the caller always expects a report
        report = CheckReport(
            [f"the check itself failed: {type(exc).__name__}: {one_line(exc)}"],
            versions=versions.installed(),
            details=traceback.format_exc(),
        )
    report.errors = [redact(one_line(error), secrets) for error in report.errors]
    if report.details is not None:
        report.details = redact(report.details, secrets)
    return report.as_dict()


if __name__ == "__main__":
    serve(lambda raw: CheckRequest(**raw), answer)
