"""Runs a command with its standard input, after adding the text of a client certificate and key as root.

    python3 -S -I -c … COMMAND

The input is JSON with Celery's settings, which name both files; the command's user can't read them. It does the
same as `celery_fleet.common.client_certificate.carried`, but needs no runtime on the host.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Run the command and return its exit status."""
    request = json.load(sys.stdin)
    celery = request["settings"]["celery"]
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        options = celery.get(name)
        for option in ("ssl_certfile", "ssl_keyfile"):
            if isinstance(options, dict) and str(options.get(option, "")).startswith("/"):
                with open(options[option], encoding="ascii") as stream:
                    options[option] = stream.read()
    done = subprocess.run(
        ["/bin/sh", "-c", sys.argv[1]], input=json.dumps(request).encode(), check=False
    )
    return done.returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, LookupError, TypeError) as error:
        print(f"the settings can't be passed on: {error}", file=sys.stderr)
        sys.exit(1)
