"""The pip that `make sanity` installs in its virtualenvs."""

from __future__ import annotations

import ensurepip
import sysconfig
from pathlib import Path

import pytest

from scripts import get_pip


@pytest.mark.parametrize("of_the_system", [True, False])
def test_it_finds_the_pip_of_debians_python_and_of_others(
    of_the_system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / ("wheels" if of_the_system else "ensurepip/_bundled")
    place.mkdir(parents=True)
    (place / "setuptools-66.1.1-py3-none-any.whl").touch()
    (place / "pip-23.0.1-py3-none-any.whl").touch()
    monkeypatch.setattr(ensurepip, "__file__", str(tmp_path / "ensurepip/__init__.py"))
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: str(place) if of_the_system else "")
    assert get_pip.bundled() == place / "pip-23.0.1-py3-none-any.whl"
