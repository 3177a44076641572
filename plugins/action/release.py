"""Action plugin `release`: sends source and packages to hosts that lack the release and builds it there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.celery_fleet.core.plugins.module_utils import redact, transport
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.module_utils.release.note import NOTE
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import refusals
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.paths import (
    base_directory,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import (
    host_scripts,
    lease,
    release_remarks,
    wheels,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Checks first with one cheap command, so only hosts without the release cost more."""

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Build the release if it is missing, and check that it fits the inventory."""
        args = dict(args)
        identity, archive = str(args["id"]), str(args.pop("archive"))
        demands = args.get("demands") or {}
        if args.get("only_wheels"):
            return self._fill(args, archive, variables)
        path = f"{args['root']}/releases/{identity}"
        found = self._low_level_execute_command(host_scripts.release_note(path))
        if found["stdout"].strip():
            refused = refusals(identity, found["stdout"], demands) if demands else []
            if refused:
                raise UserError("\n".join([*refused, "Running processes are not affected."]))
            result = {"release": identity, "path": path, **_kept(identity, found["stdout"])}
            return _remarked(result, identity, found["stdout"], demands)
        if self._task.check_mode:
            # Without an archive the requirements are not known either; a real run says so.
            if args.get("wheelhouse") and archive:
                self._look(args, variables)
            told = f"release {identity} would be built"
            return {"changed": True, "release": identity, "path": path, "msg": told}
        with lease.held(variables, check=False):
            result = self._build(args, archive, variables)
        if result.get("failed"):
            return result
        built = self._low_level_execute_command(host_scripts.release_note(path))
        return _remarked(result, identity, built["stdout"], demands)

    def _build(
        self, args: dict[str, Any], archive: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        if not archive:
            raise UserError(
                f"release {args['id']} is not on this host, and this control node has no copy of it. Run from the one "
                "that deployed it, or deploy its version again (ansible-playbook celery_fleet.core.deploy_app "
                "-e release=…). Running processes are not affected."
            )
        seen = self._look(args, variables)
        name, made = seen["name"], self._make_tmp_path()
        housed, hosts = args.pop("wheelhouse", ""), args.pop("hosts", [])
        args |= self._sent(args, archive, made, name)
        if seen["housed"]:
            args["wheels"] = self._send(seen["housed"], made, "wheels.tar")
        # No other host could use the packages, or this one has them.
        if housed or len(set(hosts)) < 2 or name in seen["virtualenvs"]:
            return self.execute("release", args, variables)
        # Hosts only take wheels that the same user of the same application in the same inventory has made.
        scope = [str(variables.get("inventory_dir")), str(args["root"]), str(args["user"])]
        with wheels.turn(name, scope, str(variables["inventory_hostname"])) as (kept, there):
            if there:
                args["wheels"] = self._send(str(kept), made, "wheels.tar")
                result = self.execute("release", args, variables)
                if result.get("failed"):
                    # The next run gets them from the index again.
                    kept.unlink(missing_ok=True)
                return result
            remote = self._path(made, "made.tar")
            result = self.execute("release", {**args, "hand_over": remote}, variables)
            if result.get("failed"):
                raise UserError(str(result["msg"]))
            if result["handed_over"]:
                self._fetch(remote, kept)
            return result

    def _look(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return the host's virtualenvs, the name of the release's, and the file of a wheelhouse that it needs.

        Raises:
            UserError: The interpreter does not run, or the wheelhouse has no wheels for it.
        """
        args["python"] = _interpreter(str(args["python"]), variables)
        index, requirements = args.get("index") or {}, args["requirements"]
        passwords = [str(login["password"]) for login in index.get("logins") or []]
        # pip may print the URL of a proxy, which has the password in its quoted form.
        self.secrets.extend([*passwords, *(quote(password, safe="") for password in passwords)])
        seen = self.ask("virtualenvs", {"root": args["root"], "python": args["python"]})
        if not seen["platform"]:
            # A package that the run installs may provide it.
            if self._task.check_mode:
                return seen
            raise UserError(
                f"celery_release_python: {args['python']} does not run on this host. Install it, or name another "
                "interpreter; nothing was changed."
            )
        own = str(args["id"]) if requirements["local"] else ""
        housed = str(args.get("wheelhouse") or "")
        # Another index may have other packages of the same names.
        urls = [str(index.get("url") or ""), *map(str, index.get("extra_urls") or [])]
        which = [requirements["digest"], seen["platform"], *([] if housed else urls), own]
        name = wheels.name_of(*which)
        found = {**seen, "name": name, "housed": ""}
        if housed and (args.get("only_wheels") or name not in seen["virtualenvs"]):
            base = base_directory(variables.get("ansible_config_file"))
            path = wheels.housed(base / Path(housed).expanduser(), seen["platform"], name)
            if not args.get("only_wheels") and not path.is_file():
                raise UserError(wheels.lacking(path, requirements["pins"]))
            found["housed"] = str(path)
        return found

    def _sent(
        self, args: dict[str, Any], archive: str, directory: str, name: str
    ) -> dict[str, Any]:
        """Send the source; return the arguments that the module gets in another form."""
        return {
            "archive": self._send(archive, directory, "release.tar.gz"),
            "demands": transport.pack(args.get("demands") or {}),
            "index": transport.pack(args.get("index") or {}),
            "requirements": args["requirements"]["file"],
            "local": args["requirements"]["local"],
            "virtualenv": name,
        }

    def _fill(
        self, args: dict[str, Any], archive: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Build the wheels that the wheelhouse lacks."""
        seen = self._look(args, variables)
        # In a dry run, the interpreter may be missing.
        path = Path(seen.get("housed") or "/nowhere")
        if self._task.check_mode or path.is_file():
            return {"changed": not path.is_file()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with wheels.alone(path, str(variables["inventory_hostname"])) as there:
            if there:
                return {}
            made = self._make_tmp_path()
            args.pop("wheelhouse")
            args |= self._sent(args, archive, made, seen["name"])
            remote = self._path(made, "made.tar")
            result = self.execute("release", {**args, "hand_over": remote}, variables)
            if result.get("failed"):
                raise UserError(str(result["msg"]))
            self._fetch(remote, path)
            return result

    def _path(self, directory: str, name: str) -> str:
        shell = self._connection._shell  # noqa: SLF001 - as Ansible's own action plugins do
        return str(shell.join_path(directory, name))

    def _send(self, path: str, directory: str, name: str) -> str:
        sent = self._path(directory, name)
        self._transfer_file(path, sent)
        return sent

    def _fetch(self, remote: str, path: Path) -> None:
        partial = path.with_name(f".{path.name}")
        self._connection.fetch_file(remote, str(partial))
        os.replace(partial, path)


def _remarked(
    result: dict[str, Any], identity: str, note: str, demands: dict[str, Any]
) -> dict[str, Any]:
    """Return a result with warnings about the release's tasks; Ansible shows each of them once."""
    found = release_remarks.remarks(identity, note, demands) if demands and note.strip() else []
    # The application's own code chose the names in the note.
    return {**result, "warnings": [*(result.get("warnings") or []), *redact.printable(found)]}


def _kept(identity: str, text: str) -> dict[str, Any]:
    """Return what the note of a release that is there says about its packages."""
    try:
        note = json.loads(text)
        return {name: note.get(name) for name in ("virtualenv", "packages")}
    except (ValueError, AttributeError):
        raise UserError(
            f"release {identity}: its {NOTE} can't be read. Remove the release's directory and run again."
        ) from None


def _interpreter(wanted: str, variables: dict[str, Any]) -> str:
    """Return the path of an interpreter. Preflight has found a version's, unless a package of the run provides it."""
    if "/" in wanted:
        return wanted
    found = (variables.get("ansible_facts") or {}).get("fleet", {}).get("interpreter") or {}
    return str(found.get("path") or f"/usr/bin/python{wanted}")
