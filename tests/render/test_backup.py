"""The backup of Redis: its units as systemd sees them, and that a fleet without it has nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

from celery_fleet.system.redis_backup import BackupPlaces, read
from tests import systemd
from tests.render.fleet import Fleet, Host
from tests.render.units import parse

#: Highest score of `systemd-analyze security`, times ten: the same as for all services.
EXPOSURE = 13


def redis_host(fleet: Fleet) -> Host:
    return next(host for host in fleet.hosts.values() if "redis" in host.parts)


def test_the_timer_starts_a_sandboxed_service(odd: Fleet, tmp_path: Path) -> None:
    host = redis_host(odd)
    assert host.units["other-shop-backup.timer"]["on_change"] == "nothing"
    # The service ends by itself, and only the timer starts it.
    assert "other-shop-backup.service" not in host.units
    files = host.unit_files()
    for kind in ("timer", "service"):
        (tmp_path / f"other-shop-backup.{kind}").write_text(files[f"other-shop-backup.{kind}"])
    timer = parse(files["other-shop-backup.timer"])["Timer"]
    assert timer["OnUnitActiveSec"] == ["21600s"]
    sections = parse(files["other-shop-backup.service"])
    service = sections["Service"]
    assert (service["Type"], service["User"]) == (["oneshot"], ["other-shop-backup"])
    assert service["ReadWritePaths"] == ["-/mnt/backup/other-shop"]
    assert sections["Unit"]["RequiresMountsFor"] == ["/mnt/backup/other-shop"]
    assert "Restart" not in service
    service_file = str(tmp_path / "other-shop-backup.service")
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", service_file)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}{done.stderr}"
    done = systemd.analyze("verify", "--recursive-errors=no", service_file)
    assert [
        line for line in done.stderr.splitlines() if "backup" in line and "exec" not in line
    ] == []


def test_only_root_reads_the_setup_which_the_program_understands(
    odd: Fleet, tmp_path: Path
) -> None:
    host = redis_host(odd)
    item = host.files["/etc/celery-fleet/other-shop/credentials/backup.json"]
    assert (item["mode"], item["secret"]) == ("0600", True)
    (tmp_path / "backup.json").write_text(item["content"])
    setup = read(BackupPlaces(tmp_path, tmp_path, tmp_path))
    assert (setup.app, setup.to, setup.keep) == ("other-shop", "/mnt/backup/other-shop", 48)
    assert [*setup.servers] == ["broker", "results"]
    for kind, server in setup.servers.items():
        assert (server.user, server.password) == ("backup", "not-a-real-one-of-backup")
        assert server.ca
        assert server.port == int(host.variables[f"redis_{kind}_port"])
    assert "gpg" in host.parts["redis"]["packages"]
    assert "rsync" not in host.parts["redis"]["packages"]
    script = f"{host.variables['celery_app_runtime']}/celery_fleet/system/redis_backup.py"
    assert script in host.files


def test_health_and_status_know_of_it(odd: Fleet) -> None:
    host = redis_host(odd)
    for name in ("health", "cli", "exporter"):
        assert json.loads(host.text(f"/etc/celery-fleet/other-shop/{name}.json"))["backup"] == 21600


def test_a_fleet_without_backups_has_nothing_of_them(local: Fleet) -> None:
    for host in local.hosts.values():
        assert [
            path for path in host.files if "backup." in path and "celery_fleet/" not in path
        ] == []
        assert [name for name in host.units if "backup" in name] == []
        for name in ("health", "cli"):
            text = host.text(f"{host.variables['celery_app_config_directory']}/{name}.json")
            assert "backup" not in json.loads(text)
    owned = redis_host(local).parts["redis"]["owned"]
    app = redis_host(local).variables["celery_app_name"]
    assert {f"{app}-backup.timer", f"{app}-backup.service"} <= set(owned["units"])
    assert f"/etc/systemd/system/{app}-backup.timer" in owned["files"]


def test_backups_leave_a_host_that_has_no_redis_any_more(local: Fleet) -> None:
    made = {
        "flexiprice-backup.timer",
        "/etc/systemd/system/flexiprice-backup.timer",
        "/etc/celery-fleet/flexiprice/credentials/backup.json",
    }
    for name, host in local.hosts.items():
        owned = host.parts["celery_runtime_surplus"]["owned"]
        found = made & {*owned["units"], *owned["files"]}
        assert found == (set() if host is redis_host(local) else made), name


def test_an_interrupted_restore_decides_nothing_for_a_later_one(local: Fleet) -> None:
    """Because of its note, the same backup would count as restored, even if the data has changed since.

    A later run and a removal also delete its snapshots.
    """
    host = redis_host(local)
    app = host.variables["celery_app_name"]
    left = {f"/var/lib/celery-fleet-redis/{app}-{kind}.restore" for kind in ("broker", "results")}
    assert set(host.parts["fleet"]["owned"]["trees"]) == left
    data = {item["path"]: item.get("keep") for item in host.parts["redis"]["data"]}
    assert {path: data.get(path, "-") for path in left} == dict.fromkeys(left)
