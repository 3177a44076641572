"""What workers and beat write is exported; a file that is missing, damaged or hostile only costs its own metrics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_fleet.beat.metrics import SHOWN
from celery_fleet.cli.exporter import beat, program, workers
from celery_fleet.cli.exporter.places import MetricPlaces
from celery_fleet.cli.exporter.program import Settings, collector
from celery_fleet.cli.exporter.samples import text
from celery_fleet.health.setup import CheckError
from celery_fleet.health.setup import Worker as Known
from tests.unit.cli.exporter import documents
from tests.unit.cli.exporter.documents import histogram, labels, parsed, task, worker, write

UNIT = "shop-worker@mail.service"
OWN = {"hostname": "worker1", "worker": "mail"}


def read(path: Path) -> dict[str, Any]:
    return parsed(text(workers.worker("mail@worker1", UNIT, path)))


def all_of(directory: Path, *names: str) -> dict[str, Any]:
    """Return what is exported on a host with these workers."""
    setup = documents.setup(directory, names)
    settings = Settings(15, asks_redis=False, state="")
    return parsed(collector(setup, settings, MetricPlaces("shop", directory), {}).text())


def test_metrics_of_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "worker-mail.json"
    write(path, worker())
    found = read(path)
    of_task = {"name": "shop.pay", **OWN, "queue_name": "mail"}
    counts = {
        name.removeprefix("celery_task_").removesuffix("_total"): values[labels(**of_task)]
        for name, values in found.items()
        if labels(**of_task) in values and name.endswith("_total")
    }
    assert counts == {
        "received": 4,
        "started": 3,
        "succeeded": 1,
        "retried": 1,
        "revoked": 0,
        "rejected": 0,
    }
    assert found["celery_task_failed_total"] == {labels(**of_task, exception="ValueError"): 1}
    assert found["celery_task_runtime_sum"] == {labels(**of_task): 1.25}
    assert found["celery_task_runtime_bucket"][labels(**of_task, le="0.5")] == 1
    assert found["celery_task_runtime_bucket"][labels(**of_task, le="1.0")] == 2
    of_queue = labels(**OWN, queue_name="mail")
    assert found["celery_fleet_task_wait_seconds_count"] == {of_queue: 3}
    assert found["celery_fleet_task_wait_unknown_total"] == {of_queue: 1}
    gauges = {
        "celery_worker_tasks_active": 1,
        "celery_fleet_worker_slots": 4,
        "celery_fleet_worker_slots_min": 2,
        "celery_fleet_worker_slots_max": 10,
        "celery_fleet_worker_scaling_blocked": 1,
        "celery_fleet_worker_prefetched": 2,
        "celery_fleet_worker_eta": 0,
        "celery_fleet_task_overrun_seconds": 12.5,
        "celery_fleet_drains_total": 1,
        "celery_fleet_task_metrics": 1,
    }
    for name, value in gauges.items():
        assert found[name] == {labels(**OWN): value}, name
    assert found["celery_fleet_worker_scalings_total"] == {
        labels(**OWN, direction="up"): 3,
        labels(**OWN, direction="down"): 1,
    }
    assert found["celery_fleet_worker_paused"] == {of_queue: 0}
    assert found["celery_active_worker_count"] == {labels(queue_name="mail"): 1}
    assert found["celery_active_process_count"] == {labels(queue_name="mail"): 4}
    release = labels(unit=UNIT, release="20260101-1", state="running")
    assert found["celery_fleet_release_info"] == {release: 1}


def test_a_worker_from_before_an_upgrade_of_the_exporter_is_shown(tmp_path: Path) -> None:
    document = worker()
    del document["overrun"]
    write(tmp_path / "w.json", document)
    found = read(tmp_path / "w.json")
    assert found["celery_active_worker_count"] == {labels(queue_name="mail"): 1}
    assert found["celery_fleet_task_overrun_seconds"] == {labels(**OWN): 0}


def test_a_worker_whose_pool_does_not_run_yet_has_no_limits(tmp_path: Path) -> None:
    write(tmp_path / "w.json", worker(scaling={"blocked": False, "ups": 3, "downs": 1}))
    found = read(tmp_path / "w.json")
    assert found["celery_fleet_worker_slots"] == {labels(**OWN): 4}
    assert found["celery_fleet_worker_scaling_blocked"] == {labels(**OWN): 0}
    assert not [name for name in found if "slots_m" in name]


def test_a_paused_queue_has_its_consumers(tmp_path: Path) -> None:
    write(tmp_path / "w.json", worker(queues=["mail", "bulk"], paused=["mail"]))
    found = read(tmp_path / "w.json")
    assert found["celery_fleet_worker_paused"] == {
        labels(**OWN, queue_name="mail"): 1,
        labels(**OWN, queue_name="bulk"): 0,
    }
    assert found["celery_active_worker_count"][labels(queue_name="mail")] == 1


def test_only_the_counts_of_an_old_file_are_used(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    write(path, worker(), age=workers.FRESH + 5)
    found = read(path)
    assert [*found["celery_fleet_drains_total"].values()] == [1]
    assert "celery_task_received_total" in found
    for name in (
        "celery_worker_tasks_active",
        "celery_fleet_task_overrun_seconds",
        "celery_active_worker_count",
        "celery_fleet_release_info",
    ):
        assert name not in found


def test_a_worker_without_a_release(tmp_path: Path) -> None:
    write(tmp_path / "w.json", worker(release=None))
    assert "celery_fleet_release_info" not in read(tmp_path / "w.json")


def test_a_worker_without_a_file(tmp_path: Path) -> None:
    assert read(tmp_path / "w.json") == {}


def half(path: Path) -> None:
    text = json.dumps(worker("bulk"))
    write(path, text[: len(text) // 2])


def number_is_none(path: Path) -> None:
    write(path, json.dumps(worker("bulk")).replace('"slots": 4', '"slots": NaN'))


def pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def link(path: Path) -> None:
    write(path.with_suffix(".other"), worker("bulk"))
    path.symlink_to(path.with_suffix(".other"))


def huge(path: Path) -> None:
    write(path, worker("bulk"))
    os.truncate(path, 5 << 20)


@pytest.mark.parametrize(
    "damage",
    [
        half,
        number_is_none,
        pipe,
        link,
        huge,
        lambda path: write(path, ""),
        lambda path: write(path, []),
        lambda path: write(path, "[" * 100_000),
        lambda path: write(path, worker("bulk", format=2)),
        lambda path: write(path, worker("bulk", tasks=[{}])),
        lambda path: write(path, worker("bulk", tasks=[task(runtime=histogram(*[1] * 15))])),
        lambda path: write(path, worker("bulk", slots="many")),
        lambda path: write(path, worker("bulk", waits=None)),
    ],
)
def test_a_damaged_file_costs_only_its_own_worker(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(places.worker("mail"), worker())
    damage(places.worker("bulk"))
    found = all_of(tmp_path, "mail", "bulk")
    errors = found["celery_fleet_collect_error"]
    assert errors[labels(part="worker:bulk")] == 1
    assert errors[labels(part="worker:mail")] == 0
    assert found["celery_fleet_worker_slots"] == {labels(**OWN): 4}
    assert {dict(one)["worker"] for one in found["celery_task_received_total"]} == {"mail"}


def test_a_worker_that_was_removed_is_not_exported(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(places.worker("mail"), worker())
    write(places.worker("gone"), worker("gone"))
    found = all_of(tmp_path, "mail")
    assert {dict(one)["worker"] for one in found["celery_fleet_drains_total"]} == {"mail"}


def test_a_worker_that_a_run_is_about_to_remove_is_not_exported(tmp_path: Path) -> None:
    """The run has written cli.json by then, and not yet exporter.json."""
    places = MetricPlaces("shop", tmp_path)
    write(tmp_path / "etc/cli.json", {"units": [], "workers": {"mail@worker1": {}}})
    for name in ("mail", "gone"):
        write(places.worker(name), worker(name))
    found = all_of(tmp_path, "mail", "gone")
    assert {dict(one)["worker"] for one in found["celery_fleet_drains_total"]} == {"mail"}


def test_workers_of_other_hosts_are_not_exported(tmp_path: Path) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(places.worker("mail"), worker())
    setup = documents.setup(tmp_path)
    setup = replace(setup, workers={**setup.workers, "mail@worker2": Known(UNIT, "worker2")})
    found = parsed(collector(setup, Settings(15, False, ""), places, {}).text())
    assert found["celery_fleet_worker_slots"] == {labels(**OWN): 4}


@pytest.mark.parametrize("hostile", ['a"} 1\nup 1', "\ud800", "\udfff\\ud800", "😀", 7])
def test_names_of_tasks_can_be_anything(hostile: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    write(path, worker(tasks=[task(name=hostile, failed={str(hostile): 1})]))
    shown = str(hostile).encode(errors="replace").decode()
    failed = labels(name=shown, **OWN, queue_name="mail", exception=shown)
    assert read(path)["celery_task_failed_total"] == {failed: 1}


# --- beat --------------------------------------------------------------------------------------------


def beat_of(directory: Path) -> dict[str, Any]:
    setup = documents.setup(directory, beat=about_beat(directory))
    places = MetricPlaces("shop", directory)
    return parsed(text([*beat.tick(setup), *beat.schedule(setup), *beat.counts(places)]))


def about_beat(directory: Path) -> dict[str, Any]:
    return {"unit": "shop-beat.service", "directory": str(directory / "run"), "interval": 5}


def schedule(**seconds: float) -> dict[str, Any]:
    """Return beat's schedule with entries that are due in some seconds."""
    now = datetime.now(UTC)
    return {
        "zone": "UTC",
        "entries": [
            {"name": name, "task": "t", "due": (now + timedelta(seconds=due)).isoformat()}
            for name, due in seconds.items()
        ],
    }


