"""`/usr/local/bin/celery-fleet`: finds the command of the application that is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from celery_fleet.cli import wrapper
from tests.unit.cli import host


@pytest.mark.parametrize(
    ("argv", "environ", "name"),
    [
        (["status"], {}, ""),
        (["--app", "a", "status"], {}, "a"),
        (["status", "--app=a"], {}, "a"),
        (["--app"], {}, ""),
        (["exec", "--", "x", "--app", "b"], {}, ""),
        (["status"], {"CELERY_FLEET_APP": "c"}, "c"),
        (["--app", "a", "status"], {"CELERY_FLEET_APP": "c"}, "a"),
    ],
)
def test_the_application_comes_from_options_or_the_environment(
    argv: list[str], environ: dict[str, str], name: str
) -> None:
    assert wrapper.named(argv, environ) == name


def test_the_first_matching_cli_json_is_read() -> None:
    paths = ["/etc/celery-fleet/b/cli.json", "/etc/celery-fleet/a/cli.json"]
    assert wrapper.chosen(paths, "b") == paths[0]
    assert wrapper.chosen(paths, "") == wrapper.chosen(paths, "nosuch") == paths[1]
    assert wrapper.chosen([], "a") == ""


def run(root: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    text = (host.SOURCE / "celery_fleet/cli/wrapper.py").read_text()
    assert text.startswith("#!/usr/bin/python3 -SI\n")
    path = root / "celery-fleet"
    path.write_text(text.replace("/etc/celery-fleet/*", f"{root}/etc/*"))
    return subprocess.run(
        [sys.executable, "-S", "-I", str(path), *argv],
        cwd=root,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_becomes_the_command(tmp_path: Path) -> None:
    host.install(tmp_path)
    # Files in the working directory, and variables of the environment, must not change what root runs.
    (tmp_path / "click.py").write_text("raise SystemExit('taken')")
    done = run(tmp_path, "--version", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout.split(",")[0]) == (0, "celery-fleet"), done.stderr


def test_broken_files_are_reported(tmp_path: Path) -> None:
    done = run(tmp_path, "status")
    assert (done.returncode, "there is no application" in done.stderr) == (3, True)
    directory = host.install(tmp_path)
    for text in ("{", "{}", json.dumps({"runtime": "/x", "python": "/no/such/python"})):
        (directory / "cli.json").write_text(text)
        done = run(tmp_path, "status")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)
        assert done.stderr.endswith("run site.yml again\n")
