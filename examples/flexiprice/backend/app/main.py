"""The HTTP API. Every answer is JSON and comes within a bounded time, also if broker or database are away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg import OperationalError as DatabaseError
from pydantic import BaseModel

from app import broker, db, discounts, pricing

T = TypeVar("T")

log = logging.getLogger(__name__)

# Seconds that a request waits at most.
BROKER_DEADLINE = 10.0
DATABASE_DEADLINE = 30.0

MAX_ERROR_LENGTH = 300


class Queued(BaseModel):
    """A task that was sent, and the address of its result."""

    task_id: str
    status_url: str


class Recomputed(BaseModel):
    """What a recomputation did, in batches."""

    days_threshold: int
    batches: int
    created: int
    updated: int


class TaskStatus(BaseModel):
    """How a task stands. Celery says PENDING of a task that waits, and of one it never heard of."""

    task_id: UUID
    state: str
    result: Any = None
    error: str | None = None


class Product(BaseModel):
    """A product with its lowest price of today."""

    sku: str
    name: str
    base_price: float
    price: float
    active_discounts: int


class Discount(BaseModel):
    """An active discount on a batch."""

    sku: str
    lot: str
    percent: int
    price: float
    valid_until: date
    computed_at: datetime


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the database when the server stops."""
    yield
    await to_thread.run_sync(db.close)


app = FastAPI(title="FlexiPrice", lifespan=lifespan)
broker_threads = CapacityLimiter(16)
database_threads = CapacityLimiter(8)


async def within(
    seconds: float, threads: CapacityLimiter, service: str, call: Callable[[], T]
) -> T:
    """Run `call` in a thread and return its result; answer 503 if it takes longer or `service` is away.

    A thread that is late ends by itself, and counts against `threads` until then. Its message may still
    arrive, which does no harm because the tasks can be repeated.
    """
    try:
        with anyio.fail_after(seconds):
            return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads)
    except TimeoutError as error:
        raise unavailable(service, f"did not answer within {seconds:g} s", error) from error
    except broker.Unavailable as error:
        raise unavailable(service, "is unavailable", error.__cause__ or error) from error
    except DatabaseError as error:
        raise unavailable(service, "is unavailable", error) from error


def unavailable(service: str, reason: str, cause: BaseException) -> HTTPException:
    """A 503 in one line. Of the cause only its type is logged: its text may hold an address."""
    log.warning("the %s %s: %s", service, reason, type(cause).__name__)
    return HTTPException(503, detail=f"the {service} {reason}")


@app.exception_handler(Exception)
def internal_error(_: Request, __: Exception) -> JSONResponse:
    """Any other error, also as JSON; the traceback is only in the server's log."""
    return JSONResponse({"detail": "internal error"}, status_code=500)


@app.get("/health")
async def health() -> dict[str, str]:
    """That the process answers; broker and database are not asked."""
    return {"status": "ok"}


@app.get("/api/v1/products")
async def list_products() -> list[Product]:
    """All products with the lowest price of today."""
    rows = await within(DATABASE_DEADLINE, database_threads, "database", discounts.products)
    return [Product(**row) for row in rows]


@app.get("/api/v1/discounts")
async def list_discounts() -> list[Discount]:
    """All active discounts, those that end first at the head."""
    rows = await within(DATABASE_DEADLINE, database_threads, "database", discounts.active)
    return [Discount(**row) for row in rows]


@app.post("/api/v1/admin/discounts/trigger-recompute", responses={202: {"model": Queued}})
async def trigger_recompute(
    response: Response,
    days_threshold: Annotated[int, Query(ge=1, le=pricing.MAX_DAYS_THRESHOLD)] = 30,
    async_task: bool = True,
) -> Queued | Recomputed:
    """Recompute the discounts: by a worker (202, with its task), or within the request (200)."""
    if not async_task:
        done = await within(
            DATABASE_DEADLINE,
            database_threads,
            "database",
            lambda: discounts.recompute(days_threshold),
        )
        return Recomputed(**done)
    task_id = await within(
        BROKER_DEADLINE,
        broker_threads,
        "broker or result backend",
        lambda: broker.send_recompute(days_threshold),
    )
    response.status_code = 202
    return Queued(task_id=task_id, status_url=app.url_path_for("task_status", task_id=task_id))


@app.get("/api/v1/admin/discounts/task-status/{task_id}", response_model_exclude_none=True)
async def task_status(task_id: UUID) -> TaskStatus:
    """How a task stands: its state, and its result or the text of its error."""
    state, result = await within(
        BROKER_DEADLINE, broker_threads, "result backend", lambda: broker.outcome(str(task_id))
    )
    if isinstance(result, BaseException):
        return TaskStatus(task_id=task_id, state=state, error=_first_line(result))
    return TaskStatus(task_id=task_id, state=state, result=result if state == "SUCCESS" else None)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:MAX_ERROR_LENGTH]
