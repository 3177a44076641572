"""Gathers problems, and writes them as text for messages and warnings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from .inventory import Problem
from .redact import scrub

_MOST_HOSTS = 6
_MOST_PLACES = 3


def with_hosts(hosts: tuple[str, ...], problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield problems with the hosts that they concern."""
    for problem in problems:
        yield replace(problem, hosts=hosts)


def grouped(problems: Sequence[Problem]) -> list[Problem]:
    """Merge problems that only differ in their hosts."""
    found: dict[Problem, dict[str, None]] = {}
    for problem in problems:
        found.setdefault(replace(problem, hosts=()), {}).update(dict.fromkeys(problem.hosts))
    return [replace(problem, hosts=tuple(hosts)) for problem, hosts in found.items()]


def scrubbed(problems: Sequence[Problem], secrets: Collection[str]) -> list[Problem]:
    """Return the problems without these secrets in any of their texts.

    Names of variables stay: checks that name a key which may be a secret hide it themselves.
    """
    return [
        replace(
            problem,
            message=scrub(problem.message, secrets),
            remedy=scrub(problem.remedy, secrets),
            value=scrub(problem.value, secrets),
        )
        for problem in problems
    ]


def where(
    hosts: Sequence[str], groups: Mapping[str, Sequence[str]], everyone: Collection[str]
) -> str:
    """Return hosts in a few words: all, a group, or their names."""
    if not hosts:
        return ""
    wanted = set(hosts)
    if len(wanted) > 1:
        if wanted == set(everyone):
            return "all hosts"
        for group, members in groups.items():
            if wanted == set(members):
                return f"all hosts of {group}"
    return several(hosts, _MOST_HOSTS)


def several(names: Sequence[str], most: int) -> str:
    """Return the first names of a list, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def block(
    title: str,
    problems: Sequence[Problem],
    groups: Mapping[str, Sequence[str]],
    everyone: Collection[str],
) -> str:
    """Return all problems below a title: three lines each, and a fourth for a known place."""
    lines = [title]
    for number, problem in enumerate(problems, 1):
        lines += ["", f"{number}. {_head(problem, groups, everyone)}"]
        lines.append(f"   {problem.message}")
        if problem.places:
            lines.append(f"   In: {_places(problem)}")
        lines.append(f"   Remedy: {problem.remedy}")
    return "\n".join(lines)


def line(problem: Problem, groups: Mapping[str, Sequence[str]], everyone: Collection[str]) -> str:
    """Return a problem on one line, for a warning."""
    place = f" In: {_places(problem)}." if problem.places else ""
    return (
        f"preflight: {_head(problem, groups, everyone)} {problem.message}.{place} "
        f"Remedy: {problem.remedy}"
    )


def _places(problem: Problem) -> str:
    return several(problem.places, _MOST_PLACES)


def _head(problem: Problem, groups: Mapping[str, Sequence[str]], everyone: Collection[str]) -> str:
    place = where(problem.hosts, groups, everyone)
    value = f" = {problem.value}" if problem.value else ""
    return f"{problem.variable}{value}" + (f" ({place})" if place else "")
