"""Two versions of the bundle: their trees, and which runtime a process has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ground import Ground
from support import units
from support.inventory import Fleet
from support.waiting import wait_for

RUNTIMES = "/usr/lib/celery-fleet"
# The same inventory with the older version's names of variables, relative to the root of the checkout.
OLDER_INVENTORY = "molecule/upgrade/older/inventory"


def older_tree(fleet: Fleet) -> Path:
    """Return the exported tree from which the hosts were deployed."""
    return Path((fleet.state / "older" / "tree").read_text().strip())


def newer_runtime(fleet: Fleet) -> str:
    """Return this tree's runtime, which must be the same on every host."""
    return str(fleet.of("fleet")["celery_app_runtime"])


def older_runtime(fleet: Fleet) -> str:
    """Return the only other runtime on the hosts."""
    listed = fleet.must(fleet.one("celery_workers"), f"ls -d {RUNTIMES}/*/celery_fleet").split()
    others = [path for path in map(str.strip, listed) if not path.startswith(newer_runtime(fleet))]
    assert len(others) == 1, listed
    return str(Path(others[0]).parent)


def processes(fleet: Fleet) -> list[tuple[str, str]]:
    """Return host and service of every process that has a runtime: workers, and beat."""
    app = fleet.of("fleet")["celery_app_name"]
    return [
        (name, unit)
        for name in fleet.hosts("fleet")
        for unit in fleet.expected[name]["services"]
        if unit.startswith((f"{app}-worker@", f"{app}-beat."))
    ]


def runtimes(fleet: Fleet) -> set[str]:
    """Return the runtime in each process's path, from /proc; a process that is just restarting has none."""
    found = set()
    for name, unit in processes(fleet):
        pid = units.state(fleet, name, unit)["MainPID"]
        if pid == "0":
            continue
        text = fleet.must(name, ["cat", f"/proc/{pid}/environ"])
        path = dict(item.partition("=")[::2] for item in text.split("\0")).get("PYTHONPATH")
        if path is None:  # systemd has not yet started the unit's program in it
            continue
        found.add(path.partition(":")[0])
    return found


def belongings(fleet: Fleet, name: str) -> list[str]:
    """Return everything on a host, running or not, that has one of our names."""
    app = fleet.of("fleet")["celery_app_name"]
    names = [app, f"{app}.*", f"{app}-*", "*celery-fleet*", f"redis@{app}-*", "redis@.service"]
    tests = " -o ".join(f"-name '{pattern}'" for pattern in names)
    # The sender belongs to the test.
    sender = f"-not -path '/run/systemd/transient/{app}-*'"
    roots = "/etc /opt /run /usr/lib/systemd /usr/local /var/lib /var/log"
    script = f"""
        find {roots} -maxdepth 4 \\( {tests} \\) {sender}
        find /usr/lib -maxdepth 1 -name 'celery-fleet*'
    """
    found = fleet.must(name, script)
    return sorted(found.splitlines())


def firewall_unit(fleet: Fleet) -> str:
    """Return the unit of this version's firewall; the older one has none."""
    return f"{fleet.of('fleet')['celery_app_name']}-firewall.service"


def firewall_table(fleet: Fleet) -> str:
    """Return the line of its table in nft's list of tables."""
    return f"table inet celery_fleet_{fleet.of('fleet')['celery_app_name']}\n"


@contextmanager
def sending_by(ground: Ground, runtime: str) -> Iterator[None]:
    """Keep the sender on one runtime until the block ends, like a web process that is never restarted."""
    variables = ground.fleet.expected[ground.control]
    before = variables["celery_app_runtime"]
    variables["celery_app_runtime"] = runtime
    try:
        yield
    finally:
        variables["celery_app_runtime"] = before


def wait_until_up(fleet: Fleet, seconds: float) -> None:
    """Wait until the services that both versions have are active."""

    def down() -> list[str]:
        return [
            f"{unit} on {name}: {found.get('ActiveState')}"
            for name in fleet.hosts("fleet")
            for unit, found in units.states(fleet, name, fleet.expected[name]["services"]).items()
            if found.get("ActiveState") != "active"
        ]

    wait_for("all services are active", seconds, lambda: not down(), pause=1)
