"""A template that is rendered again is not compiled again, and renders as before."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.rendering import compiled_once


def rendered(text: str, variables: dict[str, Any], **options: Any) -> Any:
    given = {
        name: trust_as_template(value) if isinstance(value, str) else value
        for name, value in variables.items()
    }
    templar = Templar(loader=DataLoader(), variables=given)
    return templar.template(trust_as_template(text), **options)


def test_a_variable_is_compiled_once_however_often_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    compile_ = jinja2.Environment.compile

    def spied(self: jinja2.Environment, source: Any, *args: Any, **options: Any) -> Any:
        seen.append(str(source))
        return compile_(self, source, *args, **options)

    monkeypatch.setattr(jinja2.Environment, "compile", spied)
    with compiled_once():
        assert rendered("{{ a }} {{ a }}", {"a": "{{ b }}", "b": "{{ 1 + 1 }}"}) == "2 2"
        assert rendered("{{ b }}", {"b": "{{ 1 + 1 }}"}) == 2
    assert seen.count("{{ 1 + 1 }}") == 1


def test_values_are_not_kept() -> None:
    with compiled_once():
        assert [rendered("{{ a }}", {"a": value}) for value in (1, [2])] == [1, [2]]


def test_a_template_with_other_syntax_is_another() -> None:
    text = "{% if true %}\nx{% endif %}"
    with compiled_once():
        assert rendered(text, {}) == "x"
        assert rendered(text, {}, overrides={"trim_blocks": False}) == "\nx"


def test_a_template_of_jinja_itself_is_another() -> None:
    plain = jinja2.Environment(trim_blocks=True)  # noqa: S701  # no HTML
    with compiled_once():
        assert rendered("{{ 1 + 1 }}", {}) == 2
        assert plain.from_string("{{ 1 + 1 }}").render() == "2"


def test_backslashes_are_escaped_as_asked() -> None:
    text = "{{ 'a\\nb' }}"
    with compiled_once():
        found = [rendered(text, {}, escape_backslashes=asked) for asked in (True, False, True)]
    assert found == [rendered(text, {}, escape_backslashes=asked) for asked in (True, False, True)]


def test_jinja_is_as_before_after_an_error() -> None:
    before = jinja2.Environment.compile
    with pytest.raises(ValueError, match="no"), compiled_once():
        raise ValueError("no")
    assert jinja2.Environment.compile is before
