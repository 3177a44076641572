"""Decides which release a fleet runs; `release_record.py` has the record of what was deployed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.redact import hide_logins

from ..desired.application_options import SHA256
from .release_record import BACK, DEPLOYED, ID


class ChoiceError(UserError):
    """The release that was asked for can't be deployed. The message says why and what to do instead."""


@dataclass(frozen=True)
class ReleaseChoice:
    """What a run deploys.

    Attributes:
        kept: Id of a release that the hosts keep; empty if the source is packed.
        source: celery_app_source, with what was asked for.
        current: Id of the release that serves; empty before the first one.
        holds: Whether the fleet holds the release afterwards, because the inventory does not name it.
        what: The source in words.
        why: The operator's reason.
        tasks: If it goes back, the tasks that the release has; otherwise empty.
    """

    kept: str
    source: Mapping[str, Any]
    current: str
    holds: bool
    what: str
    why: str = ""
    tasks: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as data."""
        return asdict(self)


@dataclass(frozen=True)
class Hosts:
    """The releases of all hosts of a run, from the script `releases`."""

    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def everywhere(self) -> list[str]:
        """Return the releases that every host keeps, the newest first."""
        kept = [set(answer["kept"]) for answer in self.answers.values()]
        return sorted(set.intersection(*kept) if kept else (), key=self.built, reverse=True)

    @property
    def anywhere(self) -> set[str]:
        """Return the releases that any host keeps."""
        return {name for answer in self.answers.values() for name in answer["kept"]}

    def built(self, release: str) -> float:
        """Return when a release was built on the first host that has it."""
        return float(self._note(release).get("built", 0))

    def without(self, release: str) -> list[str]:
        """Return the hosts that don't keep a release."""
        return [host for host, answer in self.answers.items() if release not in answer["kept"]]

    def current(self) -> str:
        """Return the release that most hosts use by hand; empty before the first one."""
        links = [str(answer["current"]) for answer in self.answers.values() if answer["current"]]
        return max(links, key=links.count, default="")

    def only(self) -> str:
        """Return the release that every process and every host uses; empty if they differ.

        A run that was killed before it wrote the record has left one that the record does not name.
        """
        used = self.used
        return used.pop() if len(used) == 1 else ""

    @property
    def used(self) -> set[str]:
        """Return the releases that processes and hosts use; "" is among them if one of them has none."""
        return {
            str(name)
            for answer in self.answers.values()
            for name in (*answer["pins"].values(), answer["current"])
        }

    def one_way(self, release: str) -> list[str]:
        """Return the one-way migrations that a release knows."""
        return list(self._note(release).get("one_way", ()))

    def tasks(self, release: str) -> list[str]:
        """Return the tasks that a release has."""
        return list(self._note(release).get("tasks", ()))

    def _note(self, release: str) -> Mapping[str, Any]:
        """Return what the first host that has a release says of it; empty if none has it."""
        found = (answer["kept"].get(release) for answer in self.answers.values())
        return next((note for note in found if note), {})

    def crossed(self, newer: str, older: str) -> str:
        """Return the one-way migrations of a release that an older one does not know, as text; empty if none."""
        known = self.one_way(older)
        return ", ".join(name for name in self.one_way(newer) if name not in known)


def to_deploy(
    asked: str, source: Mapping[str, Any], record: Mapping[str, Any], hosts: Hosts, why: str = ""
) -> ReleaseChoice:
    """Return what `deploy_app.yml` deploys.

    Args:
        asked: A git reference, an archive, a package's version or the id of a kept release; empty for the inventory's.
        source: celery_app_source.
        record: The record.
        hosts: The releases of the hosts.
        why: The operator's reason.

    Raises:
        ChoiceError: It can't be deployed.
    """
    current = hosts.only() or str(record.get("current") or "") or hosts.current()
    if asked in hosts.anywhere:
        _require_kept(asked, hosts)
        return ReleaseChoice(asked, source, current, True, f"release {asked}", why)
    changed = with_reference(source, asked) if asked else source
    holds = {**changed} != {**source}
    return ReleaseChoice("", changed, current, holds, words(changed), why)


