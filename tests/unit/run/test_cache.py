"""The cache of the control node, where it can't be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import cache


@pytest.mark.parametrize("name", ["mkdir", "utime"])
def test_a_cache_that_can_not_be_used_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A pipeline's home directory may be read-only, or the cache may belong to yesterday's user."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    if name == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refused)
    else:
        monkeypatch.setattr(cache.os, "utime", refused)
    path = tmp_path / "celery-fleet/releases/a.tar.gz"
    with pytest.raises(UserError, match=r"celery-fleet/releases, can't be used .*XDG_CACHE_HOME"):
        cache.keep(path, b"x")


def test_a_file_is_kept_and_found(tmp_path: Path) -> None:
    path = tmp_path / "celery-fleet/releases/a.tar.gz"
    assert not cache.used(path)
    cache.keep(path, b"x")
    assert cache.used(path)
    assert path.read_bytes() == b"x"
    assert path.parent.stat().st_mode & 0o777 == 0o700
