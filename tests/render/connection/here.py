"""Connection plugin `here`: the same as `local`, which preflight refuses for several hosts."""

from __future__ import annotations

from ansible.plugins.connection.local import Connection as Local

DOCUMENTATION = """
name: here
short_description: The same as local
description: The same as local.
author: Celery Fleet
options:
  become_success_timeout: {type: int, default: 10, description: As of local.}
  become_strip_preamble: {type: bool, default: true, description: As of local.}
extends_documentation_fragment: [connection_pipelining]
"""


class Connection(Local):
    """Runs commands on this machine."""

    transport = "here"