def with_reference(source: Mapping[str, Any], asked: str) -> dict[str, Any]:
    """Return celery_app_source with another version of the same source.

    Raises:
        ChoiceError: The source has no versions, or an archive could be changed on its way.
    """
    if source.get("git"):
        return {**source, "version": asked}
    if source.get("archive"):
        archive, _, digest = asked.partition("#sha256=")
        if "://" in archive and not SHA256.fullmatch(digest):
            raise ChoiceError(
                f"release={hide_logins(asked)}: the server could send a different archive. Add `#sha256=` and the hash "
                "that `sha256sum` prints for it."
            )
        return {**source, "archive": archive, "sha256": digest}
    if source.get("pip"):
        name = re.split(r"[=<>!~; ]", str(source["pip"]), maxsplit=1)[0]
        return {**source, "pip": f"{name}=={asked}"}
    if ID.fullmatch(asked):
        raise ChoiceError(
            f"release={asked}: no host keeps this release. `celery-fleet releases` lists those that are kept."
        )
    raise ChoiceError(
        f"release={asked}: celery_app_source is the directory {source.get('path')}, which has no versions. Leave "
        "`release` out to deploy what is there, name the id of a kept release, or give the source by git."
    )


def words(source: Mapping[str, Any]) -> str:
    """Return a source in words, without passwords."""
    if source.get("git"):
        return hide_logins(f"{source.get('version') or 'HEAD'} of {source['git']}")
    return hide_logins(
        str(next((source[k] for k in ("archive", "pip", "path") if source.get(k)), ""))
    )


def to_go_back(
    asked: str, record: Mapping[str, Any], hosts: Hosts, *, accepted: bool, why: str = ""
) -> ReleaseChoice:
    """Return what `rollback_app.yml` goes back to.

    Args:
        asked: Id of a kept release; empty for the one that served before a run that did not finish, or else the last
            one that served before the current one.
        record: The record.
        hosts: The releases of the hosts.
        accepted: Whether one-way migrations are accepted.
        why: The operator's reason.

    Raises:
        ChoiceError: There is no such release, or the database has changed for good since.
    """
    current = str(record.get("current") or "") or hosts.current()
    target = asked or _unfinished(record, current, hosts)
    left = _left(record, current)
    if not target and left and hosts.used - {"", current}:
        # A host that was away when the fleet went back.
        target = current
    if not target and left:
        # The release that served before is the one that the fleet was to get away from.
        raise ChoiceError(
            f"the fleet has already gone back to release {current}, from {left}. Nothing was changed. {_kept(hosts)} "
            "To go further back, or to that one again, name it with -e release=."
        )
    target = target or before(record, current, hosts)
    if not target:
        raise ChoiceError(
            f"no earlier release is recorded that all hosts keep. {_kept(hosts)} "
            "Name one with -e release=, or deploy another version: "
            "ansible-playbook celery_fleet.core.deploy_app -e release=…"
        )
    _require_kept(target, hosts)
    # A rollback that was killed before it wrote the record only has this left to do.
    if hosts.only() == target and current == target:
        raise ChoiceError(
            f"release {target} is the one that runs. Nothing was changed. {_kept(hosts)} To go back to another one, "
            "name it with -e release=."
        )
    for newer in (current, *sorted(hosts.used - {"", current})):
        require_two_way(newer, target, hosts, accepted=accepted)
    return ReleaseChoice(target, {}, current, True, f"release {target}", why, hosts.tasks(target))


