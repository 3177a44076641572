"""Takes, renews or returns the lease of a fleet; runs on the lease's host, as root, by `python3 -S -I -c`.

Input: {"directory": directory of leases, "app": name of the application, "do": "acquire" | "renew" | "release" |
"look", "token": secret of the holder, "owner": description of the holder, "ttl": seconds until a lease expires,
"record": file of the fleet's releases}.
Output: {"state": "ours" | "held" | "gone", "owner", "since": Unix time, "age": seconds since the last renewal,
"token_id": identifies a holder, "renewed": changes with each renewal, "silent": the expired lease that was taken over,
if any}. To acquire and look also "record": the content of that file.

Ages are measured with this host's monotonic clock, so clocks of hosts don't have to agree. It restarts with each boot,
and so does /run, which contains the leases.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def boot() -> str:
    """Return the ID of the current boot: monotonic clocks of different boots can't be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def held(path: Path, ttl: float) -> dict[str, Any] | None:
    """Return the current lease with its age; None if there is none from this boot."""
    try:
        lease = json.loads(path.read_text())
        if lease["boot"] != boot():
            return None
        lease["age"] = time.clock_gettime(time.CLOCK_MONOTONIC) - lease["renewed"]
        lease["valid"] = lease["age"] < ttl
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(lease)


def write(path: Path, lease: dict[str, Any]) -> None:
    """Write a lease atomically."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(lease, stream)
    os.replace(fresh, path)


def shown(
    state: str, lease: dict[str, Any], silent: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer, without the token: anyone who has it could renew the lease."""
    return {
        "state": state,
        "owner": lease["owner"],
        "since": lease["since"],
        "age": round(lease.get("age", 0.0), 1),
        "token_id": hashlib.sha256(lease["token"].encode()).hexdigest()[:12],
        "renewed": lease["renewed"],
        "silent": {"owner": silent["owner"], "age": round(silent["age"], 1)} if silent else None,
    }


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Carry out a request; the caller holds the lock."""
    path = Path(asked["directory"]) / f"{asked['app']}.lease.json"
    lease = held(path, asked["ttl"])
    ours = lease is not None and lease["token"] == asked["token"]
    if asked["do"] == "release":
        if lease is not None and ours:
            path.unlink()
        return {"state": "gone"}
    if asked["do"] == "renew" and not ours:
        return shown("held", lease) if lease else {"state": "gone"}
    if lease is not None and not ours and lease["valid"]:
        return shown("held", lease)
    fresh = {
        "token": asked["token"],
        "owner": asked["owner"],
        "since": lease["since"] if lease is not None and ours else time.time(),
        "boot": boot(),
        "renewed": time.clock_gettime(time.CLOCK_MONOTONIC),
    }
    write(path, fresh)
    return shown("ours", fresh, None if ours else lease)


def require(entry: dict[str, Any] | None) -> None:
    """Raise KeyError, TypeError or ValueError for a hold or an entry of the history that a run can't use."""
    if entry is not None:
        float(entry["at"])
        for name in ("release", "by", "why"):
            str(entry[name])


def record(path: str) -> dict[str, Any]:
    """Return the record of the fleet's releases, which this host keeps for the others."""
    try:
        found = dict(json.loads(Path(path).read_text()))
        for entry in (found.get("hold"), *(found.get("history") or ())):
            require(entry)
        return found
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        sys.exit(
            f"{path} can't be read ({error!r}): copy it from another host of the fleet, or remove it everywhere; then "
            "no release is held"
        )


def main() -> None:
    """Answer one request, under the lock."""
    asked = json.load(sys.stdin)
    if asked["do"] == "look":
        print(json.dumps({"state": "gone", "record": record(asked["record"])}))
        return
    directory = Path(asked["directory"])
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = directory / f"{asked['app']}.lease.lock"
    # A process that can open the file could lock it, and so hold up all runs.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
        os.fchmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {"record": record(asked["record"])} if asked["do"] == "acquire" else {}
        print(json.dumps({**answer(asked), **found}))


if __name__ == "__main__":
    main()
