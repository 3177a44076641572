"""Names of an application's objects on a host, used on the control node and on hosts."""

from __future__ import annotations


def slice_unit(app: str) -> str:
    r"""Return the slice of an application's units.

    A dash would nest it: `flash-promos.slice` is inside `flash.slice`.
    """
    return app.replace("-", r"\x2d") + ".slice"


def firewall_table(app: str) -> str:
    """Return the name of an application's nftables table. An application's name has no character that nft refuses."""
    return f"celery_fleet_{app}"
