"""`python manage.py restore_backup FILE --database NAME`."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, connection

from core import backup

# No name may be read as a connection string, as pg_restore reads one with `=` in it.
DATABASE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")


class Command(BaseCommand):
    """Brings a backup into an empty database, so it can't overwrite anything."""

    help = (
        "Restore a backup of backup_database into an empty database on the server of DATABASE_URL, whole or not at "
        "all. The application's user has to be its owner."
    )
    # Nothing of the application's own database is asked for.
    requires_system_checks: list[str] = []  # noqa: RUF012  # Django's

    def add_arguments(self, parser: ArgumentParser) -> None:
        """FILE and --database."""
        parser.add_argument("file", type=Path, metavar="FILE", help="what backup_database wrote")
        parser.add_argument("--database", required=True, metavar="NAME", help="an empty database")

    def handle(self, *_: Any, file: Path, database: str, **options: Any) -> None:
        """Restore, or say in one line why not."""
        if not DATABASE.fullmatch(database):
            raise CommandError(f"{database!r} is no name of a database")
        if not file.is_file():
            raise CommandError(f"{file} is no file of this host; backup_database names its host")
        given = connection.settings_dict
        try:
            backup.environment(given)
            tables = _tables(database)
            if tables:
                raise CommandError(
                    f"{database} has {len(tables)} tables ({tables[0]}, …), and has to be empty: nothing was changed"
                )
            entries = backup.restore(file, given, database)
        except backup.BackupError as error:
            raise CommandError(str(error)) from error
        except Error as error:
            raise CommandError(f"{database} can't be used: {str(error).strip()}") from error
        restored = len(_tables(database))
        self.stdout.write(
            f"{database}: {restored} tables, {entries} entries of {file}, sha256 {backup.checksum(file)}"
        )


def _tables(name: str) -> list[str]:
    other = connection.copy("restore")
    other.settings_dict["NAME"] = name
    try:
        return sorted(other.introspection.table_names())
    finally:
        other.close()
