"""The operator's command itself, as the console script starts it."""

from __future__ import annotations

import io
import sys

import pytest

from celery_fleet.cli import main, output


def test_a_character_that_the_locale_does_not_have_is_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    monkeypatch.setattr(main.cli, "main", lambda **_: output.say("4 → 6"))
    main.run()
    sys.stdout.flush()
    assert written.getvalue() == b"4 \\u2192 6\n"
