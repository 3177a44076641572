"""Ask systemd about units. Only the standard library."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

SYSTEMCTL = "/usr/bin/systemctl"


def properties(
    names: Sequence[str], wanted: Sequence[str], timeout: float, *options: str
) -> list[dict[str, str]]:
    """Return the wanted properties of some units, in the units' order.

    Raises:
        OSError: systemd can't be asked.
    """
    if not names:
        return []
    try:
        done = subprocess.run(
            [SYSTEMCTL, "show", *options, f"--property={','.join(wanted)}", *names],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"systemd did not answer within {timeout:g} s") from None
    except OSError as error:
        raise OSError(f"systemd can't be asked: {error}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise OSError(f"systemd can't be asked: {said or done.returncode}")
    # With `text=True`, the carriage return in a status of the application would end its line.
    return parse(done.stdout.decode(errors="replace"))


def host_shuts_down(timeout: float = 5.0) -> bool:
    """Return whether the whole host is shutting down; False if systemd can't be asked."""
    try:
        done = subprocess.run(
            [SYSTEMCTL, "is-system-running"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "stopping"


def parse(text: str) -> list[dict[str, str]]:
    """Read the output of `systemctl show`, which separates units by an empty line."""
    blocks = [
        dict(line.partition("=")[::2] for line in block.split("\n"))
        for block in text.strip().split("\n\n")
    ]
    return [block for block in blocks if "Id" in block]
