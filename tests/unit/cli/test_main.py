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
    ("program", "imported"),
    [("cli/__main__.py", "cli/main.py"), ("system/exec.py", "system/launch.py")],
)
@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_during_the_imports_shows_no_traceback(
    tmp_path: Path, program: str, imported: str, ignored: bool
) -> None:
    script, library = tmp_path / "celery_fleet" / program, tmp_path / "celery_fleet" / imported
    script.parent.mkdir(parents=True)
    script.write_bytes((host.SOURCE / "celery_fleet" / program).read_bytes())
    library.write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(9)"
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
