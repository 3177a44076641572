"""The application's files are complete."""

from __future__ import annotations

import json
from pathlib import Path


def test_the_demo_has_a_promotion_of_each_kind(example: Path) -> None:
    rows = json.loads((example / "promotions/fixtures/demo.json").read_text())
    ends = sorted(
        row["fields"]["ends_at"] for row in rows if row["model"] == "promotions.promotion"
    )
    assert [end[:4] for end in ends] == ["2024", "2099", "2100"]
