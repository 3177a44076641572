"""A secret that is pasted into another variable is not shown with it."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.model import redact

PASTED = "s3cret-value"


@pytest.mark.parametrize(
    "secret", [PASTED, f"{PASTED}\n", f" {PASTED}", f'{PASTED}"', f"{PASTED}\\"]
)
def test_a_secret_is_hidden_however_it_is_quoted(secret: str) -> None:
    shown = redact.show(f"shop.{secret}", secret=False)
    assert PASTED not in redact.scrub(f"celery_app_module = {shown}", [secret])


def test_a_short_secret_is_taken_for_a_word() -> None:
    assert redact.scrub("the word is word", ["word\n"]) == "the word is word"
