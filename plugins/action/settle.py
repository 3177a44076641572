"""Action plugin `settle`: renders a role's files on the control side and settles a host in one call."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import generate_ansible_template_vars, trust_as_template

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_LISTS = ("sysusers", "directories", "files", "links", "checks", "units")


class ActionModule(ActionBase):
    """Renders `files` that name a template (`src`) and hands all to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True
    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Render, pack, execute; all templating errors are reported at once, each with its file."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        args = dict(self._task.args)
        options = {name: args.pop(name) for name in ("force",) if name in args}
        wanted: dict[str, Any] = {key: list(args.pop(key, None) or []) for key in _LISTS}
        wanted["owned"] = args.pop("owned", None) or {}
        if args:
            raise AnsibleActionFail(f"settle: unknown option {', '.join(sorted(args))}")
        errors: list[str] = []
        templates: dict[str, tuple[str, str, Any]] = {}
        wanted["files"] = [
            self._with_content(item, variables, templates, errors) for item in wanted["files"]
        ]
        if errors:
            raise AnsibleActionFail("\n".join(errors))
        raw = json.dumps(wanted, default=str).encode()
        return self._execute_module(
            module_name="settle",
            module_args={"payload": base64.b64encode(zlib.compress(raw)).decode(), **options},
            task_vars=variables,
        )

    def _with_content(
        self,
        item: Mapping[str, Any],
        variables: dict[str, Any],
        templates: dict[str, tuple[str, str, Any]],
        errors: list[str],
    ) -> dict[str, Any]:
        wanted = dict(item)
        source = wanted.pop("src", None)
        extra = wanted.pop("vars", {})
        if source is None:
            return wanted
        try:
            wanted["content"] = self._render(
                str(source), str(wanted["dest"]), extra, variables, templates
            )
        except AnsibleError as error:
            errors.append(f"{wanted['dest']} (template {source}): {error}")
        return wanted

    def _render(
        self,
        source: str,
        dest: str,
        extra: Mapping[str, Any],
        variables: dict[str, Any],
        templates: dict[str, tuple[str, str, Any]],
    ) -> str:
        if source not in templates:
            full = self._find(source)
            search = [os.path.dirname(full), os.path.join(_ROOT, "templates")]
            # One templar for each template: a fresh environment for each file costs twice as much.
            templar = self._templar.copy_with_new_env(
                searchpath=search, available_variables=variables
            )
            templates[source] = (
                full,
                trust_as_template(self._loader.get_text_file_contents(full)),
                templar,
            )
        full, text, templar = templates[source]
        scope = {**variables, **extra}
        scope.update(generate_ansible_template_vars(path=source, fullpath=full, dest_path=dest))
        templar.available_variables = scope
        rendered = str(
            templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}) or ""
        )
        # A template that ends in a block or an include loses its last newline.
        return rendered if rendered.endswith("\n") else rendered + "\n"

    def _find(self, source: str) -> str:
        ours = os.path.join(_ROOT, "templates", source)
        if os.path.exists(ours):
            return ours
        return str(self._find_needle("templates", source))