def test_metrics_of_beat(tmp_path: Path) -> None:
    write(tmp_path / "run/tick", "", age=7)
    write(tmp_path / "run/schedule.json", schedule(nightly=3600, hourly=60))
    counts = {"sent": 4, "failed": 0, "late": 2, "collapsed": 1, "skipped": 3}
    write(
        MetricPlaces("shop", tmp_path).beat,
        {"format": 1, "written": 0, "entries": {"nightly": counts}},
    )
    found, now = beat_of(tmp_path), time.time()
    (tick,) = found["celery_fleet_beat_tick_timestamp_seconds"].values()
    assert 7 <= now - tick < 60
    assert [*found["celery_fleet_beat_entries"].values()] == [2]
    (due,) = found["celery_fleet_beat_next_due_timestamp_seconds"].values()
    assert 0 < due - now <= 60
    assert [*found["celery_fleet_beat_overdue_seconds"].values()] == [0]
    assert {dict(one)["entry"] for one in found["celery_fleet_beat_entry_due_timestamp_seconds"]}
    assert found["celery_fleet_beat_sent_total"] == {labels(entry="nightly"): 4}
    assert found["celery_fleet_beat_missed_total"] == {
        labels(entry="nightly", reason="failed"): 0,
        labels(entry="nightly", reason="late"): 2,
        labels(entry="nightly", reason="collapsed"): 1,
        labels(entry="nightly", reason="skipped"): 3,
    }


