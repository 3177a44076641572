"""The work itself, without Celery: claim a request, its phases, and how it ends.

A task can be delivered twice, even while the first one still runs. So each step names its task, and only the task that
has a request ends it.
"""

from __future__ import annotations

import csv
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from backend_django.models import Operation, ProcessingRequest, ProcessingResult

log = logging.getLogger(__name__)

Status = ProcessingRequest.Status

MAX_ROWS = 100_000
MAX_ERROR_LENGTH = 2_000
# Seconds that the stand-in for an external API may take at most: more than any time limit.
MAX_WAIT = 7_200


class InvalidInput(Exception):
    """What is wrong with a request's data."""


@dataclass(frozen=True)
class Row:
    """One line of the input."""

    name: str
    value: float


@dataclass(frozen=True)
class Validated:
    """The input in one form, with everything that the work needs."""

    operation: str
    decimals: int
    rows: tuple[Row, ...]
    wait: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of the work: data, and a file in the working directory."""

    data: dict[str, Any]
    output: Path


# --- whose it is -----------------------------------------------------------------------------------


def claim(request_id: int, task_id: str) -> ProcessingRequest | None:
    """Make the request this task's and set it to processing; return None if there is nothing to do.

    There is nothing to do if it is completed, if another task works on it, or if this same task failed before and its
    message came a second time. A new task, such as an operator sends, takes up a failed request.

    Raises:
        ProcessingRequest.DoesNotExist: there is no such request.
    """
    with transaction.atomic():
        request = (
            ProcessingRequest.objects.select_for_update(of=("self",))
            .select_related("operation")
            .get(id=request_id)
        )
        same = request.celery_task_id == task_id
        if request.status == Status.COMPLETED:
            return None
        if (request.status == Status.PROCESSING and not same) or (
            request.status == Status.FAILED and same
        ):
            return None
        request.status = Status.PROCESSING
        request.celery_task_id = task_id
        request.error_message = ""
        request.started_at, request.finished_at = timezone.now(), None
        request.save()
    return request


def finish(request: ProcessingRequest) -> bool:
    """Set it to completed; return whether it was still this task's."""
    return _end(request, Status.COMPLETED, "")


def fail(request: ProcessingRequest, error: BaseException) -> bool:
    """Set it to failed, with the error's text; return whether it was still this task's."""
    return _end(request, Status.FAILED, error_text(error))


def _end(request: ProcessingRequest, status: str, error: str) -> bool:
    return bool(
        ProcessingRequest.objects.filter(
            pk=request.pk, status=Status.PROCESSING, celery_task_id=request.celery_task_id
        ).update(status=status, error_message=error, finished_at=timezone.now())
    )


def error_text(error: BaseException) -> str:
    """Return an error for the person who made the request."""
    if isinstance(error, SoftTimeLimitExceeded):
        return "it took longer than a task may"
    # PostgreSQL can't store NUL.
    text = str(error).replace("\0", "�").strip() or type(error).__name__
    return text if len(text) <= MAX_ERROR_LENGTH else text[: MAX_ERROR_LENGTH - 1] + "…"


# --- the phases ------------------------------------------------------------------------------------


