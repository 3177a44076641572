"""The real secrets of the fleet under test, in every form in which they might leak."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import environment

from support.inventory import Fleet

SHORTEST = 8  # characters; shorter texts would be found by chance


def secrets(fleet: Fleet) -> dict[str, str]:
    """Return each secret of the inventory and of the authority by its name."""
    everywhere: dict[str, str] = {}
    for name, variables in fleet.expected.items():
        everywhere |= {f"redis {user}": text for user, text in _redis(variables).items()}
        for key in (
            *("flower_auth_password", "flower_cookie_secret", "pki_ca_passphrase"),
            *("celery_producer_web_auth_password", "postgresql_password"),
        ):
            if key in variables:
                everywhere[key] = variables[key]
        composed = environment.urls(variables["celery_app_env_urls"])
        for key, value in {**variables["celery_app_secret_env"], **composed}.items():
            everywhere[key] = str(value)
            everywhere[f"password in {key}"] = urlsplit(str(value)).password or str(value)
        directory = Path(variables["pki_directory"])
        everywhere |= _key("the authority's key", directory / "ca.key")
        everywhere |= _key(f"the key of {name}", directory / "hosts" / f"{name}.key")
    short = [name for name, text in everywhere.items() if len(text) < SHORTEST]
    assert short == [], "these are too short to be looked for"
    return everywhere


def _redis(variables: Mapping[str, Any]) -> dict[str, str]:
    return dict(variables.get("redis_passwords", {}))


def _key(title: str, path: Path) -> dict[str, str]:
    """Return the lines of a key file; hosts outside the fleet have none."""
    if not path.exists():
        return {}
    # Headers are the same in every such file, and its end is the public key, which is also in the certificate.
    lines = re.findall(r"^[A-Za-z0-9+/=]{20,}$", path.read_text(), re.MULTILINE)
    shown = ssl.PEM_cert_to_DER_cert(path.with_suffix(".crt").read_text())
    found = {
        f"{title}, line {number}": line
        for number, line in enumerate(lines)
        if base64.b64decode(line) not in shown
    }
    assert len(found) >= 2, f"{path} has no private part"
    return found


def forms(text: str) -> set[str]:
    """Return a secret as it is, URL-encoded, and in base64 at each offset within a group of three bytes."""
    found = {text, quote(text, safe=""), quote(text)}
    raw = text.encode()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode()
        # Drop characters that also encode bits of a neighbour.
        first = (before * 8 + 5) // 6
        last = (before + len(raw)) * 8 // 6
        found.add(encoded[first:last])
        found.add(encoded[first:last].replace("+", "-").replace("/", "_"))
    return found


def needles(fleet: Fleet, *, but: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return the forms to search for by the secret's name, without secrets whose names start with one in `but`."""
    return {
        name: sorted(forms(text))
        for name, text in secrets(fleet).items()
        if not name.startswith(but or ("\0",))
    }
