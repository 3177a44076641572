"""Action plugin `new_env`: makes an environment from the run's extra variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.utils.vars import load_extra_vars
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.options import (
    PLAYBOOK,
    RefusedError,
    read,
    usage,
    words_of,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.program import (
    make,
    project_of,
    refusal,
    report,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.write import WriteError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.action import FleetAction


class ActionModule(FleetAction):
    """Writes below the working directory of the run."""

    _supports_check_mode = False
    _requires_connection = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def act(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Make the environment.

        Raises:
            AnsibleActionFail: Options are wrong; the message lists all errors. Nothing was written.
        """
        words, misplaced = words_of(load_extra_vars(self._loader))
        given, misspelt = read(words, {})
        try:
            project = project_of(given, Path.cwd())
            wanted = make(given, project, [*misplaced, *misspelt])
        except RefusedError as refused:
            if refused.incomplete:
                self._display.display(usage(PLAYBOOK))
            raise AnsibleActionFail(refusal(refused.mistakes)) from None
        except WriteError as error:
            raise AnsibleActionFail(f"{error}. Nothing was written.") from None
        self._display.display(report(wanted, project))
        return {"changed": True}
