"""The units of the delivered fleets, as systemd reads them."""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.host import HostPaths
from ansible_collections.celery_fleet.core.plugins.module_utils.reconcile.ours import is_ours
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.option import directives
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.worker_options import (
    WORKER as OPTIONS,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks.workers import (
    MOST_PROCESSES,
)

from celery_fleet.system import hand_back
from tests import systemd
from tests.render.fleet import Fleet, Host
from tests.render.units import (
    SERVICES,
    SHARED,
    covered,
    parse,
    render,
    services,
    template_of,
    whole,
)

CELERY = ["beat.service", "web.service", "worker@.service"]
# Highest score of `systemd-analyze security`, times ten.
EXPOSURE = 13


def test_a_file_beside_those_of_others_says_who_wrote_it(fleet: Fleet) -> None:
    """Otherwise a run would take it for another's, and neither replace nor remove it."""
    for host in fleet.hosts.values():
        wanted = [
            file
            for part in host.parts.values()
            for file in (*part.get("files", []), *part.get("sysusers", []))
            if file["dest"].startswith(HostPaths().shared)
        ]
        assert wanted
        assert [one["dest"] for one in wanted if not is_ours(one["content"].encode())] == []


def put(host: Host, directory: Path) -> list[str]:
    """Write a host's units into a directory, instances as links; return the names that systemd has to check.

    The programs that they run need not exist on this machine; an existing one replaces each.
    """
    for name, text in host.unit_files().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            re.sub(
                r"^(Exec\w+=[-+]*)(/usr/bin/(python3|redis-server|prometheus-\w+-exporter)|/\S+/venv/bin/python) ",
                r"\1/bin/sh ",
                text,
                flags=re.MULTILINE,
            )
        )
    asked = []
    for unit in host.units:
        if template_of(host, unit) in host.unit_files():
            if template_of(host, unit) != unit:
                (directory / unit).symlink_to(template_of(host, unit))
            asked.append(str(directory / unit))
    return asked


def verify(units: list[str]) -> str:
    """Return systemd's complaints about units; an empty string if it accepts them."""
    done = systemd.analyze("verify", "--man=no", "--recursive-errors=no", *units)
    return done.stdout + done.stderr + (f"exit status {done.returncode}" if done.returncode else "")


def test_every_service_is_part_of_a_delivered_fleet(fleet: Fleet) -> None:
    assert SERVICES
    # Exporters are off by default; `odd` has them. `replicated` has Sentinels.
    without = [name for name in SERVICES if not services(fleet, name)]
    exporters = {"exporter.service", "redis-exporter.service", "node-exporter.service"}
    assert set(without) <= {*exporters, "sentinel.service"}


RECORD = (
    "-+/usr/bin/env -i INVOCATION_ID=${INVOCATION_ID} "
    "/usr/bin/python3 -S -I /usr/lib/celery-fleet/fingerprint.py record %n"
)


