#!/usr/bin/env python3
"""Post the start and the end of each run to Slack, or to what understands its webhooks, such as Mattermost.

In the inventory:

    fleet_notify: [/path/to/notify_slack.py, --webhook-file, /path/to/webhook]

The file has the webhook's URL, which is a secret. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import html
import http.client
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

SIGNS = {
    "start": ":hourglass_flowing_sand:",
    "success": ":white_check_mark:",
    "failure": ":x:",
    "rollback": ":rewind:",
}


def text_of(run: dict[str, Any]) -> str:
    """Return a message about a run."""
    what = f"{run['playbook']} of *{run['app']}* by {run['user']}"
    if run["event"] == "start":
        release = f", release {run['release']}" if run["release"] else ""
        changes = f"{len(run['items'])} change{'' if len(run['items']) == 1 else 's'}"
        lines = [f"{what} starts: {changes} on {len(run['hosts'])} hosts{release}"]
    elif run["event"] == "success":
        lines = [f"{what} is done after {run['seconds']:.0f} s"]
    else:
        how = f"went back to release {run['back']}" if run["event"] == "rollback" else "failed"
        lines = [f"{what} {how} after {run['seconds']:.0f} s"]
        lines += [f"• {one['host']}, {one['task']}: {one['message']}" for one in run["failed"]]
    return "\n".join([f"{SIGNS.get(run['event'], '')} {lines[0]}".strip(), *lines[1:]])


def main() -> int:
    """Post the message; return the exit status."""
    parser = argparse.ArgumentParser(description="Tell Slack of a run of Celery Fleet.")
    parser.add_argument("--webhook-file", type=Path, required=True)
    url = parser.parse_args().webhook_file.read_text().strip()
    # Slack takes these characters for its markup, by which a text could call everybody.
    text = html.escape(text_of(json.load(sys.stdin)), quote=False)
    try:
        request = urllib.request.Request(  # noqa: S310  # the operator's own URL
            url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310  # as above
            return 0
    except (ValueError, http.client.HTTPException):
        print("Slack was not told: the file has no URL of a webhook", file=sys.stderr)
    except OSError as error:
        # Without the URL, which is a secret.
        print(f"Slack was not told: {getattr(error, 'reason', error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
