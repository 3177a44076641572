"""`make new-env` as it is typed, and Ansible over what it makes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env import program
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.options import RefusedError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.program import (
    main,
    report,
    usage,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env.reading import (
    environment,
)

from tests.unit.new_env.given import GOOD, HEEDING, LARGE, ROOT, SMALL, TWO, project

PROGRAM = "ansible_collections.celery_fleet.core.plugins.plugin_utils.new_env"
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
CLEAN["PYTHONPATH"] = "collections"


def run(
    given: Mapping[str, str], directory: Path, checkout: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run the program without a terminal."""
    words = [f"{key}={value}" for key, value in {**given, "INVENTORIES": str(directory)}.items()]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            PROGRAM,
            *words,
        ],
        cwd=checkout,
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def ansible(
    inventory: Path, playbook: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ansible-playbook over an environment, with its vault's password if there is one."""
    password = inventory / ".vault-password"
    vault = {"ANSIBLE_VAULT_IDENTITY_LIST": f"shop@{password}"} if password.exists() else {}
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(inventory),
            *options,
            playbook,
        ],
        cwd=ROOT,
        env={
            **CLEAN,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            **vault,
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def exports(inventory: Path) -> dict[str, str]:
    """Return the variables that an environment with SECRETS=env needs."""
    lines = (inventory / ".secrets/environment").read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def test_a_missing_worker_for_celerys_default_queue_is_reported(tmp_path: Path) -> None:
    told = "No worker consumes the queue celery, Celery's default"
    # Without QUEUES it is the only queue.
    assert told not in report(environment(SMALL, project(tmp_path)), project(tmp_path))
    for queues, is_told in (("celery=4,mail=2", False), ("orders=4,mail=2", True)):
        wanted = environment({**SMALL, "QUEUES": queues}, project(tmp_path))
        assert (told in report(wanted, project(tmp_path))) is is_told


# test_files.py checks all of them; these are the ones that Ansible treats differently.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["small", "large", "own-database", "addresses-alone", "by-role", "variables"]
)
def test_what_is_made_passes_the_delivered_preflight(name: str, tmp_path: Path) -> None:
    done = run(GOOD[name], tmp_path)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["shop"]
    inventory = tmp_path / "shop"
    variables = exports(inventory) if name == "variables" else {}
    nobody = json.dumps(
        {"ansible_ssh_common_args": "-o ProxyCommand=/bin/false", "ansible_ssh_retries": 0}
    )
    checked = ansible(inventory, "playbooks/preflight.yml", f"--extra-vars={nobody}", **variables)
    output = checked.stdout + checked.stderr
    # The inventory was accepted, because the run continued to the hosts, which do not exist.
    assert "This inventory is refused" not in output
    assert "These hosts are refused" in output, output
    # Messages of ssh vary, so there are one or two errors; each must say that hosts can't be reached.
    errors = re.findall(r"^ *\d+\. host \(.*\)\n *(.*)$", output, re.MULTILINE)
    assert errors, output
    assert all(error.startswith("can't be used: ") for error in errors), output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_secret_that_is_not_set_is_refused_by_its_name(tmp_path: Path) -> None:
    assert run(GOOD["variables"], tmp_path).returncode == 0
    inventory = tmp_path / "shop"
    variables = exports(inventory)
    for name in ("FLEET_SECRET_REDIS_BEAT", "FLEET_SECRET_DATABASE_PASSWORD"):
        del variables[name]
    checked = ansible(inventory, "playbooks/preflight.yml", **variables)
    output = checked.stdout + checked.stderr
    assert checked.returncode != 0
    assert "No host was contacted" in output
    assert "set the environment variable FLEET_SECRET_REDIS_BEAT" in output
    assert "set the environment variable FLEET_SECRET_DATABASE_PASSWORD" in output
    assert not any(value in output for value in variables.values())


@pytest.mark.slow
def test_a_vault_without_its_password_is_refused_in_the_words_of_the_readme(tmp_path: Path) -> None:
    assert run(SMALL, tmp_path).returncode == 0
    inventory = tmp_path / "shop"
    readme = (inventory / "README.md").read_text()
    password = inventory / ".vault-password"
    wrong_one = tmp_path / "wrong"
    wrong_one.write_text("another one\n")
    wrong = ansible(inventory, "site.yml", ANSIBLE_VAULT_IDENTITY_LIST=f"shop@{wrong_one}")
    password.unlink()
    none = ansible(inventory, "site.yml")
    for done, words in (
        (none, "Attempting to decrypt but no vault secrets found"),
        (wrong, "can't be decrypted"),
    ):
        assert done.returncode != 0
        assert words in done.stderr
        assert words in readme
        assert "TASK [" not in done.stdout


def test_an_environment_that_exists_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/hosts.yml").write_text("mine\n")
    done = run(SMALL, tmp_path)
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert "Nothing was written" in done.stderr
    assert (tmp_path / "shop/hosts.yml").read_text() == "mine\n"
    assert os.listdir(tmp_path) == ["shop"]


