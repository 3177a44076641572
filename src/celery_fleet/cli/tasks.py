"""The tasks of the current release by the names that an operator types."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator

from celery_fleet.cli.application import Application
from celery_fleet.cli.errors import USAGE, CommandError, need_root

#: The file in which the build of a release wrote down what it registers.
NOTE = "release.json"


def registered(application: Application) -> list[str]:
    """Names of the tasks that the current release registers.

    Raises:
        CommandError: There is no release here, or its note can't be read.
    """
    path = application.release / NOTE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["tasks"]
        return sorted(str(name) for name in found)
    except PermissionError:
        raise need_root(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CommandError(f"{path} can't be read ({words}); deploy with site.yml") from None


def endings(name: str) -> Iterator[str]:
    """All names by which a task may be called, the shortest first: `c`, `b.c`, `a.b.c`."""
    parts = name.split(".")
    return (".".join(parts[begin:]) for begin in range(len(parts) - 1, -1, -1))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """For each task the shortest name by which it alone is meant."""
    every = list(names)
    meant = Counter(ending for name in every for ending in endings(name))
    return {
        # Another one may end with all of this one's name, which then still means this one.
        name: next((ending for ending in endings(name) if meant[ending] == 1), name)
        for name in every
    }


def resolve(names: Iterable[str], given: str) -> str:
    """The task that is meant: by its name, or by the end of it where no other one has that.

    Raises:
        CommandError: There is none, or several.
    """
    every = list(names)
    if given in every:
        return given
    found = [name for name in every if name.endswith(f".{given}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"task {given}: may be {', '.join(found)}; say which", USAGE)
    raise CommandError(
        f"task {given}: the release has none of this name; {_hint(every, given)}", USAGE
    )


def _hint(names: list[str], given: str) -> str:
    near = difflib.get_close_matches(given, names, n=3)
    last = given.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in names}
    near += [by_last[one] for one in difflib.get_close_matches(last, list(by_last), n=3)]
    if near:
        return f"did you mean {', '.join(dict.fromkeys(near))}?"
    return "see `celery-fleet tasks`"
