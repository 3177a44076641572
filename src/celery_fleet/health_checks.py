"""The checks of health, each of one thing, in bounded time; standard library alone.

A check returns a :class:`~celery_fleet.health_result.Finding` or raises: whatever it raises is `bad`, in one line. What
needs Celery or a database's driver is asked in the release's Python, as the application's user.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import json
import os
import pwd
import re
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from celery_fleet import client_certificate, health_database, health_redis, health_units
from celery_fleet.delivery.keys import DEAD_LETTERS_INDEX
from celery_fleet.health_redis import Client, RedisError, Server
from celery_fleet.health_result import BAD, GOOD, WARNING, Finding, worst
from celery_fleet.redact import secrets_in
from celery_fleet.words import count

FORMAT = 1
#: Files of the application's environment, below its directory: a part for everybody and one for root alone.
ENVIRONMENT = ("exec.env", "credentials/exec.env")
#: kombu's priorities, each of which is a list of its own in Redis.
_STEPS, _SEPARATOR = (0, 3, 6, 9), "\x06\x16"
#: Files that are looked at in one directory of logs at most.
_MOST_FILES = 100_000
#: Names of thresholds of which less is worse.
LOW = frozenset(
    (
        *("disk_free_percent", "disk_free_mb", "inodes_free_percent"),
        *("memory_available_percent", "certificate_days"),
    )
)
_ASSIGNMENT = re.compile(
    r'^([A-Za-z_][A-Za-z0-9_]*)="((?:\\.|[^"\\])*)"$', re.MULTILINE | re.DOTALL
)


class CheckError(Exception):
    """Why a check can't be done, in one line."""


@dataclass(frozen=True)
class Worker:
    """A worker of the inventory."""

    unit: str
    host: str
    pool: str = "prefork"


@dataclass(frozen=True)
class Setup:
    """What is checked on this host: ``/etc/celery-fleet/<app>/health.json``.

    Attributes:
        fleet: Whether the host looks at what belongs to the whole fleet: all workers, the queues.
        thresholds: Name -> `warning` and `bad`, either of which may be None for never; `queues`: name of a queue ->
            the same.
        units: This host's, but for those of workers and beat.
        workers: Of the whole fleet, by node name.
        servers: `broker` and `results` with host and port, for hosts without an operator's credentials.
        beat: Its unit, its runtime directory and the seconds between two looks at its schedule; on its host alone.
        clock: Whether the host's clock is compared with the broker's.
    """

    app: str
    host: str
    user: str
    interval: float
    checks: tuple[str, ...]
    thresholds: Mapping[str, Any]
    directory: Path
    root: Path
    runtime: Path
    fleet: bool = False
    units: tuple[str, ...] = ()
    workers: Mapping[str, Worker] = field(default_factory=dict)
    queues: tuple[str, ...] = ()
    servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ca: str = ""
    client: Mapping[str, str] = field(default_factory=dict)
    beat: Mapping[str, Any] | None = None
    paths: tuple[str, ...] = ("/",)
    logs: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    on_change: tuple[str, ...] = ()

    @cached_property
    def operator(self) -> Mapping[str, Any] | None:
        """The operator's settings, where this host has them."""
        path = self.directory / "credentials" / "operator.json"
        try:
            found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The application's environment, where this host runs it."""
        found: dict[str, str] = {}
        for name in ENVIRONMENT:
            with contextlib.suppress(FileNotFoundError):
                found |= environment((self.directory / name).read_text(encoding="utf-8"))
        return found

    def secrets(self) -> set[str]:
        """All that must not be said."""
        found = secrets_in(dict(self.operator or {}))
        for url in self.databases().values():
            found.update(health_database.secrets_of(url))
        return found

    def databases(self) -> dict[str, str]:
        """The variables of the application's environment that are URLs of databases."""
        return {
            name: value
            for name, value in self.environment.items()
            if health_database.scheme_of(value)
        }

    @property
    def release(self) -> Path:
        """A release that this host has: the current one, or before there is one what a unit runs.

        Raises:
            CheckError: There is none.
        """
        for link in (self.root / "current", *sorted((self.root / "pins").glob("*"))):
            if link.name == "flower":
                continue
            with contextlib.suppress(OSError):
                found = link.resolve(strict=True)
                if os.access(found / "venv" / "bin" / "python", os.X_OK):
                    return found
        raise CheckError(f"there is no release in {self.root}; run site.yml")

    def threshold(self, name: str) -> Mapping[str, float | None]:
        """The two bounds of a name."""
        found: Mapping[str, float | None] = self.thresholds.get(name) or {}
        return found

    def judge(self, name: str, value: float) -> str:
        """The state that a value means."""
        return judge(value, self.threshold(name), low=name in LOW)


