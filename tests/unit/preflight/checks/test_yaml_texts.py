"""Values of environments that YAML changes, in real files as Ansible reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model.inventory import (
    Problem,
    Severity,
)

from tests.unit.preflight.inventory import problems, valid


def found(directory: Path, text: str) -> list[Problem]:
    path = directory / "all.yml"
    path.write_text(text, encoding="utf-8")
    given = DataLoader().load_from_file(str(path), trusted_as_template=True)
    return problems({**valid(directory / "source"), **given})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("0755", "493"),
        ("1_000", "1000"),
        ("yes", "true"),
        ("Off", "false"),
        ("1.0e+3", "1000.0"),
        ("12:30", "750"),
        ("1.10", "1.1"),
        ("0x1F", "31"),
        ("!unsafe 0755", "493"),
    ],
)
def test_a_value_that_yaml_changes_is_reported(tmp_path: Path, text: str, result: str) -> None:
    (one,) = found(tmp_path, f"celery_app_env: {{A: b, MODE: {text}}}\n")
    plain = text.rpartition(" ")[2]
    assert (one.variable, one.value, one.severity) == (
        "celery_app_env.MODE",
        plain,
        Severity.WARNING,
    )
    assert one.message.endswith(f"processes get {result}")
    assert f'(MODE: "{plain}"), or write {result}' in one.remedy


def test_a_time_is_only_right_in_quotes(tmp_path: Path) -> None:
    (one,) = found(tmp_path, "celery_app_env:\n  FROM: 2024-01-01 10:00:00Z\n")
    assert one.remedy == 'put it in quotes (FROM: "2024-01-01 10:00:00Z")'


@pytest.mark.parametrize(
    "text",
    [
        "17",
        "1.5",
        "true",
        "1e3",
        "2024-01-01",
        "",
        "~",
        "'0755'",
        '"yes"',
        "!!str 0755",
        "|\n    1",
    ],
)
def test_a_value_that_yaml_does_not_change_is_accepted(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, f"celery_app_env:\n  MODE: {text}\n") == []


def test_all_environments_are_checked(tmp_path: Path) -> None:
    text = """
celery_app_secret_env: {PIN: &pin 0123}
celery_app_env: {API_KEY: 0123}
celery_app_env_urls: {DB_URL: {scheme: https, host: h, path: 1.10, query: {tls: on}}}
celery_worker_defaults: {environment: {A: 0x10}}
celery_producer_web: {environment: {A: 0x10}}
celery_worker_instances:
  discounts: {environment: {A: 0x10}}
  maintenance: {}
  analytics: {}
"""
    wrong = {one.variable: one for one in found(tmp_path, text)}
    assert set(wrong) == {
        "celery_app_secret_env.PIN",
        "celery_app_env.API_KEY",
        "celery_app_env_urls.DB_URL.path",
        "celery_app_env_urls.DB_URL.query.tls",
        "celery_worker_defaults.environment.A",
        "celery_producer_web.environment.A",
        "celery_worker_instances.discounts.environment.A",
    }
    for name in ("celery_app_secret_env.PIN", "celery_app_env.API_KEY"):
        words = f"{wrong[name].value}{wrong[name].message}{wrong[name].remedy}"
        assert "123" not in words
        assert "83" not in words


def test_a_file_that_was_changed_or_removed_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "all.yml"
    path.write_text("celery_app_env: {MODE: 0755}\n", encoding="utf-8")
    given = DataLoader().load_from_file(str(path), trusted_as_template=True)
    variables = {**valid(tmp_path / "source"), **given}
    path.write_text("a: [\n", encoding="utf-8")
    assert problems(variables) == []
    path.unlink()
    assert problems(variables) == []