@contextmanager
def working_directory(request: ProcessingRequest) -> Iterator[Path]:
    """Make a directory for this attempt only; it is removed at the end in any case."""
    directory = Path(
        tempfile.mkdtemp(prefix=f"processing-{request.pk}-", dir=settings.PROCESSING_WORK_DIR)
    )
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def validate_input(request: ProcessingRequest, directory: Path) -> Validated:
    """Phase 1: check the input, bring it into one form and put it into the working directory.

    Raises:
        InvalidInput: saying what is wrong with it.
    """
    data = request.input_data
    if not isinstance(data, dict):
        raise InvalidInput("data must be an object with rows")
    if unknown := sorted(data.keys() - {"rows", "wait"}):
        raise InvalidInput(f"data has {', '.join(unknown)}, which nobody reads: give rows and wait")
    given = data.get("rows")
    if not isinstance(given, list) or not given:
        raise InvalidInput("data.rows must be a list with at least one row")
    if len(given) > MAX_ROWS:
        raise InvalidInput(f"data.rows has {len(given)} rows; {MAX_ROWS} are the most")
    wait = data.get("wait", 0)
    if not _is_number(wait) or not 0 <= wait <= MAX_WAIT:
        raise InvalidInput(f"data.wait must be a number of seconds from 0 to {MAX_WAIT}")
    rows = tuple(_row(number, row) for number, row in enumerate(given, 1))
    with (directory / "input.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((row.name, row.value) for row in rows)
    return Validated(request.operation.name, request.operation.decimals, rows, float(wait))


def _row(number: int, row: object) -> Row:
    if not isinstance(row, dict):
        raise InvalidInput(f"row {number} must be an object with name and value")
    name, value = row.get("name"), row.get("value")
    if not isinstance(name, str) or not name.strip():
        raise InvalidInput(f"row {number} has no name")
    if not _is_number(value):
        raise InvalidInput(f"row {number} ({name.strip()[:40]}) has no number as its value")
    return Row(" ".join(name.split()), float(value))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def execute_business_logic(validated: Validated, directory: Path) -> Outcome:
    """Phase 2: do what was asked for, and write the output file.

    Raises:
        InvalidInput: the operation was named at /admin/ and has no code.
    """
    # This represents an external API that takes its time.
    time.sleep(validated.wait)
    operation = OPERATIONS.get(validated.operation)
    if operation is None:
        raise InvalidInput(
            f"there is no code for the operation {validated.operation}; there is for"
            f" {', '.join(sorted(OPERATIONS))}"
        )
    data, table = operation(validated)
    output = directory / f"{validated.operation}.csv"
    with output.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    return Outcome(data, output)


Table = list[tuple[object, ...]]


def _summary(validated: Validated) -> tuple[dict[str, Any], Table]:
    values = [row.value for row in validated.rows]
    # fsum, and no overflow on the way: each share of the mean is small enough.
    mean = math.fsum(value / len(values) for value in values)
    data = {
        "count": len(values),
        "mean": round(mean, validated.decimals),
        "lowest": round(min(values), validated.decimals),
        "highest": round(max(values), validated.decimals),
    }
    return data, [("what", "value"), *data.items()]


def _ranking(validated: Validated) -> tuple[dict[str, Any], Table]:
    ranked = sorted(validated.rows, key=lambda row: (-row.value, row.name))
    table: Table = [
        (place, row.name, round(row.value, validated.decimals))
        for place, row in enumerate(ranked, 1)
    ]
    data = {"count": len(ranked), "first": ranked[0].name, "last": ranked[-1].name}
    return data, [("place", "name", "value"), *table]


OPERATIONS = {"summary": _summary, "ranking": _ranking}


def save_result(request: ProcessingRequest, outcome: Outcome) -> None:
    """Phase 3: keep data and output file; they replace those of an earlier attempt."""
    ProcessingResult.objects.update_or_create(
        request=request,
        defaults={
            "data": outcome.data,
            "output_name": outcome.output.name,
            "output": outcome.output.read_bytes(),
        },
    )


# --- by night --------------------------------------------------------------------------------------


def clean_up(now: datetime) -> dict[str, int]:
    """Delete what ended long ago, and end requests that have lost their task, so that no one waits for ever.

    A task is lost if its process is killed (by the hard time limit, or for its memory) and it is not tried again, or if
    the web process died before sending it.
    """
    lost_before = now - timedelta(hours=settings.PROCESSING_LOST_AFTER_HOURS)
    lost = ProcessingRequest.objects.filter(
        Q(status=Status.PROCESSING, started_at__lt=lost_before)
        | Q(status=Status.PENDING, created_at__lt=lost_before)
    ).update(
        status=Status.FAILED,
        error_message=f"its task was lost: no sign of it for {settings.PROCESSING_LOST_AFTER_HOURS} hours",
        finished_at=now,
    )
    old = ProcessingRequest.objects.filter(
        status__in=(Status.COMPLETED, Status.FAILED),
        finished_at__lt=now - timedelta(days=settings.PROCESSING_RETENTION_DAYS),
    )
    _, deleted = old.delete()
    return {"lost": lost, "deleted": deleted.get("backend_django.ProcessingRequest", 0)}


def operation_named(name: str) -> Operation | None:
    """Return the operation of this name."""
    return Operation.objects.filter(name=name).first()
