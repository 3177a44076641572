"""Every task runs on its queue and writes its rows; sending and retries work as the documents say."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support import database, fleets, web
from support.inventory import ROOT
from support.tasks import wait_until_none_is_due
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

SOURCES = ROOT / "examples/aiecommerce/aiecommerce/catalog/sources"
STAGES = (
    *("run_scrape_tecnomega", "run_normalize_products", "run_enrich_products"),
    *("run_ml_eligibility_update", "run_image_fetcher"),
)
# From the documents: each application's tasks and their queue.
QUEUES = {
    "flexiprice": {
        "app.tasks.recompute_all_discounts": "discounts",
        "app.tasks.cleanup_expired_discounts": "maintenance",
        "app.tasks.update_price_history": "analytics",
    },
    "aiecommerce": dict.fromkeys((*STAGES, "run_sync_price_list", "run_prune_scrapes"), "celery"),
    "flash_promos": {
        f"promotions.tasks.{name}": "celery"
        for name in (
            "check_active_promos",
            "cleanup_expired_promos",
            "process_notification_queue",
            "robust_task",
        )
    },
}


def one(fleet: Fleet, text: str, **values: Any) -> Any:
    """Return the only row of a query."""
    found = database.query(fleet, text, **values)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("name", fleets.NAMES)
def test_each_task_runs_on_its_queue(name: str) -> None:
    fleet, queues = fleets.load(name), QUEUES[name]
    sent = fleets.send(fleet, *(fleets.task(task, wait=30) for task in queues))
    found = {
        task: (done.state, queue in fleets.ran_on(fleet, done.id))
        for (task, queue), done in zip(queues.items(), sent, strict=True)
    }
    assert found == dict.fromkeys(queues, ("SUCCESS", True))


# --- FlexiPrice ------------------------------------------------------------------------------------


def test_discounts_and_price_history(flexi: Fleet) -> None:
    wait_until_none_is_due(flexi, *QUEUES["flexiprice"])
    database.execute(flexi, "DELETE FROM price_history")
    database.execute(flexi, "DELETE FROM discounts")
    fleets.run(flexi, "app.tasks.recompute_all_discounts")
    due = """
        SELECT count(*) AS n FROM batches
         WHERE quantity > 0 AND expires_on BETWEEN current_date AND current_date + 30
    """
    made = "SELECT count(*) AS n FROM discounts WHERE status = 'active'"
    assert one(flexi, made)["n"] == one(flexi, due)["n"] > 0
    database.execute(flexi, "UPDATE discounts SET valid_until = current_date - 1")
    fleets.run(flexi, "app.tasks.cleanup_expired_discounts")
    assert one(flexi, made)["n"] == 0
    fleets.run(flexi, "app.tasks.update_price_history")
    text = "SELECT (SELECT count(*) FROM price_history) AS rows, (SELECT count(*) FROM products) AS products"
    found = one(flexi, text)
    assert found["rows"] == found["products"] > 0


def ticks(fleet: Fleet, source: str) -> int:
    """Return how many rows the document's own task has written."""
    text = "SELECT count(*) AS n FROM task_ticks WHERE source = :'source'"
    return int(one(fleet, text, source=source)["n"])


def test_countdown(flexi: Fleet, label: str) -> None:
    """This is the document's call with 30 s instead of 60: a worker holds the task and does not run it earlier."""
    began = time.monotonic()
    task = fleets.task("app.tasks.my_custom_task", label, 42, countdown=30, expires=3600)
    sent = fleets.send(flexi, task)[0]
    host = flexi.one("celery_workers")
    found = json.loads(fleets.must(flexi, host, "--format json inspect scheduled").output)
    done = ticks(flexi, label)
    assert time.monotonic() - began < 30, "too slow a machine to tell"
    held = [task["request"]["id"] for tasks in found.values() for task in tasks]
    assert (sent.id in held, done) == (True, 0)
    wait_for("it runs", 45, lambda: ticks(flexi, label) == 42)
    assert time.monotonic() - began >= 30
    wait_for("its end is told", 30, lambda: fleets.state_of(flexi, sent.id) == "SUCCESS")


def test_expired_task_does_not_run(flexi: Fleet, label: str) -> None:
    task = fleets.task("app.tasks.my_custom_task", label, 1, countdown=3, expires=1)
    sent = fleets.send(flexi, task)[0]
    wait_for("it is dropped", 15, lambda: fleets.state_of(flexi, sent.id) == "REVOKED")
    assert ticks(flexi, label) == 0