def test_an_entry_is_overdue(tmp_path: Path) -> None:
    write(tmp_path / "run/schedule.json", schedule(nightly=-90, hourly=60))
    (overdue,) = beat_of(tmp_path)["celery_fleet_beat_overdue_seconds"].values()
    assert 90 <= overdue < 150


def test_nothing_is_overdue_for_a_beat_that_stands_by(tmp_path: Path) -> None:
    write(tmp_path / "run/schedule.json", {**schedule(nightly=-90), "stands_by": True})
    assert {*beat_of(tmp_path)} == {"celery_fleet_beat_entries"}


def test_a_beat_that_does_not_run_keeps_its_counts(tmp_path: Path) -> None:
    counts = {"sent": 4, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}
    write(
        MetricPlaces("shop", tmp_path).beat,
        {"format": 1, "written": 0, "entries": {"nightly": counts}},
    )
    names = {"celery_fleet_beat_sent_total", "celery_fleet_beat_missed_total"}
    assert {*beat_of(tmp_path)} == names


def test_a_schedule_without_entries_is_never_overdue(tmp_path: Path) -> None:
    write(tmp_path / "run/schedule.json", schedule())
    assert {*beat_of(tmp_path)} == {"celery_fleet_beat_entries"}


def test_of_thousands_of_entries_a_hundred_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "run/schedule.json", schedule(**{f"e{n}": n + 60 for n in range(2000)}))
    found = beat_of(tmp_path)
    assert [*found["celery_fleet_beat_entries"].values()] == [2000]
    assert len(found["celery_fleet_beat_entry_due_timestamp_seconds"]) == SHOWN


