"""The parts of a run: each role, the hosts that it concerns, and the tags that it runs with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One role's part of a run.

    Attributes:
        name: Name of the role.
        groups: It concerns hosts in any of these groups.
        tags: Tags of its play and its role in site.yml. With `--tags` a part with none of them is left out.
        skipped_by: Further tags of its play, with which `--skip-tags` leaves it out.
    """

    name: str
    groups: tuple[str, ...]
    tags: tuple[str, ...]
    skipped_by: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """Return the role's variable that contains what it wants."""
        return f"__{self.name}_wanted"


_APPLICATION = ("celery_workers", "celery_beat", "celery_producers")
_BOTH = ("deploy", "configure")

# In the order of the plays in site.yml; a test compares the tags.
PARTS = (
    # The owner's mark comes with every run.
    Part("fleet", ("fleet",), ("always",)),
    Part(
        "celery_runtime",
        (*_APPLICATION, "flower"),
        (
            *_BOTH,
            "celery_runtime",
            # Its file contains the path of the runtime.
            "celery_cli",
            "celery_release",
            "celery_worker",
            "celery_beat",
            "celery_producer",
            "flower",
            # So do their files.
            "celery_exporter",
            "celery_health",
        ),
    ),
    Part(
        "celery_release",
        _APPLICATION,
        (*_BOTH, "celery_release", "celery_worker", "celery_beat", "celery_producer"),
    ),
    Part("pki", ("fleet",), ("configure", "pki")),
    # It comes before the services that it protects, and with everything that opens a port of Redis or the web process.
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
    # Not with its own tag, which by itself builds and starts nothing.
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
    # If the schedule is in the database, it must be written before beat reads it.
    Part("celery_beat_schedule", ("celery_beat",), (*_BOTH, "celery_beat")),
    Part("celery_beat", ("celery_beat",), (*_BOTH, "celery_beat")),
    Part("celery_producer", ("celery_producers",), (*_BOTH, "celery_producer")),
    Part("flower", ("flower",), ("configure", "flower")),
    # It lists units and workers, so it comes with everything that changes them.
    Part(
        "celery_exporter",
        ("fleet",),
        (*_BOTH, "celery_exporter", "celery_worker", "celery_beat", "celery_producer", "flower"),
    ),
    # So does this one, which also looks at the exporter's units.
    Part(
        "celery_health",
        ("fleet",),
        (*_BOTH, "celery_health", "celery_worker", "celery_beat", "celery_producer", "flower"),
    ),
    # The link to the current release. Not with just `verify`, which builds no release that it could point to.
    Part("verify", _APPLICATION, _BOTH, skipped_by=("verify",)),
)


def parts_in(run: Iterable[str], skip: Iterable[str]) -> list[Part]:
    """Return all parts that run with these `--tags` and `--skip-tags`."""
    wanted, unwanted = set(run), set(skip)
    return [
        part
        for part in PARTS
        if (wanted & {"all", *part.tags} or "always" in part.tags)
        and not unwanted.intersection((*part.tags, *part.skipped_by))
    ]


def parts_of(groups: Iterable[str], run: Iterable[str], skip: Iterable[str]) -> list[Part]:
    """Return the parts that run on a host in these groups."""
    member = set(groups)
    return [part for part in parts_in(run, skip) if member.intersection(part.groups)]


# Tags with a meaning in Ansible, and the tag of the last play, which is not a part.
_OTHER_TAGS = ("all", "always", "never", "tagged", "untagged", "verify")


def tag_notes(run: Iterable[str], skip: Iterable[str]) -> list[str]:
    """Return notes about tags that no play has: with a misspelt tag a run would do nothing and look complete."""
    known = sorted({*_OTHER_TAGS, *(tag for part in PARTS for tag in part.tags)})
    found = []
    for option, given in (("--tags", run), ("--skip-tags", skip)):
        for tag in sorted({str(tag) for tag in given} - set(known)):
            near = difflib.get_close_matches(tag, known, 1)
            guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            found.append(f"{option} {tag}: no play of site.yml has this tag; {guess}")
    return found


# Molecule skips these in every run.
_SKIPPED_BY_MOLECULE = {"molecule-notest", "notest"}


def options_for_a_part(variables: Mapping[str, Any]) -> list[str]:
    """Return the options by which a run leaves out hosts, plays or workers."""
    given = {
        "--limit": variables.get("ansible_limit"),
        "--tags": "all" not in variables["ansible_run_tags"],
        "--skip-tags": set(variables["ansible_skip_tags"]) - _SKIPPED_BY_MOLECULE,
        "-e celery_restart_workers": variables.get("celery_restart_workers"),
    }
    return [option for option, used in given.items() if used]
