"""The form of what a role hands to `settle`."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_control.wanted import (
    Check,
    Directory,
    File,
    Link,
    Owned,
    Unit,
    Wanted,
    WantedError,
    parse,
)


def test_a_whole_one() -> None:
    assert parse(
        {
            "sysusers": [{"dest": "/s", "content": "u x\n"}],
            "directories": [{"path": "/d", "mode": "0750"}],
            "files": [{"dest": "/f", "content": 5, "mode": "0600", "group": "g", "secret": True}],
            "links": [{"path": "/l", "target": "t"}],
            "checks": [{"command": ["nginx", "-t"], "files": ["/f"]}],
            "units": [{"name": "a.service", "files": ["/f"], "timeout": "5", "values": [1]}],
            "owned": {"units": ["a@*"], "files": ["/f*"]},
        }
    ) == Wanted(
        sysusers=(File("/s", "u x\n"),),
        directories=(Directory("/d", mode=0o750),),
        files=(File("/f", "5", group="g", mode=0o600, secret=True),),
        links=(Link("/l", "t"),),
        checks=(Check(("nginx", "-t"), ("/f",)),),
        units=(Unit("a.service", files=("/f",), timeout=5.0, values=[1]),),
        owned=Owned(("a@*",), ("/f*",)),
    )


def test_nothing() -> None:
    assert parse({}) == parse({"files": None, "owned": None}) == Wanted()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"file": []}, "settle: unknown key file; known are checks, "),
        ({"files": {"dest": "/f"}}, "files: must be a list, not dict"),
        ({"files": ["/f"]}, "files: each item must be a dictionary, not str"),
        ({"files": [{"dest": "/f", "content": "", "mod": 1}]}, r"files\[0\]: unknown key mod"),
        # 0644 without quotes is the number 420 to YAML.
        (
            {"files": [{"dest": "/f", "content": "", "mode": 420}]},
            "octal string such as '0644', not 420",
        ),
        ({"directories": [{"path": "/d", "mode": "u=rw"}]}, r"directories\[0\]: mode must be"),
        ({"units": [{"name": "a", "files": "/f"}]}, r"units\[0\].files: must be a list of strings"),
        ({"units": [{"name": "a", "on_change": "kill"}]}, "restart, reload or nothing, not 'kill'"),
        ({"checks": [{"command": "nginx -t", "files": []}]}, r"checks\[0\]: must be a list"),
        ({"owned": {"unit": []}}, "owned: unknown key unit"),
    ],
)
def test_a_wrong_one_is_refused_with_its_place(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(WantedError, match=words):
        parse(raw)