def reason(error: Exception) -> str:
    """An exception as one line for people."""
    words = " ".join(str(error).split())
    if isinstance(error, TimeoutError):
        # Its own words name a line of C.
        return "no answer: the time ran out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror and error.errno:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if isinstance(error, (CheckError, RedisError, OSError)) and words:
        return words
    return ": ".join(part for part in (type(error).__name__, words) if part)


def environment(text: str) -> dict[str, str]:
    """The variables of an environment file as the control side writes it: each value in double quotes."""
    return {
        name: re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        for name, value in _ASSIGNMENT.findall(text)
    }


def judge(value: float, threshold: Mapping[str, float | None], *, low: bool = False) -> str:
    """Whether a value has come to a bound: up to it, or where less is worse (`low`) down to it."""
    for state in (BAD, WARNING):
        bound = threshold.get(state)
        if bound is not None and (value <= bound if low else value >= bound):
            return state
    return GOOD


def known(setup: Setup) -> dict[str, Any]:
    """What `cli.json`, which a run writes before anything moves, says of units and workers; nothing where it can't.

    A worker that the inventory no longer has is stopped soon after, and must not be missed.
    """
    try:
        found = json.loads((setup.directory / "cli.json").read_text(encoding="utf-8"))
        return {"units": list(found["units"]), "workers": dict(found["workers"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit in ("B", "kB") else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def combined(parts: Iterable[tuple[str, str]], well: str, value: Any = None) -> Finding:
    """One finding out of several: the words of those that are not good, or what to say where all are."""
    found = list(parts)
    words = [text for state, text in found if state != GOOD]
    return Finding(worst(state for state, _ in found), "; ".join(words) or well, value)


# --- the host ------------------------------------------------------------------------------------------------


def disk(setup: Setup) -> Finding:
    """Room on the filesystems of what the fleet writes, in shares and in bytes, and for further files."""
    seen: dict[int, str] = {}
    for path in setup.paths:
        with contextlib.suppress(FileNotFoundError):
            seen.setdefault(os.stat(path).st_dev, path)
    parts, value, words = [], {}, []
    for path in seen.values():
        system = os.statvfs(path)
        free = system.f_bavail * system.f_frsize
        # As df reckons: what is kept for root is not there.
        usable = (system.f_blocks - system.f_bfree + system.f_bavail) * system.f_frsize
        percent = 100 * free / usable if usable else 100.0
        # Some filesystems have no fixed number.
        inodes = 100 * system.f_favail / system.f_files if system.f_files else 100.0
        value[path] = {
            "free_percent": round(percent, 1),
            "free_bytes": free,
            "free_inodes_percent": round(inodes, 1),
        }
        text = f"{path}: {percent:.1f} % free ({size(free)})"
        words.append(text)
        state = worst(
            (setup.judge("disk_free_percent", percent), setup.judge("disk_free_mb", free / 1e6))
        )
        parts.append((state, text))
        parts.append(
            (setup.judge("inodes_free_percent", inodes), f"{path}: {inodes:.1f} % of inodes free")
        )
    return combined(parts, ", ".join(words), value)


def memory(setup: Setup, path: Path = Path("/proc/meminfo")) -> Finding:
    """Memory that is to be had, and how full swap is."""
    found = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in path.read_text().splitlines())
        if rest.split()
    }
    available = found["MemAvailable"]
    percent = 100 * available / found["MemTotal"]
    total = found.get("SwapTotal", 0)
    used = 100 * (1 - found.get("SwapFree", 0) / total) if total else 0.0
    text = f"{percent:.0f} % available ({size(available)})"
    return combined(
        [
            (setup.judge("memory_available_percent", percent), text),
            (
                setup.judge("swap_used_percent", used) if total else GOOD,
                f"{used:.0f} % of swap used",
            ),
        ],
        text,
        {
            "available_percent": round(percent, 1),
            "available_bytes": available,
            "swap_used_percent": round(used, 1),
        },
    )


def cpu(setup: Setup) -> Finding:
    """Load of the last five minutes for each core."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[1]
    return Finding(
        setup.judge("load_per_core", load / cores),
        f"load {load:.2f} on {cores} {'core' if cores == 1 else 'cores'} over five minutes",
        {"load5": round(load, 2), "cores": cores, "per_core": round(load / cores, 2)},
    )


def _sizes(directory: Path) -> Iterator[int]:
    waiting, left = [directory], _MOST_FILES
    while waiting:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(waiting.pop()) as entries,
        ):
            for entry in entries:
                left -= 1
                if left < 0:
                    raise CheckError(f"{directory} has more than {_MOST_FILES} files")
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield entry.stat(follow_symlinks=False).st_size


def logs(
    setup: Setup, journals: Sequence[Path] = (Path("/var/log/journal"), Path("/run/log/journal"))
) -> Finding:
    """Size of the application's logs; of the journal, which has bounds of its own, for information."""
    sizes = {path: sum(_sizes(Path(path))) for path in setup.logs if os.path.isdir(path)}
    journal = sum(sum(_sizes(path)) for path in journals)
    words = [f"{path} {size(number)}" for path, number in sizes.items()]
    return Finding(
        setup.judge("logs_mb", sum(sizes.values()) / 1e6),
        ", ".join([*words, f"journal {size(journal)}"]),
        {"bytes": sizes, "journal_bytes": journal},
    )


# --- certificates --------------------------------------------------------------------------------------------


def certificates(setup: Setup, now: datetime | None = None) -> Finding:
    """Days that the certificates of this host and of the authority are still valid."""
    parts, value, words = [], {}, []
    found = {
        path: validities(Path(path).read_text(encoding="ascii")) for path in setup.certificates
    }
    for path, ends in ends_of(found).items():
        days = (ends - (now or datetime.now(UTC))).total_seconds() / 86400
        value[path] = {"days": round(days, 1), "until": ends.isoformat()}
        name = os.path.basename(path)
        text = (
            f"{name} is valid for {days:.0f} days"
            if days > 0
            else f"{name} expired {ends:%Y-%m-%d}"
        )
        parts.append((setup.judge("certificate_days", days) if days > 0 else BAD, text))
        words.append(text)
    return combined(parts, ", ".join(words), value)


@dataclass(frozen=True)
class Validity:
    """When a certificate ends, and whose it is, by whom; both names as they stand there."""

    until: datetime
    subject: bytes
    issuer: bytes


def ends_of(found: Mapping[str, Sequence[Validity]]) -> dict[str, datetime]:
    """The end of each file: of its first certificate that ends and is in use.

    While one authority takes over from another hosts trust both. What counts is the one above the host's certificate;
    where that can't be told, the one that ends last.
    """
    used = {
        item.issuer for items in found.values() for item in items if item.subject != item.issuer
    }
    ends = {}
    for path, items in found.items():
        counted = [item for item in items if item.subject != item.issuer or item.subject in used]
        ends[path] = (
            min(item.until for item in counted) if counted else max(item.until for item in items)
        )
    return ends


def validities(pem: str) -> list[Validity]:
    """All certificates of a text in PEM form.

    Hosts need have neither the program openssl nor Python's cryptography, and the time is the fifth thing in a
    certificate (RFC 5280, 4.1), so it is read from there.

    Raises:
        CheckError: It is none.
    """
    found = re.findall("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", pem, re.DOTALL)
    try:
        if not found:
            raise ValueError("no PEM")
        return [_validity(base64.b64decode(text)) for text in found]
    except (ValueError, IndexError) as error:
        raise CheckError(f"this is no certificate ({error})") from None


def _validity(content: bytes) -> Validity:
    _, whole, _ = _element(content)
    _, rest, _ = _element(whole)
    tag, _, behind = _element(rest)
    # The version, which stands before the serial number where there is one.
    rest = behind if tag == 0xA0 else rest
    for _ in range(2):
        _, _, rest = _element(rest)
    _, issuer, rest = _element(rest)
    _, validity, rest = _element(rest)
    _, subject, _ = _element(rest)
    _, _, rest = _element(validity)
    tag, time_, _ = _element(rest)
    text = time_.decode("ascii")
    # Years of two digits are those from 1950 to 2049; strptime's begin with 1969.
    century = ("19" if text[:2] >= "50" else "20") if tag == 0x17 else ""
    until = datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return Validity(until, subject, issuer)


def _element(content: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element in DER form, and what stands behind it."""
    tag, length, start = content[0], content[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(content[2:start], "big")
    if start + length > len(content):
        raise ValueError("cut short")
    return tag, content[start : start + length], content[start + length :]


# --- units ---------------------------------------------------------------------------------------------------


def units(setup: Setup, show: health_units.Ask = health_units.show) -> Finding:
    """This host's units are up: Redis, web, Flower, nginx; those of workers and beat have checks of their own."""
    there = known(setup).get("units", setup.units)
    names = [name for name in setup.units if name in there]
    found = show(names)
    patience = setup.threshold("starting_seconds")
    parts = [health_units.judge(found.get(name), name, patience) for name in names]
    return combined(parts, f"{len(names)} up", {name: found[name].active for name in found})


def beat(setup: Setup, show: health_units.Ask = health_units.show) -> Finding:
    """Beat is up, and has looked at its schedule a short while ago."""
    about = setup.beat or {}
    name = str(about["unit"])
    unit = show([name]).get(name)
    state, text = health_units.judge(unit, name, setup.threshold("starting_seconds"))
    if unit is None or unit.active != "active":
        return Finding(state, text)
    up = max(0.0, time.monotonic() - unit.up)
    try:
        touched = os.lstat(Path(about["directory"]) / "tick")
        if not stat.S_ISREG(touched.st_mode):
            raise CheckError(f"{about['directory']}/tick is no file")
        seconds: float | None = max(0.0, time.time() - touched.st_mtime)
    except FileNotFoundError:
        seconds = None
    pause = float(about["interval"])
    overdue = (up if seconds is None else seconds) - pause
    said = "none since its start" if seconds is None else f"{seconds:.0f} s ago"
    text = f"last tick {said}"
    if seconds is None:
        text += f" {up:.0f} s ago"
    return Finding(
        setup.judge("beat_tick_seconds", overdue),
        text,
        {"tick_seconds": None if seconds is None else round(seconds, 1)},
    )


# --- Redis ---------------------------------------------------------------------------------------------------


def server(setup: Setup, kind: str) -> Server:
    """The broker or the result store, as the operator where this host has the operator's credentials."""
    if setup.operator is not None:
        pins = setup.operator["celery"]
        url, tls = (
            ("broker_url", "broker_use_ssl")
            if kind == "broker"
            else ("result_backend", "redis_backend_use_ssl")
        )
        return health_redis.server_of(str(pins[url]), pins.get(tls))
    about = setup.servers[kind]
    return Server(
        str(about["host"]),
        int(about["port"]),
        ca=setup.ca or None,
        certificate=setup.client.get("certificate"),
        key=setup.client.get("key"),
    )


def trying(ask: Callable[[], Any], tries: int = 3, pause: float = 2.0) -> Any:
    """The answer of a server that may be restarting just now.

    Raises:
        OSError, RedisError: What the last try ended with.
    """
    for number in range(1, tries + 1):
        try:
            return ask()
        # Not a time that ran out: what hangs would only do so again.
        except (ConnectionError, RedisError) as error:
            restarting = isinstance(error, ConnectionError) or str(error).startswith("LOADING")
            if number == tries or not restarting:
                raise
            time.sleep(pause)
    raise AssertionError


def redis(setup: Setup) -> Finding:
    """Broker and result store take a login and answer; how full their memory is."""
    parts, value, words = [], {}, []
    for kind in ("broker", "results"):
        where = server(setup, kind)
        try:
            about, seconds = trying(partial(_about, where))
        except (OSError, RedisError) as error:
            parts.append((BAD, f"{kind} {where.address}: {reason(error)}"))
            continue
        limit, used = int(about.get("maxmemory", 0)), int(about.get("used_memory", 0))
        share = 100 * used / limit if limit else None
        value[kind] = {
            "seconds": round(seconds, 3),
            "memory_percent": None if share is None else round(share, 1),
            "used_bytes": used if about else None,
        }
        full = "" if share is None else f", {share:.0f} % of its memory"
        words.append(f"{kind} answers{full}")
        parts.append((setup.judge("redis_seconds", seconds), f"{kind} took {seconds:.1f} s"))
        if share is not None and about.get("maxmemory_policy", "noeviction") == "noeviction":
            # One that evicts is full as a matter of course.
            parts.append(
                (
                    setup.judge("redis_memory_percent", share),
                    f"{kind} uses {share:.0f} % of its memory",
                )
            )
    return combined(parts, ", ".join(words), value)


def _about(where: Server) -> tuple[dict[str, str], float]:
    """What a server says of its memory, nothing to who is not logged in, and how long that took."""
    began = time.monotonic()
    about: dict[str, str] = {}
    with Client(where) as client:
        if where.user is None:
            with contextlib.suppress(RedisError):
                # Who is not logged in is told so, and that is an answer.
                client.ask("PING")
        else:
            client.ask("PING")
            about = health_redis.information(client.ask("INFO", "memory"))
    return about, time.monotonic() - began


def queues(setup: Setup) -> Finding:
    """How many tasks wait in each queue."""
    if setup.operator is None:
        raise CheckError("this host has no credentials of the operator; run site.yml")
    options = setup.operator["celery"].get("broker_transport_options") or {}
    steps = options.get("priority_steps") or _STEPS
    separator = options.get("sep") or _SEPARATOR
    prefix = options.get("global_keyprefix") or ""

    def ask() -> dict[str, int]:
        with Client(server(setup, "broker")) as client:
            return {
                queue: sum(
                    int(
                        client.ask(
                            "LLEN",
                            f"{prefix}{queue}{separator}{step}" if step else f"{prefix}{queue}",
                        )
                    )
                    for step in steps
                )
                for queue in setup.queues
            }

    lengths: dict[str, int] = trying(ask)
    own = setup.threshold("queues")
    parts = []
    for queue, length in lengths.items():
        bounds = {**setup.threshold("queue_length"), **_bounds(own.get(queue))}
        parts.append((judge(length, bounds), f"{length} tasks wait in {queue}"))
    total = sum(lengths.values())
    return combined(parts, f"{total} tasks wait in {len(lengths)} queues", lengths)


def dead_letters(setup: Setup) -> Finding:
    """How many messages could not be run, or failed for good, and wait for a decision."""
    if setup.operator is None:
        raise CheckError("this host has no credentials of the operator; run site.yml")
    options = setup.operator["celery"].get("broker_transport_options") or {}
    key = f"{options.get('global_keyprefix') or ''}{DEAD_LETTERS_INDEX}"

    def ask() -> int:
        with Client(server(setup, "broker")) as client:
            return int(client.ask("ZCARD", key))

    number: int = trying(ask)
    text = count(number, "dead letter")
    if number:
        text += ": celery-fleet dead-letters list"
    return Finding(setup.judge("dead_letters", number), text, {"number": number})


def _bounds(given: object) -> Mapping[str, float | None]:
    return given if isinstance(given, Mapping) else {}


def clock(setup: Setup) -> Finding:
    """How far this host's clock is from that of the broker's host."""
    with Client(server(setup, "broker")) as client:
        before = time.time()
        seconds, micro = client.ask("TIME")
        after = time.time()
    offset = (before + after) / 2 - (int(seconds) + int(micro) / 1e6)
    # An answer that took long tells no more than its half.
    sure = max(0.0, abs(offset) - (after - before) / 2)
    return Finding(
        setup.judge("clock_offset_seconds", sure),
        f"{abs(offset):.2f} s {'ahead of' if offset > 0 else 'behind'} the broker's host",
        {"offset_seconds": round(offset, 3)},
    )


# --- in the release's Python ---------------------------------------------------------------------------------


def _as_user(name: str) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    group = grp.getgrgid(entry.pw_gid)
    return {"user": entry.pw_uid, "group": group.gr_gid, "extra_groups": []}


def in_release(
    setup: Setup, module: str, request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """What a module of ours answers in the release's Python, as the application's user.

    Raises:
        CheckError: It gave no answer.
    """
    python = setup.release / "venv" / "bin" / "python"
    further = {k: v for k, v in setup.environment.items() if k.startswith("PG")}
    try:
        done = subprocess.run(
            [str(python), "-m", f"celery_fleet.{module}"],
            # With what is secret in it, so by a pipe.
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={
                **further,
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "HOME": _home(setup.user),
                "PYTHONPATH": str(setup.runtime),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            timeout=timeout,
            check=False,
            start_new_session=True,
            **_as_user(setup.user),
        )
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if isinstance(answer, dict):
            return answer
        raise ValueError
    except subprocess.TimeoutExpired:
        raise CheckError(f"the release's Python gave no answer within {timeout:g} s") from None
    except (OSError, KeyError) as error:
        raise CheckError(f"{python} can't be run: {error}") from None
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckError(
            f"the release's Python ended with {done.returncode} and no answer: {said}"
        ) from None


def _home(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/"


def database(setup: Setup) -> Finding:
    """The application's databases take its login and answer."""
    urls = setup.databases()
    if not urls:
        return Finding(GOOD, "no URL of a database in the application's environment")
    answers = in_release(setup, "health_database", {"urls": urls, "timeout": 9}, 15)
    parts, words = [], []
    for name, one in answers.items():
        if not one["ok"]:
            parts.append((BAD, f"{name}: {one['error']}"))
            continue
        words.append(f"{name} answers in {one['seconds']:g} s ({one['how']})")
        parts.append(
            (setup.judge("database_seconds", one["seconds"]), f"{name} took {one['seconds']:g} s")
        )
    return combined(parts, ", ".join(words), answers)


def workers(
    setup: Setup,
    show: health_units.Ask = health_units.show,
    ask: Callable[[Setup, Sequence[str]], Iterable[str]] | None = None,
    pause: float = 4.0,
) -> Finding:
    """This host's workers are up and answer; with `fleet` those of all hosts answer."""
    there = known(setup).get("workers", setup.workers)
    wanted = {node: worker for node, worker in setup.workers.items() if node in there}
    own = {node: worker for node, worker in wanted.items() if worker.host == setup.host}
    found = show([worker.unit for worker in own.values()])
    parts, awaited = [], []
    for node, worker in wanted.items():
        if node in own:
            unit = found.get(worker.unit)
            parts.append(health_units.judge(unit, worker.unit, setup.threshold("starting_seconds")))
            if unit is not None and unit.active == "active":
                awaited.append(node)
        elif setup.fleet:
            awaited.append(node)
    online, trouble = _online(setup, awaited, ask or _ping, pause)
    if trouble:
        parts.append((WARNING, f"they can't be asked: {trouble}"))
    for node in (node for node in awaited if node not in online and not trouble):
        # Such a pool answers between two tasks alone.
        busy = wanted[node].pool == "solo"
        text = f"{node} gives no answer" + (
            ", which with a solo pool may be a task" if busy else ""
        )
        parts.append((WARNING if busy else BAD, text))
    asked = len(awaited)
    value = {
        "online": sorted(online),
        "missing": sorted(set(awaited) - online) if not trouble else None,
    }
    return combined(parts, f"{len(online)} of {asked} online", value)


def _online(
    setup: Setup,
    awaited: Sequence[str],
    ask: Callable[[Setup, Sequence[str]], Iterable[str]],
    pause: float,
) -> tuple[set[str], str]:
    """Who answers, and why nobody could be asked; one that restarts just now gets some time."""
    online: set[str] = set()
    for number in range(3):
        missing = [node for node in awaited if node not in online]
        if not missing:
            break
        if number:
            time.sleep(pause)
        try:
            online.update(set(ask(setup, missing)).intersection(awaited))
        except CheckError as error:
            return online, str(error)
    return online, ""


def _ping(setup: Setup, nodes: Sequence[str]) -> list[str]:
    if setup.operator is None:
        raise CheckError("this host has no credentials of the operator; run site.yml")
    request = {
        "question": "inspect",
        "method": "ping",
        "nodes": list(nodes),
        "wait": 3,
        "settings": client_certificate.carried(setup.operator),
        "timeout": 8,
    }
    answer = in_release(setup, "questions", request, 12)
    if not answer.get("ok"):
        raise CheckError(str(answer.get("error")))
    return list(answer["answer"])


#: Each check, and the seconds that it gets.
CHECKS: Mapping[str, tuple[Callable[[Setup], Finding], float]] = {
    "database": (database, 20.0),
    "redis": (redis, 25.0),
    "disk": (disk, 10.0),
    "memory": (memory, 5.0),
    "cpu": (cpu, 5.0),
    "units": (units, 10.0),
    "workers": (workers, 48.0),
    "beat": (beat, 10.0),
    "queues": (queues, 15.0),
    "dead_letters": (dead_letters, 15.0),
    "certificates": (certificates, 5.0),
    "logs": (logs, 20.0),
    "clock": (clock, 10.0),
}


def read(path: Path) -> Setup:
    """What is to be checked on this host.

    Raises:
        CheckError: The file is not there, or not ours.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']}, this runtime reads {FORMAT}")
        return Setup(
            app=raw["app"],
            host=raw["host"],
            user=raw["user"],
            interval=float(raw["interval"]),
            checks=tuple(name for name in raw["checks"] if name in CHECKS),
            thresholds=raw["thresholds"],
            directory=Path(raw["directory"]),
            root=Path(raw["root"]),
            runtime=Path(__file__).resolve().parents[1],
            fleet=bool(raw["fleet"]),
            units=tuple(raw["units"]),
            workers={node: Worker(**worker) for node, worker in raw["workers"].items()},
            queues=tuple(raw["queues"]),
            servers=raw["servers"],
            ca=raw["ca"],
            client=raw.get("client") or {},
            beat=raw["beat"],
            paths=tuple(raw["paths"]),
            logs=tuple(raw["logs"]),
            certificates=tuple(raw["certificates"]),
            on_change=tuple(raw["on_change"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckError(f"{path} can't be read ({words}); run site.yml again") from None
