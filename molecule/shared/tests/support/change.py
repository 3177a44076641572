"""Make plans and runs of the fleet under test, and find out what they have changed."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support import plays, units
from support.inventory import ROOT, Fleet, load_fleet
from support.plays import Run, Started
from support.secrets import needles

Unit = tuple[str, str]  # host and unit
# A secret of these tests; all output is searched for it as for the real ones.
OTHER_PASSWORD = "another-password-of-the-web-site"
OTHER_WORKER_PASSWORD = "another-password-of-the-workers"

# systemd's own messages (man 7 systemd.journal-fields, sd-messages.h): a job begins to start a unit, has started it,
# has stopped it.
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
STARTED = "39f53479d3a045ac8e11786248231fbf"
STOPPED = "9d1aaa27d60140bd96365438aad20286"

# Beat's own, in its journal, about the entry that is due every few seconds.
SENDING = "Sending due task probe "

# Files that a deploy writes and processes read, without those that processes write. Manifests are left out: they list
# what has left the inventory until it is removed.
PLACES = (
    *("/etc/celery-fleet", "/etc/systemd/system", "/etc/nginx/conf.d", "/etc/tmpfiles.d"),
    *("/etc/sysusers.d", "/etc/needrestart/conf.d", "/usr/lib/celery-fleet"),
)


@dataclass(frozen=True)
class Item:
    """One line of a plan."""

    host: str
    part: str
    subject: str
    action: str
    why: tuple[str, ...]

    @property
    def unit(self) -> Unit:
        """Host and unit, if it is about one."""
        return self.host, self.subject


@dataclass(frozen=True)
class Done:
    """A run of plan.yml or site.yml, with the plan that it showed."""

    run: Run
    plan: Mapping[str, Any]

    @property
    def items(self) -> list[Item]:
        """The plan's lines."""
        return [
            Item(one["host"], one["part"], one["subject"], one["action"], tuple(one["why"]))
            for one in self.plan["items"]
        ]

    def of(self, action: str) -> set[Unit]:
        """Return the units for which the plan has this action."""
        return {item.unit for item in self.items if item.action == action}

    def says(self, item: Item) -> bool:
        """Return whether the plan's text has a line for an item: host, subject and action, in this order.

        Bookkeeping files that belong to no unit share one line, which names the first few.
        """
        words = [item.host, item.subject.removesuffix(".service") or item.part]
        words += {"live": "set live"}.get(item.action, item.action).split()
        if any(line.split()[: len(words)] == words for line in self.run.text.splitlines()):
            return True
        if item.action == "write" and not item.subject and all(why[:1] == "/" for why in item.why):
            shared = [line for line in self.run.text.splitlines() if " bookkeeping " in line]
            names = [why.split()[0].rpartition("/")[2] for why in item.why]
            return any(name in line or " more" in line for line in shared for name in names)
        return False


