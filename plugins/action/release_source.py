"""Action plugin `release_source`: packs the application on the control node, once for all hosts."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.source import (
    expand_home,
    is_file,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.paths import (
    base_directory,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import cache, requirements
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import RunFiles, pack

# Variables that name files or directories of a run.
_PATHS = (
    *("pki_directory", "celery_monitoring_directory"),
    *("fleet_plan_json", "fleet_plan_approved", "verify_report"),
)
# Ansible's settings, options of its command line and variables of hosts that name a file with a secret.
_SETTINGS = (
    *("DEFAULT_VAULT_PASSWORD_FILE", "DEFAULT_PRIVATE_KEY_FILE"),
    *("CONNECTION_PASSWORD_FILE", "BECOME_PASSWORD_FILE"),
)
_OPTIONS = ("private_key_file", "connection_password_file", "become_password_file")
_KEYS = ("ansible_ssh_private_key_file", "ansible_private_key_file")


def _cached(identity: str) -> tuple[Path, Path]:
    """Return the paths of a release's archive and of what pip is asked to install for it."""
    directory = cache.directory("releases")
    return directory / f"{identity}.tar.gz", directory / f"{identity}.json"


class ActionModule(FleetAction):
    """Contacts no host; the archive is in a cache directory of the user who runs Ansible."""

    _requires_connection = False

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Pack the source; return `id`, path of the `archive`, `requirements`, and `queues` unchanged."""
        queues = [str(name) for name in args.get("queues") or []]
        if args.get("kept"):
            return {**self._kept(str(args["kept"])), "queues": queues}
        base = base_directory(variables.get("ansible_config_file"))
        with tempfile.TemporaryDirectory(prefix="celery-fleet-") as scratch:
            source = args["source"]
            packed = pack(
                source, base, Path(scratch), str(args.get("python", "")), self._of_run(variables)
            )
            needed = asdict(requirements.read(packed.directory, source, packed.exported))
        archive, note = _cached(packed.id)
        # A dry run builds nothing, so it needs no archive.
        if not self._task.check_mode:
            cache.keep(archive, packed.archive)
            cache.keep(note, json.dumps(needed).encode())
        return {
            "id": packed.id,
            "archive": str(archive),
            "requirements": needed,
            "queues": queues,
        }

    def _kept(self, identity: str) -> dict[str, Any]:
        """Return a release that the hosts keep. A host that lacks it gets the archive of the run that has packed it.

        Its requirements were read then: since, the inventory may name another file.
        """
        archive, note = _cached(identity)
        if not (cache.used(archive) and cache.used(note)):
            return {"id": identity, "archive": "", "requirements": {}}
        needed = json.loads(note.read_text())
        return {"id": identity, "archive": str(archive), "requirements": needed}

    def _of_run(self, variables: Mapping[str, Any]) -> RunFiles:
        """Return the files of this run, which must not become part of a release."""
        given = (str(text) for text in variables.get("ansible_inventory_sources") or ())
        others = [
            constants.config.get_config_value("DEFAULT_LOG_PATH"),
            *(self._templar.template(variables.get(name) or "") for name in _PATHS),
        ]
        secret = (expand_home(str(text)) for text in _secret_files(variables) if text)
        return RunFiles(
            # Others are lists of hosts, with a comma.
            [Path(text) for text in given if "," not in text and Path(text).exists()],
            [
                cache.directory(""),
                *(Path(str(path)) for path in others if path),
                # One may be a program that prints a password.
                *filter(is_file, secret),
            ],
        )


def _secret_files(variables: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the SSH keys and the files of passwords and variables that Ansible is given, as they are written."""
    yield from map(constants.config.get_config_value, _SETTINGS)
    yield from map(context.CLIARGS.get, _OPTIONS)
    yield from context.CLIARGS.get("vault_password_files") or ()
    given = (str(text) for text in context.CLIARGS.get("extra_vars") or ())
    yield from (text[1:] for text in given if text.startswith("@"))
    identities = constants.config.get_config_value("DEFAULT_VAULT_IDENTITY_LIST")
    for identity in (*identities, *(context.CLIARGS.get("vault_ids") or ())):
        place = str(identity).partition("@")[2] or str(identity)
        if place != "prompt":
            yield place
    for values in (variables.get("hostvars") or {}).values():
        for name in _KEYS:
            # Ansible can't have used a key if its name can't be rendered.
            with contextlib.suppress(AnsibleError):
                yield values.get(name)
