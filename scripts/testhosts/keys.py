"""Create the keys with which this machine logs in to test hosts and verifies them."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path

from scripts.testhosts.fleet import USER, Fleet


def ensure_key(path: Path, comment: str) -> str:
    """Create an SSH key pair at `path` unless it exists; return its public key."""
    public = path.with_name(path.name + ".pub")
    if not (path.exists() and public.exists()):
        path.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return public.read_text().strip()


def key_archive(authorized_key: str, host_key: Path) -> bytes:
    """Return a tar archive, for `/`, with the keys that let this machine log in to a host and verify it.

    The host keys are created here instead of collected from the hosts, so that even the first connection
    is verified.
    """
    public = host_key.with_name(host_key.name + ".pub")
    files = {
        f"etc/ssh/authorized_keys/{USER}": (authorized_key + "\n", 0o644),
        "etc/ssh/ssh_host_ed25519_key": (host_key.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (public.read_text(), 0o644),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (text, mode) in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def ssh_arguments(fleet: Fleet) -> list[str]:
    """Return the options of ssh for all hosts of a fleet."""
    # ssh accepts several files here, separated by spaces; hence the quotes.
    return [
        *("-o", f'UserKnownHostsFile="{fleet.state / "known_hosts"}"'),
        *("-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", "IdentitiesOnly=yes"),
    ]