class Fleets:
    """The fleet under test."""

    def __init__(self, fleet: Fleet, directory: Path) -> None:
        self.fleet = fleet
        self.directory = directory
        self.app = str(fleet.of("fleet")["celery_app_name"])
        self._numbers = itertools.count()

    # --- input -----------------------------------------------------------------------------------

    def variables(self, **values: Any) -> list[str]:
        """Return the option that sets variables for all hosts."""
        path = self.directory / f"variables-{next(self._numbers)}.json"
        path.write_text(json.dumps(values))
        return [f"--extra-vars=@{path}"]

    def layer(self, **hosts: Mapping[str, Any]) -> list[str]:
        """Return the option that overrides the inventory with variables of hosts."""
        path = self.directory / f"layer-{next(self._numbers)}.yml"
        path.write_text(json.dumps({"all": {"hosts": hosts}}))
        return [f"--inventory={path}"]

    def with_hosts(self, **groups: Mapping[str, Mapping[str, Any]]) -> Fleets:
        """Return the fleet with another hosts.yml: these groups and their hosts; the rest is the inventory's own.

        A layer can't do that, because it only adds hosts to groups.
        """
        source = ROOT / self.fleet.sources[0]
        # Hosts remember the inventory they belong to by the name of its directory.
        directory = self.directory / f"hosts-{next(self._numbers)}" / source.parent.name
        directory.mkdir(parents=True)
        (directory / "group_vars").symlink_to(source.parent / "group_vars")
        hosts = yaml.safe_load(source.read_text())
        hosts["fleet"]["children"] = {name: {"hosts": found} for name, found in groups.items()}
        # The file with the connections names all hosts. A host that is only in that file would have its directory as
        # `inventory_dir`, in which the scenario's group_vars look for files of this inventory.
        kept = {name for found in groups.values() for name in found}
        hosts["elsewhere"] = {"hosts": {n: {} for n in self.fleet.hosts("fleet") if n not in kept}}
        (directory / source.name).write_text(json.dumps(hosts))
        other = copy.copy(self)
        other.fleet = load_fleet((str(directory / source.name), *self.fleet.sources[1:]))
        return other

    def workers(self, name: str, **options: Any) -> dict[str, Any]:
        """Return celery_worker_instances with some options of one worker changed."""
        instances = self.fleet.of("celery_workers")["celery_worker_instances"]
        return {**instances, name: {**(instances[name] or {}), **options}}

    def unit(self, host: str, worker: str) -> Unit:
        """A worker's unit."""
        return host, f"{self.app}-worker@{worker}.service"

    # --- runs ------------------------------------------------------------------------------------

    def _play(self, title: str, playbook: str, arguments: Sequence[str]) -> Done:
        path = self.directory / f"plan-{next(self._numbers)}.json"
        words = ["-e", f"fleet_plan_json={path}", *arguments]
        run = plays.play(self.fleet, title, *words, playbook=playbook)
        return Done(run, json.loads(path.read_text()) if path.exists() else {"items": []})

    def plan(self, title: str, *arguments: str) -> Done:
        """Return what a run would do; plan.yml must succeed on any fleet."""
        done = self._play(title, "playbooks/plan.yml", arguments)
        assert done.run.status == 0, done.run.end
        return done

    def site(self, title: str, *arguments: str) -> Done:
        """Run site.yml."""
        return self._play(title, "site.yml", arguments)

    def restart(self, title: str, *arguments: str) -> Run:
        """Run restart_workers.yml."""
        return plays.play(self.fleet, title, *arguments, playbook="playbooks/restart_workers.yml")

    def remove(self, title: str, *arguments: str) -> Run:
        """Run remove_fleet.yml, confirmed."""
        answer = ("-e", f"fleet_remove_confirm={self.app}")
        playbook = "playbooks/remove_fleet.yml"
        return plays.play(self.fleet, title, *answer, *arguments, playbook=playbook)

    def copy(self) -> Path:
        """A copy of the project, to break something in."""
        path = self.directory / f"copy-{next(self._numbers)}"
        unneeded = shutil.ignore_patterns(".git", ".state", ".venv", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, path, symlinks=True, ignore=unneeded)
        return path

    def start(self, title: str, arguments: Sequence[str]) -> Started:
        """Start site.yml without waiting for it."""
        return Started.site(self.fleet, title, *arguments)

    def leaked(self, *, at_least: int) -> set[tuple[str, str]]:
        """Return the files with output of runs that contain a secret, and the secret's name.

        Transcripts are of runs with -vvv and --diff; plans are also kept as JSON. There must be so many of them.
        """
        written = [*plays.transcripts(self.fleet).iterdir(), *self.directory.glob("plan-*.json")]
        assert len(written) > at_least
        forms = {form: name for name, found in needles(self.fleet).items() for form in found}
        for other in (OTHER_PASSWORD, OTHER_WORKER_PASSWORD):
            forms[other] = "a password that a test has set"
        texts = {path.name: path.read_text(errors="replace") for path in written}
        return {
            (path, name)
            for path, text in texts.items()
            for form, name in forms.items()
            if form in text
        }

    # --- state -----------------------------------------------------------------------------------

    def pids(self) -> dict[Unit, str]:
        """The main process of every service."""
        return units.main_pids(self.fleet)

    def restarted(self, before: Mapping[Unit, str]) -> set[Unit]:
        """Return units whose main process differs from before, including new and removed ones."""
        after = self.pids()
        return {
            unit for unit in before.keys() | after.keys() if before.get(unit) != after.get(unit)
        }

    def files(self) -> dict[str, str]:
        """Return for each host the names, owners, modes and hashes of all files that a deploy writes, and its links.

        Python's caches are left out: the first run of a health check or of a unit's helper writes some.
        """
        roots = " ".join(PLACES)
        script = f"""
            find {roots} -type f ! -name manifest.json ! -name '*.pyc' -printf '%p %u:%g %m ' \\
                -exec sha256sum {{}} \\; | cut -d' ' -f1-4 | sort
            find {roots} /opt/{self.app} -maxdepth 3 -type l -printf '%p -> %l\\n' | sort
        """
        return {name: self.fleet.execute(name, script).output for name in self.fleet.hosts("fleet")}

    def starts(self, unit: Unit, since: str) -> int:
        """Return how often systemd has started a unit since a time of its host's clock; a restart counts as one."""
        return len(self.events(unit, STARTED, since))

    def events(self, unit: Unit, message: str, since: str) -> list[float]:
        """Return when systemd logged a message about a unit, since a time of its host's; in Unix time."""
        command = ["journalctl", "--no-pager", "--quiet", "--output=json", f"--since={since}"]
        words = [*command, f"MESSAGE_ID={message}", f"UNIT={unit[1]}"]
        lines = map(json.loads, self.fleet.must(unit[0], words).splitlines())
        return [int(line["__REALTIME_TIMESTAMP"]) / 1e6 for line in lines]

    def beat_logged(self, name: str, since: str, text: str) -> list[float]:
        """Return when a host's beat logged a text, since a time of the host's; in Unix time."""
        unit = f"{self.app}-beat.service"
        command = ["journalctl", "--no-pager", "--quiet", "--output=short-unix", f"--since={since}"]
        lines = self.fleet.must(name, [*command, f"--unit={unit}"]).splitlines()
        return [float(line.split()[0]) for line in lines if text in line]

    def command_line(self, unit: Unit) -> list[str]:
        """Return the command line of a unit's main process."""
        pid = units.state(self.fleet, *unit)["MainPID"]
        return self.fleet.must(unit[0], ["cat", f"/proc/{pid}/cmdline"]).split("\0")