def _unfinished(record: Mapping[str, Any], current: str, hosts: Hosts) -> str:
    """Return what the fleet holds since a run that did not finish, or what served before it; empty if there is none."""
    hold, served = record.get("hold") or {}, _served(record)
    if hold.get("unfinished"):
        # What such a deploy moves processes to may have served at an earlier time, or it has moved none yet.
        return str(hold["release"])
    begun = bool(served) and not hosts.used <= {"", current, *served}
    return current if begun else ""


def after_refusal(
    release: str, choice: Mapping[str, Any], record: Mapping[str, Any]
) -> ReleaseChoice:
    """Return the way back from a release that a deploy has refused; `choice` and `record` were the deploy's."""
    current, hold = str(choice["current"]), record.get("hold") or {}
    why = f"release {release} was refused"
    tasks = hold.get("tasks") or ()
    return ReleaseChoice(current, {}, current, True, f"release {current}", why, tasks)


def require_way_back(release: str, current: str, hosts: Hosts, *, accepted: bool) -> None:
    """Refuse a deploy that could not be undone.

    Raises:
        ChoiceError: One of the two lists one-way migrations that the other does not know, or a host that is new or was
            away does not keep the one that serves.
    """
    if not current or accepted:
        return
    crossed = hosts.crossed(release, current)
    if crossed:
        raise ChoiceError(
            f"release {release} lists one-way migrations that release {current} does not know: {crossed}. "
            "If this deploy fails after them, the fleet goes back to code that may not work with the database. None of "
            "them has run, and running processes are not affected. To deploy it all the same: -e accept_one_way=true."
        )
    require_two_way(current, release, hosts, accepted=accepted)
    lacking = hosts.without(current)
    if release != current and lacking:
        raise ChoiceError(
            f"release {current} serves, but is not kept on {', '.join(lacking)}. If this deploy fails, the fleet can't "
            "go back there. Running processes are not affected. Run ansible-playbook celery_fleet.core.site, which "
            "builds it there, and then the same command again. To deploy all the same: -e accept_one_way=true."
        )


def before(record: Mapping[str, Any], current: str, hosts: Hosts) -> str:
    """Return the last recorded release other than the current one that all hosts keep; empty if there is none."""
    kept = hosts.everywhere
    served = reversed(_served(record))
    return next((name for name in served if name != current and name in kept), "")


def _left(record: Mapping[str, Any], current: str) -> str:
    """Return the release that the fleet has left by going back to the current one; empty if that was deployed."""
    served, since = _entries_that_served(record), ""
    while served and served[-1]["release"] == current:
        since = served.pop()["result"]
    return str(served[-1]["release"]) if served and since == BACK else ""


def _served(record: Mapping[str, Any]) -> list[str]:
    """Return the recorded releases that have served, the oldest first."""
    return [str(entry["release"]) for entry in _entries_that_served(record)]


def _entries_that_served(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in record.get("history") or () if entry["result"] in (DEPLOYED, BACK)]


def require_two_way(current: str, target: str, hosts: Hosts, *, accepted: bool) -> None:
    """Refuse an older release that does not know a migration that can't be undone.

    Raises:
        ChoiceError: The target does not know a one-way migration of the current release.
    """
    crossed = hosts.crossed(current, target)
    if crossed and not accepted:
        raise ChoiceError(
            f"release {current} lists one-way migrations that release {target} does not know: {crossed}. "
            "Its code may fail with the database as it is now. Deploy a release that knows them; or, if the old code "
            "works all the same, run again with -e accept_one_way=true."
        )


def _require_kept(release: str, hosts: Hosts) -> None:
    lacking = hosts.without(release)
    if lacking:
        raise ChoiceError(
            f"release {release} is not kept on {', '.join(lacking)}. Nothing was changed. {_kept(hosts)} Deploy its "
            "version again (ansible-playbook celery_fleet.core.deploy_app -e release=…), or keep more releases "
            "(celery_release_keep)."
        )


def _kept(hosts: Hosts) -> str:
    names = hosts.everywhere
    return f"All hosts keep {', '.join(names)}." if names else "No release is kept on all hosts."
