"""The operator's command itself, as the console script starts it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from celery_fleet.cli import main, output
from celery_fleet.system import exec as exec_
from tests.unit.cli import host


def test_a_character_that_the_locale_does_not_have_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr(main.cli, "main", lambda **_: output.say("4 → 6"))
    main.run()
    sys.stdout.flush()
    assert written.getvalue() == b"4 \\u2192 6\n"


@pytest.mark.parametrize(
    ("program", "during"),
    [
        ("cli/__main__.py", "from celery_fleet.cli.main import run\n"),
        ("system/exec.py", "from celery_fleet.system import launch\n"),
        ("system/launch.py", "import json\n"),
    ],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_during_the_imports_shows_no_traceback(
    tmp_path: Path, program: str, during: str, ignored: bool
) -> None:
    text = (host.SOURCE / "celery_fleet" / program).read_text()
    assert during in text
    script = tmp_path / "program.py"
    script.write_text(
        text.replace(
            during, "import signal\nsignal.raise_signal(signal.SIGINT)\nraise SystemExit(9)\n"
        )
    )
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(script)],
        # A process started in the background may have inherited that the signal is ignored.
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (9 if ignored else -signal.SIGINT, "")


@pytest.mark.parametrize("program", ["system/exec.py", "system/launch.py"])
def test_ctrl_c_while_python_itself_starts_is_kept(program: str) -> None:
    def interrupted() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)

    done = subprocess.run(
        [sys.executable, "-S", "-I", str(host.SOURCE / "celery_fleet" / program)],
        preexec_fn=interrupted,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_reaches_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(main.cli, "main", interrupted)
    monkeypatch.setattr(exec_, "run", interrupted)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            main.run()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        assert exec_.main(["--app", "shop", "--", "true"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