# --- aiecommerce -----------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(shop: Fleet) -> None:
    """In each of its working hours beat sends the stages one after the other, and the rest once a day."""
    wait_until_none_is_due(shop, *QUEUES["aiecommerce"])


@pytest.mark.usefixtures("undisturbed")
def test_pipeline_from_end_to_end(shop: Fleet) -> None:
    """Each stage works on the rows of the previous one, from an empty table to pictures."""
    for table in ("catalog_scrapeditem", "catalog_productimage", "catalog_listing"):
        database.execute(shop, f"DELETE FROM {table}")  # noqa: S608  # the names above
    database.execute(shop, "DELETE FROM catalog_product WHERE sku LIKE 'TM-%'")
    lines = json.loads((SOURCES / "tecnomega.json").read_text())
    readable = {line["code"] for line in lines if line["price"] is not None}
    specified = set(json.loads((SOURCES / "specifications.json").read_text())) & readable

    for stage in STAGES:
        fleets.run(shop, stage)

    scraped = database.query(
        shop, "SELECT code, normalized_at, problem FROM catalog_scrapeditem ORDER BY code"
    )
    assert {row["code"] for row in scraped} == {line["code"] for line in lines}
    assert [row["code"] for row in scraped if row["normalized_at"] is None] == []
    assert {row["code"] for row in scraped if row["problem"]} == {
        line["code"] for line in lines
    } - readable
    products = {
        row["sku"]: row
        for row in database.query(
            shop,
            """
            SELECT sku, gtin, cost, price, stock, category, enriched_at, listing.is_eligible, listing.reasons,
                   (SELECT count(*) FROM catalog_productimage i WHERE i.product_id = p.id) AS images
              FROM catalog_product p LEFT JOIN catalog_listing listing ON listing.product_id = p.id
             WHERE sku LIKE 'TM-%'
            """,
        )
    }
    assert products.keys() == readable
    assert {sku for sku, row in products.items() if row["gtin"]} == specified
    assert [sku for sku, row in products.items() if row["enriched_at"] is None] == []
    assert [sku for sku, row in products.items() if not row["price"] > row["cost"] * 0.5] == []
    eligible = {sku for sku, row in products.items() if row["is_eligible"]}
    # Sold out; software; without a brand.
    assert eligible.isdisjoint({"TM-1007", "TM-1023", "TM-1019"})
    assert len(eligible) > len(products) / 2
    assert {sku for sku, row in products.items() if not row["reasons"]} == eligible
    assert {sku: row["images"] for sku, row in products.items()} == {
        sku: int(sku in eligible) for sku in products
    }


@pytest.mark.usefixtures("undisturbed")
def test_running_the_pipeline_again_changes_nothing(shop: Fleet) -> None:
    counts = """
        SELECT (SELECT count(*) FROM catalog_product) AS products,
               (SELECT count(*) FROM catalog_listing) AS listings,
               (SELECT count(*) FROM catalog_productimage) AS images,
               (SELECT count(*) - count(DISTINCT (slot, code)) FROM catalog_scrapeditem) AS double
    """
    before = one(shop, counts)
    for stage in STAGES:
        fleets.run(shop, stage)
    assert one(shop, counts) == before


@pytest.mark.usefixtures("undisturbed")
def test_the_price_list_is_made(shop: Fleet) -> None:
    database.execute(shop, "DELETE FROM catalog_pricelistentry")
    fleets.run(shop, "run_sync_price_list")
    with (SOURCES / "price_list.csv").open() as stream:
        wanted = {row["sku"]: float(row["price"]) for row in csv.DictReader(stream)}
    text = "SELECT sku, price FROM catalog_pricelistentry"
    assert {row["sku"]: row["price"] for row in database.query(shop, text)} == wanted
    text = "SELECT p.sku FROM catalog_product p JOIN catalog_pricelistentry e USING (sku) WHERE p.price <> e.price"
    assert database.query(shop, text) == []


@pytest.mark.usefixtures("undisturbed")
def test_prune_deletes_what_is_older_than_a_week(shop: Fleet, label: str) -> None:
    """It deletes nothing else."""
    for days in (8, 6):
        database.execute(
            shop,
            """
            INSERT INTO catalog_scrapeditem (slot, code, name, category, price, stock, normalized_at, problem)
            VALUES (now() - :'age'::interval, :'code', '', '', '', '', now(), '')
            """,
            age=f"{days} days",
            code=f"{label}-{days}",
        )
    fleets.run(shop, "run_prune_scrapes")
    text = "SELECT code FROM catalog_scrapeditem WHERE starts_with(code, :'label')"
    assert [row["code"] for row in database.query(shop, text, label=label)] == [f"{label}-6"]
    database.execute(
        shop, "DELETE FROM catalog_scrapeditem WHERE starts_with(code, :'label')", label=label
    )