def test_every_service_records_its_fingerprint_at_its_start(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        for unit in host.units:
            # nginx's unit is Debian's; our drop-in is checked below.
            if unit.endswith((".target", ".timer")) or unit == "nginx.service":
                continue
            kind = "Socket" if unit.endswith(".socket") else "Service"
            section = parse(host.unit_files()[template_of(host, unit)])[kind]
            # Sentinel first gets the file that it rewrites, and Redis loses what it was writing.
            assert section["ExecStartPre"][-1] == RECORD, unit
            assert len(section["ExecStartPre"]) == 1 or "sentinel" in unit or "redis@" in unit
        for drop_in in (p for p in host.unit_files() if p.startswith("nginx.service.d/")):
            # nginx's own ExecStartPre= comes first: Debian's tests the configuration.
            assert parse(host.unit_files()[drop_in])["Service"]["ExecStartPre"] == [RECORD]


def test_programs_that_root_runs_for_a_process_do_not_get_its_environment(fleet: Fleet) -> None:
    """`celery_app_env` may name a library or a file that the application can write."""
    found = 0
    for host in fleet.hosts.values():
        for text in host.unit_files().values():
            if "EnvironmentFile=" not in text and "hand_back.py" not in text:
                continue
            commands = re.findall(r"(?m)^Exec\w+=([-@:!|]*\+.*)$", text)
            assert all(command.startswith("-+/usr/bin/env -i ") for command in commands), commands
            found += len(commands)
    assert found


def test_systemd_accepts_every_unit(fleet: Fleet, tmp_path: Path) -> None:
    found = {}
    for host in fleet.hosts.values():
        asked = put(host, tmp_path / host.name)
        assert asked, f"{host.name} has no unit"
        found[host.name] = verify(asked)
    assert found == dict.fromkeys(fleet.hosts, "")


@pytest.mark.parametrize("line", ["NoSuchKey=1", "TimeoutStopSec=soon", "ExecStartPost=/no/such"])
def test_systemd_refuses_a_mistake(local: Fleet, tmp_path: Path, line: str) -> None:
    host, unit = services(local, "worker@.service")[0]
    put(host, tmp_path)
    (tmp_path / f"{unit}.d/20-mistake.conf").write_text(f"[Service]\n{line}\n")
    assert "exit status 1" in verify([str(tmp_path / unit)])


@pytest.mark.parametrize("template", SERVICES)
class TestService:
    """Rules for every service."""

    def test_it_is_sandboxed(self, fleet: Fleet, template: str, tmp_path: Path) -> None:
        seen: dict[str, str] = {}
        for host, unit in services(fleet, template):
            # The unit includes its drop-ins, which systemd-analyze leaves out.
            path = tmp_path / unit.replace("@", "-at-")
            if (text := whole(host, unit)) in seen.values():
                continue
            seen[unit] = text
            path.write_text(text)
            # The exporter of the host sees the whole host.
            threshold = 30 if template == "node-exporter.service" else EXPOSURE
            done = systemd.analyze(
                "security", "--offline=true", f"--threshold={threshold}", str(path)
            )
            assert done.returncode == 0, f"{unit}: {done.stdout.splitlines()[-1:]}{done.stderr}"

    def test_it_is_always_restarted(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            sections = parse(whole(host, unit))
            assert sections["Unit"]["StartLimitIntervalSec"] == ["0"]
            assert sections["Service"]["Restart"] == ["always"]
            assert "RestartPreventExitStatus" not in sections["Service"]

    def test_only_the_main_process_is_asked_to_stop(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            assert service["KillMode"] == ["mixed"]
            assert service.get("KillSignal", ["SIGTERM"]) == ["SIGTERM"]
            assert re.fullmatch(r"\d+s", service["TimeoutStopSec"][-1]), "it may take for ever"

    def test_it_runs_as_its_own_user(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            if service["DynamicUser"] == ["yes"]:
                continue
            user = service["User"][-1]
            made = "".join(
                i["content"] for part in host.parts.values() for i in part.get("sysusers", [])
            )
            packaged = user in ("redis", "prometheus")
            assert re.search(rf"^u {user} ", made, re.MULTILINE) or packaged, unit

    def test_it_starts_at_boot(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            (wanted_by,) = parse(whole(host, unit))["Install"]["WantedBy"]
            assert wanted_by == "multi-user.target" or wanted_by in host.units
            assert host.units[unit].get("enabled", True)

    def test_a_change_of_any_file_that_it_reads_at_its_start_restarts_it(
        self, fleet: Fleet, template: str
    ) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            read = {path.removeprefix("-") for path in service["EnvironmentFile"]}
            read |= {item.partition(":")[2] for item in service["LoadCredential"]}
            known = set(host.units[unit].get("files", []))
            assert read <= known
            pins = set(re.findall(r"(?: --pin |^)(/\S+/pins/[^/\s]+)", service["ExecStart"][-1]))
            assert pins == set(host.units[unit].get("links", []))
            for path in known:
                assert covered(path, host), f"no part reconciles {path}"
            for pin in pins:
                assert pin in host.links, f"no part reconciles {pin}"

    def test_it_tells_systemd_when_it_is_ready(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            if service["Type"] == ["notify"]:
                assert service["NotifyAccess"] == ["main"]
                assert service["TimeoutStartSec"] == ["infinity"], (
                    "it waits for its broker for ever"
                )
            else:
                assert service["Type"] == ["exec"]


@pytest.mark.parametrize("template", [*CELERY, "flower.service"])
class TestProcessOfTheFleet:
    """Rules for everything that runs Celery."""

    def test_its_settings_are_a_credential(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            (credential,) = service["LoadCredential"]
            name, _, path = credential.partition(":")
            assert name == "settings.json"
            item = host.files[path]
            assert (item["mode"], item["secret"], item.get("owner", "root")) == (
                "0600",
                True,
                "root",
            )

    def test_its_broker_is_that_of_the_inventory(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            unset = parse(whole(host, unit))["Service"]["UnsetEnvironment"]
            unset = [name for words in unset for name in words.split()]
            assert set(unset) >= {
                "CELERY_BROKER_URL",
                "CELERY_BROKER_READ_URL",
                "CELERY_BROKER_WRITE_URL",
                "CELERY_RESULT_BACKEND",
            }

    def test_it_stops_and_starts_with_the_application(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            target = f"{host.variables['celery_app_name']}.target"
            sections = parse(whole(host, unit))
            assert sections["Unit"]["PartOf"] == [target]
            assert target in host.unit_files()

    def test_root_counts_how_it_ends(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            # This is the last ExecStopPost=: a hand-back must not wait for it.
            command = parse(whole(host, unit))["Service"]["ExecStopPost"][-1]
            runtime = host.variables["celery_app_runtime"]
            assert command == (
                f"-+/usr/bin/env -i /usr/bin/python3 -S -I {runtime}/celery_fleet/system/ended.py "
                "/var/lib/celery-fleet/ends/%n.json ${SERVICE_RESULT}"
            )
            made = [one["path"] for one in host.parts["celery_runtime"]["directories"]]
            assert "/var/lib/celery-fleet/ends" in made

    def test_nothing_secret_is_in_the_unit(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            assert "Environment" not in parse(whole(host, unit))["Service"], "anyone can ask for it"

    def test_the_runtime_that_it_executes_is_installed(self, fleet: Fleet, template: str) -> None:
        for host, unit in services(fleet, template):
            service = parse(whole(host, unit))["Service"]
            scripts = [
                w
                for c in service["ExecStart"] + service["ExecStop"]
                for w in c.split()
                if w.endswith(".py")
            ]
            assert scripts
            for script in scripts:
                assert script in host.files

    def test_its_environment_leads_to_the_loader(
        self, fleet: Fleet, template: str, tmp_path: Path
    ) -> None:
        for host, unit in services(fleet, template):
            found = environment(host, unit, tmp_path)
            runtime = Path(found["PYTHONPATH"])
            assert str(runtime / "celery_fleet/loader.py") in host.files
            assert found["CELERY_LOADER"] == "celery_fleet.loader.FleetLoader"
            command = parse(whole(host, unit))["Service"]["ExecStart"][-1].split()
            assert found["CELERY_FLEET_COMPONENT"] == command[command.index("--pin") - 1]
            assert shlex.split(found["CELERY_FLEET_ARGS"])[0] == "python"


def environment(host: Host, unit: str, directory: Path) -> dict[str, str]:
    """Return the environment of the unit's process, as systemd reads the files."""
    found: dict[str, str] = {}
    for path in parse(whole(host, unit))["Service"]["EnvironmentFile"]:
        copy = directory / Path(path).name
        copy.write_text(host.text(path))
        for word in systemd.environment(copy):
            name, _, value = word.partition("=")
            found[name] = value
    return found


LIMITS = {
    "memory_max": "MemoryMax",
    "memory_high": "MemoryHigh",
    "cpu_quota": "CPUQuota",
    "tasks_max": "TasksMax",
}

# --- one by one --------------------------------------------------------------------------------------


def workers(fleet: Fleet) -> list[tuple[Host, str, dict[str, Any]]]:
    """Yield every worker, with its options in the inventory."""
    found = []
    for host, unit in services(fleet, "worker@.service"):
        name = unit.partition("@")[2].removesuffix(".service")
        own = host.variables["celery_worker_instances"][name] or {}
        found.append((host, unit, {**host.variables.get("celery_worker_defaults", {}), **own}))
    return found


def test_each_host_runs_the_workers_that_the_inventory_gives_it(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        mine = "celery_worker" in host.parts
        enabled = host.variables["celery_worker_host_instances"] if mine else []
        app = host.variables["celery_app_name"]
        wanted = {f"{app}-worker@{name}.service" for name in enabled}
        assert {unit for unit in host.units if "-worker@" in unit} == wanted


def test_a_worker_drains_as_long_as_a_task_may_run(fleet: Fleet) -> None:
    for host, unit, options in workers(fleet):
        service = parse(whole(host, unit))["Service"]
        drain = int(options.get("drain_timeout", options["time_limit"]))
        (stop,) = service["ExecStop"]
        assert f" --drain {drain}" in stop
        assert int(service["TimeoutStopSec"][-1].removesuffix("s")) > drain


def test_a_worker_survives_the_oom_kill_of_a_task_and_is_replaced_when_it_hangs(
    fleet: Fleet,
) -> None:
    for host, unit, _ in workers(fleet):
        service = parse(whole(host, unit))["Service"]
        assert service["OOMPolicy"] == ["continue"]
        assert service["WatchdogSec"] == ["30"]


def test_a_worker_with_all_processes_that_preflight_allows_has_enough_file_descriptors(
    fleet: Fleet,
) -> None:
    for host, unit, _ in workers(fleet):
        (limit,) = parse(whole(host, unit))["Service"]["LimitNOFILE"]
        # Five for each process of the pool, and as many as systemd gives by default for everything else.
        assert int(limit) > 5 * MOST_PROCESSES + 1024


def test_a_worker_has_the_limits_of_the_inventory(fleet: Fleet) -> None:
    for host, unit, options in workers(fleet):
        service = parse(whole(host, unit))["Service"]
        for option, directive in LIMITS.items():
            assert service.get(directive, []) == ([options[option]] if option in options else [])


def test_limits_for_all_workers_apply_to_each(odd: Fleet) -> None:
    """A worker's own limit overrides the one for all, option by option."""
    found = {unit.partition("@")[2]: options for _, unit, options in workers(odd)}
    assert {name: options["memory_max"] for name, options in found.items()} == {
        "analytics.service": "768M",
        "discounts.service": "512M",
        "maintenance.service": "512M",
    }
    assert all(set(LIMITS) <= set(options) for options in found.values())


def test_a_worker_consumes_what_the_inventory_says(fleet: Fleet, tmp_path: Path) -> None:
    for host, unit, options in workers(fleet):
        name = unit.partition("@")[2].removesuffix(".service")
        words = shlex.split(environment(host, unit, tmp_path)["CELERY_FLEET_ARGS"])
        assert words[words.index("-Q") + 1] == ",".join(options.get("queues", [name]))
        assert words[words.index("-n") + 1] == f"{name}@{host.name}"
        assert f"--concurrency={options['concurrency']}" in words
        assert f"--time-limit={options['time_limit']}" in words


@pytest.mark.parametrize("template", ["worker@.service", "beat.service"])
def test_its_counters_are_readable_by_the_applications_group(fleet: Fleet, template: str) -> None:
    for host, unit in services(fleet, template):
        state = host.variables["celery_app_state_directory"]
        service = parse(whole(host, unit))["Service"]
        assert service["ReadWritePaths"][0] == f"-{state}/metrics"
        (made,) = (
            one
            for one in host.parts["celery_runtime"]["directories"]
            if one["path"] == f"{state}/metrics"
        )
        user = service["User"][-1]
        assert (made["owner"], made["group"], made["mode"]) == (user, user, "0750")
        # The application could put a link there for root to follow.
        assert made["follow"] is False
        # Tasks use it as one path.
        assert len(service["StateDirectory"][0].split()) == 1


def test_there_is_one_beat(fleet: Fleet) -> None:
    assert len(services(fleet, "beat.service")) == 1


def test_flower_can_t_reach_the_web_process_without_nginx(fleet: Fleet) -> None:
    """It is in nginx's group, which may open the socket."""
    for host, unit in services(fleet, "flower.service"):
        app = host.variables["celery_app_name"]
        assert f"InaccessiblePaths=-/run/{app}-web.sock" in whole(host, unit)


def test_flower_only_gets_the_environment_without_secrets(fleet: Fleet, tmp_path: Path) -> None:
    for host, unit in services(fleet, "flower.service"):
        found = environment(host, unit, tmp_path)
        assert set(host.variables["celery_app_env"]) <= set(found)
        for name in ("celery_app_secret_env", "celery_app_env_urls"):
            assert not set(host.variables[name]) & set(found)


@pytest.mark.parametrize("template", CELERY)
def test_all_processes_of_the_application_have_the_same_environment(
    fleet: Fleet, template: str, tmp_path: Path
) -> None:
    for host, unit in services(fleet, template):
        found = environment(host, unit, tmp_path)
        for name in ("celery_app_env", "celery_app_secret_env"):
            for key, value in host.variables[name].items():
                assert found[key] == value
        for key, parts in host.variables["celery_app_env_urls"].items():
            url = urlsplit(found[key])
            assert unquote(url.password or "") == parts["password"]
            assert (url.scheme, url.hostname) == (parts["scheme"], parts["host"])


def test_all_of_an_application_is_in_its_slice_and_no_other_one(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        (slice_unit,) = [path for path in host.unit_files() if path.endswith(".slice")]
        # A dash would put it into the slice of another application.
        assert "-" not in slice_unit
        app = host.variables["celery_app_name"]
        assert slice_unit == app.replace("-", r"\x2d") + ".slice"
        for unit in host.units:
            if unit.endswith(".service") and unit not in SHARED:
                assert parse(whole(host, unit))["Service"]["Slice"] == [slice_unit]


def test_each_host_has_the_owners_mark(fleet: Fleet) -> None:
    for host in fleet.hosts.values():
        path = f"{host.variables['celery_app_config_directory']}/fleet.json"
        assert host.files[path].get("mode", "0644") == "0644"
        assert next(iter(host.parts)) == "fleet", "the mark comes first"
        mark = json.loads(host.text(path))
        assert mark["app"] == host.variables["celery_app_name"]
        assert mark["owner"] in ("local", "production", "staging")
        claimed = [unit for unit in host.units if unit not in SHARED]
        for unit in [*claimed, *(p for p in host.unit_files() if p.endswith(".slice"))]:
            assert any(fnmatch.fnmatchcase(unit, pattern) for pattern in mark["units"]), unit
        users = {
            line.split()[1]
            for part in host.parts.values()
            for item in part.get("sysusers", [])
            for line in item["content"].splitlines()
            if line.startswith(("u ", "g "))
        }
        assert set(mark["users"]) == users
        for unit in claimed:
            if not unit.endswith(".service"):
                continue
            service = parse(whole(host, unit))["Service"]
            for key, place in (("RuntimeDirectory", "/run"), ("LogsDirectory", "/var/log")):
                for name in service[key]:
                    if not name.startswith("redis-"):
                        named = f"{place}/{name}"
                        assert any(fnmatch.fnmatch(named, p) for p in mark["paths"]), named


# --- logs --------------------------------------------------------------------------------------------


def test_logs_go_to_the_journal_by_default(local: Fleet, tmp_path: Path) -> None:
    for host in local.hosts.values():
        assert [path for path in host.files if "logrotate" in path] == []
        for unit in host.units:
            if unit.endswith(".service") and unit != "nginx.service":
                assert "LogsDirectory" not in parse(whole(host, unit))["Service"]
    for template in ("worker@.service", "beat.service"):
        for host, unit in services(local, template):
            assert "--logfile" not in environment(host, unit, tmp_path)["CELERY_FLEET_ARGS"]
    # The configuration of logrotate, from when logs went to files, is removed.
    (host, _) = services(local, "beat.service")[0]
    assert "/etc/logrotate.d/flexiprice" in host.parts["celery_runtime_surplus"]["owned"]["files"]


def test_logs_in_files(odd: Fleet, tmp_path: Path) -> None:
    (host,) = odd.hosts.values()
    written = {}
    for template in ("worker@.service", "beat.service"):
        for _, unit in services(odd, template):
            words = shlex.split(environment(host, unit, tmp_path)["CELERY_FLEET_ARGS"])
            written[unit] = next(w for w in words if w.startswith("--logfile=")).partition("=")[2]
            service = parse(whole(host, unit))["Service"]
            assert service["LogsDirectory"] == ["other-shop"]
            assert service["LogsDirectoryMode"] == ["0750"]
    assert written == {
        "other-shop-beat.service": "/var/log/other-shop/celery_beat.log",
        **{
            f"other-shop-worker@{name}.service": f"/var/log/other-shop/celery_{name}.log"
            for name in ("discounts", "maintenance", "analytics")
        },
    }
    text = host.text("/etc/logrotate.d/other-shop")
    pattern = text.partition("{")[0].split()[-1]
    assert all(fnmatch.fnmatch(path, pattern) for path in written.values())
    words = [line.split() for line in text.splitlines()]
    for wanted in (
        ["weekly"],
        ["rotate", "14"],
        ["maxsize", "100M"],
        ["nocreate"],
        ["delaycompress"],
        ["su", "other-shop", "other-shop"],
    ):
        assert wanted in words
    assert not {"copytruncate", "postrotate", "sharedscripts"} & {w[0] for w in words if w}
    assert (
        "/etc/logrotate.d/other-shop"
        not in (host.parts["celery_runtime_surplus"]["owned"]["files"])
    )


def test_flower_rotates_its_own_file(odd: Fleet, tmp_path: Path) -> None:
    ((host, unit),) = services(odd, "flower.service")
    found = environment(host, unit, tmp_path)
    directory = parse(whole(host, unit))["Service"]["LogsDirectory"][-1]
    assert found["FLOWER_LOG_FILE_PREFIX"] == f"/var/log/{directory}/flower.log"
    assert (found["FLOWER_LOG_ROTATE_MODE"], found["FLOWER_LOG_ROTATE_WHEN"]) == ("time", "W0")
    assert found["FLOWER_LOG_FILE_NUM_BACKUPS"] == "14"
    assert found["FLOWER_LOGGING"] == "warning"


@pytest.mark.parametrize("component", ["worker", "beat"])
def test_the_formats_of_the_log_are_those_of_the_inventory(
    local: Fleet, odd: Fleet, component: str
) -> None:
    def settings(fleet: Fleet) -> dict[str, Any]:
        (host, _) = services(
            fleet, {"worker": "worker@.service", "beat": "beat.service"}[component]
        )[0]
        path = f"{host.variables['celery_app_config_directory']}/credentials/{component}.json"
        celery: dict[str, Any] = json.loads(host.text(path))["celery"]
        return {key: value for key, value in celery.items() if key.endswith("log_format")}

    # The application's own formats are used.
    assert settings(local) == {}
    assert settings(odd) == {
        "worker_log_format": "%(levelname)s %(message)s",
        "worker_task_log_format": "%(task_name)s %(message)s",
    }


def test_the_web_process_starts_with_its_socket(fleet: Fleet) -> None:
    for host, unit in services(fleet, "web.service"):
        socket = unit.replace(".service", ".socket")
        assert parse(whole(host, unit))["Unit"]["Requires"] == [socket]
        listening = parse(whole(host, socket))["Socket"]
        if host.variables["celery_producer_web_listen"]:
            assert listening["ListenStream"] == [host.variables["celery_producer_web_listen"]]
            assert "SocketMode" not in listening
        else:
            assert listening["SocketMode"] == ["0660"]
        assert listening["Accept"] == ["no"]
        assert list(host.units).index(socket) < list(host.units).index(unit)


def test_the_web_process_has_as_long_to_stop_as_a_request_may_take(fleet: Fleet) -> None:
    for host, unit in services(fleet, "web.service"):
        site = host.text(f"/etc/nginx/conf.d/{unit.removesuffix('.service')}.conf")
        (read,) = set(re.findall(r"proxy_read_timeout (\d+)s;", site))
        stop = parse(whole(host, unit))["Service"]["TimeoutStopSec"]
        assert stop == [{"60": "65s", "10": "30s"}[read]]


# --- what the delivered inventories leave at its default ---------------------------------------------

WORKER: dict[str, Any] = {
    "celery_app_runtime": "/rt",
    "drain": 5.0,
    "may_quit": True,
    "directives": directives(OPTIONS, {}),
}


def drop_in(**options: Any) -> dict[str, list[str]]:
    switches = {name: options.pop(name) for name in ("may_quit", "hand_back") if name in options}
    given = {**WORKER, "directives": directives(OPTIONS, options), **switches}
    return parse(render("systemd/worker.conf.j2", given))["Service"]


def test_sandbox_options_can_be_relaxed() -> None:
    assert (
        drop_in()["MemoryDenyWriteExecute"]
        == drop_in(proc_subset_pid=False)["MemoryDenyWriteExecute"]
        == ["yes"]
    )
    assert drop_in(memory_deny_write_execute=False)["MemoryDenyWriteExecute"] == ["no"]
    assert drop_in(proc_subset_pid=False)["ProcSubset"] == ["all"]
    assert drop_in(read_write_paths=["/srv/a", "/srv/b"])["ReadWritePaths"] == [
        '"/srv/a"',
        '"/srv/b"',
    ]


def test_a_drop_in_has_all_limits() -> None:
    found = drop_in(memory_max="1G", memory_high="900M", cpu_quota="150%", tasks_max="64")
    assert [found[key] for key in ("MemoryMax", "MemoryHigh", "CPUQuota", "TasksMax")] == [
        ["1G"],
        ["900M"],
        ["150%"],
        ["64"],
    ]


def test_a_path_with_a_space_is_one_path(tmp_path: Path) -> None:
    (path,) = drop_in(read_write_paths=["/srv/my data"])["ReadWritePaths"]
    unit = tmp_path / "one.service"
    unit.write_text(f"[Service]\nExecStart=/bin/true\nReadWritePaths={path}\n")
    assert verify([str(unit)]) == ""


def test_the_threads_pool_is_not_made_to_quit() -> None:
    assert drop_in()["ExecStop"][0].endswith(" --drain 5")
    assert drop_in(may_quit=False)["ExecStop"][0].endswith(" --drain 5 --no-quit")


APP: dict[str, Any] = {
    "celery_app_config_directory": "/etc/fleet/shop",
    "celery_app_name": "shop",
    "celery_app_user": "shop-user",
    "celery_app_state_directory": "/state",
}


def with_hand_back(**given: Any) -> str:
    return render("systemd/worker.conf.j2", {**WORKER, **APP, "hand_back": True, **given})


def test_a_unit_hands_back_after_a_death_if_that_is_enabled() -> None:
    for off in (drop_in(), parse(with_hand_back(hand_back=False))["Service"]):
        assert not any("hand_back.py" in command for command in off["ExecStopPost"])
    command, ended = parse(with_hand_back())["Service"]["ExecStopPost"]
    assert "ended.py" in ended
    program, *words = command.split()
    # Its failure is not the unit's, and it runs as root without the sandbox.
    assert program == "-+/usr/bin/env"
    assert words == [
        *("-i", "/usr/bin/python3", "-S", "-I", "/rt/celery_fleet/system/hand_back.py"),
        *("--settings", "/etc/fleet/shop/credentials/worker.json"),
        # It uses the instance's own name, because a second instance has a copy of the drop-in.
        *("--directory", "%t/shop-worker-%i"),
        *("--user", "shop-user"),
        *("--counts", "/state/metrics/hand-back-%i.json"),
    ]


def test_the_hand_back_reads_what_the_unit_gives_its_process(fleet: Fleet) -> None:
    for host, unit in services(fleet, "worker@.service"):
        given = {name: host.variables[name] for name in APP}
        text = whole(host, unit)
        # Units for which the inventory disables it get it here.
        sections = parse(text if "/hand_back.py" in text else text + with_hand_back(**given))
        found = sections["Service"]
        *_, command, _ = found["ExecStopPost"]
        assert "hand_back.py" in command
        options = dict(itertools.pairwise(command.split()))
        instance = unit.partition("@")[2].removesuffix(".service")
        assert (
            options["--directory"].replace("%i", instance) == f"%t/{found['RuntimeDirectory'][0]}"
        )
        assert f"settings.json:{options['--settings']}" in found["LoadCredential"]
        assert options["--settings"] in host.files
        assert options["--user"] == found["User"][-1]
        # Longer than the hand-back's own limit.
        assert int(found["TimeoutStopSec"][-1].removesuffix("s")) >= hand_back.BOUND + 15
        # Otherwise the directory would be removed before the command runs, or stay and become stale.
        assert "RuntimeDirectoryPreserve" not in found


def test_systemd_accepts_a_unit_with_a_hand_back_and_it_is_sandboxed(
    local: Fleet, tmp_path: Path
) -> None:
    host, unit = services(local, "worker@.service")[0]
    put(host, tmp_path)
    given = {name: host.variables[name] for name in APP}
    more = with_hand_back(**given).replace("+/usr/bin/python3 ", "+/bin/sh ")
    (tmp_path / f"{unit}.d/20-more.conf").write_text(
        more.replace("=/usr/bin/python3 ", "=/bin/sh ")
    )
    assert verify([str(tmp_path / unit)]) == ""
    path = tmp_path / "whole.service"
    path.write_text(whole(host, unit) + with_hand_back(**given))
    done = systemd.analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(path))
    assert done.returncode == 0, done.stdout


def test_a_unit_that_hands_back_makes_no_pool_quit() -> None:
    stop = parse(with_hand_back())["Service"]["ExecStop"][0]
    assert stop.endswith(" --drain 5 --hand-back")
    threads = parse(with_hand_back(may_quit=False))["Service"]["ExecStop"][0]
    assert threads.endswith(" --drain 5 --no-quit")
    assert drop_in(hand_back=False)["ExecStop"][0].endswith(" --drain 5")


def test_a_worker_with_relaxed_options_is_still_sandboxed(local: Fleet, tmp_path: Path) -> None:
    host, unit = services(local, "worker@.service")[0]
    options = {"memory_deny_write_execute": False, "proc_subset_pid": False}
    given = {**WORKER, "directives": directives(OPTIONS, options)}
    loose = render("systemd/worker.conf.j2", given)
    path = tmp_path / "loose.service"
    path.write_text(whole(host, unit) + loose)
    done = systemd.analyze("security", "--offline=true", "--threshold=15", str(path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", [252, 257])
def test_earlier_restarts_do_not_delay_a_restart(version: int) -> None:
    facts = {"ansible_facts": {"fleet": {"systemd_version": version}}}
    service = parse(render("systemd/_service.j2", facts))["Service"]
    assert service["RestartSec"] == ["2s"]
    assert "RestartSteps" not in service