@pytest.mark.slow
def test_a_schedule_of_many_entries_with_long_names_is_read(tmp_path: Path) -> None:
    names = [f"{n:0250}" for n in range(20_000)]
    write(tmp_path / "run/schedule.json", schedule(**dict.fromkeys(names, -90)))
    counts = {"sent": 4, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}
    entries = dict.fromkeys(names, counts)
    write(MetricPlaces("shop", tmp_path).beat, {"format": 1, "written": 0, "entries": entries})
    found = beat_of(tmp_path)
    (overdue,) = found["celery_fleet_beat_overdue_seconds"].values()
    assert 90 <= overdue < 150
    assert len(found["celery_fleet_beat_sent_total"]) == SHOWN + 1


def test_entries_after_the_first_hundred_are_counted_as_other(tmp_path: Path) -> None:
    zero = {"sent": 0, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}
    entries = {f"e{n}": {**zero, "sent": 1, "failed": 1} for n in range(SHOWN + 5)}
    other = {**zero, "sent": 40, "failed": 7}
    write(
        MetricPlaces("shop", tmp_path).beat,
        {"format": 1, "written": 0, "entries": entries, "other": other},
    )
    found = beat_of(tmp_path)
    assert len(found["celery_fleet_beat_sent_total"]) == SHOWN + 1
    assert found["celery_fleet_beat_sent_total"][labels(entry="other")] == 40
    missed = found["celery_fleet_beat_missed_total"]
    assert missed[labels(entry="other", reason="failed")] == 7


def test_an_entry_with_the_name_other_counts_with_the_others(tmp_path: Path) -> None:
    counts = {"sent": 4, "failed": 1, "late": 0, "collapsed": 0, "skipped": 0}
    path = MetricPlaces("shop", tmp_path).beat
    document = {"format": 1, "written": 0, "entries": {"other": counts}}
    for expected, more in ((4, {}), (8, {"other": counts})):
        write(path, {**document, **more})
        sent = beat_of(tmp_path)["celery_fleet_beat_sent_total"]
        assert sent == {labels(entry="other"): expected}


def test_entries_are_counted_as_other_from_the_start(tmp_path: Path) -> None:
    """An alert needs a value from before the first run that was missed."""
    zero = {"sent": 0, "failed": 0, "late": 0, "collapsed": 0, "skipped": 0}
    entries = {f"e{n}": zero for n in range(SHOWN + 1)}
    write(MetricPlaces("shop", tmp_path).beat, {"format": 1, "written": 0, "entries": entries})
    missed = beat_of(tmp_path)["celery_fleet_beat_missed_total"]
    assert missed[labels(entry="other", reason="late")] == 0


def test_a_malformed_tick_or_schedule_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "run/schedule.json", '{"entries": [')
    with pytest.raises(ValueError, match="Expecting"):
        beat_of(tmp_path)
    (tmp_path / "run/tick").mkdir()
    with pytest.raises(CheckError, match="tick is not a file"):
        beat_of(tmp_path)


@pytest.mark.parametrize("damaged", ["schedule", "counts"])
def test_beat_counts_as_up_with_a_damaged_file(tmp_path: Path, damaged: str) -> None:
    places = MetricPlaces("shop", tmp_path)
    write(tmp_path / "run/tick", "")
    files = {"schedule": tmp_path / "run/schedule.json", "counts": places.beat}
    write(files["schedule"], schedule(nightly=60))
    write(files["counts"], {"format": 1, "written": 0, "entries": {}})
    write(files[damaged], "{")
    setup = documents.setup(tmp_path, beat=about_beat(tmp_path))
    settings = program.Settings(15, asks_redis=False, state="")
    found = parsed(program.collector(setup, settings, places, {}).text())
    assert found["celery_fleet_beat_tick_timestamp_seconds"]
    errors = {
        dict(part)["part"]: error for part, error in found["celery_fleet_collect_error"].items()
    }
    of_beat = {part: error for part, error in errors.items() if part.startswith("beat")}
    assert of_beat == {
        "beat": 0,
        "beat:schedule": damaged == "schedule",
        "beat:counts": damaged == "counts",
    }
