"""The roles' pages and the comments of their defaults say what the specs say."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from scripts import reference
from scripts.playbooks import Use, uses
from scripts.reference import (
    defaults_text,
    first_comment,
    parse,
    readme,
    render,
    rows,
)

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
    shop_rent: {description: Each month., default: "{{ __shop_rent }}"}
""")


def table(options: dict[str, Any]) -> dict[str, list[str]]:
    """Return the cells of a table by variable."""
    split = [row.strip("| ").split(" | ") for row in rows(options)]
    return {first.strip("`"): rest for first, *rest in split}


def test_specs_pages_and_comments_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_role_has_a_page_that_says_what_it_puts_on_a_host() -> None:
    roles = reference.read(reference.ROOT)
    names = {path.name for path in (reference.ROOT / "roles").iterdir() if path.is_dir()}
    assert {role.name for role in roles} == names
    for role in roles:
        assert f"({role.name}/README.md)" in render([role]).replace("../roles/", "")
        paths = re.findall(r"plugins/[\w/]+\.py", " ".join(role.about))
        assert paths, (
            f"{role.name}: the first comment names no file that computes the desired state"
        )
        assert [path for path in paths if not (reference.ROOT / path).is_file()] == []


def test_an_example_sets_variables_of_its_role() -> None:
    examples = yaml.safe_load(reference.EXAMPLES.read_text())
    roles = {role.name: role.entries[0].options for role in reference.read(reference.ROOT)}
    assert set(examples) <= set(roles)
    for name, text in examples.items():
        assert set(yaml.safe_load(text)) <= set(roles[name]), name
    # Variables that are only set by a role or on the command line have no example.
    assert {name for name in roles if roles[name] and name not in examples} == {
        "fleet_remove",
        "systemd_unit",
    }


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
        "shop_rent": ["str", "computed", "Each month."],
    }


def test_a_readme_has_use_comment_example_and_variables_in_this_order() -> None:
    about = first_comment("---\n# The shop.\n#\n# See plugins/a.py\n# for more.\n\n# No part.\n")
    role = parse("shop", SPECS, Use("fleet:flower", ("shop", "deploy")), about, "shop_kind: b\n")
    page = readme(role)
    assert page.startswith("# shop\n\n<!--")
    said = page[page.index("-->") :]
    assert said.startswith(
        "-->\n\nA shop.\n\nIt needs `bread` and butter.\n\n"
        "Hosts: `fleet`, `flower`. Tags: `shop`, `deploy`.\n\n## On a host\n\nThe shop.\n\n"
        "See [plugins/a.py](../../plugins/a.py) for more.\n\n## Example\n\n"
        "In the inventory's `group_vars`:\n\n    shop_kind: b\n\n## Variables\n\n| Variable |"
    )
    assert said.endswith("\n\n## restart\n\nRestarts it.\n")


def test_defaults_get_the_first_paragraph_as_their_comment() -> None:
    options = {
        "shop_name": {"description": ["Its C(name).", "Further."]},
        "shop_days": {"description": "Days."},
    }
    text = "---\n# Old.\n\nshop_days:\n  # Rest.\n  - monday\nshop_name: x # why\n"
    found = defaults_text(text, options)
    assert found.splitlines()[2:] == [
        *("# Days.", "shop_days:", "  # Rest.", "  - monday"),
        *("# Its `name`.", "shop_name: x # why"),
    ]
    assert defaults_text(found, options) == found


def test_a_role_has_its_own_tags_and_its_plays() -> None:
    plays = [
        {"hosts": "a", "tags": ["deploy"], "roles": ["one", {"role": "two", "tags": "two"}]},
        {"hosts": "b"},
    ]
    assert uses(plays) == {"one": Use("a", ("deploy",)), "two": Use("a", ("two", "deploy"))}
