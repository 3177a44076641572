"""docs/reference.md says what the roles say of themselves."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scripts import reference
from scripts.reference import Use, parse, render, rows, uses

SPECS = yaml.safe_load(r"""
restart:
  short_description: Restarts it
main:
  short_description: A shop
  description:
    - It needs C(bread)
      and butter.
  options:
    shop_name: {description: Its name., required: true}
    shop_hours:
      {description: When it is open., type: dict, default: {}, options: {from: {description: Hour., type: int}}}
    shop_goods:
      {description: What it sells., type: list, elements: dict, default: [], options: {price: {description: Cents.}}}
    shop_kind: {description: A or B., choices: [a, b], default: a}
    shop_motto: {description: On the door., default: "{{ shop_name | upper }}"}
    shop_note: {description: Nothing., default: ""}
    shop_key: {description: For the door., no_log: true}
""")


def table(options: dict[str, Any]) -> dict[str, list[str]]:
    """Cells by variable."""
    split = [row.strip("| ").split(" | ") for row in rows(options)]
    return {first.strip("`"): rest for first, *rest in split}


def test_specs_and_page_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_role_is_on_the_page() -> None:
    names = {path.name for path in (reference.ROOT / "roles").iterdir() if path.is_dir()}
    assert {role.name for role in reference.read(reference.ROOT)} == names


def test_a_row_says_type_default_and_meaning() -> None:
    assert table(SPECS["main"]["options"]) == {
        "shop_name": ["str", "**required**", "Its name."],
        "shop_hours": ["dict", "`{}`", "When it is open."],
        "shop_hours.from": ["int", "none", "Hour."],
        "shop_goods": ["list of dict", "`[]`", "What it sells."],
        "shop_goods[].price": ["str", "none", "Cents."],
        "shop_kind": ["`a`, `b`", "`a`", "A or B."],
        "shop_motto": ["str", r"`{{ shop_name \| upper }}`", "On the door."],
        "shop_note": ["str", '`""`', "Nothing."],
        "shop_key": ["str", "none", "For the door. *Secret.*"],
    }


def test_the_main_entry_comes_first_with_hosts_and_tags() -> None:
    page = render([parse("shop", SPECS, Use("fleet:flower", ("shop", "deploy")))])
    said = page[page.index("## shop") :]
    assert said.startswith(
        "## shop\n\nA shop.\n\nIt needs `bread` and butter.\n\n"
        "Hosts: `fleet`, `flower`. Tags: `shop`, `deploy`.\n\n| Variable |"
    )
    assert said.endswith("### shop: restart\n\nRestarts it.\n")


def test_a_role_has_its_own_tags_and_its_plays() -> None:
    plays = [
        {"hosts": "a", "tags": ["deploy"], "roles": ["one", {"role": "two", "tags": "two"}]},
        {"hosts": "b"},
    ]
    assert uses(plays) == {"one": Use("a", ("deploy",)), "two": Use("a", ("two", "deploy"))}
