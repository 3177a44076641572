"""Backups: by programs that stand for PostgreSQL's, and on PostgreSQL by its own."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import textwrap
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock, skipUnless

from core import backup, tasks
from core.models import MaintenanceRun
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import SimpleTestCase, TransactionTestCase, override_settings

from tests.test_core import Directory

NOW = datetime(2026, 11, 20, 3, tzinfo=UTC)
POSTGRESQL: dict[str, Any] = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": "shop",
    "USER": "me",
    "PASSWORD": "s3cret",
    "HOST": "db",
    "PORT": 5433,
    "OPTIONS": {"connect_timeout": 5, "sslmode": "require", "channel_binding": "require"},
}


class Environment(SimpleTestCase):
    def test_all_of_the_url_is_in_it(self) -> None:
        self.assertEqual(
            backup.environment(POSTGRESQL),
            {
                "PGHOST": "db",
                "PGPORT": "5433",
                "PGUSER": "me",
                "PGPASSWORD": "s3cret",
                "PGDATABASE": "shop",
                "PGCONNECT_TIMEOUT": "5",
                "PGSSLMODE": "require",
                "PGCHANNELBINDING": "require",
            },
        )
        self.assertEqual(backup.environment(POSTGRESQL, "other")["PGDATABASE"], "other")

    def test_what_libpq_would_not_get_is_refused(self) -> None:
        with self.assertRaisesMessage(backup.BackupError, "has pool, "):
            backup.environment({**POSTGRESQL, "OPTIONS": {"pool": True}})
        with self.assertRaisesMessage(backup.BackupError, "not PostgreSQL"):
            backup.environment({**POSTGRESQL, "ENGINE": "django.db.backends.sqlite3"})


class Programs(Directory):
    """pg_dump and pg_restore that note how they were called."""

    def setUp(self) -> None:
        super().setUp()
        (self.path / "bin").mkdir()
        self.program("pg_dump", "print('archive')")
        self.program("pg_restore", "print('; comment\\n1; TABLE a\\n2; TABLE b')")
        path = f"{self.path}/bin:{os.environ['PATH']}"
        patched = mock.patch.dict(os.environ, PATH=path, PGHOST="elsewhere", OTHER_SECRET="x")
        patched.start()
        self.addCleanup(patched.stop)
        self.directory = self.path / "backups"

    def program(self, name: str, body: str) -> None:
        code = f"""\
            #!/usr/bin/env python3
            import json, os, sys
            called = {{"argv": sys.argv[1:], "env": dict(os.environ)}}
            json.dump(called, open({str(self.path / name)!r} + ".json", "w"))
            """
        file = self.path / "bin" / name
        file.write_text(textwrap.dedent(code) + body + "\n")
        file.chmod(0o755)

    def called(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / f"{name}.json").read_text())

    def back_up(self, keep: int = 7) -> dict[str, Any]:
        return backup.back_up(self.directory, POSTGRESQL, keep, NOW)

    def test_a_backup_is_whole_and_its_users_alone(self) -> None:
        done = self.back_up()
        file = Path(done["path"])
        self.assertRegex(file.name, r"^marketplace_ops-20261120T030000Z-[0-9a-f]{8}\.dump$")
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)
        self.assertEqual(
            (done["size"], done["sha256"], done["entries"]),
            (8, hashlib.sha256(b"archive\n").hexdigest(), 2),
        )
        self.assertEqual(os.listdir(self.directory), [file.name])

    def test_the_password_is_in_no_command_line_and_nothing_else_in_the_environment(self) -> None:
        self.back_up()
        found = self.called("pg_dump")
        self.assertNotIn("s3cret", " ".join(found["argv"]))
        self.assertIn("--format=custom", found["argv"])
        self.assertEqual((found["env"]["PGPASSWORD"], found["env"]["PGHOST"]), ("s3cret", "db"))
        self.assertNotIn("OTHER_SECRET", found["env"])

    def test_the_newest_are_kept_and_what_is_not_ours_too(self) -> None:
        self.directory.mkdir()
        other = self.directory / "by-hand.dump"
        other.touch()
        made = [self.back_up(keep=2)["path"] for _ in range(2)]
        older = self.directory / "marketplace_ops-20250101T030000Z-00000000.dump"
        older.touch()
        done = self.back_up(keep=2)
        self.assertIn(older.name, done["removed"])
        left = {path.name for path in self.directory.iterdir()}
        self.assertEqual(len(left), 3)
        self.assertTrue(
            {other.name} < left <= {other.name, *map(os.path.basename, [*made, done["path"]])}
        )

    def test_one_that_fails_leaves_nothing_and_says_why(self) -> None:
        kept = self.back_up()["path"]
        cases = {
            "no such host": "print('half'); sys.exit('could not connect: no such host')",
            "status -9": "os.kill(os.getpid(), 9)",
        }
        for text, body in cases.items():
            self.program("pg_dump", body)
            with self.subTest(text), self.assertRaisesMessage(backup.BackupError, text):
                self.back_up(keep=1)
            self.assertEqual(os.listdir(self.directory), [os.path.basename(kept)])
        self.program("pg_dump", "print('archive')")
        self.program("pg_restore", "sys.exit('not a valid archive')")
        with self.assertRaisesMessage(backup.BackupError, "not a valid archive"):
            self.back_up()
        self.assertEqual(os.listdir(self.directory), [os.path.basename(kept)])

    def test_a_missing_program_and_a_directory_that_nobody_may_write_to_are_named(self) -> None:
        with (
            mock.patch.dict(os.environ, PATH=str(self.path)),
            self.assertRaisesMessage(backup.BackupError, "postgresql-client"),
        ):
            self.back_up()
        self.directory = self.path / "bin" / "pg_dump"
        with self.assertRaisesMessage(backup.BackupError, str(self.directory)):
            self.back_up()

    def test_one_that_hangs_is_ended(self) -> None:
        self.program("pg_dump", "import time; time.sleep(60)")
        began = time.monotonic()
        with (
            mock.patch.object(backup, "TIMEOUT", 0.5),
            self.assertRaisesMessage(backup.BackupError, "longer than 0.5 s"),
        ):
            self.back_up()
        self.assertLess(time.monotonic() - began, 30)

    def test_what_a_killed_one_left_goes_after_a_day(self) -> None:
        self.directory.mkdir()
        old, new = self.directory / ".partial-old", self.directory / ".partial-new"
        for path in (old, new):
            path.touch()
        os.utime(old, (0, 0))
        self.back_up()
        self.assertEqual((old.exists(), new.exists()), (False, True))

    def test_one_that_ends_meanwhile_is_no_trouble(self) -> None:
        self.directory.mkdir()
        gone = self.directory / ".partial-renamed"
        with mock.patch.object(Path, "glob", return_value=[gone]):
            self.assertEqual(self.back_up()["removed"], [])


class Command(Directory):
    def test_mistakes_are_one_line(self) -> None:
        file = self.path / "a.dump"
        file.touch()
        cases = {
            "is no name of a database": (file, "host=elsewhere"),
            "is no file of this host": (self.path / "none.dump", "restored"),
        }
        if connection.vendor != "postgresql":
            cases["not PostgreSQL"] = (file, "restored")
        for text, (path, name) in cases.items():
            with self.subTest(text), self.assertRaisesMessage(CommandError, text):
                call_command("restore_backup", str(path), "--database", name)


@skipUnless(connection.vendor == "postgresql", "by PostgreSQL's own programs")
class OnPostgreSQL(TransactionTestCase):
    """What the task writes comes back equal, and nowhere but into an empty database."""

    fixtures = ("demo",)

    def setUp(self) -> None:
        self.path = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.name = f"{connection.settings_dict['NAME']}_restored"
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{self.name}"')
            cursor.execute(f'CREATE DATABASE "{self.name}" TEMPLATE template0')
        self.addCleanup(self.drop)

    def drop(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def rows(self, name: str) -> dict[str, list[Any]]:
        other = connection.copy("other")
        other.settings_dict["NAME"] = name
        try:
            with other.cursor() as cursor:
                found = {}
                for table in other.introspection.table_names(cursor):
                    cursor.execute(f'SELECT t::text FROM "{table}" AS t ORDER BY 1')
                    found[table] = cursor.fetchall()
                return found
        finally:
            other.close()

    def test_there_and_back(self) -> None:
        before = self.rows(connection.settings_dict["NAME"])
        with override_settings(BACKUP_DIRECTORY=self.path / "backups"):
            done = tasks.backup_database.apply().get()
        self.assertEqual(MaintenanceRun.objects.get().result["sha256"], done["sha256"])
        said = StringIO()
        call_command("restore_backup", done["path"], "--database", self.name, stdout=said)
        self.assertIn(done["sha256"], said.getvalue())
        self.assertEqual(self.rows(self.name), before)
        with self.assertRaisesMessage(CommandError, "has to be empty: nothing was changed"):
            call_command("restore_backup", done["path"], "--database", self.name)

    def test_a_broken_one_changes_nothing(self) -> None:
        with override_settings(BACKUP_DIRECTORY=self.path / "backups"):
            file = Path(tasks.backup_database.apply().get()["path"])
        # Its list of contents is whole, and the rows are not.
        file.write_bytes(file.read_bytes()[:-2000])
        with self.assertRaisesMessage(CommandError, "pg_restore failed"):
            call_command("restore_backup", str(file), "--database", self.name)
        self.assertEqual(self.rows(self.name), {})

    def test_a_database_that_is_not_there_is_named(self) -> None:
        file = self.path / "a.dump"
        file.touch()
        with self.assertRaisesMessage(CommandError, "not_there can't be used"):
            call_command("restore_backup", str(file), "--database", "not_there")
