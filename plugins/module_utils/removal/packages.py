"""Finds Debian packages to purge: runs have installed them, and nothing else on the host needs them.

Runs on the host, as root, and only queries apt. The command is printed, so that people see what apt would do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from .host import RemovalHost

_GOES = re.compile(r"^(?:Remv|Purg) ([^\s:]+)", re.MULTILINE)
# nginx reads these; its package removes its own site itself.
_SITES = ("/etc/nginx/conf.d", "/etc/nginx/sites-enabled")


def purged(host: RemovalHost, brought: Iterable[str], ours: Iterable[str]) -> list[str]:
    """Return the packages to purge, including dependencies that nothing else needs.

    Args:
        host: The host.
        brought: Packages that runs have installed.
        ours: Files that the removal deletes.
    """
    listed = host.run(["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\\n"])
    there = set(brought) & {
        line.removeprefix("installed ") for line in listed.output.splitlines() if line[:1] == "i"
    }
    own = set(ours)
    sites = {path for folder in _SITES for path in host.glob(f"{folder}/*")} - own
    if any(os.path.basename(path) != "default" for path in sites):
        there = {name for name in there if not name.startswith("nginx")}
    if host.run(["systemctl", "is-enabled", "nftables.service"]).output.strip() == "enabled":
        there.discard("nftables")
    there = {name for name in there if _gone(host, "--no-auto-remove", "purge", name) <= there}
    if not there:
        return []
    unneeded = _gone(host, "autoremove")
    return sorted(_gone(host, "--auto-remove", "purge", *sorted(there)) - unneeded | there)


def _gone(host: RemovalHost, *words: str) -> set[str]:
    """Return the packages that apt would remove."""
    # Otherwise a dependency stays if another package only suggests it, as python3.11 suggests python3.11-venv.
    weak = [
        f"--option=APT::AutoRemove::{kind}Important=false" for kind in ("Recommends", "Suggests")
    ]
    done = host.run(["apt-get", "--simulate", "--quiet", *weak, *words])
    return set(_GOES.findall(done.output))