# The command succeeds once all of these tasks have.
RESULTS = """
import os, sys
from celery.app.utils import find_app
app = find_app(os.environ["CELERY_APP"])
for identity in sys.argv[1:]:
    app.AsyncResult(identity).get(timeout=30)
"""


@contextmanager
def locked(fleet: Fleet, table: str) -> Iterator[None]:
    """Lock a table, so that every process that reads or writes it waits."""
    name = fleet.of("postgresql")["postgresql_database"]
    psql = ["runuser", "-u", "postgres", "--", "psql", "-X", "-q", "-d", name]
    command = fleet.way(fleet.one("postgresql"), psql)
    held = """
        SELECT 1 AS one FROM pg_locks JOIN pg_class ON pg_class.oid = relation
         WHERE relname = :'table' AND mode = 'AccessExclusiveLock' AND granted
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as session:
        assert session.stdin
        try:
            session.stdin.write(f"BEGIN; LOCK TABLE {table};\n".encode())
            session.stdin.flush()
            wait_for("the table is locked", 15, lambda: database.query(fleet, held, table=table))
            yield
        finally:
            # Closing its input ends the session, which releases the lock.
            session.stdin.close()


@pytest.mark.usefixtures("undisturbed")
def test_each_worker_executes_one_task_at_a_time(shop: Fleet) -> None:
    """The document says so. More tasks than all workers can run and prefetch wait for a table."""
    nodes = fleets.nodes(shop)
    assert len(nodes) == 4, "and there are several workers"
    host = shop.one("celery_workers")

    def running() -> dict[str, int]:
        found = json.loads(fleets.must(shop, host, "--format json inspect active").output)
        return {
            node: sum(task["name"] == "run_prune_scrapes" for task in tasks)
            for node, tasks in found.items()
        }

    with locked(shop, "catalog_scrapeditem"):
        number = 3 * len(nodes)
        sent = fleets.send(shop, *(fleets.task("run_prune_scrapes") for _ in range(number)))
        wait_for("every worker runs one", 30, lambda: min(running().values()) > 0, pause=1)
        time.sleep(2)
        assert running() == dict.fromkeys(nodes, 1)
    ids = [task.id for task in sent]
    fleets.python(shop, RESULTS, *ids)


def test_api_sends_on_commit(shop: Fleet, label: str) -> None:
    """The document's create_product: the row is already committed when a worker sets its price."""
    content = {"sku": label, "name": "Cable", "category": "Accesorios"}
    created = web.api(shop, "/api/v1/admin/products", "POST", content=content)
    assert created.status == 201, created.body
    identity = created.json["id"]
    path = f"/api/v1/products/{identity}"
    wait_for(
        "it has its price", 15, lambda: web.api(shop, path, login=False).json["price"] == "20.00"
    )
    changed = web.api(
        shop, f"/api/v1/admin/products/{identity}/price", "POST", content={"price": 31.5}
    )
    assert changed.status == 202, changed.body
    wait_for(
        "it has the other", 15, lambda: web.api(shop, path, login=False).json["price"] == "31.50"
    )
    state = web.api(shop, changed.json["status_url"]).json
    assert (state["state"], state["result"]) == ("SUCCESS", "31.50")


ROLLED_BACK = """
from celery.signals import before_task_publish
from django.db import transaction
from aiecommerce.catalog.services import create_product
import json, sys
sent = []
before_task_publish.connect(lambda sender=None, **more: sent.append(sender), weak=False)
found = {}
with transaction.atomic():
    create_product({"sku": LABEL + "-undone", "name": "Cable", "category": ""})
    transaction.set_rollback(True)
found["rolled back"] = len(sent)
with transaction.atomic():
    create_product({"sku": LABEL + "-done", "name": "Cable", "category": ""})
    found["before the commit"] = len(sent)
found["after"] = sent
print(json.dumps(found))
"""


def test_nothing_is_sent_for_what_is_rolled_back(shop: Fleet, label: str) -> None:
    script = f"LABEL = {label!r}\n{ROLLED_BACK}"
    words = ["exec", "--", "python", "manage.py", "shell", "--command", script]
    found = fleets.must(shop, shop.one("celery_producers"), words).last
    assert found == {"rolled back": 0, "before the commit": 0, "after": ["update_product_price"]}
    text = "SELECT sku, price FROM catalog_product WHERE starts_with(sku, :'label')"
    wait_for(
        "the other has its price",
        15,
        lambda: (
            database.query(shop, text, label=label) == [{"sku": f"{label}-done", "price": 20.0}]
        ),
    )


