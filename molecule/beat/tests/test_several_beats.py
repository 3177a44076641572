"""One of three beats sends, whatever happens to it, and no run is sent twice."""

from __future__ import annotations

import json
import time

from beats import EVERY, QUEUE, STANDS_BY, Beats
from support import plays, tasks

#: Seconds within which another beat has to send, after an orderly stop and after anything else.
AFTER_A_STOP, AFTER_A_LOSS = 5.0, 30.0


def test_one_sends_and_the_others_stand_by(beats: Beats) -> None:
    assert len(beats.hosts) == 3
    sender = beats.sender()
    with beats.measured(EVERY):
        time.sleep(4 * EVERY)
    others = {host: text for host, text in beats.states().items() if host != sender}
    assert set(others.values()) == {STANDS_BY}
    # Metrics of a beat that stands by say nothing of due times, which it doesn't know.
    path = f"/run/{beats.unit.removesuffix('.service')}/schedule.json"
    loaded = {host: json.loads(beats.fleet.must(host, ["cat", path])) for host in beats.hosts}
    assert {host for host, found in loaded.items() if found["stands_by"]} == set(others)


def test_a_run_finds_nothing_to_do(beats: Beats) -> None:
    run = plays.play(beats.fleet, "nothing-to-do")
    assert run.status == 0, run.end
    assert not any(run.changed.values()), run.end


def test_another_one_follows_a_stop(beats: Beats) -> None:
    sender = beats.sender()
    with beats.measured(AFTER_A_STOP):
        beats.fleet.must(sender, ["systemctl", "stop", beats.unit])
        assert beats.sender(other_than=sender) != sender
    beats.fleet.must(sender, ["systemctl", "start", beats.unit])


def test_another_one_follows_a_crash(beats: Beats) -> None:
    with beats.measured(AFTER_A_LOSS):
        beats.kill(beats.sender(), "KILL")
    beats.sender()


def test_a_frozen_one_sends_nothing_when_it_returns(beats: Beats) -> None:
    sender = beats.sender()
    with beats.measured(AFTER_A_LOSS):
        # Its watchdog would kill it if it stayed frozen for longer than another one takes to follow.
        beats.kill(sender, "STOP")
        beats.sender(other_than=sender)
        beats.kill(sender, "CONT")
    assert beats.sender() != sender


def test_another_one_follows_when_the_host_loses_its_power(beats: Beats) -> None:
    """control1 is not switched off: it has the application's database."""
    if (sender := beats.sender()) == "control1":
        beats.fleet.must(sender, ["systemctl", "restart", beats.unit])
    lost = beats.sender(other_than="control1")
    with beats.measured(AFTER_A_LOSS):
        beats.power(lost, on=False)
        time.sleep(AFTER_A_LOSS)
        beats.power(lost, on=True)
    assert beats.sender() != lost


def test_one_that_somebody_starts_beside_them_sends_nothing(beats: Beats) -> None:
    beats.sender()
    script = (
        "import subprocess, sys;"
        "args = ['-m', 'celery', '-A', 'app.celery_app', 'beat', '-s', '/tmp/beside', '--pidfile=', '-l', 'INFO'];"
        "command = ['timeout', '12', sys.executable, *args];"
        "print(subprocess.run(command, capture_output=True, text=True).stderr)"
    )
    with beats.measured(EVERY):
        said = tasks.run_in_release(beats.fleet, beats.hosts[0], "beat", "beat", script)
    assert "another beat sends" in said, said


def test_a_run_restarts_them(beats: Beats) -> None:
    entry = {"task": "app.tasks.record_tick", "interval": 3600, "args": ["x"], "queue": QUEUE}
    schedule = {
        **beats.fleet.of("celery_beat")["celery_beat_schedule"],
        f"another-{time.time():.0f}": entry,
    }
    before = beats.processes()
    with beats.measured(2 * AFTER_A_STOP):
        run = plays.play(
            beats.fleet, "restart", "-e", json.dumps({"celery_beat_schedule": schedule})
        )
        assert run.status == 0, run.end
    beats.sender()
    assert not before & beats.processes()
