"""The parts of a run: what each role wants on which hosts, and with which tags it runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What one role wants on the hosts of some groups.

    Attributes:
        name: Of the role.
        groups: It concerns hosts in any of them.
        tags: Of its play and its role in site.yml: under `--tags` a part without one of these is left out.
    """

    name: str
    groups: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def variable(self) -> str:
        """The role's variable that holds what it wants."""
        return f"__{self.name}_wanted"


_APPLICATION = ("celery_workers", "celery_beat", "celery_producers")
_BOTH = ("deploy", "configure")

# In the order of site.yml's plays; a test holds the tags against it.
PARTS = (
    # The owner's mark, whatever a run is about.
    Part("fleet", ("fleet",), ("always",)),
    Part(
        "celery_runtime",
        (*_APPLICATION, "flower"),
        (
            *_BOTH,
            "celery_runtime",
            # Its file names the runtime that it runs from.
            "celery_cli",
            "celery_release",
            "celery_worker",
            "celery_beat",
            "celery_producer",
            "flower",
            # Likewise.
            "celery_health",
        ),
    ),
    Part(
        "celery_release",
        _APPLICATION,
        (*_BOTH, "celery_release", "celery_worker", "celery_beat", "celery_producer"),
    ),
    Part("pki", ("fleet",), ("configure", "pki")),
    # Before what it guards starts: whatever brings a port of Redis's or of the web process's brings this, too.
    Part("firewall", ("fleet",), (*_BOTH, "firewall", "redis", "celery_producer")),
    Part("redis", ("redis",), ("configure", "redis")),
    Part(
        "celery_cli",
        ("fleet",),
        (
            *_BOTH,
            "celery_cli",
            "celery_release",
            "celery_worker",
            "celery_beat",
            "celery_producer",
        ),
    ),
    # Not under its own tag alone, which builds and starts nothing.
    Part(
        "celery_release_commands",
        _APPLICATION,
        (*_BOTH, "celery_worker", "celery_beat", "celery_producer"),
    ),
    Part("celery_worker", ("celery_workers",), (*_BOTH, "celery_worker")),
    Part(
        "celery_runtime_surplus",
        ("fleet",),
        (*_BOTH, "celery_worker", "celery_beat", "celery_producer", "flower"),
    ),
    # In the database, where it is there: before beat reads it.
    Part("celery_beat_schedule", ("celery_beat",), (*_BOTH, "celery_beat")),
    Part("celery_beat", ("celery_beat",), (*_BOTH, "celery_beat")),
    Part("celery_producer", ("celery_producers",), (*_BOTH, "celery_producer")),
    Part("flower", ("flower",), ("configure", "flower")),
    # It knows which units and workers there are, so it comes with whatever changes them.
    Part(
        "celery_health",
        ("fleet",),
        (*_BOTH, "celery_health", "celery_worker", "celery_beat", "celery_producer", "flower"),
    ),
    # The link to the current release. Not under `verify` alone: that builds nothing it could point to.
    Part("verify", _APPLICATION, _BOTH),
)


def parts_in(run: Iterable[str], skip: Iterable[str]) -> list[Part]:
    """The parts of any host, as far as `--tags` and `--skip-tags` let them run."""
    wanted, unwanted = set(run), set(skip)
    return [
        part
        for part in PARTS
        if (wanted & {"all", *part.tags} or "always" in part.tags)
        and not unwanted.intersection(part.tags)
    ]


def parts_of(groups: Iterable[str], run: Iterable[str], skip: Iterable[str]) -> list[Part]:
    """Those of a host in these groups."""
    member = set(groups)
    return [part for part in parts_in(run, skip) if member.intersection(part.groups)]


# What Ansible itself gives a meaning, and the tag of the last play, which is no part where it stands alone.
_OTHER_TAGS = ("all", "always", "never", "tagged", "untagged", "verify")


def tag_notes(run: Iterable[str], skip: Iterable[str]) -> list[str]:
    """What a person should know of tags that no play has: with one that is misspelt a run would seem to be done."""
    known = sorted({*_OTHER_TAGS, *(tag for part in PARTS for tag in part.tags)})
    found = []
    for option, given in (("--tags", run), ("--skip-tags", skip)):
        for tag in sorted({str(tag) for tag in given} - set(known)):
            near = difflib.get_close_matches(tag, known, 1)
            guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            found.append(f"{option} {tag}: no play of site.yml has this tag; {guess}")
    return found