def test_a_task_is_retried_while_the_database_is_away(shop: Fleet) -> None:
    """Only this application's database is away, because others share the server."""
    name = shop.of("postgresql")["postgresql_database"]
    database.execute(shop, f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
    try:
        database.execute(
            shop,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        sent = fleets.send(shop, fleets.task("run_prune_scrapes"))[0]
        wait_for("it waits for its next try", 15, lambda: fleets.state_of(shop, sent.id) == "RETRY")
    finally:
        database.execute(shop, f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    wait_for("it has succeeded", 30, lambda: fleets.state_of(shop, sent.id) == "SUCCESS")


# --- Flash Promos ----------------------------------------------------------------------------------


def test_promotion_from_its_start_to_the_archive(flash: Fleet, label: str) -> None:
    """All three tasks run, and the one that is sent when the end of a promotion is committed."""
    insert = """
        INSERT INTO promotions_promotion (name, discount_percent, starts_at, ends_at, status)
        VALUES (:'label', 30, now() - interval '1 hour', now() + interval '1 hour', 'scheduled')
    """
    database.execute(flash, insert, label=label)
    identity = one(flash, "SELECT id FROM promotions_promotion WHERE name = :'label'", label=label)[
        "id"
    ]
    subscribers = one(flash, "SELECT count(*) AS n FROM promotions_subscriber")["n"]
    assert subscribers > 0

    def row(text: str) -> Any:
        found = database.query(flash, text, id=identity)
        return found[0] if found else None

    # The web process sends it; beat does the same every minute, so the test only looks at the outcome.
    checked = web.api(flash, "/api/admin/check", "POST", content={})
    assert checked.status == 202, checked.body
    status = "SELECT status FROM promotions_promotion WHERE id = :'id'"
    wait_for("it has begun", 15, lambda: row(status)["status"] == "active")
    messages = """
        SELECT count(*) AS queued, count(d.id) AS delivered FROM promotions_notification n
          LEFT JOIN promotions_delivery d ON d.notification_id = n.id WHERE n.promotion_id = :'id'
    """
    assert row(messages)["queued"] == subscribers
    fleets.run(flash, "promotions.tasks.process_notification_queue")
    assert row(messages) == {"queued": subscribers, "delivered": subscribers}

    later = "UPDATE promotions_promotion SET ends_at = now() - :'ago'::interval WHERE id = :'id'"
    starts = (
        "UPDATE promotions_promotion SET starts_at = now() - interval '3 days' WHERE id = :'id'"
    )
    database.execute(flash, starts, id=identity)
    database.execute(flash, later, id=identity, ago="1 second")
    fleets.run(flash, "promotions.tasks.check_active_promos")
    wait_for("it has ended", 15, lambda: row(status)["status"] == "expired")
    report = "SELECT notified, delivered FROM promotions_report WHERE promotion_id = :'id'"
    counted = {"notified": subscribers, "delivered": subscribers}
    wait_for("the messages are counted", 15, lambda: row(report) == counted)

    database.execute(flash, later, id=identity, ago="25 hours")
    fleets.run(flash, "promotions.tasks.cleanup_expired_promos")
    wait_for("it is gone", 15, lambda: row(status) is None)
    archived = "SELECT name, delivered FROM promotions_archivedpromotion WHERE promotion_id = :'id'"
    assert row(archived) == {"name": label, "delivered": subscribers}


@pytest.mark.stage(1)
def test_a_task_fails_for_good_after_three_retries_a_minute_apart(
    flash: Fleet, doomed: str
) -> None:
    """These are the document's automatic retries; the task was sent when the tests began."""
    wait_for("it has failed", 260, lambda: fleets.state_of(flash, doomed) == "FAILURE", pause=5)
    lines = [
        line
        for host, unit in fleets.worker_units(flash)
        for line in fleets.journal(flash, host, unit)
        if f"robust_task({doomed})]" in line[1] and "] attempt " in line[1]
    ]
    lines.sort()
    assert [text.rpartition("] ")[2] for _, text in lines] == [
        f"attempt {number}" for number in (1, 2, 3, 4)
    ]
    # It is kept as a dead letter, so that an operator can replay it.
    words = f"--format json dead-letters list --reason failed {doomed}"
    letters = fleets.must(flash, flash.one("celery_workers"), words).output
    assert doomed in letters
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(lines)]
    assert [gap for gap in gaps if not 59 < gap < 66] == []
