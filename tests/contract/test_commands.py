"""Each command of the applications' own documents stands in docs/commands.md, beside one of ours."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from celery_fleet.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "commands.md"

TRIGGER = "http://localhost:8000/api/v1/admin/discounts/trigger-recompute"

# As the documents have them; what stands there twice stands here once, a call over several lines in one.
DOCUMENTED = {
    "aiecommerce": [
        "docker-compose up -d redis",
        "celery -A aiecommerce worker --loglevel=info",
        "celery -A aiecommerce beat --loglevel=info",
        "celery -A aiecommerce flower --address=127.0.0.1 --port=5555",
        "CELERY_ALWAYS_EAGER = True",
    ],
    "Flash Promos": [
        "celery -A marketplace worker --loglevel=info",
        "celery -A marketplace beat --loglevel=info",
        "docker-compose up celery",
        "docker-compose up celery-beat",
        "celery -A marketplace inspect active",
        "celery -A marketplace inspect scheduled",
        "celery -A marketplace inspect stats",
        "python manage.py shell",
        "from promotions.tasks import check_active_promos",
        "result = check_active_promos.delay()",
        "result.get()",
        "docker-compose logs celery",
        "docker-compose logs celery-beat",
        "docker-compose logs -f celery",
        "pip install flower",
        "celery -A marketplace flower",
        "docker-compose exec redis redis-cli ping",
        "echo $CELERY_BROKER_URL",
        "docker-compose ps celery-beat",
        "celery -A marketplace purge",
        "celery -A marketplace worker --loglevel=debug",
        "celery -A marketplace inspect conf",
        "celery -A marketplace control pool_restart",
        "docker-compose restart celery celery-beat",
    ],
    "FlexiPrice": [
        "docker-compose up -d",
        "docker logs flexiprice-celery-worker",
        "docker logs flexiprice-celery-beat",
        "docker-compose restart celery-worker",
        "celery -A app.celery_app worker --loglevel=info --concurrency=2",
        "celery -A app.celery_app beat --loglevel=info",
        "celery -A app.celery_app flower --port=5555",
        "python scripts/celery_manager.py worker",
        "python scripts/celery_manager.py beat",
        "python scripts/celery_manager.py flower",
        "python scripts/celery_manager.py active",
        "python scripts/celery_manager.py scheduled",
        "python scripts/celery_manager.py purge",
        f'curl -X POST "{TRIGGER}?days_threshold=30&async_task=true"',
        f'curl -X POST "{TRIGGER}?async_task=false"',
        'curl "http://localhost:8000/api/v1/admin/discounts/task-status/{task_id}"',
        "http://localhost:5555",
        "celery -A app.celery_app inspect active",
        "celery -A app.celery_app inspect scheduled",
        "celery -A app.celery_app inspect registered",
        "celery -A app.celery_app inspect stats",
        "from app.tasks import my_custom_task",
        'result = my_custom_task.delay("value", 42)',
        'my_custom_task.apply_async(args=["value", 42], countdown=60, expires=3600)',
        "result.ready()",
        "redis-cli ping",
        'python -c "from app.celery_app import celery_app; print(celery_app)"',
        "celery -A app.celery_app worker --loglevel=debug",
        "celery -A app.celery_app purge",
        "rm celerybeat-schedule",
        "celery -A app.celery_app beat --loglevel=debug",
        "sudo systemctl enable flexiprice-celery flexiprice-beat",
        "sudo systemctl start flexiprice-celery flexiprice-beat",
        "sudo systemctl status flexiprice-celery flexiprice-beat",
    ],
    "marketplace_ops": [
        "pip install -r requirements.txt",
        "sudo apt-get install redis-server",
        "sudo systemctl start redis-server",
        "python manage.py migrate",
        "python manage.py setup_celery_beat",
        *(f"./start_celery.sh {verb}" for verb in ("start", "status", "stop", "restart")),
        *(
            f"celery -A config worker --queues={queue} --concurrency={number} --loglevel=info"
            for queue, number in {
                "suppliers": 2,
                "marketplaces": 3,
                "workflows": 2,
                "ai_processing": 1,
                "analytics": 1,
                "maintenance": 1,
            }.items()
        ),
        "celery -A config beat --loglevel=info --scheduler=django_celery_beat.schedulers:DatabaseScheduler",
        "celery -A config flower --port=5555",
        "python manage.py celery_status",
        "python manage.py celery_status --format=json --detailed",
        "python manage.py run_task --list-tasks",
        "python manage.py run_task system_health_check",
        "python manage.py run_task sync_all_suppliers --async",
        """python manage.py run_task sync_supplier_products --args "[1]" --kwargs '{"force_full_sync": true}'""",
        "python manage.py celery_monitor",
        "python manage.py celery_monitor --duration=60 --interval=5",
        "python manage.py celery_monitor --output-file=monitoring.json",
        "python manage.py celery_monitor --workers=suppliers,marketplaces",
        *(
            f"python manage.py setup_celery_beat --{option}"
            for option in ("list", "reset", "enable-all", "disable-all")
        ),
        "http://localhost:5555",
        "redis-cli ping",
        "tail -f logs/celery_suppliers.log",
        "celery -A config worker --queues=suppliers --concurrency=1",
        "sudo nano /etc/systemd/system/celery-worker.service",
        "sudo systemctl enable celery-worker celery-beat",
        "sudo systemctl start celery-worker celery-beat",
    ],
    "processing": [
        "/start",
        "/start-celeryworker",
        "celery -A config.celery_app worker -l INFO",
        "docker compose -f local.yml logs celeryworker",
        "http://localhost:5555",
    ],
}
CASES = [(name, command) for name, commands in DOCUMENTED.items() for command in commands]


@cache
def tables() -> dict[str, dict[str, str]]:
    """Of each application: the left column of its tables to the right one."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        rows = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
        found[name] = {left: right for left, right in rows if left != "The document"}
    return found


