"""An application's requirements that no supported version satisfies."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release.suitability import ATOMIC

from tests.unit.preflight.inventory import problems, valid

ALL = ", ".join(ATOMIC["celery"])


def found(directory: Path, text: str, **given: str) -> list[tuple[str, str, str]]:
    variables = valid(directory / "source")
    (directory / "source/requirements.txt").write_text(text, encoding="utf-8")
    return [(p.variable, p.message, p.remedy) for p in problems({**variables, **given})]


@pytest.mark.parametrize(
    ("text", "asked", "remedy"),
    [
        ("celery==5.3", "celery==5.3", f"celery==5.7.*; supported versions are {ALL}"),
        ("celery[redis]==4.4.7", "celery==4.4.7", ALL),
        ("Celery ~= 5.3.1", "Celery~=5.3.1", ALL),
        ("celery>=5,<5.4", "celery<5.4,>=5", ALL),
        ("celery==5.8.*", "celery==5.8.*", ALL),
        ("redis==3.5.3 \\\n    --hash=sha256:0123", "redis==3.5.3", "redis>=4.5"),
        ("redis<4", "redis<4", "celery[redis] installs one"),
        ("celery==5.7.*\nredis==5.2.1", "redis==5.2.1", "redis>=6.1, as kombu 5.7 does"),
    ],
)
def test_a_version_that_is_not_supported_is_refused(
    tmp_path: Path, text: str, asked: str, remedy: str
) -> None:
    ((variable, message, mended),) = found(tmp_path, f"# ours\n\n{text}\n")
    assert variable == "celery_app_source.requirements"
    line = 3 + text.count("\n") * text.startswith("celery==5.7")
    assert f"asks for {asked} (requirements.txt:{line})" in message
    assert remedy in mended


@pytest.mark.parametrize(
    "text",
    [
        "celery",
        "celery[redis]==5.4.*  # as long as Python is 3.11",
        "celery>=5.2,!=5.6.1\nredis>=5",
        "celery==5.7.0rc1",
        "celery==5.5.3\nkombu==5.5.4\nredis==5.2.1",
        "celery==5.3; python_version < '3.11'",
        "celery @ https://example.org/celery-5.3.zip",
        "-e git+https://example.org/celery==5.3\n--index-url https://example.org\n./celery==5.3\n",
        "django-celery-beat==2.1\nredis-om==0.1",
    ],
)
def test_a_version_that_may_be_supported_is_accepted(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, text) == []


def test_any_kombu_is_accepted_unless_a_worker_fetches_atomically(tmp_path: Path) -> None:
    assert found(tmp_path, "kombu==5.3.7") == []
    ((_, message, remedy),) = found(tmp_path, "kombu==5.3.7", celery_app_delivery="at_least_once")
    assert "asks for kombu==5.3.7" in message
    assert "write celery_worker_fetch: stock" in remedy


def test_included_files_are_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "more").mkdir(parents=True)
    (source / "more/base.txt").write_text("celery>=5\n-r ../requirements.txt\n")
    (source / "pins.txt").write_text("\ncelery<5.4\n")
    text = "-r more/base.txt\n--constraint=pins.txt\n-r gone.txt\n"
    ((_, message, _),) = found(tmp_path, text)
    assert "asks for celery>=5 and celery<5.4 (base.txt:1, pins.txt:2)" in message


def test_the_file_next_to_the_code_is_read(tmp_path: Path) -> None:
    variables = valid(tmp_path)
    (tmp_path / "requirements.txt").write_text("celery==4.4\n")
    (tmp_path / "code").mkdir()
    (tmp_path / "app").rename(tmp_path / "code/app")
    variables["celery_app_source"]["directory"] = "code"
    assert len(problems(variables)) == 1
    (tmp_path / "code/requirements.txt").touch()
    assert problems(variables) == []


LOCK = """
[[package]]
name = "celery"
version = "{}"

[[package]]
name = "redis"
version = "6.2.0"

[[package]]
name = "numpy"
version = "1.26.0"

[[package]]
name = "numpy"
version = "2.0.0"
"""


@pytest.mark.parametrize("name", ["uv.lock", "poetry.lock", "pdm.lock"])
def test_versions_in_a_lock_are_read(tmp_path: Path, name: str) -> None:
    variables = valid(tmp_path / "source")
    variables["celery_app_source"] = {**variables["celery_app_source"], "requirements": name}
    (tmp_path / "source" / name).write_text(LOCK.format("5.7.0"))
    assert problems(variables) == []
    (tmp_path / "source" / name).write_text(LOCK.format("5.3.6"))
    (problem,) = problems(variables)
    assert f"asks for celery==5.3.6 ({name})" in problem.message
    # The tool that exports the lock reports other mistakes in it.
    (tmp_path / "source" / name).write_text("[[package")
    assert problems(variables) == []


def test_an_existing_lock_is_suggested(tmp_path: Path) -> None:
    variables = valid(tmp_path / "source")
    (tmp_path / "source/requirements.txt").unlink()
    (tmp_path / "source/uv.lock").touch()
    (problem,) = problems(variables)
    assert "name the one that is there, such as uv.lock" in problem.remedy


def test_extras_need_a_lock(tmp_path: Path) -> None:
    variables = valid(tmp_path / "source")
    variables["celery_app_source"] = {**variables["celery_app_source"], "extras": ["web"]}
    (problem,) = problems(variables)
    assert problem.variable == "celery_app_source.extras"
    assert "no effect, because requirements.txt is not a lock" in problem.message


def test_what_a_project_requires_is_read(tmp_path: Path) -> None:
    variables = valid(tmp_path / "source")
    project = '[project]\nname = "shop"\ndependencies = ["celery==5.3", "redis>=5"]\n'
    (tmp_path / "source/pyproject.toml").write_text(project)
    variables["celery_app_source"]["requirements"] = "pyproject.toml"
    (found,) = problems(variables)
    assert "asks for celery==5.3 (pyproject.toml)" in found.message


def test_the_lock_of_a_package_is_read(tmp_path: Path) -> None:
    variables = valid(tmp_path / "source")
    (tmp_path / "lock.txt").write_text("shop==1.2\ncelery==5.3\n")
    variables["celery_app_source"] = {
        "pip": "shop==1.2",
        "requirements": str(tmp_path / "lock.txt"),
    }
    (found,) = problems(variables)
    assert "asks for celery==5.3 (lock.txt:2)" in found.message
