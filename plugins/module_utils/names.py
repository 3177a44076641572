"""Names that both sides use for what belongs to an application on a host."""

from __future__ import annotations


def slice_unit(app: str) -> str:
    r"""Return the slice of an application's units.

    A dash would nest it: `flash-promos.slice` lies within `flash.slice`.
    """
    return app.replace("-", r"\x2d") + ".slice"


def firewall_table(app: str) -> str:
    """Return the name of an application's nftables table. An application's name has nothing that nft refuses."""
    return f"celery_fleet_{app}"
