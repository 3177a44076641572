"""The configurations in docs/logs.md, word for word, send what a host logs about tasks to another one."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus import HOST
from support.inventory import Fleet
from support.tasks import Task, send, tracer
from support.waiting import wait_for

PAGE = Path(__file__).resolve().parents[3] / "docs" / "logs.md"
SENDER = "worker2"
RECEIVED = "/var/log/received.log"
#: Where the receiver of whole journals keeps them.
REMOTE = "/var/log/journal/remote"

# Another rsyslog, with a certificate of its own, writes each line as it came.
RECEIVER = f"""
global(
  DefaultNetstreamDriverCAFile="/etc/ssl/receiver.crt"
  DefaultNetstreamDriverCertFile="/etc/ssl/receiver.crt"
  DefaultNetstreamDriverKeyFile="/etc/ssl/receiver.key"
)
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="received") {{ action(type="omfile" file="{RECEIVED}" template="raw") }}
input(type="imtcp" port="6514" ruleset="received")
"""
CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -noenc -keyout /etc/ssl/receiver.key -out /etc/ssl/receiver.crt -days 2 "
    f"-subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
)
INSTALL = (
    "export DEBIAN_FRONTEND=noninteractive; apt-get update && "
    "apt-get install --yes --no-install-recommends openssl"
)
CONFIGURATION = "/etc/rsyslog.d/10-celery-fleet.conf"


def recipe(title: str) -> list[str]:
    """Return the configurations of a part of the page, for this receiver."""
    section = PAGE.read_text().split(f"\n### {title}\n")[1].split("\n## ")[0].split("\n### ")[0]
    found = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    return [text.replace("logs.example.com", HOST) for text in found]


def write(fleet: Fleet, host: str, text: str) -> None:
    """Write a configuration to the file that its first line names."""
    path = text.splitlines()[0].removeprefix("# ")
    fleet.must(host, f"mkdir -p {Path(path).parent} && cat >{path}", stdin=text)


@pytest.fixture(scope="module")
def receiver(fleet: Fleet) -> None:
    """A receiver's certificate, of an authority that the sender trusts."""
    for host in (HOST, SENDER):
        fleet.must(host, INSTALL)
    fleet.must(HOST, CERTIFICATE)
    certificate = fleet.must(HOST, "cat /etc/ssl/receiver.crt")
    trusted = "/usr/local/share/ca-certificates/receiver.crt"
    fleet.must(SENDER, f"cat >{trusted} && update-ca-certificates", stdin=certificate)


@pytest.fixture(scope="module")
def collecting(fleet: Fleet, receiver: None) -> None:
    for host in (HOST, SENDER):
        fleet.must(host, f"{INSTALL} rsyslog rsyslog-gnutls")
    (sender,) = recipe("Lines of JSON, by rsyslog")
    fleet.must(HOST, f"cat >{CONFIGURATION}", stdin=RECEIVER)
    fleet.must(SENDER, f"cat >{CONFIGURATION}", stdin=sender)
    for host in (HOST, SENDER):
        fleet.must(host, "rsyslogd -N1 && systemctl restart rsyslog")


@pytest.fixture(scope="module")
def whole_journals(fleet: Fleet, receiver: None) -> None:
    for host in (HOST, SENDER):
        fleet.must(host, f"{INSTALL} systemd-journal-remote")
    upload, unit, remote = recipe("Whole journals, by systemd")
    for kind in ("key", "crt"):
        owner = "--owner=systemd-journal-remote --mode=0400"
        fleet.must(HOST, f"install {owner} /etc/ssl/receiver.{kind} /etc/ssl/{HOST}.{kind}")
    write(fleet, HOST, remote)
    fleet.must(HOST, ["systemctl", "enable", "--now", "systemd-journal-remote.socket"])
    for text in (upload, unit):
        write(fleet, SENDER, text)
    fleet.must(SENDER, "systemctl daemon-reload && systemctl enable --now systemd-journal-upload")
    wait_for("a journal is there", 60, lambda: fleet.execute(HOST, f"ls {REMOTE}").output, pause=2)


def received(fleet: Fleet, task_id: str) -> list[dict[str, Any]]:
    text = fleet.must(HOST, f"touch {RECEIVED} && cat {RECEIVED}")
    found = [json.loads(line[line.index("{") :]) for line in text.splitlines() if "{" in line]
    return [entry for entry in found if entry["task_id"] == task_id]


@pytest.mark.usefixtures("collecting")
def test_what_is_logged_about_a_task_arrives(fleet: Fleet) -> None:
    done, failed = send(
        fleet, [tracer("collected", "analytics", 0), Task("app.tasks.my_custom_task", "analytics")]
    )
    wait_for("both arrive", 60, lambda: received(fleet, done) and received(fleet, failed), pause=2)
    wait_for(
        "the failure arrives", 30, lambda: any(e["severity"] == 3 for e in received(fleet, failed))
    )
    for entry in received(fleet, done):
        assert (entry["app"], entry["worker"], entry["host"]) == ("flexiprice", "analytics", SENDER)
        assert entry["task"] == "app.tasks.record_run"
        assert len(entry["release"]) == 12
    (error,) = [entry for entry in received(fleet, failed) if entry["severity"] == 3]
    assert "Traceback" in error["message"]
    assert error["message"].count("\n") > 2


def journal(fleet: Fleet, host: str, task_id: str, *more: str) -> list[dict[str, Any]]:
    command = ["journalctl", "--quiet", "--output=json", "--all", f"CELERY_TASK_ID={task_id}"]
    return [json.loads(line) for line in fleet.must(host, [*command, *more]).splitlines()]


@pytest.mark.usefixtures("whole_journals")
@pytest.mark.parametrize("is_away", [False, True])
def test_whole_journals_arrive(fleet: Fleet, is_away: bool) -> None:
    """Also what was logged while the receiver was away."""
    if is_away:
        services = ["systemd-journal-remote.socket", "systemd-journal-remote.service"]
        fleet.must(HOST, ["systemctl", "stop", *services])
    (task_id,) = send(fleet, [tracer("journals", "analytics", 0)])
    wait_for("it is logged", 60, lambda: len(journal(fleet, SENDER, task_id)) >= 2)
    if is_away:
        time.sleep(25)  # at least two attempts
        fleet.must(HOST, ["systemctl", "start", "systemd-journal-remote.socket"])
    here = journal(fleet, SENDER, task_id)
    wait_for(
        "all of it arrives",
        120,
        lambda: len(journal(fleet, HOST, task_id, f"--directory={REMOTE}")) >= len(here),
        pause=2,
    )
    for entry in journal(fleet, HOST, task_id, f"--directory={REMOTE}"):
        assert (entry["CELERY_APP"], entry["CELERY_WORKER"]) == ("flexiprice", "analytics")
        assert entry["CELERY_TASK"] == "app.tasks.record_run"
        assert entry["_HOSTNAME"] == SENDER