@pytest.mark.slow
def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    done = run({"HOSTS": "a,a", "FLOWR": "off"}, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    for text in (
        "NAME\n",
        "APP\n",
        "HOSTS='a'",
        "did you mean FLOWER?",
        "usage: make new-env",
        "mistakes",
    ):
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [{}, {**SMALL, "SOURCE": "no-such-directory"}])
def test_a_refusal_leaves_no_directory_in_a_project_without_one(
    tmp_path: Path, options: dict[str, str]
) -> None:
    with pytest.raises(RefusedError):
        program.make(options, program.project_of(options, tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_an_environment_that_preflight_refuses_is_not_written(tmp_path: Path) -> None:
    """A template that is broken on purpose gives Flower the same port of nginx."""
    checkout = tmp_path / "checkout"
    unneeded = shutil.ignore_patterns(
        ".git", ".state", ".venv", ".*_cache", "__pycache__", "molecule", "tests"
    )
    shutil.copytree(ROOT, checkout, ignore=unneeded, symlinks=True)
    template = checkout / "plugins/plugin_utils/new_env/templates/flower.yml.j2"
    template.write_text(template.read_text().replace("5555", "443"))
    done = run(LARGE, tmp_path, checkout)
    assert done.returncode == 2, done.stderr
    assert "is the port of flower_port on the same host" in done.stderr
    assert "preflight.yml" not in done.stderr
    assert os.listdir(tmp_path) == ["checkout"]


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the Makefile's recipe, without the setup of the machine."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--old-file=setup", "new-env", *words],
        cwd=ROOT,
        env={**CLEAN, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("word", ["--help", "HELP", "HELP=1"])
def test_help_can_be_typed_in_several_ways(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert usage() in capsys.readouterr().out


@pytest.mark.slow
def test_make_passes_values_on_without_a_shell(tmp_path: Path) -> None:
    bad = f"a'b\"; touch {tmp_path}/hacked; $$(touch {tmp_path}/hacked) `id`"
    done = make(
        f"NAME={bad}",
        f"INVENTORIES={tmp_path}",
        "WHAT=1",
        PYTHON=sys.executable,
        HOSTS="not asked for",
    )
    assert done.returncode != 0
    assert "can't be the name of an environment" in done.stderr
    assert "WHAT\n     is not an option" in done.stderr
    # A variable of the shell is not an option.
    assert "  2. HOSTS" not in done.stderr.partition("HOSTS\n     is needed")[0]
    assert "HOSTS\n     is needed" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_make_makes_an_environment(tmp_path: Path) -> None:
    done = make(*(f"{key}={value}" for key, value in TWO.items()), f"INVENTORIES={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["shop"]
    assert "README.md" in done.stdout


class Terminal:
    """Runs the program on a separate terminal."""

    def __init__(self, *words: str) -> None:
        self.seen = ""
        self.descriptor, end = pty.openpty()
        self.process = subprocess.Popen(
            # This makes it the controlling terminal, whose Ctrl-C is a signal.
            [
                "setsid",
                "--ctty",
                *HEEDING,
                sys.executable,
                "-m",
                PROGRAM,
                *words,
            ],
            cwd=ROOT,
            env=CLEAN,
            stdin=end,
            stdout=end,
            stderr=end,
        )
        os.close(end)

    def until(self, text: str, seconds: float = 60) -> bool:
        """Read until new output has a text; return whether it came."""
        deadline = time.monotonic() + seconds
        fresh = ""
        while text not in fresh:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.descriptor], [], [], left)[0]:
                return False
            fresh += self._read()
        return True

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def answer(self, question: str, text: str) -> None:
        assert self.until(question), f"{question!r} was not asked: {self.seen}"
        self.type(text + "\n")

    def end(self) -> int:
        """Read to the end; return the exit status."""
        deadline = time.monotonic() + 60
        while select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not self._read():
                break
        else:
            self.process.kill()
        os.close(self.descriptor)
        return self.process.wait(timeout=60)

    def _read(self) -> str:
        try:
            text = os.read(self.descriptor, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            text = ""
        self.seen += text
        return text


@pytest.mark.slow
def test_on_a_terminal_missing_options_are_asked_for_until_they_are_valid(tmp_path: Path) -> None:
    terminal = Terminal(
        "APP=flexiprice", "SOURCE=examples/flexiprice/backend", f"INVENTORIES={tmp_path}"
    )
    terminal.answer("Name of the environment", "My Shop")
    terminal.answer("Name of the environment", "shop")
    terminal.answer("Its hosts", "one,one")
    terminal.answer("Its hosts", "one")
    terminal.answer("Its module", "app.celery_app")
    assert terminal.end() == 0, terminal.seen
    assert "can't be the name of an environment" in terminal.seen
    assert "is listed twice" in terminal.seen
    # Given options are not asked for.
    assert "Where its code is" not in terminal.seen
    assert os.listdir(tmp_path) == ["shop"]


@pytest.mark.parametrize("typed", ["\x03", "\x04"], ids=["ctrl-c", "ctrl-d"])
def test_a_question_can_be_cancelled(typed: str, tmp_path: Path) -> None:
    terminal = Terminal(f"INVENTORIES={tmp_path}")
    assert terminal.until("Name of the environment")
    terminal.type(typed)
    # A signal that comes just before Python waits for the answer is noticed at the next key.
    if not terminal.until("Nothing was written", seconds=10):
        terminal.type(typed)
    assert terminal.end() == 130
    assert "Nothing was written" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_it_writes_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    words = [f"{key}={value}" for key, value in {**SMALL, "INVENTORIES": str(tmp_path)}.items()]
    process = subprocess.Popen(
        [
            *HEEDING,
            sys.executable,
            "-m",
            PROGRAM,
            *words,
        ],
        cwd=ROOT,
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / ".new-env-shop/README.md").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
