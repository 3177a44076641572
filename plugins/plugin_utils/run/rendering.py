"""Renders the templates in what a role wants, for the module `reconcile`.

Runs only on the control node: it uses Ansible's templating.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.release import __version__
from ansible_collections.celery_fleet.core.plugins.module_utils import transport
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.desired_state import KEYS
from ansible_collections.celery_fleet.core.plugins.module_utils.redact import secrets_of

from ..preflight.checks.control import too_old

try:
    from ansible.template import generate_ansible_template_vars, trust_as_template
except ImportError:
    # If the ansible.cfg in use enables the vars plugin `variable_files`, that has said the same before.
    if words := too_old(__version__):
        raise AnsibleError(words) from None
    raise

# Options of Jinja that a template can set in its own text (`#jinja2:`).
_SYNTAX = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix", "line_comment_prefix"),
    *("trim_blocks", "lstrip_blocks", "newline_sequence", "keep_trailing_newline"),
)
TEMPLATES = Path(__file__).resolve().parents[3] / "templates"


def secrets(templar: Any) -> list[str]:
    """Return the values of the application's secret environment, which no output may show."""
    return secrets_of(value(templar, "__celery_app_secret_env | default({})"))


def value(templar: Any, expression: str) -> Any:
    """Return the value of an expression over the variables."""
    return templar.template(trust_as_template("{{ " + expression + " }}"))


@contextmanager
def compiled_once() -> Iterator[None]:
    """Compile each template once; otherwise this takes almost half the time of a host's plan.

    Ansible compiles a variable's template every time another variable uses it.
    """
    compiled: dict[tuple[object, ...], Any] = {}
    original = jinja2.Environment.compile

    def once(self: jinja2.Environment, source: Any, *args: Any, **options: Any) -> Any:
        # Ansible may escape backslashes while it compiles, which the text does not show.
        if not isinstance(source, str) or "\\" in source or args or options:
            return original(self, source, *args, **options)
        key = (type(self), str(source), *(getattr(self, name) for name in _SYNTAX))
        if key not in compiled:
            compiled[key] = original(self, source)
        return compiled[key]

    jinja2.Environment.compile = once  # type: ignore[method-assign]  # until the task's process ends, or below
    try:
        yield
    finally:
        jinja2.Environment.compile = original  # type: ignore[method-assign]  # see above


class Renderer:
    """Renders the files of one host; each template is read once."""

    def __init__(self, templar: Any, loader: Any, variables: Mapping[str, Any]) -> None:
        self._templar = templar
        self._loader = loader
        self._variables = variables
        self._templates: dict[str, tuple[str, Any]] = {}

    def module_args(self, wanted: Any, **options: Any) -> dict[str, Any]:
        """Return the arguments of the module `reconcile`; without an application, it keeps no manifest.

        Args:
            wanted: What a role wants, from `wanted`, or the parts of several roles.
            options: The module's other options.
        """
        path = "celery_app_config_directory ~ '/manifest.json' if celery_app_config_directory is defined else ''"
        manifest = str(value(self._templar, path))
        return {"wanted": transport.pack(wanted), "manifest": manifest, **options}

    def wanted(self, raw: Any) -> dict[str, Any]:
        """Return what a role wants, each file with its content.

        Raises:
            AnsibleActionFail: Templates have errors; the message lists all, each with its file and its template.
        """
        if not isinstance(raw, Mapping):
            raise AnsibleActionFail(
                f"reconcile: wanted must be a dictionary, not {type(raw).__name__}"
            )
        unknown = sorted(set(raw) - KEYS)
        if unknown:
            raise AnsibleActionFail(f"reconcile: unknown key {', '.join(unknown)} in wanted")
        errors: list[str] = []
        result = {key: raw[key] for key in sorted(KEYS) if raw.get(key)}
        if "files" in result:
            result["files"] = self._files(result["files"], errors)
        if errors:
            raise AnsibleActionFail("\n".join(errors))
        return result

    def _files(self, files: Sequence[Mapping[str, Any]], errors: list[str]) -> list[dict[str, Any]]:
        rendered = []
        for item in files:
            file = dict(item)
            source, extra = file.pop("src", None), file.pop("vars", {})
            if source is not None:
                try:
                    file["content"] = self._render(str(source), str(file["dest"]), extra)
                except AnsibleError as error:
                    errors.append(f"{file['dest']} (template templates/{source}): {error}")
                    continue
            rendered.append(file)
        return rendered

    def _render(self, source: str, dest: str, extra: Mapping[str, Any]) -> str:
        path = TEMPLATES / source
        if source not in self._templates:
            # Keep one templar per template: a new environment for each file costs twice as much.
            templar = self._templar.copy_with_new_env(
                searchpath=[os.fspath(path.parent), os.fspath(TEMPLATES)],
                available_variables=self._variables,
            )
            text = trust_as_template(self._loader.get_text_file_contents(os.fspath(path)))
            self._templates[source] = (text, templar)
        text, templar = self._templates[source]
        scope = {**self._variables, **extra}
        scope.update(
            generate_ansible_template_vars(path=source, fullpath=os.fspath(path), dest_path=dest)
        )
        templar.available_variables = scope
        rendered = str(
            templar.template(text, escape_backslashes=False, overrides={"trim_blocks": True}) or ""
        )
        # A template that ends with a block or an include loses its last newline.
        return rendered if rendered.endswith("\n") else rendered + "\n"
