"""Fixtures: the example application, which is not on the import path."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "flexiprice"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"flexiprice_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def backend() -> Path:
    return EXAMPLE / "backend"


@pytest.fixture(scope="session")
def pricing(backend: Path) -> ModuleType:
    return load(backend / "app" / "pricing.py")


@pytest.fixture(scope="session")
def manager(backend: Path) -> ModuleType:
    return load(backend / "scripts" / "celery_manager.py")
