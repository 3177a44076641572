from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.environment import (
    environment_file,
)

from celery_fleet.system.launch import CARRIED
from tests.unit.runtime.conftest import SOURCE

LAUNCH = SOURCE / "celery_fleet" / "system" / "launch.py"
SHOW = (
    "import json, os, sys; print(json.dumps([sys.executable, os.getcwd(), sys.argv[1:],"
    " {k: v for k, v in os.environ.items()}]))"
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Make a finished release r1, and pins/worker that points to it."""
    made = tmp_path / "releases" / "r1"
    (made / "source" / "backend").mkdir(parents=True)
    (made / "venv" / "bin").mkdir(parents=True)
    (made / "venv" / "bin" / "python").symlink_to(sys.executable)
    (made / "venv" / "lib" / Path(sys.executable).resolve().name).mkdir(parents=True)
    (made / "release.json").write_text("{}")
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "worker").symlink_to("../releases/r1")
    return made


def launch(
    release: Path, *argv: str, component: str = "worker", **environ: str
) -> subprocess.CompletedProcess[str]:
    pin = release.parents[1] / "pins" / "worker"
    return subprocess.run(
        [sys.executable, "-S", "-I", str(LAUNCH), component, "--pin", str(pin), *argv],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the only line of a refusal."""
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("celery_fleet: ")
    return done.stderr


def test_the_process_only_knows_real_paths(release: Path) -> None:
    done = launch(
        release, "--", "python", "-c", SHOW, "a b", CELERY_BROKER_URL="redis://x", KEPT="1"
    )
    executable, directory, argv, environ = json.loads(done.stdout)

    assert executable == str(release / "venv" / "bin" / "python")
    assert directory == str(release / "source")
    assert argv == ["a b"]
    assert environ["CELERY_FLEET_RELEASE"] == "r1"
    assert environ["CELERY_FLEET_COMPONENT"] == "worker"
    assert environ["PATH"] == f"{release}/venv/bin:/usr/bin:/bin"
    assert environ["KEPT"] == "1"
    assert "CELERY_BROKER_URL" not in environ


def test_variables_that_load_code_only_reach_the_process(release: Path) -> None:
    variables = {"LD_LIBRARY_PATH": "/opt/shop/lib", "GCONV_PATH": "/x", "KEPT": "1"}
    lines = environment_file(variables).splitlines()
    of_the_unit = {name: text.strip('"') for name, _, text in (x.partition("=") for x in lines)}
    assert of_the_unit.keys() & variables.keys() == {"KEPT"}

    done = launch(release, "--", "python", "-c", SHOW, **of_the_unit)

    environ = json.loads(done.stdout)[3]
    assert {name: environ.get(name) for name in variables} == variables
    assert not [name for name in environ if name.startswith(CARRIED)]


@pytest.mark.parametrize("python", ["python", "{python}"])
def test_arguments_in_the_environment_are_split_like_in_a_shell(release: Path, python: str) -> None:
    done = launch(release, "--", python, CELERY_FLEET_ARGS=f"-c '{SHOW}' 'a b' c")

    assert json.loads(done.stdout)[2] == ["a b", "c"]


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("source", "source"),
        ("source/backend", "source/backend"),
        ("backend", "source/backend"),
        (".", "source"),
    ],
)
def test_the_code_may_be_in_a_subdirectory(release: Path, directory: str, expected: str) -> None:
    (release / "release.json").write_text(json.dumps({"directory": directory}))

    done = launch(release, "--", "python", "-c", SHOW)

    assert json.loads(done.stdout)[1] == str(release / expected)


def test_a_release_with_only_a_virtualenv_runs_in_its_root(release: Path) -> None:
    (release / "release.json").unlink()
    (release / "source" / "backend").rmdir()
    (release / "source").rmdir()

    done = launch(release, "--", "python", "-c", SHOW, component="flower")

    assert json.loads(done.stdout)[1] == "/"


def test_the_releases_own_commands_are_run(release: Path) -> None:
    script = release / "venv" / "bin" / "serve"
    script.write_text("#!/bin/sh\necho serving $1\n")
    script.chmod(0o755)

    assert launch(release, "--", "serve", "all", component="producer").stdout == "serving all\n"


def test_an_unfinished_release_is_refused(release: Path) -> None:
    (release / "release.json").unlink()

    assert "never finished" in refused(launch(release, "--", "python"))


def test_a_pin_that_leads_nowhere_is_refused(release: Path) -> None:
    pin = release.parents[1] / "pins" / "worker"
    pin.unlink()
    assert f"{pin} does not exist" in refused(launch(release, "--", "python"))

    pin.symlink_to("../releases/gone")
    assert "which is missing" in refused(launch(release, "--", "python"))


def test_a_release_for_the_hosts_previous_python_is_refused(release: Path) -> None:
    (packages,) = (release / "venv" / "lib").iterdir()
    packages.rename(packages.with_name("python3.1"))

    words = refused(launch(release, "--", "python"))
    assert f"{release} was built for another Python than {packages.name}; deploy" in words


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "can't be read"),
        ("[]", "can't be read"),
        ('{"directory": "../../.."}', "leads out of the release"),
        ('{"directory": "/etc"}', "leads out of the release"),
        ('{"directory": "frontend"}', "is missing"),
    ],
)
def test_a_wrong_record_is_refused(release: Path, record: str, message: str) -> None:
    (release / "release.json").write_text(record)

    assert message in refused(launch(release, "--", "python"))


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        ([], {}, "nothing to run"),
        (["--", "gunicorn"], {}, "gunicorn is missing"),
        (["--", "/nonexistent"], {}, "No such file"),
        ([], {"CELERY_FLEET_ARGS": "python 'x"}, "can't be split"),
        (["more"], {}, "usage"),
    ],
)
def test_a_wrong_command_is_refused(
    release: Path, argv: list[str], environ: dict[str, str], message: str
) -> None:
    assert message in refused(launch(release, *argv, **environ))


def test_an_unknown_component_is_refused(release: Path) -> None:
    assert "unknown component" in refused(launch(release, "--", "python", component="cook"))


def test_no_module_next_to_the_launcher_hides_a_standard_module() -> None:
    # A script's own directory comes first on sys.path.
    names = {path.stem for path in LAUNCH.parent.glob("*.py")}

    assert names & set(sys.stdlib_module_names) == set()


def test_ctrl_c_is_handled_before_anything_is_loaded_from_a_file(tmp_path: Path) -> None:
    """While `signal` and what it imports were loaded, Ctrl-C printed a traceback."""
    future = "from __future__ import annotations\n"
    first = LAUNCH.read_text().split("import json")[0]
    script = tmp_path / "launch.py"
    script.write_text(first.replace(future, f"{future}print('ours', flush=True)\n"))
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-X", "importtime", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert done.stdout.partition("ours\n")[1:] == ("ours\n", "")
