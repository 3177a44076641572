"""What a release does before it serves."""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connection
from django.db.models import QuerySet
from django.test import SimpleTestCase, TestCase, override_settings

from backend_django.management.commands import load_fixtures_once, wait_for_database
from backend_django.models import Operation
from backend_django.site_config.models import SetupFlag

SUPERUSER = {
    "DJANGO_SUPERUSER_USERNAME": "root",
    "DJANGO_SUPERUSER_EMAIL": "root@example.com",
    "DJANGO_SUPERUSER_PASSWORD": "not a real password: $'\"\\é",
}


def said(*command: str, **options: Any) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, **options)
    return out.getvalue().strip()


class Fixtures(TestCase):
    def names(self) -> list[str]:
        return list(Operation.objects.order_by("name").values_list("name", flat=True))

    @override_settings(ENVIRONMENT="production")
    def test_they_are_loaded_once_ever(self) -> None:
        self.assertEqual(said("load_fixtures_once"), "loaded for production: operations.json")
        self.assertEqual(self.names(), ["ranking", "summary"])
        # What people make of them stays.
        Operation.objects.filter(name="ranking").delete()
        Operation.objects.filter(name="summary").update(decimals=5)
        self.assertIn("loaded already", said("load_fixtures_once"))
        self.assertEqual(self.names(), ["summary"])
        self.assertEqual(Operation.objects.get().decimals, 5)
        self.assertEqual(SetupFlag.objects.filter(setup_complete=True).count(), 1)

    def test_those_of_developers_are_for_developers(self) -> None:
        for environment, expected in (
            ("development", ["dev_requests.json", "operations.json"]),
            ("staging", ["operations.json"]),
            ("production", ["operations.json"]),
        ):
            found = load_fixtures_once.fixtures(load_fixtures_once.DIRECTORY, environment)
            self.assertEqual([path.name for path in found], expected)

    @override_settings(ENVIRONMENT="development")
    def test_a_developer_gets_all(self) -> None:
        said("load_fixtures_once")
        self.assertEqual(self.names(), ["ranking", "summary", "unwritten"])

    def test_one_that_can_not_be_loaded_leaves_no_mark(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            (Path(directory) / "a.json").write_bytes(
                (load_fixtures_once.DIRECTORY / "operations.json").read_bytes()
            )
            (Path(directory) / "b.json").write_text('[{"model": "no.such", "fields": {}}]')
            with (
                mock.patch.object(load_fixtures_once, "DIRECTORY", Path(directory)),
                self.assertRaisesRegex(Exception, "no.such"),
            ):
                said("load_fixtures_once")
        self.assertEqual((self.names(), SetupFlag.objects.count()), ([], 0))
        said("load_fixtures_once")
        self.assertIn("summary", self.names())

    def test_there_is_one_mark_at_most(self) -> None:
        SetupFlag.objects.create(setup_complete=False)
        SetupFlag.objects.create(setup_complete=True)
        with self.assertRaises(IntegrityError):
            SetupFlag.objects.create(setup_complete=True)

    def test_who_comes_second_loads_nothing(self) -> None:
        """As if both had looked at the same moment, and the other one had been first."""
        command = load_fixtures_once.Command(stdout=io.StringIO())
        SetupFlag.objects.create(setup_complete=True)
        nobody = mock.Mock(first=mock.Mock(return_value=None))
        with mock.patch.object(SetupFlag.objects, "filter", return_value=nobody):
            command.handle()
        self.assertIn("loaded already", command.stdout.getvalue())
        self.assertEqual(self.names(), [])


# Django's own takes long by intent.
@override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"])
class Superuser(TestCase):
    def ensure(self, **changed: str) -> str:
        with mock.patch.dict(os.environ, {**SUPERUSER, **changed}):
            return said("ensure_superuser")

    def user(self) -> Any:
        return get_user_model().objects.get(username="root")

    def test_it_is_made_once_and_then_left_alone(self) -> None:
        self.assertEqual(self.ensure(), "superuser root: made")
        user = self.user()
        self.assertTrue(user.check_password(SUPERUSER["DJANGO_SUPERUSER_PASSWORD"]))
        self.assertTrue(user.is_staff and user.is_superuser and user.is_active)
        self.assertEqual(self.ensure(), "superuser root: as it should be")
        # The same hash, so that no user is logged out.
        self.assertEqual(self.user().password, user.password)

    def test_what_differs_is_updated(self) -> None:
        self.ensure()
        before = self.user().password
        email = "other@example.com"
        self.assertEqual(
            self.ensure(DJANGO_SUPERUSER_EMAIL=email), "superuser root: updated (email)"
        )
        self.assertEqual((self.user().email, self.user().password), (email, before))
        self.assertIn("password", self.ensure(DJANGO_SUPERUSER_PASSWORD="another one"))
        self.assertTrue(self.user().check_password("another one"))

    def test_an_ordinary_user_of_that_name_becomes_one(self) -> None:
        get_user_model().objects.create_user("root", is_active=False)
        self.assertIn("is_superuser", self.ensure())
        self.assertTrue(self.user().is_superuser and self.user().is_active)

    def test_two_hosts_may_make_it_at_once(self) -> None:
        get_user_model().objects.create_user("root")
        real = QuerySet.get
        # It is missing in each lookup, and there when it is to be made.
        looks = iter([get_user_model().DoesNotExist])

        def look(rows: Any, *how: Any, **filters: Any) -> Any:
            for missing in looks:
                raise missing
            return real(rows, *how, **filters)

        with (
            mock.patch.object(QuerySet, "get", look),
            mock.patch.object(QuerySet, "first", return_value=None),
        ):
            said = self.ensure()
        self.assertIn("superuser root: updated", said)
        self.assertTrue(self.user().check_password(SUPERUSER["DJANGO_SUPERUSER_PASSWORD"]))

    def test_what_is_missing_or_wrong_is_named_without_the_password(self) -> None:
        for name in SUPERUSER:
            with self.assertRaisesRegex(CommandError, name):
                self.ensure(**{name: ""})
        with self.assertRaisesRegex(CommandError, "DJANGO_SUPERUSER_EMAIL: ") as caught:
            self.ensure(DJANGO_SUPERUSER_EMAIL="nowhere")
        self.assertNotIn(SUPERUSER["DJANGO_SUPERUSER_PASSWORD"], str(caught.exception))
        self.assertFalse(get_user_model().objects.exists())


class Wait(SimpleTestCase):
    def test_it_ends_with_one_line_at_its_bound(self) -> None:
        gone = OperationalError("connection refused\n\tIs the server running?")
        begin = time.monotonic()
        with (
            mock.patch.object(wait_for_database.Command, "_ask", side_effect=gone) as ask,
            self.assertRaises(CommandError) as caught,
        ):
            said("wait_for_database", timeout=0.3)
        self.assertLess(time.monotonic() - begin, 2)
        self.assertEqual(ask.call_count, 2)
        self.assertRegex(
            str(caught.exception),
            r"^the database .+ did not answer within 0\.3 s: connection refused Is the server running\?$",
        )

    def test_it_goes_on_when_the_database_comes(self) -> None:
        outcomes = [OperationalError("starting up"), None]
        with (
            mock.patch.object(wait_for_database.Command, "_ask", side_effect=outcomes),
            mock.patch.object(wait_for_database.time, "sleep"),
        ):
            self.assertIn("the database answers", said("wait_for_database", timeout=60))

    def test_each_look_is_bounded_as_well(self) -> None:
        command = wait_for_database.Command()
        with mock.patch.object(wait_for_database, "connection") as fake:
            fake.vendor, fake.settings_dict = "postgresql", {"OPTIONS": {}}
            for left, expected in ((60, 5), (3.2, 4), (0.1, 2)):
                command._ask(left)
                self.assertEqual(fake.settings_dict["OPTIONS"]["connect_timeout"], expected)

    def test_a_bound_that_is_none(self) -> None:
        for text in ("0", "-1", "nan", "inf", "soon"):
            with self.assertRaisesRegex(CommandError, "no number of seconds above 0"):
                call_command("wait_for_database", f"--timeout={text}")

    def test_the_database_is_named_without_its_password(self) -> None:
        there = {"NAME": "shop", "HOST": "db", "PORT": 5433, "PASSWORD": "not-a-real-one"}
        with mock.patch.object(connection, "settings_dict", there):
            self.assertEqual(wait_for_database.Command()._name(), "shop on db:5433")
