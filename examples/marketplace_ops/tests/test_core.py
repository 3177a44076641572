"""The core's tasks: health, logs, the database's maintenance."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from core import database, health, logs, tasks
from core.models import MaintenanceRun
from django.contrib.sessions.models import Session
from django.db import OperationalError, connection
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.utils import timezone as clock

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RESULT = {
    "format": 1,
    "app": "marketplace_ops",
    "host": "worker2",
    "state": "warning",
    "checked": "2026-11-20T11:58:00Z",
    "seconds": 0.4,
    "checks": {
        "disk": {"state": "warning", "text": "/ is 85 % full", "value": 85},
        "redis": {"state": "good", "text": "PONG", "value": 1},
    },
}


class Directory(SimpleTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name)


class Health(Directory):
    def last(self, content: Any, now: datetime = NOW) -> dict[str, Any]:
        file = self.path / "health.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return health.last_result(str(file), now)

    def test_the_result_with_its_age(self) -> None:
        found = self.last(RESULT)
        self.assertEqual({**found, **RESULT}, found)
        self.assertEqual((found["age"], found["stale"]), (120.0, False))
        self.assertEqual(found["text"], "warning, 120 s ago; disk: / is 85 % full")

    def test_one_that_is_older_than_two_intervals_says_nothing_of_now(self) -> None:
        fresh, old = timedelta(seconds=480), timedelta(seconds=481)
        self.assertEqual(self.last(RESULT, NOW + fresh)["state"], "warning")
        found = self.last(RESULT, NOW + old)
        self.assertEqual(
            (found["state"], found["last_state"], found["stale"]), ("stale", "warning", True)
        )
        self.assertIn("601 s old", found["text"])
        often = {**RESULT, "interval": 60}
        self.assertEqual(self.last(often)["state"], "warning")
        self.assertEqual(self.last(often, NOW + timedelta(seconds=1))["state"], "stale")

    def test_one_of_the_future_says_nothing_either(self) -> None:
        found = self.last(RESULT, NOW - timedelta(hours=1))
        self.assertEqual(found["state"], "stale")
        self.assertIn("in the future", found["text"])

    def test_none(self) -> None:
        cases = {
            "": "CELERY_FLEET_HEALTH is not set",
            str(self.path / "none.json"): "is not there",
            str(self.path): "can't be read",
        }
        for name, text in cases.items():
            found = health.last_result(name, NOW)
            self.assertEqual((found["state"], found["age"]), ("missing", None))
            self.assertIn(text, found["text"])

    def test_something_else(self) -> None:
        no_zone = {**RESULT, "checked": "2026-11-20T11:58:00"}
        odd = {**RESULT, "checks": ["disk"]}
        for content in ("", "[]", "{}", {**RESULT, "checked": "now"}, no_zone, odd):
            with self.subTest(content=content):
                found = self.last(content)
                self.assertEqual(found["state"], "missing")
                self.assertIn("is no result of a health check", found["text"])


@override_settings(HEALTH_FILE="")
class HealthTask(TestCase):
    def test_it_is_noted_once_for_a_message(self) -> None:
        for _ in range(2):
            with self.assertLogs("core.tasks", "WARNING"):
                found = tasks.system_health_check.apply(task_id="one").get()
        self.assertEqual(found["state"], "missing")
        self.assertEqual(MaintenanceRun.objects.get().result["state"], "missing")

    def test_it_answers_without_a_database(self) -> None:
        away = mock.patch.object(MaintenanceRun.objects, "create", side_effect=OperationalError)
        with away, self.assertLogs("core.tasks", "WARNING") as logged:
            self.assertEqual(tasks.system_health_check()["state"], "missing")
        self.assertIn("not noted: the database is unavailable", logged.output[-1])


class Logs(Directory):
    def make(self, name: str, days: int = 60) -> None:
        path = self.path / name
        path.write_bytes(gzip.compress(b"line\n"))
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(path, (moment, moment))

    def test_what_rotation_left_and_is_old_goes(self) -> None:
        gone = [
            "celery_beat.log.12.gz",
            "celery_maintenance.log-20260901.gz",
            "celery_suppliers.log-20260901-1756684800.gz",
            "celery_suppliers.log.2.gz",
        ]
        kept = [
            # The living one, and those that logrotate has yet to compress.
            "celery_suppliers.log",
            "celery_suppliers.log.1",
            "celery_maintenance.log-20260901",
            # No names of a rotation.
            "celery_suppliers.log.gz",
            "celery_suppliers.log.bak.gz",
            "drain.json",
            "backup.2.gz",
        ]
        for name in gone + kept:
            self.make(name)
        self.make("celery_new.log.2.gz", days=29)
        (self.path / "celery_link.log.3.gz").symlink_to(self.path / "celery_new.log.2.gz")
        (self.path / "celery_directory.log.3.gz").mkdir()
        before = set(os.listdir(self.path))
        done = logs.remove_old(self.path, NOW - timedelta(days=30))
        self.assertEqual(done["removed"], gone)
        self.assertGreater(done["bytes"], 4 * 20)
        self.assertEqual(before - set(os.listdir(self.path)), set(gone))
        self.assertEqual(logs.remove_old(self.path, NOW - timedelta(days=30))["removed"], [])

    def test_a_host_without_log_files(self) -> None:
        done = logs.remove_old(self.path / "none", NOW)
        self.assertEqual(done["removed"], [])
        self.assertIn("no logs on this host", done["text"])


class LogsTask(TestCase):
    def test_it_is_noted(self) -> None:
        with tempfile.TemporaryDirectory() as name, override_settings(LOG_DIRECTORY=Path(name)):
            old = Path(name, "celery_x.log.2.gz")
            old.touch()
            os.utime(old, (0, 0))
            done = tasks.cleanup_system_logs.apply().get()
            self.assertFalse(old.exists())
        self.assertEqual(done["removed"], ["celery_x.log.2.gz"])
        self.assertEqual(MaintenanceRun.objects.get().result, done)

    def test_what_is_of_today_stays(self) -> None:
        done = tasks.cleanup_system_logs.apply((0,))
        self.assertIsInstance(done.result, ValueError)


class Maintenance(TransactionTestCase):
    def test_old_rows_go_and_tables_are_vacuumed(self) -> None:
        old = MaintenanceRun.objects.create(kind="health", ran_at=clock.now() - timedelta(days=91))
        new = MaintenanceRun.objects.create(kind="health")
        Session.objects.create(session_key="a", expire_date=clock.now() - timedelta(days=1))
        Session.objects.create(session_key="b", expire_date=clock.now() + timedelta(days=1))
        done = tasks.database_maintenance.apply().get()
        self.assertEqual(done["deleted"], {"notes": 1, "sessions": 1})
        self.assertGreater(done["tables"], 20)
        self.assertFalse(MaintenanceRun.objects.filter(pk=old.pk).exists())
        self.assertTrue(MaintenanceRun.objects.filter(pk=new.pk).exists())
        self.assertEqual(Session.objects.get().session_key, "b")
        self.assertEqual(MaintenanceRun.objects.get(kind="database").result, done)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_user_tables WHERE last_vacuum IS NOT NULL"
                )
                self.assertGreaterEqual(cursor.fetchone()[0], done["tables"])


class InATransaction(TestCase):
    def test_vacuum_says_why_it_is_refused(self) -> None:
        with self.assertRaisesMessage(RuntimeError, "within a transaction"):
            database.vacuum()
