"""A fleet with a company's packages, broker and inventory, and what is refused there."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import time
from http.client import HTTPMessage
from typing import TYPE_CHECKING, Any

import pytest
from support.inventory import ROOT, clean_environment
from support.plays import Run
from support.search import PLACES, PROCESSES, SEARCH, SYSTEMD
from support.secrets import forms
from support.waiting import wait_for

if TYPE_CHECKING:
    from support.inventory import Fleet

UNITS = {
    "web1": ["shop-web.service", "shop-beat.service", "shop-flower.service"],
    "worker1": ["shop-worker@orders.service"],
    "worker2": ["shop-worker@orders.service"],
}
REDIS_CONF = "/etc/redis/redis.conf"


def site(fleet: Fleet, title: str, **variables: str) -> Run:
    """Run the collection's site.yml as converge.yml does; `variables` override the inventory's."""
    done = subprocess.run(
        [
            "ansible-playbook",
            "--inventory=hosts.ini",
            f"--inventory={ROOT}/molecule/reach/inventory",
            f"--extra-vars={json.dumps(variables)}",
            "--diff",
            "celery_fleet.core.site",
        ],
        cwd=fleet.state / "project",
        env={
            **clean_environment(),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "XDG_CACHE_HOME": str(fleet.state / "cache"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    path = fleet.state / "transcripts" / f"{title}.log"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    return Run(done.returncode, text)


def pids(fleet: Fleet) -> dict[tuple[str, str], str]:
    """Return the main process of every service; each has one."""
    ask = ["systemctl", "show", "--property=MainPID", "--value"]
    found = {
        (host, unit): fleet.must(host, [*ask, unit]).strip()
        for host, units in UNITS.items()
        for unit in units
    }
    assert "0" not in found.values(), found
    return found


def address(fleet: Fleet, host: str) -> str:
    found: str = json.loads((fleet.state / "fleet.json").read_text())["hosts"][host]["address"]
    return found


def ask(fleet: Fleet, path: str, body: bytes | None = None) -> tuple[bytes, HTTPMessage]:
    """Send a request to the site, with a body as POST; return body and headers of the answer."""
    context = ssl.create_default_context(cafile=str(fleet.state / "project/pki/ca.crt"))
    connection = http.client.HTTPSConnection(address(fleet, "web1"), timeout=60, context=context)
    try:
        connection.request("GET" if body is None else "POST", path, body=body)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, (path, answer.status, content[:500])
        return content, answer.headers
    finally:
        connection.close()


def front(fleet: Fleet) -> dict[str, Any]:
    page: dict[str, Any] = json.loads(ask(fleet, "/")[0])
    return page


def test_hosts_ask_for_a_password_or_need_the_bastion(fleet: Fleet) -> None:
    """So the runs of these tests became root with sudo, su and doas, and reached worker2 through services1."""
    asked = fleet.execute("web1", "runuser --user=admin -- sudo --non-interactive id")
    assert "a password is required" in asked.errors
    for host in ("worker1", "worker2"):
        assert fleet.execute(host, "command -v sudo").status == 127
    for way, status in (("none", 255), ("bastion", 0)):
        login = ["ssh", "-F", str(fleet.state / "project/ssh_config"), "-o", f"ProxyJump={way}"]
        command = [*login, address(fleet, "worker2"), "true"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == status, (way, done.stderr)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    before = pids(fleet)
    run = site(fleet, "again")
    assert run.status == 0, run.end
    assert {host: run.changed[host] for host in UNITS} == dict.fromkeys(UNITS, 0), run.end
    assert pids(fleet) == before


def test_a_task_that_a_request_sends_ends(fleet: Fleet) -> None:
    task = json.loads(ask(fleet, "/order", b"")[0])["task"]
    shown = fleet.must("worker1", ["celery-fleet", "--json", "result", task, "--wait", "60"])
    assert json.loads(shown)["result"] == len("apples"), shown


def test_the_application_has_its_cache(fleet: Fleet) -> None:
    first, second = front(fleet), front(fleet)
    assert second["visits"] == first["visits"] + 1


def test_nginx_serves_static_files_which_browsers_keep(fleet: Fleet) -> None:
    content, headers = ask(fleet, "/static/shop.css")
    assert content == (ROOT / "molecule/reach/shop/shop/static/shop.css").read_bytes()
    assert headers["Cache-Control"] == "max-age=31536000"


def test_an_upload_of_2_mb_comes_back(fleet: Fleet) -> None:
    sent = os.urandom(2_000_000)
    name = json.loads(ask(fleet, "/upload", sent)[0])["name"]
    assert ask(fleet, f"/media/{name}")[0] == sent


def test_packages_come_through_the_proxy_and_with_a_login(fleet: Fleet) -> None:
    """The same connection succeeds on services1, so the fleet's hosts have no other way."""
    pypi = fleet.must("services1", "getent ahostsv4 pypi.org").split()[0]
    connect = ["timeout", "20", "bash", "-c", f"</dev/tcp/{pypi}/443"]
    reached = {host: fleet.execute(host, connect).status == 0 for host in ["services1", *UNITS]}
    assert reached == {"services1": True} | dict.fromkeys(UNITS, False)
    proxied = fleet.must(
        "services1", "cat /var/log/tinyproxy/tinyproxy.log; journalctl --unit=tinyproxy"
    )
    assert "CONNECT services1:443" in proxied
    assert "CONNECT pypi.org:443" in proxied
    asked = fleet.must("services1", ["cat", "/var/log/nginx/packages.log"])
    assert re.search(r' - deploy \[[^]]*\] "GET /packages/shop-1\.0-\S+ HTTP/1\.1" 200 ', asked)