def ours() -> list[str]:
    """Every command of the right columns."""
    return [
        command
        for rows in tables().values()
        for right in rows.values()
        for command in re.findall(r"`([^`]+)`", right)
    ]


def test_the_page_has_the_five_applications() -> None:
    assert list(tables()) == list(DOCUMENTED)


@pytest.mark.parametrize(("name", "command"), CASES)
def test_a_documented_command_has_one_of_ours_beside_it(name: str, command: str) -> None:
    rows = tables()[name]
    assert f"`{command}`" in rows
    assert rows[f"`{command}`"].strip()


def test_no_row_is_about_a_command_that_no_document_has() -> None:
    known = {f"`{command}`" for _, command in CASES}
    rows = [left for each in tables().values() for left in each if re.fullmatch(r"`[^`]+`", left)]
    assert set(rows) - known == {"`celery_app.conf.beat_schedule = {…}`"}


def test_what_inspects_purges_or_controls_runs_as_the_operator() -> None:
    run = [command for command in ours() if command.startswith("celery-fleet exec")]
    assert len(run) >= 8
    for command in run:
        asks = re.search(r" (inspect|purge|control|active|scheduled)\b", command.split(" -- ")[-1])
        assert (" --as operator " in command) == bool(asks), command


def test_our_commands_are_known_to_the_command_line() -> None:
    """With their options; what stands behind `--` is another program's."""
    found = [shlex.split(command) for command in ours() if command.startswith("celery-fleet ")]
    assert len(found) >= 40
    for _, name, *words in found:
        # Its further words are commands of a group, where it is one.
        command: click.Command = cli.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        if isinstance(command, click.Group) or name in ("schedule", "health"):
            continue
        own = words[: words.index("--")] if "--" in words else words
        typed = {word.partition("=")[0] for word in own if word.startswith("-")}
        assert typed <= options | {"--app", "--format"}, (name, words)


def test_playbooks_and_links_exist() -> None:
    text = PAGE.read_text()
    playbooks = {word for command in ours() for word in command.split() if word.endswith(".yml")}
    assert playbooks == {"site.yml", "playbooks/restart_workers.yml"}
    for playbook in playbooks:
        assert (ROOT / playbook).is_file()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = PAGE.parent / path
        assert target.is_file(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, link
