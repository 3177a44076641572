"""The configuration of rsyslog in docs/logs.md, word for word, sends what a host logs about tasks to another one."""

from __future__ import annotations

import json
import re
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
    "apt-get install --yes --no-install-recommends rsyslog rsyslog-gnutls openssl"
)
CONFIGURATION = "/etc/rsyslog.d/10-celery-fleet.conf"


def recipe() -> str:
    """The configuration of the page, for this receiver."""
    section = PAGE.read_text().split("\n## Collecting logs from all hosts\n")[1].split("\n## ")[0]
    (text,) = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    return str(text).replace("logs.example.com", HOST)


@pytest.fixture(scope="module")
def collecting(fleet: Fleet) -> None:
    for host in (HOST, SENDER):
        fleet.must(host, INSTALL)
    fleet.must(HOST, CERTIFICATE)
    fleet.must(HOST, f"cat >{CONFIGURATION}", stdin=RECEIVER)
    # The receiver's authority is one that the sender trusts.
    certificate = fleet.must(HOST, "cat /etc/ssl/receiver.crt")
    trusted = "/usr/local/share/ca-certificates/receiver.crt"
    fleet.must(SENDER, f"cat >{trusted} && update-ca-certificates", stdin=certificate)
    fleet.must(SENDER, f"cat >{CONFIGURATION}", stdin=recipe())
    for host in (HOST, SENDER):
        fleet.must(host, "rsyslogd -N1 && systemctl restart rsyslog")


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