def test_status_names_the_broker_and_its_limits(fleet: Fleet) -> None:
    shown = fleet.must("worker1", ["celery-fleet", "status"])
    line = next(line for line in shown.splitlines() if "its broker, services1:6379" in line)
    assert "client tracking is not allowed" in line
    assert "All is well." in shown


def test_the_other_group_redis_is_left_alone(fleet: Fleet) -> None:
    ours = ["ls", "-d", "/etc/celery-fleet", "/opt/shop", "/usr/lib/celery-fleet"]
    assert fleet.execute("services1", ours).output == ""
    assert len(fleet.must("web1", ours).split()) == 3


# Variables for `-e`, and words of the message: what, where, and what to do next.
REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "index password": (
        {"index_password": "wrong", "shop_version": "1.1"},
        ("correct celery_app_package_index.logins",),
    ),
    "no way to the index": (
        {"index_proxy": "", "shop_version": "1.1"},
        ("let this host reach it, or name another index or a proxy in celery_app_package_index",),
    ),
    "version that is not there": (
        {"shop_version": "9.9"},
        ("shop==9.9 in the package index", "correct the requirement"),
    ),
    "redis password": (
        {"broker_password": "wrong"},
        ("celery_app_broker_url", "WRONGPASS", "check host, port, user, password"),
    ),
    "snippet": (
        {"celery_producer_web_site_snippet": "no_such_directive on;"},
        ("no_such_directive", "celery_producer_web_site_snippet", "and run again"),
    ),
}


def refused(run: Run, words: tuple[str, ...]) -> None:
    assert run.status != 0, "it was not refused"
    message = " ".join(run.text.replace("\\n", " ").split())
    assert [word for word in words if word not in message] == [], run.end
    assert "Traceback (most recent call last)" not in run.text, run.end


@pytest.mark.parametrize("title", REFUSED)
def test_a_mistake_is_refused(fleet: Fleet, title: str) -> None:
    variables, words = REFUSED[title]
    before = pids(fleet)
    refused(site(fleet, title.replace(" ", "-"), **variables), words)
    assert pids(fleet) == before
    assert front(fleet)["version"] == "1.0"


def test_a_broker_that_evicts_is_refused(fleet: Fleet) -> None:
    """CONFIG is forbidden, so Redis gets the policy by a restart, which ends no process of the fleet."""
    before = pids(fleet)

    def policy(old: str, new: str) -> None:
        change = f"sed -i 's/^maxmemory-policy {old}$/maxmemory-policy {new}/' {REDIS_CONF}"
        fleet.must("services1", f"{change} && systemctl restart redis-server")

    policy("noeviction", "allkeys-lru")
    try:
        run = site(fleet, "evicting")
    finally:
        policy("allkeys-lru", "noeviction")
    refused(run, ("celery_app_broker_url", "maxmemory-policy allkeys-lru", "to noeviction"))
    wait_for(
        "all is well again",
        60,
        lambda: fleet.execute("worker1", ["celery-fleet", "status"]).status == 0,
        pause=2,
    )
    assert pids(fleet) == before


def test_new_code_restarts_everything_except_flower(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pids(fleet)
    began = time.monotonic()
    run = site(fleet, "code", shop_version="1.1")
    seconds = time.monotonic() - began
    assert run.status == 0, run.end
    with capsys.disabled():
        print(f"\nshop 1.1 instead of 1.0, with the same other packages: {seconds:.0f} s")
    assert front(fleet)["version"] == "1.1"
    kept = {unit for (host, unit), pid in pids(fleet).items() if before[host, unit] == pid}
    assert kept == {"shop-flower.service"}


def test_no_password_can_be_read_by_others(fleet: Fleet) -> None:
    """All passwords are looked for in processes, files, units, the journal, and the output of all runs."""
    secrets = {
        path.name: sorted(forms(path.read_text().strip()))
        for path in (fleet.state / "project/secrets").iterdir()
    }
    assert {"index", "redis"} <= set(secrets)
    for host in UNITS:
        for user, commands, paths in (
            ("nobody", [*PROCESSES, *SYSTEMD], PLACES),
            ("root", ["journalctl --all --output=verbose", "ps -eo args"], ["/var/log"]),
        ):
            request = {"needles": secrets, "user": user, "commands": commands, "paths": paths}
            done = json.loads(fleet.must(host, ["python3", "-c", SEARCH], json.dumps(request)))
            assert (host, user, done["found"]) == (host, user, {})
            assert done["size"] > 10_000
    texts = {path.name: path.read_text() for path in (fleet.state / "transcripts").iterdir()}
    assert "deploy.log" in texts
    assert {
        (name, secret)
        for name, text in texts.items()
        for secret, shapes in secrets.items()
        if any(shape in text for shape in shapes)
    } == set()
